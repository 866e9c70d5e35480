//! Binds a rollout to the weights: a digest over the hidden states that predicted its tokens.
//!
//! Under the contract `exact-1` honest parties compute the same bits, so 32 bytes per rollout prove
//! the whole forward pass: another weight, layer, precision or checkpoint changes the digest.

use sha2::{Digest as _, Sha256};

use crate::domain;
use crate::ids::Digest;

/// Floats that are turned into bytes at once.
const CHUNK: usize = 256;

/// SHA-256 over the domain `hidden-states`, then for every completion token in order: the f32 bits
/// (little-endian) of the LM-head input row that predicted it, then those of its log-probability.
#[derive(Clone, Debug)]
pub struct HiddenStateDigest(Sha256);

impl HiddenStateDigest {
    /// Starts the digest of one rollout.
    #[expect(clippy::new_without_default, reason = "an empty digest is no meaningful default")]
    pub fn new() -> Self {
        Self(Sha256::new_with_prefix(domain::prefix("hidden-states")))
    }

    /// Adds a completion token: `row` is the LM-head input (`[hidden_size]`, after the final norm)
    /// at the position before the token, `logprob` the token's entry of the log-softmax of the raw
    /// logits, nats.
    pub fn push(&mut self, row: &[f32], logprob: f32) {
        for chunk in row.chunks(CHUNK) {
            let mut bytes = [0; 4 * CHUNK];
            for (slot, value) in bytes.chunks_exact_mut(4).zip(chunk) {
                slot.copy_from_slice(&value.to_le_bytes());
            }
            self.0.update(&bytes[..4 * chunk.len()]);
        }
        self.0.update(logprob.to_le_bytes());
    }

    /// Returns the digest.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest_of(rows: &[(&[f32], f32)]) -> Digest {
        let mut digest = HiddenStateDigest::new();
        for (row, logprob) in rows {
            digest.push(row, *logprob);
        }
        digest.finish()
    }

    #[test]
    fn the_digest_is_sha_256_of_the_documented_bytes() {
        let row: Vec<f32> = (0..600).map(|i: u16| f32::from(i) / 8.0 - 3.0).collect();
        let mut bytes = b"grail/v6/hidden-states\0".to_vec();
        for value in row.iter().chain([&-0.25]) {
            bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        }
        assert_eq!(digest_of(&[(&row, -0.25)]), Digest::of(&bytes));
    }

    #[test]
    fn one_bit_anywhere_changes_the_digest() {
        let honest = digest_of(&[(&[1.0, 2.0], -0.5), (&[3.0, 4.0], -1.0)]);
        let nudged = f32::from_bits(2.0f32.to_bits() + 1);
        assert_ne!(honest, digest_of(&[(&[1.0, nudged], -0.5), (&[3.0, 4.0], -1.0)]));
        assert_ne!(honest, digest_of(&[(&[1.0, 2.0], -0.5), (&[3.0, 4.0], -1.000_000_1)]));
        assert_ne!(honest, digest_of(&[(&[3.0, 4.0], -1.0), (&[1.0, 2.0], -0.5)]));
        assert_ne!(honest, digest_of(&[(&[1.0, 2.0], -0.5)]));
        // The sign of a zero is a bit too.
        assert_ne!(digest_of(&[(&[0.0], 0.0)]), digest_of(&[(&[-0.0], 0.0)]));
    }
}
