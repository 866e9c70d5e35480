//! Turns public randomness into the randomness of a window, its tasks and its checks.
//!
//! Everything derives from a block hash and one *fixed* beacon round, so miner and validator compute
//! the same values. A beacon that is missing is waited for; nothing ever replaces it.

use crate::domain::DomainHash;
use crate::ids::{BlockHash, Digest, Hotkey};

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
