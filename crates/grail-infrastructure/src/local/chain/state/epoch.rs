//! The epoch schedule of the subnet, which is state: an epoch is due a tempo after the last one, or
//! when the owner asked for it. Source: spec/bittensor.md section 6.

use serde::{Deserialize, Serialize};

use crate::subtensor::schedule::EpochState;

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
    /// Moves to `block` and returns whether its epoch begins there.
    pub(super) fn step(&mut self, tempo: u16, block: u64) -> bool {
        // One arithmetic for the chain and for those who predict it.
        let mut state = EpochState {
            tempo: tempo.into(),
            last_epoch_block: self.last_epoch_block,
            pending_epoch_at: self.pending_epoch_at,
            index: self.index,
            blocks_since_last_step: self.blocks_since_last_step,
        };
        let is_due = state.step(block);
        *self = Self {
            last_epoch_block: state.last_epoch_block,
            pending_epoch_at: state.pending_epoch_at,
            index: state.index,
            blocks_since_last_step: state.blocks_since_last_step,
        };
        is_due
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
