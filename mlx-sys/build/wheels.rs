//! Which of the prebuilt packages is for this machine.

/// One line of `wheels.txt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wheel<'a> {
    pub(crate) package: &'a str,
    pub(crate) version: &'a str,
    pub(crate) platform: &'a str,
    pub(crate) sha256: &'a str,
    /// The oldest macOS that loads its library.
    oldest: Option<(u32, u32)>,
}

/// The package with that backend for a target (`aarch64-macos`): of several the last that runs on `macos`, or the first
/// where the build does not run on a Mac. Otherwise the backends that there are for the target.
pub(crate) fn choose<'a>(
    table: &'a str,
    target: &str,
    backend: &str,
    macos: Option<(u32, u32)>,
) -> Result<Wheel<'a>, Vec<&'a str>> {
    let rows = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect::<Vec<_>>());
    let here: Vec<_> = rows.filter(|row| row.first() == Some(&target)).collect();
    let wheels = here.iter().filter(|row| row.get(1) == Some(&backend)).filter_map(|row| match row.as_slice() {
        &[_, _, package, version, platform, sha256, ref oldest @ ..] => {
            Some(Wheel { package, version, platform, sha256, oldest: oldest.first().and_then(|text| numbers(text)) })
        }
        _ => None,
    });
    let wheels: Vec<_> = wheels.collect();
    let runs = |wheel: &&Wheel<'_>| wheel.oldest.is_none_or(|oldest| macos.is_some_and(|macos| oldest <= macos));
    match wheels.iter().rfind(runs).or(wheels.first()) {
        Some(wheel) => Ok(*wheel),
        None => Err(here.iter().filter_map(|row| row.get(1).copied()).collect()),
    }
}

/// The first two numbers of a version.
pub(crate) fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim().split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_the_newest_that_this_macos_can_load() {
        let table = include_str!("wheels.txt");
        let platform = |version: Option<&str>| {
            let macos = version.and_then(numbers);
            choose(table, "aarch64-macos", "metal", macos).unwrap().platform
        };
        for (version, expected) in [
            (None, "macosx_14_0_arm64"),
            (Some("14.7.1"), "macosx_14_0_arm64"),
            (Some("15.0"), "macosx_15_0_arm64"),
            (Some("26.1"), "macosx_15_0_arm64"),
            (Some("26.2"), "macosx_26_0_arm64"),
            (Some("27"), "macosx_26_0_arm64"),
        ] {
            assert_eq!(platform(version), expected, "{version:?}");
        }
        assert_eq!(choose(table, "x86_64-linux", "cpu", None).unwrap().package, "mlx-cpu");
        assert_eq!(choose(table, "x86_64-linux", "metal", None), Err(vec!["cpu", "cuda12", "cuda13"]));
    }
}
