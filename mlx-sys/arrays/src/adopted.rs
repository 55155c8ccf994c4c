//! Pages of mapped files as memory of MLX.

use std::{
    ffi::c_void,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use mlx_rs::Array;
use mlx_sys::ext;
use weightsd_core::header::Dtype;
use weightsd_segment::View;

use crate::{
    dtype::Form,
    error::{ArrayError, NotAdopted},
    windows::{Window, windows},
};

/// Pages of a mapped file as MLX's own memory. Arrays made of it ([`Adopted::array`]) lie in the shared pages.
///
/// MLX's CPU backend takes the mapping as a whole; Metal takes [`windows`] of it, so that only the pages of `tensors` are
/// wired, and none is longer than the device allows.
///
/// # Donation
///
/// MLX writes the result of an operation into the memory of an input that nobody else refers to. Pages that are shared
/// and mapped read-only must not be written to: the process would die. So one reference that is nobody's is held for as
/// long as any array over the pages lives: here, and when this is dropped, in a list from which it goes when it is the
/// last one ([`release_unused`]).
#[derive(Debug)]
pub struct Adopted {
    /// Ordered by their first byte.
    held: Vec<Held>,
    /// Windows that Metal does not take, by their first byte.
    refused: Vec<Range<u64>>,
    view: Arc<View>,
}

/// Adopted pages: where they begin in the mapping, and how many bytes they have, and the reference that is nobody's.
#[derive(Debug)]
struct Held {
    bytes: Range<u64>,
    base: Array,
}

/// References of adopted memory whose [`Adopted`] is gone and whose arrays may not be.
static RETIRED: Mutex<Vec<Array>> = Mutex::new(Vec::new());

impl Adopted {
    /// Adopts the pages of `view` in which `tensors` lie: ranges of bytes from the start of the file. What the backend
    /// does not take is no error; [`Self::array`] says why for each array.
    ///
    /// # Errors
    /// MLX fails, for example for want of memory.
    pub fn new(view: &Arc<View>, tensors: &[Range<u64>]) -> Result<Self, ArrayError> {
        crate::load()?;
        release_unused();
        let mut adopted = Self { held: Vec::new(), refused: Vec::new(), view: Arc::clone(view) };
        if view.is_empty() {
            return Ok(adopted);
        }
        // SAFETY: asks MLX for a number.
        let longest = unsafe { ext::mlx_ext_longest() } as u64;
        let wanted = match longest {
            0 => vec![Window { bytes: 0..view.len() as u64, tensors: Vec::new() }],
            _ => windows(tensors, rustix::param::page_size() as u64, longest),
        };
        for Window { bytes, .. } in wanted {
            match adopt(view, &bytes)? {
                Some(base) => {
                    // A hint in effect: what cannot be told is read when it is used, as without it.
                    if longest > 0 {
                        let _ = view.page_in(bytes.clone());
                    }
                    adopted.held.push(Held { bytes, base });
                }
                None => adopted.refused.push(bytes),
            }
        }
        Ok(adopted)
    }

    /// The elements from byte `offset` of the file on, as an array over the shared pages.
    ///
    /// # Errors
    /// [`ArrayError::NotAdopted`] where the pages are not memory of MLX; [`ArrayError::Misaligned`] where no such element
    /// can begin; [`ArrayError::Length`], [`ArrayError::Shape`] and
    /// [`ArrayError::Dtype`] for arrays that cannot be.
    pub fn array(&self, offset: u64, dtype: Dtype, shape: &[u64]) -> Result<Array, ArrayError> {
        let form = Form::of(dtype, shape)?;
        let found = self.view.len() as u64;
        let end = offset.checked_add(form.bytes as u64).filter(|&end| end <= found);
        let bytes = offset..end.ok_or_else(|| ArrayError::Length { dtype, shape: shape.to_vec(), found })?;
        // Complex numbers are pairs of F32, and MLX counts in pairs. A page is a multiple of every element.
        let element = dtype.bitsize() as u64 / 8;
        if !offset.is_multiple_of(element) {
            return Err(ArrayError::Misaligned { dtype, offset });
        }
        let holds = |window: &Range<u64>| window.start <= bytes.start && bytes.end <= window.end;
        // Windows overlap by a page, so the nearest one that holds all of the array is looked for.
        let nearest = self.held.partition_point(|held| held.bytes.start <= bytes.start);
        let Some(held) = self.held[..nearest].iter().rev().find(|held| holds(&held.bytes)) else {
            return Err(ArrayError::NotAdopted(self.why_not(holds)));
        };
        let first = i64::try_from((offset - held.bytes.start) / element).map_err(|_| ArrayError::Length {
            dtype,
            shape: shape.to_vec(),
            found,
        })?;
        // SAFETY: creates an empty handle.
        let mut part = unsafe { mlx_sys::mlx_array_new() };
        let mut error = ext::Error::default();
        // SAFETY: the base is an adopted memory, in which the part lies, as was checked; the shape is a slice of the
        // length that is passed.
        let status = unsafe {
            let (shape, ndim) = (form.shape.as_ptr(), form.shape.len());
            ext::mlx_ext_part(&mut part, held.base.as_ptr(), first, shape, ndim, form.dtype, &mut error)
        };
        if status != ext::DONE {
            return Err(error.into());
        }
        // SAFETY: the handle was filled, and nobody else has it.
        Ok(unsafe { Array::from_ptr(part) })
    }

    fn why_not(&self, holds: impl Fn(&Range<u64>) -> bool) -> NotAdopted {
        // SAFETY: asks MLX for a number.
        if unsafe { ext::mlx_ext_longest() } == 0 {
            NotAdopted::Backend
        } else if self.refused.iter().any(holds) {
            NotAdopted::Refused
        } else {
            NotAdopted::TooLong
        }
    }
}

/// Adopts the bytes of `view` in `window`, which may end in the rest of the file's last page. `None` where MLX's backend
/// does not take them.
fn adopt(view: &Arc<View>, window: &Range<u64>) -> Result<Option<Array>, ArrayError> {
    // SAFETY: creates an empty handle.
    let mut base = unsafe { mlx_sys::mlx_array_new() };
    let mut error = ext::Error::default();
    let payload = Arc::into_raw(Arc::clone(view)).cast_mut().cast::<c_void>();
    // Both fit: they are places in a mapping.
    let (begin, length) = (window.start as usize, (window.end - window.start) as usize);
    // SAFETY: the window begins in the mapping and ends within its last page, and the system maps pages whole. They stay
    // mapped until `release` drops the payload, which owns the view. Where the mapping is adopted whole, its length stands
    // in front of it, as `View::as_ptr` says; in front of a window there are bytes of the mapping or that length. All of it
    // is readable only, and MLX writes to no memory that more than one array shares, which is so for as long as the base is
    // held: see [`Adopted`].
    let status = unsafe {
        let data = view.as_ptr().add(begin).cast_mut().cast();
        ext::mlx_ext_adopt(&mut base, data, length, payload, release, &mut error)
    };
    if status == ext::DONE {
        // SAFETY: the handle was filled, and nobody else has it.
        return Ok(Some(unsafe { Array::from_ptr(base) }));
    }
    // SAFETY: nothing was adopted, so the payload is still this function's.
    unsafe { release(payload) };
    if status == ext::CANNOT { Ok(None) } else { Err(error.into()) }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        let bases = self.held.drain(..).map(|held| held.base);
        RETIRED.lock().unwrap_or_else(PoisonError::into_inner).extend(bases);
        release_unused();
    }
}

/// Unmaps files whose arrays are all gone. Called whenever something is adopted or let go of; a program that drops a
/// model long after its [`Adopted`] may call it to have the address space back. Clean pages cost no memory meanwhile.
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
