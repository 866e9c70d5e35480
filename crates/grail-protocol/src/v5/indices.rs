//! Chooses which positions of a completion a verifier compares.

use sha2::{Digest as _, Sha256};

use super::constants::CHALLENGE_K;
use super::prf::prf32;
use super::python::random::Random;
use super::randomness::{BadRandomness, randomness_bytes};
use crate::ids::TokenId;

/// Why there are no positions to choose.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadChallenge {
    /// The randomness is empty or not hexadecimal.
    #[error(transparent)]
    Randomness(#[from] BadRandomness),
    /// Nothing to hash.
    #[error("no tokens to challenge; expected at least one")]
    NoTokens,
    /// A choice of 0.
    #[error("0 positions asked for; expected at least one")]
    NoPositions,
    /// More positions than there are.
    #[error("{wanted} positions asked of {length}; ask for at most {length}")]
    TooMany {
        /// Positions asked for.
        wanted: usize,
        /// Positions there are.
        length: usize,
    },
    /// A range that ends before it starts.
    #[error("the range of positions {start}..{end} ends before it starts")]
    Range {
        /// First position.
        start: usize,
        /// One past the last position.
        end: usize,
    },
}

/// Returns SHA-256 over the tokens, each as 4 bytes, big-endian.
///
/// The reference hashes the low 32 bits of any integer; a [`TokenId`] is these.
pub fn token_hash(tokens: &[TokenId]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for token in tokens {
        hash.update(token.to_be_bytes());
    }
    hash.finalize().into()
}

/// Returns the positions that a verifier compares, ascending, absolute in the sequence: 32 of the
/// completion, or all of it when it is shorter.
///
/// - `tokens`: the whole sequence, prompt included.
/// - `randomness`: the verifier's own, hexadecimal; each verifier draws other positions.
///
/// # Errors
/// When there are no tokens or no usable randomness. A completion of 0 tokens has no positions, which
/// is no error.
pub fn challenge(
    tokens: &[TokenId],
    randomness: &str,
    prompt_length: usize,
    completion_length: usize,
) -> Result<Vec<usize>, BadChallenge> {
    let end = prompt_length.saturating_add(completion_length);
    in_range(tokens, randomness, prompt_length, end, CHALLENGE_K)
}

/// Returns at most `k` positions of `start..end`, ascending.
///
/// # Errors
/// See [`BadChallenge`].
pub fn in_range(
    tokens: &[TokenId],
    randomness: &str,
    start: usize,
    end: usize,
    k: usize,
) -> Result<Vec<usize>, BadChallenge> {
    let length = end.checked_sub(start).ok_or(BadChallenge::Range { start, end })?;
    if length == 0 {
        return Ok(Vec::new());
    }
    let mut positions = from_root(tokens, randomness, length, k.min(length))?;
    for position in &mut positions {
        *position += start;
    }
    Ok(positions)
}

/// Returns `k` of the positions `0..length`, ascending.
///
/// Source: `crypto.py`, `indices_from_root`; the draws are those of CPython's `random`.
///
/// # Errors
/// See [`BadChallenge`].
pub fn from_root(
    tokens: &[TokenId],
    randomness: &str,
    length: usize,
    k: usize,
) -> Result<Vec<usize>, BadChallenge> {
    if k > length {
        return Err(BadChallenge::TooMany { wanted: k, length });
    }
    if k == 0 {
        return Err(BadChallenge::NoPositions);
    }
    if tokens.is_empty() {
        return Err(BadChallenge::NoTokens);
    }
    let mut rng = Random::from_bytes(&seed(tokens, randomness)?);
    let mut positions = if is_sparse(length, k) {
        rng.sample(length, k)
    } else {
        let mut all: Vec<usize> = (0..length).collect();
        rng.shuffle(&mut all);
        all.truncate(k);
        all
    };
    positions.sort_unstable();
    Ok(positions)
}

/// Returns the seed of the draws.
///
/// # Errors
/// When the randomness is empty or not hexadecimal.
pub fn seed(tokens: &[TokenId], randomness: &str) -> Result<[u8; 32], BadRandomness> {
    let randomness = randomness_bytes(randomness)?;
    if randomness.is_empty() {
        return Err(BadRandomness::Empty);
    }
    Ok(prf32(b"open", &[&token_hash(tokens), &randomness]))
}

/// Whether the reference samples instead of shuffling; compared in f64, as there.
pub fn is_sparse(length: usize, k: usize) -> bool {
    (k as f64) < length as f64 * 0.1
}
