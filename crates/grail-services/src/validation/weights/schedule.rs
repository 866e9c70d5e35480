//! When weights are due, and when a failed attempt may be repeated.

use grail_protocol::ids::BlockNumber;

/// Longest pause between two attempts of one interval, blocks.
pub const RETRY_BLOCKS_MAX: u64 = 32;

/// When weights are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSchedule {
    /// Blocks in an interval, at least 1; weights are set once in each.
    pub interval_blocks: u64,
    /// Windows that a fresh validator processes before it sets any.
    pub warmup_windows: u64,
    /// Blocks within which weights that were handed in by an earlier life of this validator may
    /// still turn up; no others are handed in before.
    pub uncertain_blocks: u64,
}

impl Default for WeightSchedule {
    fn default() -> Self {
        // A transaction lives for 16 blocks; two more until the last of them is read.
        Self { interval_blocks: 360, warmup_windows: 12, uncertain_blocks: 18 }
    }
}

/// What a schedule says at a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing to do.
    NotYet,
    /// The interval passes without weights: the validator has not seen enough.
    LeaveOut(u64),
    /// Weights are due for this interval.
    Submit(u64),
}

impl WeightSchedule {
    /// Returns the interval of `block`.
    pub fn interval(&self, block: BlockNumber) -> u64 {
        block.0 / self.interval_blocks.max(1)
    }

    /// Returns what is due at `block` after `processed` windows, `last` being the newest interval
    /// that is done.
    pub fn due(&self, block: BlockNumber, processed: u64, last: Option<u64>) -> Due {
        let interval = self.interval(block);
        if last.is_some_and(|last| interval <= last) {
            return Due::NotYet;
        }
        if processed < self.warmup_windows {
            Due::LeaveOut(interval)
        } else {
            Due::Submit(interval)
        }
    }

    /// Returns whether the first half of the interval of `block` is over: weights then no longer
    /// wait for a window that is not judged yet.
    pub fn is_urgent(&self, block: BlockNumber) -> bool {
        block.0 % self.interval_blocks.max(1) >= self.interval_blocks / 2
    }
}

/// Returns the first block of the next attempt after `failures` (at least 1) failed ones of the
/// same interval, the last of them at `block`.
pub fn retry_at(block: BlockNumber, failures: u32) -> BlockNumber {
    let doublings = failures.saturating_sub(1).min(RETRY_BLOCKS_MAX.ilog2());
    BlockNumber(block.0.saturating_add(1 << doublings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_due_once_an_interval_after_the_warm_up() {
        let schedule = WeightSchedule::default();
        let due = |block, processed, last| schedule.due(BlockNumber(block), processed, last);
        assert_eq!(due(719, 12, None), Due::Submit(1));
        assert_eq!(due(719, 11, None), Due::LeaveOut(1));
        assert_eq!(due(719, 12, Some(1)), Due::NotYet);
        assert_eq!(due(720, 12, Some(1)), Due::Submit(2));
        assert_eq!(due(0, 0, Some(5)), Due::NotYet);
        let eager =
            WeightSchedule { interval_blocks: 0, warmup_windows: 0, ..WeightSchedule::default() };
        assert_eq!(eager.due(BlockNumber(3), 0, None), Due::Submit(3));
        assert!(eager.is_urgent(BlockNumber(3)));
        assert!(!schedule.is_urgent(BlockNumber(720 + 179)));
        assert!(schedule.is_urgent(BlockNumber(720 + 180)));
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let pauses = (1..=8).map(|failures| retry_at(BlockNumber(100), failures).0 - 100);
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(retry_at(BlockNumber(u64::MAX), u32::MAX), BlockNumber(u64::MAX));
    }
}
