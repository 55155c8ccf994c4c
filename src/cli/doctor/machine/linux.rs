//! Linux tells by `/proc`.

use std::fs;

use super::super::facts::Memory;

/// Memory of the machine.
pub(crate) fn memory() -> Option<Memory> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Memory { total: field("MemTotal")?, available: field("MemAvailable")? })
}

/// Whether the program that the process runs was deleted or replaced since.
pub(crate) fn is_replaced(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|path| path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read_in_bytes() {
        let memory = parse("MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    8192 kB\n").unwrap();
        assert_eq!((memory.total, memory.available), (16 << 20, 8 << 20));
        assert!(parse("MemTotal: 1 kB\n").is_none());
        assert!(super::memory().is_some() && !is_replaced(std::process::id()));
    }
}
