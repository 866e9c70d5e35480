//! The epoch schedule of the subnet, which is state: an epoch is due a tempo after the last one, or
//! when the owner asked for it. Source: spec/bittensor.md section 6.

use serde::{Deserialize, Serialize};

/// Blocks without an epoch after which one is due whatever the rest says. Source: the chain.
const STEP_GAP_MAX: u64 = 50_400;

/// Where the subnet stands between two epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// `LastEpochBlock`.
    pub last_epoch_block: u64,
    /// `PendingEpochAt`; 0 if the owner asked for none.
    pub pending_epoch_at: u64,
    /// `SubnetEpochIndex`.
    pub index: u64,
    /// `BlocksSinceLastStep`.
    pub blocks_since_last_step: u64,
}

impl Schedule {
    /// Returns whether an epoch is due at `block`, the one after the block of this state.
    fn is_due(&self, tempo: u16, block: u64) -> bool {
        let asked_for = self.pending_epoch_at > 0 && block >= self.pending_epoch_at;
        let overdue = self.blocks_since_last_step > STEP_GAP_MAX;
        let passed = block.saturating_sub(self.last_epoch_block) >= u64::from(tempo);
        tempo != 0 && (asked_for || overdue || passed)
    }

    /// Moves to `block` and returns whether its epoch begins there.
    pub(super) fn step(&mut self, tempo: u16, block: u64) -> bool {
        self.blocks_since_last_step = self.blocks_since_last_step.saturating_add(1);
        let due = self.is_due(tempo, block);
        if due {
            self.last_epoch_block = block;
            self.pending_epoch_at = 0;
            self.index = self.index.saturating_add(1);
            self.blocks_since_last_step = 0;
        }
        due
    }

    /// Starts the current epoch anew at `block`, as a new tempo does.
    pub(super) fn restart(&mut self, block: u64) {
        self.last_epoch_block = block;
    }

    /// Returns the block of the next epoch if nothing changes, or `None` if there is none.
    pub fn next_epoch_block(&self, tempo: u16) -> Option<u64> {
        if tempo == 0 {
            return None;
        }
        let regular = self.last_epoch_block.saturating_add(u64::from(tempo));
        Some(match self.pending_epoch_at {
            0 => regular,
            pending => regular.min(pending),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_epoch_comes_a_tempo_after_the_last_or_when_asked_for() {
        let mut schedule = Schedule::default();
        let epochs = |schedule: &mut Schedule, blocks: std::ops::RangeInclusive<u64>| {
            blocks.filter(|block| schedule.step(30, *block)).collect::<Vec<_>>()
        };
        assert_eq!(epochs(&mut schedule, 1..=65), [30, 60]);
        assert_eq!(schedule.blocks_since_last_step, 5);
        schedule.pending_epoch_at = 70;
        assert_eq!(schedule.next_epoch_block(30), Some(70));
        assert_eq!(epochs(&mut schedule, 66..=101), [70, 100]);
        schedule.restart(101);
        assert_eq!(schedule.next_epoch_block(30), Some(131));
        assert_eq!((schedule.index, schedule.next_epoch_block(0)), (4, None));
        assert!((102..500).all(|block| !schedule.step(0, block)), "tempo 0 stops the epochs");
    }

    proptest! {
        #[test]
        fn the_next_epoch_is_where_it_is_said_to_be(
            tempo in 1u16..400, blocks in 1u64..1000, ahead in 0u64..500,
        ) {
            let mut schedule = Schedule::default();
            for block in 1..=blocks {
                schedule.step(tempo, block);
            }
            if ahead > 0 {
                schedule.pending_epoch_at = blocks + ahead;
            }
            let next = schedule.next_epoch_block(tempo).unwrap();
            prop_assert!(next > blocks);
            for block in blocks + 1..next {
                prop_assert!(!schedule.step(tempo, block), "block {}", block);
            }
            prop_assert!(schedule.step(tempo, next));
        }
    }
}
