//! Where a rollout file lies, how large it may be, and when it is too late.

use crate::keys::ROLLOUTS_PREFIX;

/// Fewest bytes of a file that counts.
pub const BYTES_MIN: u64 = 200;

/// Most bytes of a file that is downloaded: 350 MiB.
pub const BYTES_MAX: u64 = 350 * 1024 * 1024;

/// Most bytes of a file that is discovered, and so makes its miner active: 500 MiB.
pub const DISCOVERY_BYTES_MAX: u64 = 500 * 1024 * 1024;

/// Seconds before the next window's first block at which uploads must be done.
pub const DEADLINE_MARGIN_SECONDS: f64 = 4.0;

/// Returns the key of a miner's file in the miner's bucket.
///
/// - `hotkey`: SS58 text as the chain client gives it; only its prefix differs between networks.
pub fn object_key(hotkey: &str, window_start: i64) -> String {
    format!("{ROLLOUTS_PREFIX}{hotkey}-window-{window_start}.parquet")
}

/// Returns the key that readers ask for first; the object is inflated after the download. The first
/// of the two that exists decides alone. Honest miners never write it.
pub fn gzip_key(object_key: &str) -> String {
    format!("{object_key}.gz")
}

/// Whether a file of `bytes`, by the store's word, is read; outside it counts as absent.
pub fn is_size_allowed(bytes: u64, bytes_max: u64) -> bool {
    (BYTES_MIN..=bytes_max).contains(&bytes)
}

/// Returns the last moment of an upload, Unix seconds.
///
/// - `next_window_seconds`: time of the block after the window, by the chain or an estimate. Without
///   any there is no deadline.
pub fn deadline(next_window_seconds: Option<f64>) -> Option<f64> {
    next_window_seconds.map(|seconds| seconds - DEADLINE_MARGIN_SECONDS)
}

/// Whether a file counts as uploaded in time; exactly on the deadline is in time.
///
/// - `last_modified_seconds`: whole Unix seconds, by the store. An unknown time is in time.
pub fn is_in_time(last_modified_seconds: Option<f64>, deadline: Option<f64>) -> bool {
    match (last_modified_seconds, deadline) {
        (Some(uploaded), Some(deadline)) => uploaded <= deadline,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_inclusive() {
        for (bytes, want) in
            [(199, false), (200, true), (367_001_600, true), (367_001_601, false), (0, false)]
        {
            assert_eq!(is_size_allowed(bytes, BYTES_MAX), want, "{bytes}");
        }
        assert!(is_size_allowed(367_001_601, DISCOVERY_BYTES_MAX));
    }

    #[test]
    fn the_deadline_is_four_seconds_before_the_next_window() {
        let end = deadline(Some(1_700_000_364.0));
        assert_eq!(end, Some(1_700_000_360.0));
        for (uploaded, want) in [
            (Some(1_700_000_360.0), true),
            (Some(1_700_000_361.0), false),
            (Some(0.0), true),
            (None, true),
        ] {
            assert_eq!(is_in_time(uploaded, end), want, "{uploaded:?}");
        }
        assert!(is_in_time(Some(f64::MAX), deadline(None)));
    }

    #[test]
    fn keys_name_the_hotkey_and_the_window() {
        let key = object_key("5Grw", 5_123_430);
        assert_eq!(key, "grail/windows/5Grw-window-5123430.parquet");
        assert_eq!(gzip_key(&key), "grail/windows/5Grw-window-5123430.parquet.gz");
    }
}
