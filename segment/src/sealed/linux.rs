//! A file in memory, with seals that the kernel holds.

use std::{
    fs::File,
    io::{self, Write as _},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

pub(super) fn sealed(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("weightsd", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}
