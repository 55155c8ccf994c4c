//! Copies between this process's memory and a card's. The calls return when the copies are done, so what they read and write
//! is borrowed for exactly that long.

use std::{ffi::c_void, ptr, sync::Arc};

use crate::{
    Context, GpuError, Mapping,
    sys::{self, StreamPtr, check},
};

/// Memory of this process that the card reads and writes by itself, at the limit of its link, if the driver keeps its pages in
/// their place. It works all the same if not, more slowly.
pub struct Buffer {
    context: Arc<Context>,
    memory: Vec<u8>,
    is_registered: bool,
}

impl Buffer {
    /// A buffer of that length in bytes.
    #[must_use]
    pub fn new(context: &Arc<Context>, length: usize) -> Self {
        let mut memory = vec![0; length];
        let mut register = || -> Result<(), GpuError> {
            let _current = context.current()?;
            // SAFETY: the memory is this value's, which never changes its length, and unregisters it before it goes. The
            // driver itself does not touch it; copies into it go through an exclusive borrow.
            let code = unsafe { (context.calls().register)(memory.as_mut_ptr().cast(), length, 0) };
            check(context.calls(), "cuMemHostRegister", code)
        };
        let is_registered = register().is_ok();
        Self { context: Arc::clone(context), memory, is_registered }
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.is_registered
            && let Ok(_current) = self.context.current()
        {
            // SAFETY: registered by this value, and every copy was waited for.
            let _ = unsafe { (self.context.calls().unregister)(self.memory.as_mut_ptr().cast()) };
        }
    }
}

/// Bytes of this process, and the place on the card that they go to.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// First byte on the card.
    pub offset: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A queue of copies. Several of them, each on a thread of its own, keep both directions of the link busy.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    stream: StreamPtr,
}

// SAFETY: a stream belongs to its context, and may be used from any thread, one at a time.
unsafe impl Send for Stream {}

impl Stream {
    /// A new queue.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        let _current = context.current()?;
        let mut stream = ptr::null_mut();
        // SAFETY: writes one pointer.
        let code = unsafe { (context.calls().stream_create)(&raw mut stream, sys::STREAM_NON_BLOCKING) };
        check(context.calls(), "cuStreamCreate", code)?;
        Ok(Self { context: Arc::clone(context), stream })
    }

    /// Copies the pieces onto the card, and then from there into `back`, one after the other without gaps: what a reader will
    /// find. `back` must be at least as long as they are together; the part that was filled is returned.
    ///
    /// # Errors
    /// When a piece leaves the mapping or `back`, or the driver refuses.
    pub fn put<'b>(&mut self, onto: &Mapping, pieces: &[Piece<'_>], back: &'b mut [u8]) -> Result<&'b [u8], GpuError> {
        let total: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let length = back.len() as u64;
        let filled = back.get_mut(..total);
        let filled = filled.ok_or(GpuError::OutOfRange { offset: 0, length: total as u64, bytes: length })?;
        let queued = self.queue(onto, pieces, filled);
        // Waits also when a later piece was refused: the earlier ones are under way.
        let waited = self.wait();
        queued.and(waited)?;
        Ok(filled)
    }

    /// Copies bytes of the card into `back`.
    ///
    /// # Errors
    /// When they leave the mapping, or the driver refuses.
    pub fn get(&mut self, from: &Mapping, offset: u64, back: &mut [u8]) -> Result<(), GpuError> {
        let address = from.at(offset, back.len() as u64)?;
        let queued = self.queue_back(address, back);
        let waited = self.wait();
        queued.and(waited)
    }

    fn queue(&self, onto: &Mapping, pieces: &[Piece<'_>], back: &mut [u8]) -> Result<(), GpuError> {
        let calls = self.context.calls();
        let _current = self.context.current()?;
        for piece in pieces {
            let address = onto.at(piece.offset, piece.bytes.len() as u64)?;
            let (from, length) = (piece.bytes.as_ptr().cast::<c_void>(), piece.bytes.len());
            // SAFETY: reads `length` bytes, which are borrowed until `put` has waited; the place on the card was checked.
            check(calls, "cuMemcpyHtoDAsync", unsafe { (calls.to_device)(address, from, length, self.stream) })?;
        }
        let mut rest = back;
        for piece in pieces {
            let (own, after) = rest.split_at_mut(piece.bytes.len());
            let address = onto.at(piece.offset, own.len() as u64)?;
            self.queue_back(address, own)?;
            rest = after;
        }
        Ok(())
    }

    fn queue_back(&self, address: u64, back: &mut [u8]) -> Result<(), GpuError> {
        let calls = self.context.calls();
        let _current = self.context.current()?;
        let (to, length) = (back.as_mut_ptr().cast::<c_void>(), back.len());
        // SAFETY: writes `length` bytes, which are borrowed until the caller has waited; the range on the card was checked.
        check(calls, "cuMemcpyDtoHAsync", unsafe { (calls.to_host)(to, address, length, self.stream) })
    }

    fn wait(&self) -> Result<(), GpuError> {
        let _current = self.context.current()?;
        // SAFETY: the stream is this value's.
        check(self.context.calls(), "cuStreamSynchronize", unsafe { (self.context.calls().stream_wait)(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Ok(_current) = self.context.current() else { return };
        // SAFETY: the stream is this value's, and nothing is queued.
        let _ = unsafe { (self.context.calls().stream_destroy)(self.stream) };
    }
}
