//! DLPack: memory of Python's own as a capsule that other array libraries take without a copy. The structures are those
//! of `dlpack.h` 1.1; a capsule is `dltensor` or `dltensor_versioned`, by what the consumer understands.
//!
//! The only unsafe code of this crate, because DLPack is an interface of C: the consumer gets a pointer to a structure and
//! calls the function in it when it is done, on whatever thread.

#![expect(unsafe_code, reason = "DLPack is an interface of C")]

use std::{
    ffi::{CStr, c_void},
    ptr,
};

use pyo3::{exceptions::PyBufferError, ffi, prelude::*};

const PLAIN: &CStr = c"dltensor";
const VERSIONED: &CStr = c"dltensor_versioned";
/// `kDLCPU`, and its only number.
const CPU: (i32, i32) = (1, 0);
/// The version of the structures below.
const VERSION: (u32, u32) = (1, 1);
/// `DLPACK_FLAG_BITMASK_READ_ONLY`.
const READ_ONLY: u64 = 1;

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct Managed {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Managed)>,
}

#[repr(C)]
struct ManagedVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut ManagedVersioned)>,
    flags: u64,
    tensor: DlTensor,
}

/// What a capsule's structure points to: dimensions, and the owner of the memory.
struct Context {
    shape: Vec<i64>,
    strides: Vec<i64>,
    owner: Option<Py<PyAny>>,
}

impl Drop for Context {
    fn drop(&mut self) {
        // A consumer may call the deleter on a thread that Python does not know, or while the interpreter ends. Then the
        // memory stays mapped until the process is gone.
        if let Some(owner) = self.owner.take() {
            Python::try_attach(move |py| owner.drop_ref(py));
        }
    }
}

/// A capsule over memory at `address` of `device` (its type and its number), row-major, which `owner` keeps valid.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "they are keyword arguments in Python")]
#[pyo3(signature = (owner, address, shape, code, bits, *, read_only, versioned, device = CPU))]
pub(crate) fn capsule(
    py: Python<'_>,
    owner: Py<PyAny>,
    address: usize,
    shape: Vec<i64>,
    code: u8,
    bits: u8,
    read_only: bool,
    versioned: bool,
    device: (i32, i32),
) -> PyResult<Py<PyAny>> {
    if read_only && !versioned {
        return Err(PyBufferError::new_err("memory that is only for reading needs a consumer of DLPack 1.0 or later"));
    }
    let mut strides = vec![1; shape.len()];
    for dimension in (1..shape.len()).rev() {
        strides[dimension - 1] = strides[dimension] * shape[dimension].max(1);
    }
    let mut context = Box::new(Context { shape, strides, owner: Some(owner) });
    let tensor = DlTensor {
        data: ptr::with_exposed_provenance_mut(address),
        device_type: device.0,
        device_id: device.1,
        ndim: i32::try_from(context.shape.len()).map_err(|_| PyBufferError::new_err("too many dimensions"))?,
        dtype: DataType { code, bits, lanes: 1 },
        shape: context.shape.as_mut_ptr(),
        strides: context.strides.as_mut_ptr(),
        byte_offset: 0,
    };
    let context = Box::into_raw(context).cast::<c_void>();
    let flags = if read_only { READ_ONLY } else { 0 };
    let made = if versioned {
        let (major, minor) = VERSION;
        let deleter = Some(delete_versioned as unsafe extern "C" fn(*mut ManagedVersioned));
        let managed = Box::into_raw(Box::new(ManagedVersioned { major, minor, context, deleter, flags, tensor }));
        // SAFETY: the pointer is not null, the name lives forever, and the interpreter is attached (`py`).
        unsafe { ffi::PyCapsule_New(managed.cast(), VERSIONED.as_ptr(), Some(drop_versioned)) }
    } else {
        let managed = Box::into_raw(Box::new(Managed { tensor, context, deleter: Some(delete_plain) }));
        // SAFETY: as above.
        unsafe { ffi::PyCapsule_New(managed.cast(), PLAIN.as_ptr(), Some(drop_plain)) }
    };
    // SAFETY: a new reference, or null with an exception set. When there is no capsule, the structure is lost with its
    // owner: that happens when memory is used up, and freeing a part of it would be no help.
    unsafe { Bound::from_owned_ptr_or_err(py, made) }.map(Bound::unbind)
}

/// Frees the context that [`capsule`] made.
///
/// # Safety
/// `context` comes from `Box::into_raw` in [`capsule`], and nobody frees it again.
unsafe fn free(context: *mut c_void) {
    // SAFETY: by the condition above.
    drop(unsafe { Box::from_raw(context.cast::<Context>()) });
}

unsafe extern "C" fn delete_plain(managed: *mut Managed) {
    if managed.is_null() {
        return;
    }
    // SAFETY: DLPack calls this once, with the pointer that the capsule held; `capsule` made it with `Box::into_raw`.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: the structure owned the context, and is gone with this call.
    unsafe { free(managed.context) };
}

unsafe extern "C" fn delete_versioned(managed: *mut ManagedVersioned) {
    if managed.is_null() {
        return;
    }
    // SAFETY: as in `delete_plain`.
    let managed = unsafe { Box::from_raw(managed) };
    // SAFETY: as in `delete_plain`.
    unsafe { free(managed.context) };
}

/// A capsule that nobody took. One that was taken has another name, and belongs to its consumer.
unsafe extern "C" fn drop_plain(capsule: *mut ffi::PyObject) {
    // SAFETY: Python calls this with the capsule, attached. The name tells whether the pointer is still the capsule's.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, PLAIN.as_ptr()) == 1 {
            delete_plain(ffi::PyCapsule_GetPointer(capsule, PLAIN.as_ptr()).cast());
        }
    }
}

unsafe extern "C" fn drop_versioned(capsule: *mut ffi::PyObject) {
    // SAFETY: as in `drop_plain`.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, VERSIONED.as_ptr()) == 1 {
            delete_versioned(ffi::PyCapsule_GetPointer(capsule, VERSIONED.as_ptr()).cast());
        }
    }
}
