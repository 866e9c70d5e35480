//! Waits that grow, end at a cap, and differ from process to process.

use std::time::Duration;

/// How long to wait between rounds of failed connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Wait after the first round; doubled after each further one.
    pub first: Duration,
    /// Longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// Returns the wait after `rounds` (1-based) failures in a row, before jitter.
    pub fn wait(&self, rounds: u32) -> Duration {
        let doublings = rounds.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

/// Draws what keeps many clients from coming back at the same moment.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// Starts from `seed`, or from the system's randomness.
    pub fn new(seed: Option<u64>) -> Self {
        Self(seed.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            // Without randomness the waits are merely equal.
            let _ = getrandom::fill(&mut bytes);
            u64::from_le_bytes(bytes)
        }))
    }

    /// Returns a time from half of `wait` up to all of it.
    pub fn shorten(&mut self, wait: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): any sequence will do that differs by seed.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let thousandths = u32::try_from(z % 501).expect("a remainder of 501 is below 501");
        wait / 1_000 * (500 + thousandths)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(10) };
        let waits: Vec<u64> = (1..=6).map(|rounds| backoff.wait(rounds).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.wait(u32::MAX), backoff.max);
        assert_eq!(backoff.wait(0), backoff.first);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_half_and_all(seed: u64, ms in 0u64..100_000) {
            let wait = Duration::from_millis(ms);
            let mut jitter = Jitter::new(Some(seed));
            let mut again = Jitter::new(Some(seed));
            for _ in 0..8 {
                let shortened = jitter.shorten(wait);
                prop_assert!(shortened <= wait && shortened >= wait / 2);
                prop_assert_eq!(shortened, again.shorten(wait));
            }
        }
    }
}
