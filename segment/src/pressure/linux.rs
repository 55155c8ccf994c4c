//! Linux: pressure stall information (`/proc/pressure/memory`), and `/proc/meminfo`.

use std::fs;

use super::Pressure;

/// Percent of the last ten seconds in which some program waited for memory, from which on it counts.
const HIGH: f64 = 10.0;

pub(super) fn pressure() -> Pressure {
    // A kernel may be built or started without it.
    fs::read_to_string("/proc/pressure/memory").map_or(Pressure::Unknown, |text| parse(&text))
}

fn parse(text: &str) -> Pressure {
    let some = text.lines().find_map(|line| line.strip_prefix("some avg10="));
    match some.and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok()) {
        Some(percent) if percent >= HIGH => Pressure::High,
        Some(_) => Pressure::None,
        None => Pressure::Unknown,
    }
}

pub(super) fn available_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    kibibytes.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_with_a_tenth_of_waiting_are_pressure() {
        let text = |some: &str| {
            format!(
                "some avg10={some} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"
            )
        };
        assert_eq!(parse(&text("0.00")), Pressure::None);
        assert_eq!(parse(&text("9.99")), Pressure::None);
        assert_eq!(parse(&text("10.00")), Pressure::High);
        assert_eq!(parse(&text("x")), Pressure::Unknown);
        assert_eq!(parse(""), Pressure::Unknown);
    }
}
