//! From a request's seed to the race key of each choice.

use anyhow::{Result, anyhow};
use grail_protocol::domain::DomainHash;

/// Random seeds stay below this (2^53), so that every JSON reader can give them back exactly.
const RANDOM_SEED_BITS: u32 = 53;

/// Returns the race key of choice `choice` (0-based, as in `choices[].index`).
///
/// It is the first 16 bytes of SHA-256 over `grail/v6/request-race-key`, a zero byte, the seed
/// (8 bytes little-endian) and the choice (4 bytes little-endian), as four little-endian words.
pub fn race_key(seed: u64, choice: u32) -> [u32; 4] {
    let hash = DomainHash::new("request-race-key").u64(seed).u32(choice).finish();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}

/// Returns a seed that nobody could guess, 0 to 2^53 - 1.
///
/// # Errors
/// When the operating system has no randomness.
pub fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow!("the system gives no random numbers ({error}); set a seed"))?;
    Ok(u64::from_le_bytes(bytes) >> (u64::BITS - RANDOM_SEED_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_follow_from_seed_and_choice() {
        // Python: struct.unpack("<4I", sha256(b"grail/v6/request-race-key\0" + struct.pack("<QI",
        // seed, choice)).digest()[:16])
        for (seed, choice, key) in [
            (0, 0, [0x6c3d_c317, 0x43e6_61a8, 0x21ab_47c4, 0x112f_1a65]),
            (7, 1, [0x5690_4c2c, 0xfeae_cd3a, 0x20c7_f49b, 0xdb4e_9ca5]),
            (u64::MAX, 15, [0xbc8f_17f4, 0x5ecb_5b87, 0x6d68_131c, 0xdbe4_0726]),
        ] {
            assert_eq!(race_key(seed, choice), key, "seed {seed}, choice {choice}");
        }
        let keys: BTreeSet<_> =
            (0..32).flat_map(|seed| (0..32).map(move |choice| race_key(seed, choice))).collect();
        assert_eq!(keys.len(), 32 * 32);
        assert_ne!(race_key(1, 0), race_key(0, 1));
    }

    #[test]
    fn random_seeds_fit_every_json_reader() {
        let seeds: BTreeSet<u64> = (0..16).map(|_| random().unwrap()).collect();
        assert_eq!(seeds.len(), 16);
        assert!(seeds.iter().all(|seed| *seed < 1 << 53));
    }
}
