//! `proc_pid_rusage`; see <libproc.h> and <sys/resource.h>.

use std::{io, mem::MaybeUninit};

use super::MemoryUse;

pub(super) fn of_process(pid: u32) -> io::Result<MemoryUse> {
    let pid = libc::c_int::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut usage = MaybeUninit::<libc::rusage_info_v2>::zeroed();
    // SAFETY: the flavour names the structure that the buffer is, and the call writes nothing beyond it.
    let result = unsafe { libc::proc_pid_rusage(pid, libc::RUSAGE_INFO_V2, usage.as_mut_ptr().cast()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all fields are integers, for which zeroes are valid, and the call has filled them in.
    let usage = unsafe { usage.assume_init() };
    Ok(MemoryUse {
        resident: usage.ri_resident_size,
        shared: usage.ri_resident_size.saturating_sub(usage.ri_phys_footprint),
        private: usage.ri_phys_footprint,
        proportional: None,
        page_tables: None,
    })
}

pub(super) fn resident_of_self() -> io::Result<u64> {
    of_process(std::process::id()).map(|usage| usage.resident)
}
