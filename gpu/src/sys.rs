//! The driver's calls as C declares them, and the library that has them. Constants and structures are those of `cuda.h`;
//! names that end in a version are the ones that `cuda.h` gives to today's programs.

use std::{
    env,
    ffi::{CStr, OsString, c_char, c_int, c_uint, c_void},
    ptr,
    sync::OnceLock,
};

use libloading::Library;

use crate::GpuError;

/// Names another library in the place of the driver's: tests open their stand-in by it.
pub const LIBRARY: &str = "WEIGHTSD_CUDA_LIBRARY";
/// The driver's library.
const DRIVER: &str = "libcuda.so.1";

pub(crate) type Code = c_uint;
pub(crate) type Pointer = u64;
pub(crate) type Handle = u64;
pub(crate) type ContextPtr = *mut c_void;
pub(crate) type StreamPtr = *mut c_void;

pub(crate) const SUCCESS: Code = 0;
pub(crate) const ALLOCATION_PINNED: c_int = 1;
pub(crate) const HANDLE_POSIX_DESCRIPTOR: c_int = 1;
pub(crate) const LOCATION_DEVICE: c_int = 1;
pub(crate) const ACCESS_READ: c_int = 1;
pub(crate) const ACCESS_READ_WRITE: c_int = 3;
pub(crate) const GRANULARITY_MINIMUM: c_int = 0;
pub(crate) const STREAM_NON_BLOCKING: c_uint = 1;

/// `CUmemLocation`.
#[repr(C)]
pub(crate) struct Location {
    pub(crate) kind: c_int,
    pub(crate) id: c_int,
}

/// `CUmemAllocationProp`.
#[repr(C)]
pub(crate) struct AllocationProperties {
    pub(crate) kind: c_int,
    pub(crate) handle_types: c_int,
    pub(crate) location: Location,
    pub(crate) win32: *mut c_void,
    pub(crate) flags: [u8; 8],
}

impl AllocationProperties {
    /// Memory of that card that can be handed to other processes as a descriptor.
    pub(crate) fn on(device: c_int) -> Self {
        Self {
            kind: ALLOCATION_PINNED,
            handle_types: HANDLE_POSIX_DESCRIPTOR,
            location: Location { kind: LOCATION_DEVICE, id: device },
            win32: ptr::null_mut(),
            flags: [0; 8],
        }
    }
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub(crate) struct AccessDescriptor {
    pub(crate) location: Location,
    pub(crate) flags: c_int,
}

/// Each line is one call: its name here, its name in the library, its parameters.
macro_rules! calls {
    ($( $name:ident = $symbol:literal ( $($parameter:ty),* ); )*) => {
        /// The driver's calls.
        pub(crate) struct Calls {
            $( pub(crate) $name: unsafe extern "C" fn($($parameter),*) -> Code, )*
            /// Keeps the functions above where they are.
            _library: Library,
        }

        impl Calls {
            fn open(path: &OsString) -> Result<Self, libloading::Error> {
                // SAFETY: the initialisers of NVIDIA's driver, and of the stand-in of tests, may run in any process, at
                // any time. A library that the variable names is the choice of the user who sets it.
                let library = unsafe { Library::new(path) }?;
                $(
                    // SAFETY: the library declares the symbol with these parameters; see `cuda.h`.
                    let $name = *unsafe {
                        library.get::<unsafe extern "C" fn($($parameter),*) -> Code>($symbol.as_bytes())
                    }?;
                )*
                Ok(Self { $( $name, )* _library: library })
            }
        }
    };
}

calls! {
    init = "cuInit" (c_uint);
    error_name = "cuGetErrorName" (Code, *mut *const c_char);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device_get = "cuDeviceGet" (*mut c_int, c_int);
    device_uuid = "cuDeviceGetUuid_v2" (*mut [u8; 16], c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut ContextPtr, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_push = "cuCtxPushCurrent_v2" (ContextPtr);
    context_pop = "cuCtxPopCurrent_v2" (*mut ContextPtr);
    memory_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    granularity = "cuMemGetAllocationGranularity" (*mut usize, *const AllocationProperties, c_int);
    create = "cuMemCreate" (*mut Handle, usize, *const AllocationProperties, u64);
    release = "cuMemRelease" (Handle);
    export = "cuMemExportToShareableHandle" (*mut c_void, Handle, c_int, u64);
    import = "cuMemImportFromShareableHandle" (*mut Handle, *mut c_void, c_int);
    reserve = "cuMemAddressReserve" (*mut Pointer, usize, usize, Pointer, u64);
    free = "cuMemAddressFree" (Pointer, usize);
    map = "cuMemMap" (Pointer, usize, usize, Handle, u64);
    unmap = "cuMemUnmap" (Pointer, usize);
    set_access = "cuMemSetAccess" (Pointer, usize, *const AccessDescriptor, usize);
    register = "cuMemHostRegister_v2" (*mut c_void, usize, c_uint);
    unregister = "cuMemHostUnregister" (*mut c_void);
    to_device = "cuMemcpyHtoDAsync_v2" (Pointer, *const c_void, usize, StreamPtr);
    to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, Pointer, usize, StreamPtr);
    stream_create = "cuStreamCreate" (*mut StreamPtr, c_uint);
    stream_wait = "cuStreamSynchronize" (StreamPtr);
    stream_destroy = "cuStreamDestroy_v2" (StreamPtr);
}

/// The calls of this process's driver, opened and initialised once.
///
/// # Errors
/// When there is no driver, or it does not start.
pub(crate) fn calls() -> Result<&'static Calls, GpuError> {
    static CALLS: OnceLock<Result<Calls, GpuError>> = OnceLock::new();
    let open = || {
        let path = env::var_os(LIBRARY).filter(|path| !path.is_empty()).unwrap_or_else(|| DRIVER.into());
        let calls = Calls::open(&path).map_err(|error| GpuError::NoDriver {
            library: path.to_string_lossy().into_owned(),
            problem: error.to_string(),
        })?;
        // SAFETY: the call takes a number, which has to be 0.
        check(&calls, "cuInit", unsafe { (calls.init)(0) })?;
        Ok(calls)
    };
    CALLS.get_or_init(open).as_ref().map_err(Clone::clone)
}

/// An error that says which call failed, and how.
pub(crate) fn check(calls: &Calls, call: &'static str, code: Code) -> Result<(), GpuError> {
    if code == SUCCESS {
        return Ok(());
    }
    let mut name = ptr::null();
    // SAFETY: the pointer is written to, or left as it is for codes without a name.
    let found = unsafe { (calls.error_name)(code, &raw mut name) };
    let name = if found == SUCCESS && !name.is_null() {
        // SAFETY: the driver's names are texts that end with a zero and are never freed.
        unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
    } else {
        format!("error {code}")
    };
    Err(GpuError::Call { call, code, name })
}
