//! Bytes as a file that nobody can change any more, to be handed to other processes.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod other;

use std::{fs::File, io};

/// A file with these bytes, open for reading. It has no name, and goes with its last descriptor. On Linux the kernel lets
/// nobody write to it; elsewhere no descriptor that could is left. May wait for a disk elsewhere.
///
/// # Errors
/// When memory or descriptors run out; elsewhere than on Linux, when the folder for temporary files cannot be written to.
pub fn sealed(bytes: &[u8]) -> io::Result<File> {
    #[cfg(target_os = "linux")]
    return linux::sealed(bytes);
    #[cfg(not(target_os = "linux"))]
    return other::sealed(bytes);
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        os::unix::fs::{FileExt as _, MetadataExt as _},
    };

    use super::*;
    use crate::{FileIdentity, View};

    fn check(file: File) {
        let identity = FileIdentity::of_file(&file).unwrap();
        let view = View::map(&file, &identity).unwrap();
        assert_eq!(view.bytes(0, 3), Some(&b"abc"[..]));
        let mut file = file;
        file.write_at(b"x", 0).unwrap_err();
        file.write(b"x").unwrap_err();
        file.set_len(0).unwrap_err();
        assert_eq!(file.metadata().unwrap().len(), 3);
        assert_eq!(file.metadata().unwrap().nlink(), 0, "it has no name");
        drop(file);
        assert_eq!(view.bytes(0, 3), Some(&b"abc"[..]));
    }

    #[test]
    fn nobody_can_change_what_is_sealed() {
        check(sealed(b"abc").unwrap());
    }

    /// What other systems do also runs here, so it is tried here.
    #[test]
    fn nobody_can_change_what_is_sealed_elsewhere() {
        check(other::sealed(b"abc").unwrap());
    }
}
