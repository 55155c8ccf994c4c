//! A file among the user's temporary ones, opened again for reading and deleted.

use std::{
    fs::File,
    io::{self, Write as _},
};

use tempfile::NamedTempFile;

pub(super) fn sealed(bytes: &[u8]) -> io::Result<File> {
    // Its mode lets nobody else open it while it has a name.
    let mut file = NamedTempFile::with_prefix("weightsd-")?;
    file.write_all(bytes)?;
    let reader = File::open(file.path())?;
    file.close()?;
    Ok(reader)
}
