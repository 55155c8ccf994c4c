//! The calls, by the driver's names.

#![expect(unreachable_pub, reason = "they are found by their symbols")]

use std::{
    ffi::{c_char, c_int, c_uint, c_void},
    fs, io,
    os::fd::{BorrowedFd, IntoRawFd as _},
    path::Path,
    ptr, slice,
};

use crate::{
    BYTES, CARDS, cards,
    table::{Allocation, Fault, Range, fault, folder, note_context, table},
    uuid,
};

const SUCCESS: c_uint = 0;
const INVALID_VALUE: c_uint = 1;
const OUT_OF_MEMORY: c_uint = 2;
const NO_DEVICE: c_uint = 100;
const ALREADY_REGISTERED: c_uint = 712;
const UNKNOWN: c_uint = 999;
const GRANULARITY: usize = 2 << 20;
const REGISTER_READ_ONLY: c_uint = 8;

/// `CUmemAllocationProp`, as far as it is read.
#[repr(C)]
pub struct Properties {
    kind: c_int,
    handle_types: c_int,
    location_kind: c_int,
    location_id: c_int,
}

/// `CUmemAccessDesc`.
#[repr(C)]
pub struct AccessDescriptor {
    location_kind: c_int,
    location_id: c_int,
    flags: c_int,
}

/// Ends a call that the test wants to fail.
macro_rules! unless_fault {
    ($call:literal) => {
        if fault($call) == Some(Fault::Fails) {
            return UNKNOWN;
        }
    };
}

fn card_of(device: c_int) -> Option<u8> {
    u8::try_from(device).ok().filter(|&card| card < CARDS)
}

