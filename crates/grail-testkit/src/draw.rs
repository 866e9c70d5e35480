//! Numbers from a seed and a name: the same question always gets the same answer, in any order.

use grail_protocol::ids::Digest;

/// Returns the hash of `domain`, `seed` and `parts`; lengths are hashed too, so parts cannot blur.
pub(crate) fn digest(domain: &str, seed: u64, parts: &[&[u8]]) -> Digest {
    let mut bytes = Vec::new();
    for part in [domain.as_bytes(), &seed.to_le_bytes()].iter().chain(parts) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    Digest::of(&bytes)
}

/// Returns 64 bits of [`digest`].
pub(crate) fn word(domain: &str, seed: u64, parts: &[&[u8]]) -> u64 {
    let Digest(bytes) = digest(domain, seed, parts);
    bytes[..8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}
