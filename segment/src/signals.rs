//! What a signal does to this process.

use std::{io, mem::MaybeUninit, ptr};

/// Lets all signals come to this thread, and to those that it starts. The program that started this process may have
/// blocked some: a blocked signal is inherited, and never comes.
///
/// # Errors
/// When the system refuses.
pub fn unblock() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the call fills the set, whose room it is given.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the set was filled, and nothing is written through the null pointer.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

use rustix::process::Signal;

/// Whether this process was started with the signal ignored, as `nohup` does with SIGHUP.
///
/// # Errors
/// When the system knows no such signal.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the second argument is null, so nothing is changed, and the third has room for what is there.
    let known = unsafe { libc::sigaction(signal.as_raw(), ptr::null(), action.as_mut_ptr()) };
    if known != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid `sigaction`, and the call filled it.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_programs_ignore_broken_pipes_and_no_hang_up() {
        assert!(is_ignored(Signal::PIPE).unwrap());
        assert!(!is_ignored(Signal::USR2).unwrap());
    }
}
