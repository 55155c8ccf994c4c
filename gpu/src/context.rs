//! A card's primary context. It is current for a thread while a call needs it, and at no other time: a library of the same
//! process never finds another card's context than it left.

use std::{ffi::c_int, marker::PhantomData, ptr, sync::Arc};

use crate::{
    Card, GpuError,
    sys::{Calls, ContextPtr, check},
};

/// The primary context of a card, kept alive.
pub struct Context {
    pub(crate) card: Card,
    context: ContextPtr,
}

// SAFETY: contexts belong to a process, not to a thread, and the driver's calls with them may come from any thread.
unsafe impl Send for Context {}
// SAFETY: as above; each call makes the context current for its own thread only.
unsafe impl Sync for Context {}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("card", &self.card).finish_non_exhaustive()
    }
}

impl Context {
    /// The primary context of a card, which all libraries of a process share. The first one costs a process 0.1 s and half a
    /// gigabyte of VRAM.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn of(card: Card) -> Result<Arc<Self>, GpuError> {
        let mut context = ptr::null_mut();
        // SAFETY: writes one pointer; the device comes from the driver.
        let code = unsafe { (card.calls.context_retain)(&raw mut context, card.device) };
        check(card.calls, "cuDevicePrimaryCtxRetain", code)?;
        Ok(Arc::new(Self { card, context }))
    }

    /// The card.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    pub(crate) fn calls(&self) -> &'static Calls {
        self.card.calls
    }

    pub(crate) fn device(&self) -> c_int {
        self.card.device
    }

    /// Makes the context current for this thread until the guard is dropped.
    pub(crate) fn current(&self) -> Result<Current<'_>, GpuError> {
        // SAFETY: the context is alive as long as `self`.
        check(self.calls(), "cuCtxPushCurrent", unsafe { (self.calls().context_push)(self.context) })?;
        Ok(Current(self, PhantomData))
    }

    /// Free bytes of the card, and all of them.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn memory(&self) -> Result<(u64, u64), GpuError> {
        let _current = self.current()?;
        let (mut free, mut total) = (0_usize, 0_usize);
        // SAFETY: writes two numbers.
        let code = unsafe { (self.calls().memory_info)(&raw mut free, &raw mut total) };
        check(self.calls(), "cuMemGetInfo", code)?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: one release for the one retain. A driver that refuses is about to end with the process.
        let _ = unsafe { (self.calls().context_release)(self.device()) };
    }
}

/// The context is current for this thread. The pointer keeps the guard on it.
#[must_use]
pub(crate) struct Current<'a>(&'a Context, PhantomData<*const ()>);

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: writes one pointer. The guard was made by the push that this undoes, on this thread.
        let _ = unsafe { (self.0.calls().context_pop)(&raw mut popped) };
    }
}
