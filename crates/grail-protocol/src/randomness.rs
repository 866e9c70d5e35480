//! Turns public randomness into the randomness of a window, its tasks and its checks.
//!
//! Everything derives from a block hash and one *fixed* beacon round, so miner and validator compute
//! the same values. A beacon that is missing is waited for; nothing ever replaces it.

use crate::constants::WINDOW_BLOCKS;
use crate::domain::DomainHash;
use crate::ids::{BlockHash, Digest, Hotkey};

/// When the rounds of a beacon come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconSchedule {
    /// Time of round 1, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between rounds, milliseconds; at least 1.
    pub period_ms: u64,
}

impl BeaconSchedule {
    /// Returns the first round that comes out strictly after `time_ms`.
    pub fn first_round_after(&self, time_ms: u64) -> u64 {
        match time_ms.checked_sub(self.genesis_ms) {
            // Round r comes out at genesis + (r - 1) * period.
            Some(elapsed_ms) => (elapsed_ms / self.period_ms).saturating_add(2),
            None => 1,
        }
    }

    /// Returns when `round` comes out, milliseconds since the Unix epoch.
    pub fn time_of_ms(&self, round: u64) -> u64 {
        self.genesis_ms.saturating_add(round.saturating_sub(1).saturating_mul(self.period_ms))
    }

    /// Returns the round that files of a window are sealed to: the first after the *nominal*
    /// deadline, `first_block_ms` (timestamp of the window's first block) and 30 block times.
    ///
    /// Everybody can compute it from the window's first block on. The real deadline is the
    /// timestamp of a block that does not exist yet, so nobody could seal to it.
    pub fn seal_round(&self, first_block_ms: u64, block_time_ms: u64) -> u64 {
        let window_ms = WINDOW_BLOCKS.saturating_mul(block_time_ms);
        self.first_round_after(first_block_ms.saturating_add(window_ms))
    }
}

/// Randomness of a window: unknown before its first block, the same for everybody after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRandomness(pub Digest);

/// Randomness that chooses which groups are checked: unknown while miners can still upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationChallenge(pub Digest);

/// Returns the randomness of a window.
///
/// `block_hash` is the hash of the window's first block, `beacon` the randomness of the first round
/// that comes out strictly after that block's timestamp.
pub fn window_randomness(block_hash: &BlockHash, beacon: &Digest) -> WindowRandomness {
    WindowRandomness(
        DomainHash::new("window-randomness").digest(block_hash).digest(beacon).finish(),
    )
}

/// Returns the challenge of a window.
///
/// `block_hash` is the hash of the first block *after* the window, whose timestamp is the upload
/// deadline; `beacon` is the randomness of the first round strictly after that timestamp.
pub fn validation_challenge(block_hash: &BlockHash, beacon: &Digest) -> ValidationChallenge {
    ValidationChallenge(
        DomainHash::new("validation-challenge").digest(block_hash).digest(beacon).finish(),
    )
}

/// Returns the seed of the problem that `hotkey` must answer in `group` (0-based); the rollouts of
/// a group share it.
///
/// The first 8 bytes, little-endian, of a hash over window randomness, hotkey and group: nobody
/// chooses a problem, and no two miners share one.
pub fn task_seed(randomness: WindowRandomness, hotkey: Hotkey, group: u32) -> u64 {
    let hash =
        DomainHash::new("task-seed").digest(&randomness.0).hotkey(&hotkey).u32(group).finish();
    let (head, _) = hash.0.split_first_chunk().expect("a digest has 32 bytes");
    u64::from_le_bytes(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Digest = Digest([1; 32]);
    const BEACON: Digest = Digest([2; 32]);

    #[test]
    fn the_first_round_after_a_time_is_strictly_later() {
        let schedule = BeaconSchedule { genesis_ms: 10_000, period_ms: 3_000 };
        for (time_ms, round) in [(0, 1), (9_999, 1), (10_000, 2), (12_999, 2), (13_000, 3)] {
            assert_eq!(schedule.first_round_after(time_ms), round, "at {time_ms}");
            assert!(schedule.time_of_ms(round) > time_ms);
        }
    }

    #[test]
    fn a_window_is_sealed_to_the_first_round_after_its_nominal_deadline() {
        let schedule = BeaconSchedule { genesis_ms: 1_000, period_ms: 3_000 };
        // 30 blocks of 12 s after 1 s: the deadline is the time of round 121, which is too early.
        assert_eq!(schedule.seal_round(1_000, 12_000), 122);
        assert_eq!(schedule.seal_round(1_000, 11_999), 121);
        assert_eq!(schedule.time_of_ms(121), 361_000);
        let hostile = BeaconSchedule { genesis_ms: 0, period_ms: 1 };
        assert_eq!(hostile.seal_round(u64::MAX, u64::MAX), u64::MAX);
    }

    #[test]
    fn the_values_are_the_documented_hashes() {
        let bytes = [b"grail/v6/window-randomness\0".as_slice(), &BLOCK.0, &BEACON.0].concat();
        let randomness = window_randomness(&BLOCK, &BEACON);
        assert_eq!(randomness.0, Digest::of(&bytes));

        let bytes =
            [b"grail/v6/task-seed\0".as_slice(), &randomness.0.0, &[9; 32], &[3, 0, 0, 0]].concat();
        let head: [u8; 8] = Digest::of(&bytes).0[..8].try_into().unwrap();
        assert_eq!(task_seed(randomness, Hotkey([9; 32]), 3), u64::from_le_bytes(head));
    }

    #[test]
    fn each_argument_matters() {
        let randomness = window_randomness(&BLOCK, &BEACON);
        assert_ne!(randomness, window_randomness(&BEACON, &BLOCK));
        assert_ne!(randomness.0, validation_challenge(&BLOCK, &BEACON).0);
        let seed = task_seed(randomness, Hotkey([9; 32]), 0);
        assert_ne!(seed, task_seed(randomness, Hotkey([9; 32]), 1));
        assert_ne!(seed, task_seed(randomness, Hotkey([8; 32]), 0));
        assert_ne!(seed, task_seed(window_randomness(&BEACON, &BLOCK), Hotkey([9; 32]), 0));
    }
}
