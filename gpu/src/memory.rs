//! An allocation in VRAM, its descriptor, and mappings of it.

use std::{
    ffi::{c_int, c_void},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    sync::Arc,
};

use crate::{
    Context, GpuError,
    error::OUT_OF_MEMORY,
    sys::{self, AccessDescriptor, AllocationProperties, Handle, Location, Pointer, check},
};

/// What a mapping allows. The driver refuses copies and kernels that write to memory mapped for reading; other mappings of the
/// same memory, also in other processes, are unaffected. It is each importer's own choice: a descriptor does not limit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Memory of a card. It lives until the last of its handles, mappings and descriptors is gone, in whatever process.
#[derive(Debug)]
pub struct Memory {
    context: Arc<Context>,
    handle: Handle,
    bytes: u64,
}

impl Memory {
    /// New memory of `bytes`, which must be a multiple of the card's granularity.
    ///
    /// # Errors
    /// When the card is full, or the driver refuses.
    pub fn create(context: &Arc<Context>, bytes: u64) -> Result<Self, GpuError> {
        let calls = context.calls();
        let full = |free, total| GpuError::Full { needed: bytes, free, total };
        let (mut handle, size) = (0, usize::try_from(bytes).map_err(|_| full(0, 0))?);
        let properties = AllocationProperties::on(context.device());
        // SAFETY: reads the structure and writes one number.
        let code = unsafe { (calls.create)(&raw mut handle, size, &raw const properties, 0) };
        if code == OUT_OF_MEMORY {
            let (free, total) = context.memory()?;
            return Err(full(free, total));
        }
        check(calls, "cuMemCreate", code)?;
        Ok(Self { context: Arc::clone(context), handle, bytes })
    }

    /// The memory behind a descriptor that [`Self::export`] made, in whatever process. It must be as long as `bytes` says:
    /// mapping fails otherwise.
    ///
    /// # Errors
    /// When the descriptor is none of memory of this card.
    pub fn import(context: &Arc<Context>, descriptor: BorrowedFd<'_>, bytes: u64) -> Result<Self, GpuError> {
        let (calls, mut handle) = (context.calls(), 0);
        // The call takes the number of the descriptor in the place of a pointer.
        let number = ptr::without_provenance_mut::<c_void>(descriptor.as_raw_fd().unsigned_abs() as usize);
        // SAFETY: the descriptor is open during the call, which writes one number and keeps nothing of it.
        let code = unsafe { (calls.import)(&raw mut handle, number, sys::HANDLE_POSIX_DESCRIPTOR) };
        check(calls, "cuMemImportFromShareableHandle", code)?;
        Ok(Self { context: Arc::clone(context), handle, bytes })
    }

    /// A descriptor of the memory, for other processes. It keeps the memory alive.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn export(&self) -> Result<OwnedFd, GpuError> {
        let (calls, mut descriptor) = (self.context.calls(), -1_i32);
        let place = (&raw mut descriptor).cast::<c_void>();
        // SAFETY: for handles of this type the call writes one `int`.
        let code = unsafe { (calls.export)(place, self.handle, sys::HANDLE_POSIX_DESCRIPTOR, 0) };
        check(calls, "cuMemExportToShareableHandle", code)?;
        // SAFETY: the driver made the descriptor for the caller, and nobody else has its number.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Maps all of it into this process.
    ///
    /// # Errors
    /// When the driver refuses, also because the memory is shorter.
    pub fn map(self, access: Access) -> Result<Mapping, GpuError> {
        let context = Arc::clone(&self.context);
        let calls = context.calls();
        let _current = context.current()?;
        // An allocation that could be created or imported is no longer than memory can be.
        let size = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        let mut address = 0;
        // SAFETY: writes one number. No memory is touched: the range is unused.
        check(calls, "cuMemAddressReserve", unsafe { (calls.reserve)(&raw mut address, size, 0, 0, 0) })?;
        let mut range = Range { memory: self, address, size, is_mapped: false };
        // SAFETY: the range was reserved above for this handle, and nobody else knows it.
        check(calls, "cuMemMap", unsafe { (calls.map)(address, size, 0, range.memory.handle, 0) })?;
        range.is_mapped = true;
        let flags = match access {
            Access::Read => sys::ACCESS_READ,
            Access::ReadWrite => sys::ACCESS_READ_WRITE,
        };
        let descriptor = access_of(range.memory.context.device(), flags);
        // SAFETY: reads one structure; the range is mapped.
        check(calls, "cuMemSetAccess", unsafe { (calls.set_access)(address, size, &raw const descriptor, 1) })?;
        Ok(Mapping { range })
    }
}

fn access_of(device: c_int, flags: c_int) -> AccessDescriptor {
    AccessDescriptor { location: Location { kind: sys::LOCATION_DEVICE, id: device }, flags }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's, and is not used after it. Mappings keep the memory.
        let _ = unsafe { (self.context.calls().release)(self.handle) };
    }
}

/// Reserved addresses, mapped or not yet.
#[derive(Debug)]
struct Range {
    memory: Memory,
    address: Pointer,
    size: usize,
    is_mapped: bool,
}

impl Drop for Range {
    fn drop(&mut self) {
        let calls = self.memory.context.calls();
        // Without a context there is nothing to unmap any more.
        let _current = self.memory.context.current();
        if self.is_mapped {
            // SAFETY: the range is this value's. Who computes with its address keeps the mapping: `Mapping::address` says so.
            let _ = unsafe { (calls.unmap)(self.address, self.size) };
        }
        // SAFETY: as above; nothing is mapped there any more.
        let _ = unsafe { (calls.free)(self.address, self.size) };
    }
}

/// Memory of a card at an address of this process. Unmapped when it is dropped.
#[derive(Debug)]
pub struct Mapping {
    range: Range,
}

impl Mapping {
    /// The address that kernels of this process use. It means nothing to the processor, and nothing once the mapping is gone:
    /// keep the mapping for as long as somebody computes with the address.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.range.address
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.range.memory.bytes
    }

    /// The memory under it.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.range.memory
    }

    /// The context that it belongs to.
    #[must_use]
    pub fn context(&self) -> &Arc<Context> {
        &self.range.memory.context
    }

    /// The address of `length` bytes at `offset`.
    ///
    /// # Errors
    /// When they are not within the mapping.
    pub fn at(&self, offset: u64, length: u64) -> Result<u64, GpuError> {
        let bytes = self.bytes();
        match offset.checked_add(length) {
            Some(end) if end <= bytes => Ok(self.address() + offset),
            _ => Err(GpuError::OutOfRange { offset, length, bytes }),
        }
    }
}