/// Writes a result to where the caller wants it.
fn put<T>(place: *mut T, value: T) -> c_uint {
    if place.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller of the driver gives a place for the result.
    unsafe { place.write(value) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: c_uint) -> c_uint {
    unless_fault!("cuInit");
    if folder().is_dir() { SUCCESS } else { NO_DEVICE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(code: c_uint, name: *mut *const c_char) -> c_uint {
    let text = match code {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        NO_DEVICE => c"CUDA_ERROR_NO_DEVICE",
        ALREADY_REGISTERED => c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
        UNKNOWN => c"CUDA_ERROR_UNKNOWN",
        _ => return INVALID_VALUE,
    };
    put(name, text.as_ptr())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_uint {
    put(count, c_int::from(CARDS))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGet(device: *mut c_int, index: c_int) -> c_uint {
    if card_of(index).is_none() { INVALID_VALUE } else { put(device, index) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDeviceGetUuid_v2(id: *mut [u8; 16], device: c_int) -> c_uint {
    card_of(device).map_or(INVALID_VALUE, |card| put(id, uuid(card)))
}

/// A context is the number of its card, and 1 more, so that none is null.
#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_uint {
    unless_fault!("cuDevicePrimaryCtxRetain");
    let Some(card) = card_of(device) else { return INVALID_VALUE };
    note_context(card);
    put(context, ptr::without_provenance_mut(usize::from(card) + 1))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_uint {
    card_of(device).map_or(INVALID_VALUE, |_| SUCCESS)
}

thread_local! {
    static CURRENT: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPushCurrent_v2(context: *mut c_void) -> c_uint {
    CURRENT.with_borrow_mut(|stack| stack.push(context.addr()));
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxPopCurrent_v2(context: *mut *mut c_void) -> c_uint {
    match CURRENT.with_borrow_mut(Vec::pop) {
        Some(popped) => put(context, ptr::without_provenance_mut(popped)),
        None => INVALID_VALUE,
    }
}

/// The card whose context is current.
fn current() -> Option<u8> {
    let top = CURRENT.with_borrow(|stack| stack.last().copied())?;
    u8::try_from(top.checked_sub(1)?).ok()
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
    let Some(card) = current() else { return INVALID_VALUE };
    let Ok(found) = cards::free(&folder(), card) else { return UNKNOWN };
    put(free, usize::try_from(found).unwrap_or(usize::MAX)) | put(total, usize::try_from(BYTES).unwrap_or(usize::MAX))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemGetAllocationGranularity(bytes: *mut usize, _: *const Properties, _: c_int) -> c_uint {
    put(bytes, GRANULARITY)
}

fn keep(handle: *mut u64, allocation: Allocation) -> c_uint {
    let mut table = table();
    table.next += 1;
    let number = table.next;
    table.handles.insert(number, allocation);
    put(handle, number)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemCreate(handle: *mut u64, size: usize, properties: *const Properties, _: u64) -> c_uint {
    match fault("cuMemCreate") {
        Some(Fault::Fails) => return UNKNOWN,
        Some(Fault::Fills) => return OUT_OF_MEMORY,
        Some(Fault::Flips) | None => {}
    }
    // SAFETY: the caller gives a structure of the driver's.
    let Properties { kind, handle_types, location_kind, location_id } = unsafe { properties.read() };
    let Some(card) = card_of(location_id) else { return INVALID_VALUE };
    if size == 0 || !size.is_multiple_of(GRANULARITY) || (kind, handle_types, location_kind) != (1, 1, 1) {
        return INVALID_VALUE;
    }
    match cards::create(&folder(), card, size as u64) {
        Ok(Some(file)) => keep(handle, Allocation { card, file, bytes: size as u64 }),
        Ok(None) => OUT_OF_MEMORY,
        Err(_) => UNKNOWN,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemRelease(handle: u64) -> c_uint {
    if table().handles.remove(&handle).is_some() { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemExportToShareableHandle(place: *mut c_void, handle: u64, kind: c_int, _: u64) -> c_uint {
    unless_fault!("cuMemExportToShareableHandle");
    let table = table();
    let Some(allocation) = table.handles.get(&handle).filter(|_| kind == 1) else { return INVALID_VALUE };
    match rustix::io::fcntl_dupfd_cloexec(&allocation.file, 0) {
        Ok(descriptor) => put(place.cast::<c_int>(), descriptor.into_raw_fd()),
        Err(_) => UNKNOWN,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemImportFromShareableHandle(handle: *mut u64, number: *mut c_void, kind: c_int) -> c_uint {
    unless_fault!("cuMemImportFromShareableHandle");
    let Ok(number) = c_int::try_from(number.addr()) else { return INVALID_VALUE };
    // SAFETY: the caller gives the number of an open descriptor, and closes it after the call at the earliest.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    match cards::import(&folder(), descriptor) {
        Ok((card, file, bytes)) if kind == 1 => keep(handle, Allocation { card, file, bytes }),
        _ => INVALID_VALUE,
    }
}

/// Memory that nothing lies in.
fn map_nothing(address: *mut c_void, size: usize, fixed: c_int) -> Option<*mut c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
    // SAFETY: either a new range, or one that this library reserved, and nobody reads it.
    let mapped = unsafe { libc::mmap(address, size, libc::PROT_NONE, flags, -1, 0) };
    (mapped != libc::MAP_FAILED).then_some(mapped)
}

fn at(address: u64) -> *mut c_void {
    ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or_default())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressReserve(address: *mut u64, size: usize, _: usize, _: u64, _: u64) -> c_uint {
    unless_fault!("cuMemAddressReserve");
    let Some(mapped) = map_nothing(ptr::null_mut(), size, 0) else { return OUT_OF_MEMORY };
    let start = mapped.expose_provenance() as u64;
    table().ranges.insert(start, Range { size, ..Range::default() });
    put(address, start)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemAddressFree(address: u64, size: usize) -> c_uint {
    let mut table = table();
    match table.ranges.get(&address) {
        Some(range) if range.size == size && !range.is_mapped => {}
        _ => return INVALID_VALUE,
    }
    table.ranges.remove(&address);
    // SAFETY: the range was reserved here, and nothing is mapped in it.
    unsafe { libc::munmap(at(address), size) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemMap(address: u64, size: usize, offset: usize, handle: u64, _: u64) -> c_uint {
    use std::os::fd::AsRawFd as _;
    unless_fault!("cuMemMap");
    let mut table = table();
    let Some(range) = table.ranges.get(&address).copied() else { return INVALID_VALUE };
    let Some(allocation) = table.handles.get(&handle) else { return INVALID_VALUE };
    if range.is_mapped || offset != 0 || size != range.size || size as u64 != allocation.bytes {
        return INVALID_VALUE;
    }
    let (flags, file) = (libc::MAP_SHARED | libc::MAP_FIXED, allocation.file.as_raw_fd());
    debug_assert!(allocation.card < CARDS);
    // SAFETY: the range was reserved here, and nothing is mapped in it.
    let mapped = unsafe { libc::mmap(at(address), size, libc::PROT_NONE, flags, file, 0) };
    if mapped == libc::MAP_FAILED {
        return UNKNOWN;
    }
    table.ranges.insert(address, Range { is_mapped: true, ..range });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemUnmap(address: u64, size: usize) -> c_uint {
    let mut table = table();
    let Some(range) = table.ranges.get(&address).copied() else { return INVALID_VALUE };
    if !range.is_mapped || range.size != size || map_nothing(at(address), size, libc::MAP_FIXED).is_none() {
        return INVALID_VALUE;
    }
    table.ranges.insert(address, Range { size, ..Range::default() });
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemSetAccess(address: u64, size: usize, access: *const AccessDescriptor, count: usize) -> c_uint {
    unless_fault!("cuMemSetAccess");
    // SAFETY: the caller gives as many structures as it says, and here that is one.
    let AccessDescriptor { location_kind, location_id, flags } = unsafe { access.read() };
    let mut table = table();
    let Some(range) = table.ranges.get(&address).copied() else { return INVALID_VALUE };
    let (reads, writes) = (flags & 1 != 0, flags == 3);
    if !range.is_mapped || range.size != size || count != 1 || location_kind != 1 || card_of(location_id).is_none() {
        return INVALID_VALUE;
    }
    let protection = if writes { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
    // SAFETY: the range is mapped, and only its protection changes.
    if unsafe { libc::mprotect(at(address), size, protection) } != 0 {
        return UNKNOWN;
    }
    table.ranges.insert(address, Range { reads, writes, ..range });
    SUCCESS
}

/// Whether a process may write to its memory there.
fn is_writable(address: usize) -> io::Result<bool> {
    let maps = fs::read_to_string(Path::new("/proc/self/maps"))?;
    let found = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let hex = |digits: &str| usize::from_str_radix(digits, 16).ok();
        (hex(start)? <= address && address < hex(end)?).then(|| rest.as_bytes().get(1) == Some(&b'w'))
    });
    Ok(found.unwrap_or(false))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostRegister_v2(memory: *mut c_void, size: usize, flags: c_uint) -> c_uint {
    unless_fault!("cuMemHostRegister_v2");
    let address = memory.addr();
    if size == 0 || (flags & REGISTER_READ_ONLY == 0 && !is_writable(address).unwrap_or(false)) {
        return INVALID_VALUE;
    }
    let mut table = table();
    if table.is_registered(address, size) {
        return ALREADY_REGISTERED;
    }
    table.registered.insert(address, size);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemHostUnregister(memory: *mut c_void) -> c_uint {
    if table().registered.remove(&memory.addr()).is_some() { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, length: usize, _: *mut c_void) -> c_uint {
    let fault = fault("cuMemcpyHtoDAsync_v2");
    if fault == Some(Fault::Fails) {
        return UNKNOWN;
    }
    let table = table();
    if !table.around(to, length).is_some_and(|range| range.writes) {
        return INVALID_VALUE;
    }
    // SAFETY: the caller gives `length` bytes, and the table has a writable mapping around the place. No two copies run at a
    // time, since the table is locked.
    let (from, to) = unsafe {
        (slice::from_raw_parts(from.cast::<u8>(), length), slice::from_raw_parts_mut(at(to).cast::<u8>(), length))
    };
    to.copy_from_slice(from);
    if let (Some(Fault::Flips), Some(byte)) = (fault, to.last_mut()) {
        *byte ^= 1;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, length: usize, _: *mut c_void) -> c_uint {
    unless_fault!("cuMemcpyDtoHAsync_v2");
    let table = table();
    if !table.around(from, length).is_some_and(|range| range.reads) {
        return INVALID_VALUE;
    }
    // SAFETY: as above, the other way.
    let (from, to) = unsafe {
        (slice::from_raw_parts(at(from).cast::<u8>(), length), slice::from_raw_parts_mut(to.cast::<u8>(), length))
    };
    to.copy_from_slice(from);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _: c_uint) -> c_uint {
    unless_fault!("cuStreamCreate");
    put(stream, ptr::without_provenance_mut(1))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_: *mut c_void) -> c_uint {
    unless_fault!("cuStreamSynchronize");
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(_: *mut c_void) -> c_uint {
    SUCCESS
}
