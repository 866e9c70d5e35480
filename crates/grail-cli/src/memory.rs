//! How much memory this process took at most.

/// Returns the largest resident memory so far, bytes, or `None` where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        assert_eq!(parse("Name:\tgrail\nVmHWM:\t  123456 kB\nVmRSS:\t 1 kB\n"), Some(126_418_944));
        assert_eq!(parse("Name:\tgrail\n"), None);
        assert_eq!(parse("VmHWM:\t many kB\n"), None);
    }
}
