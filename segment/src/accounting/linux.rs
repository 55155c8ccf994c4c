//! `/proc/PID/smaps_rollup` and `/proc/PID/status`; see proc(5).

use std::{fs, io};

use super::MemoryUse;

pub(super) fn of_process(pid: u32) -> io::Result<MemoryUse> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(MemoryUse { page_tables: field(&status, "VmPTE"), ..from_rollup(&rollup)? })
}

/// `/proc/self/statm` has the size and the resident size, in pages.
pub(super) fn resident_of_self() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: Option<u64> = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let pages = pages.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "statm has no resident size"))?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

fn from_rollup(text: &str) -> io::Result<MemoryUse> {
    // A kernel thread and a process that is ending have an empty rollup.
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "smaps_rollup has no Rss: the process has no memory");
    let sum = |names: &[&str]| names.iter().filter_map(|name| field(text, name)).sum();
    Ok(MemoryUse {
        resident: field(text, "Rss").ok_or_else(missing)?,
        shared: sum(&["Shared_Clean", "Shared_Dirty", "Shared_Hugetlb"]),
        private: sum(&["Private_Clean", "Private_Dirty", "Private_Hugetlb"]),
        proportional: field(text, "Pss"),
        page_tables: None,
    })
}

/// The value of a line such as `Rss:    123 kB`, in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read_in_bytes() {
        let text = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:      10 kB\nPss:       7 kB\nPss_Dirty: 9 kB\n\
                    Shared_Clean:  4 kB\nShared_Dirty:  1 kB\nPrivate_Clean: 2 kB\nPrivate_Dirty: 3 kB\n";
        let expected =
            MemoryUse { resident: 10240, shared: 5120, private: 5120, proportional: Some(7168), page_tables: None };
        assert_eq!(from_rollup(text).unwrap(), expected);
        from_rollup("").unwrap_err();
        assert_eq!(field("VmPTE:\t  88 kB\n", "VmPTE"), Some(90112));
    }
}
