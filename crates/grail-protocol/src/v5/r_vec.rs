//! The 16 coefficients that every position of a sequence is projected with.

use super::constants::{PROOF_COEFF_RANGE, PROOF_TOPK};
use super::prf::{TooLong, prf, prf32};
use super::randomness::{BadRandomness, randomness_bytes};

/// Coefficients in -127..=127; the i-th belongs to the i-th selected activation by index.
pub type Coefficients = [i8; PROOF_TOPK];

/// Returns the coefficients of `randomness`, hexadecimal text that may be empty.
///
/// The reference takes it from the commit's own beacon, that is, from the miner: whoever makes a
/// rollout may choose its projection. Source: `grail_verifier.py`, `generate_r_vec`.
///
/// # Errors
/// When the text is not hexadecimal.
pub fn from_randomness(randomness: &str) -> Result<Coefficients, BadRandomness> {
    let raw = prf32(b"sketch", &[&randomness_bytes(randomness)?]);
    Ok(from_raw(raw))
}

/// Maps 16 big-endian signed words to coefficients.
pub fn from_raw(raw: [u8; 32]) -> Coefficients {
    let mut words = raw.chunks_exact(2);
    std::array::from_fn(|_| {
        let word = words.next().expect("32 bytes are 16 words");
        // |-32768| does not fit and stays negative there; its floored remainder is 127.
        let magnitude = i16::from_be_bytes([word[0], word[1]]).wrapping_abs();
        let coefficient = magnitude.rem_euclid(2 * PROOF_COEFF_RANGE + 1) - PROOF_COEFF_RANGE;
        i8::try_from(coefficient).expect("a remainder below 255 less 127 fits")
    })
}

/// Why the older function has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLegacyVector {
    /// The randomness cannot be used.
    #[error(transparent)]
    Randomness(#[from] BadRandomness),
    /// Not a number of dimensions that the function knows.
    #[error("a vector of {0} coefficients; expected 1 to 100,000")]
    Dimensions(usize),
    /// More bytes than the prf gives.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// Returns `dimensions` coefficients of 32 bits, as an older version drew them; nothing on the wire
/// uses it.
///
/// # Errors
/// When the randomness is empty or not hexadecimal, or the vector too long for the prf.
pub fn legacy_int32(randomness: &str, dimensions: usize) -> Result<Vec<i32>, BadLegacyVector> {
    if !(1..=100_000).contains(&dimensions) {
        return Err(BadLegacyVector::Dimensions(dimensions));
    }
    let bytes = randomness_bytes(randomness)?;
    if bytes.is_empty() {
        return Err(BadRandomness::Empty.into());
    }
    let raw = prf(b"sketch", &[&bytes], 4 * dimensions)?;
    let words = raw.as_chunks::<4>().0;
    Ok(words.iter().map(|word| i32::from_be_bytes(*word)).collect())
}
