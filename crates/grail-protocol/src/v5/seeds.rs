//! What is drawn from block hashes and the beacon: environment seeds, window randomness, rounds.

use sha2::{Digest as _, Sha256};

/// Returns the seed of a group's problem.
///
/// - `window_hash`: as the chain client gives it, with `0x`.
/// - `group`: the row's `rollout_group` after `int()`; any integer, and 0 where that fails.
pub fn environment_seed(hotkey: &str, window_hash: &str, group: i128) -> u32 {
    let digest = Sha256::digest(format!("seed|{hotkey}:{window_hash}:{group}"));
    let (head, _) = digest.split_first_chunk::<4>().expect("a digest has 32 bytes");
    u32::from_be_bytes(*head)
}

/// Returns the randomness that a miner writes into its commits.
///
/// Both arguments are texts. Without the beacon it is the block hash itself, prefix included, which no
/// validator's schema accepts: a miner must have the beacon.
pub fn miner_randomness(block_hash: &str, beacon: Option<&str>) -> String {
    beacon.map_or_else(|| block_hash.to_owned(), |beacon| mixed(block_hash, beacon))
}

/// Returns the randomness that a validator challenges with, from the next window's first block.
pub fn validator_randomness(block_hash: &str, beacon: Option<&str>) -> String {
    mixed(block_hash, beacon.unwrap_or_default())
}

fn mixed(block_hash: &str, beacon: &str) -> String {
    hex::encode(Sha256::new_with_prefix(block_hash).chain_update(beacon).finalize())
}

/// Returns the beacon's round at a time in Unix seconds: 1 at the genesis, 0 and less before it.
///
/// # Panics
/// When `period` is not positive.
pub fn beacon_round(timestamp: f64, genesis_time: i64, period: i64) -> i64 {
    assert!(period > 0, "a beacon has a period");
    let elapsed = timestamp - genesis_time as f64;
    (elapsed / period as f64).floor() as i64 + 1
}
