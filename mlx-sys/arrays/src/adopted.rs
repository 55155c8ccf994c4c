use std::{
    ffi::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use mlx_rs::Array;
use mlx_sys::ext;
use weightsd_core::header::Dtype;
use weightsd_segment::View;

use crate::{ArrayError, dtype::Form};

/// The pages of a mapped file as MLX's own memory. Arrays made of it ([`Adopted::array`]) lie in the shared pages.
///
/// # Donation
///
/// MLX writes the result of an operation into the memory of an input that nobody else refers to. Pages that are shared
/// and mapped read-only must not be written to: the process would die. So one reference that is nobody's is held for as
/// long as any array over the pages lives: here, and when this is dropped, in a list from which it goes when it is the
/// last one ([`release_unused`]).
#[derive(Debug)]
pub struct Adopted {
    /// Some until it is dropped.
    base: Option<Array>,
    view: Arc<View>,
}

/// References of adopted memory whose [`Adopted`] is gone and whose arrays may not be.
static RETIRED: Mutex<Vec<Array>> = Mutex::new(Vec::new());

impl Adopted {
    /// Adopts all bytes of `view`. `None` where MLX's backend cannot do that (CUDA), or when there are none.
    pub fn new(view: &Arc<View>) -> Result<Option<Adopted>, ArrayError> {
        release_unused();
        if view.is_empty() {
            return Ok(None);
        }
        // SAFETY: creates an empty handle.
        let mut base = unsafe { mlx_sys::mlx_array_new() };
        let mut error = ext::Error::default();
        let payload = Arc::into_raw(Arc::clone(view)).cast_mut().cast::<c_void>();
        // SAFETY: the bytes stay mapped until `release` drops the payload, which owns the view; on Linux the length
        // stands in front of them, as `View::as_ptr` says. They are readable only, and MLX writes to no memory that
        // more than one array shares, which is so for as long as `base` is held: see above.
        let status = unsafe {
            ext::mlx_ext_adopt(&mut base, view.as_ptr().cast_mut().cast(), view.len(), payload, release, &mut error)
        };
        if status == ext::DONE {
            // SAFETY: the handle was filled, and nobody else has it.
            let base = Some(unsafe { Array::from_ptr(base) });
            return Ok(Some(Adopted { base, view: Arc::clone(view) }));
        }
        // SAFETY: nothing was adopted, so the payload is still this function's.
        unsafe { release(payload) };
        if status == ext::CANNOT { Ok(None) } else { Err(error.into()) }
    }

    /// The elements from byte `offset` of the file on, as an array over the shared pages.
    ///
    /// # Errors
    /// [`ArrayError::Misaligned`] where no such element can begin; the rest speaks of ranges and dtypes that cannot be.
    pub fn array(&self, offset: u64, dtype: Dtype, shape: &[u64]) -> Result<Array, ArrayError> {
        let form = Form::of(dtype, shape)?;
        let found = self.view.len() as u64;
        if offset.checked_add(form.bytes as u64).is_none_or(|end| end > found) {
            return Err(ArrayError::Length { dtype, shape: shape.to_vec(), found });
        }
        // Complex numbers are pairs of F32, and MLX counts in pairs.
        let element = dtype.bitsize() as u64 / 8;
        let first = i64::try_from(offset / element).ok().filter(|_| offset.is_multiple_of(element));
        let first = first.ok_or(ArrayError::Misaligned { dtype, offset })?;
        let base = self.base.as_ref().expect("there is one until it is dropped");
        // SAFETY: creates an empty handle.
        let mut part = unsafe { mlx_sys::mlx_array_new() };
        let mut error = ext::Error::default();
        // SAFETY: `base` is an adopted memory, in which the part lies, as was checked; the shape is a slice of so many.
        let status = unsafe {
            let (shape, ndim) = (form.shape.as_ptr(), form.shape.len());
            ext::mlx_ext_part(&mut part, base.as_ptr(), first, shape, ndim, form.dtype, &mut error)
        };
        if status != ext::DONE {
            return Err(error.into());
        }
        // SAFETY: the handle was filled, and nobody else has it.
        Ok(unsafe { Array::from_ptr(part) })
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        RETIRED.lock().unwrap_or_else(PoisonError::into_inner).extend(self.base.take());
        release_unused();
    }
}

/// Unmaps files whose arrays are all gone. Called whenever something is adopted or let go of; whoever drops a model long
/// after its [`Adopted`] may call it to have the address space back. Clean pages cost no memory meanwhile.
pub fn release_unused() {
    let mut retired = RETIRED.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the handles are valid. A count of one is this list's own, and there is nobody who could raise it.
    retired.retain(|base| unsafe { ext::mlx_ext_sharers(base.as_ptr()) } > 1);
}

/// Called by MLX when no array needs the memory any more.
unsafe extern "C" fn release(payload: *mut c_void) {
    // SAFETY: `Adopted::new` made it of this type, and this is called once.
    drop(unsafe { Arc::from_raw(payload.cast::<View>()) });
}
