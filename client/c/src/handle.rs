//! Handles: boxes that begin with a tag, given to C as pointers to a type that it cannot see into.

use std::ptr;

use crate::error::Failure;

/// What C has handles of.
pub(crate) trait Tagged {
    /// Differs from kind to kind, and is not 0.
    const TAG: u64;
    /// What the header calls the argument.
    const NAME: &'static str;
}

/// A value behind its tag. What C calls a pointer to the value is a pointer to this.
#[repr(C)]
struct Boxed<H> {
    tag: u64,
    value: H,
}

/// Written over the tag of a handle that is freed, so that an allocator that leaves it there gives the handle away.
const FREED: u64 = 0;

/// Gives a value to C.
pub(crate) fn into_raw<H: Tagged>(value: H) -> *mut H {
    Box::into_raw(Box::new(Boxed { tag: H::TAG, value })).cast()
}

/// Looks at a handle that C owns.
///
/// # Errors
/// When it is null, or a handle of another kind.
///
/// # Safety
/// `handle` is null, or a handle of this library that was not freed and will not be for as long as `'a` lasts.
pub(crate) unsafe fn borrow<'a, H: Tagged>(handle: *const H) -> Result<&'a H, Failure> {
    let boxed = handle.cast::<Boxed<H>>();
    if boxed.is_null() {
        return Err(Failure::argument(H::NAME, "is null"));
    }
    if !boxed.is_aligned() {
        return Err(Failure::argument(H::NAME, "is no handle of this library"));
    }
    // SAFETY: every handle of this library begins with a tag, whatever its kind, and it lives.
    let tag = unsafe { boxed.cast::<u64>().read() };
    if tag != H::TAG {
        return Err(Failure::argument(H::NAME, "is a handle of another kind, or was freed"));
    }
    // SAFETY: the tag says that `into_raw` made it of this type; it lives; and nobody has it mutably, because handles are
    // only borrowed and, last of all, taken back.
    Ok(unsafe { &(*boxed).value })
}

/// Takes a value back from C. `None` for null and for a handle of another kind, which is left alone.
///
/// # Safety
/// As for [`borrow`]; and nobody uses the handle now or later.
pub(crate) unsafe fn take<H: Tagged>(handle: *mut H) -> Option<H> {
    // SAFETY: as this function's own contract says.
    unsafe { borrow(handle.cast_const()) }.ok()?;
    // SAFETY: `borrow` found the tag that `into_raw` writes, so it is a box of this type; the caller gives it up.
    let mut boxed = unsafe { Box::from_raw(handle.cast::<Boxed<H>>()) };
    // SAFETY: the field is the box's own. Volatile, because nobody reads it before the memory goes back.
    unsafe { ptr::write_volatile(&raw mut boxed.tag, FREED) };
    Some(boxed.value)
}

/// Writes a result to where the caller wants it, if anywhere.
///
/// # Safety
/// `place` is null, or may be written.
pub(crate) unsafe fn out<T>(place: *mut T, value: T) {
    if !place.is_null() {
        // SAFETY: it is not null, so it may be written. What was there has no meaning and is not dropped.
        unsafe { place.write(value) };
    }
}

/// Where a result must go, emptied.
///
/// # Errors
/// When `place` is null.
///
/// # Safety
/// `place` is null, or may be written.
pub(crate) unsafe fn emptied<T>(place: *mut *mut T, name: &'static str) -> Result<*mut *mut T, Failure> {
    if place.is_null() {
        return Err(Failure::argument(name, "is null"));
    }
    // SAFETY: it is not null, so it may be written.
    unsafe { place.write(ptr::null_mut()) };
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct One(u8);
    struct Two;

    impl Tagged for One {
        const TAG: u64 = 0x1111;
        const NAME: &'static str = "one";
    }

    impl Tagged for Two {
        const TAG: u64 = 0x2222;
        const NAME: &'static str = "two";
    }

    #[test]
    fn handles_of_other_kinds_and_null_are_refused() {
        let one = into_raw(One(7));
        // SAFETY: the handle lives until the last `take`; the others are null, unaligned or of another kind, which is
        // what is tested.
        unsafe {
            assert_eq!(borrow(one.cast_const()).unwrap().0, 7);
            let wrong = borrow::<Two>(one.cast_const().cast()).err().unwrap();
            assert!(wrong.to_string().contains("`two` is a handle of another kind"), "{wrong}");
            assert!(borrow::<One>(ptr::null()).is_err());
            assert!(borrow::<One>(one.cast_const().wrapping_byte_add(1)).is_err());
            assert!(take::<Two>(one.cast()).is_none());
            assert_eq!(take(one).unwrap().0, 7);
        }
    }
}
