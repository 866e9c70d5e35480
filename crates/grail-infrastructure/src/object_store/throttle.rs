//! Spaces transfers so that they do not use more than a bandwidth.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Time without transfers that may be made up for at once.
const BURST: Duration = Duration::from_millis(250);

/// Bytes that are sent or received between two looks at the clock.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// A bandwidth that several transfers share.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_s: u64,
    /// When the bytes that were let through so far are all due.
    due: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Lets `bytes_per_s` bytes through a second, at least one.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), due: Mutex::new(None) }
    }

    /// Waits until `bytes` more bytes may pass.
    pub(super) async fn pass(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = {
            let now = Instant::now();
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let start = due.map_or(earliest, |due| due.max(earliest));
            *due = Some(start + takes);
            start
        };
        sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn transfers_share_the_bandwidth() {
        let throttle = Throttle::new(1_000);
        let start = Instant::now();
        let one = async {
            for _ in 0..10 {
                throttle.pass(500).await;
            }
        };
        let two = async {
            for _ in 0..10 {
                throttle.pass(500).await;
            }
        };
        tokio::join!(one, two);
        // 10,000 bytes; the last piece starts half a second before its end, the first a burst early.
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(9_250) && took <= Duration::from_secs(10),
            "{took:?}"
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        throttle.pass(250).await;
        throttle.pass(1_000).await;
        throttle.pass(1).await;
        assert_eq!(start.elapsed().as_millis(), 1_000, "a pause is made up for by the burst only");
    }
}
