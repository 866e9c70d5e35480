//! Decides whether a claimed sketch is near enough, with the reference's unbounded range.

use super::constants::{PRIME_Q, PROOF_SKETCH_TOLERANCE_BASE, PROOF_SKETCH_TOLERANCE_GROWTH};

/// Integers beyond this, of either sign, cannot be told apart by any check: all of them pass.
const INTEGER_MAX: i128 = 1 << 120;

/// Returns the largest distance accepted at an absolute position of the sequence (0-based).
pub fn tolerance(position: usize) -> i64 {
    let growth = PROOF_SKETCH_TOLERANCE_GROWTH * (position as f64).sqrt();
    (PROOF_SKETCH_TOLERANCE_BASE + growth) as i64
}

/// A sketch as the miner's JSON has it. Text, null, lists and a missing key are no claim at all: they
/// fail the proof.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    /// An integer; `true` is 1 and `false` 0, as in Python. Larger ones are cut to ±2^120.
    Integer(i128),
    /// A number written as a float, or `NaN`, `Infinity`, `-Infinity`.
    Float(f64),
}

/// `min(d, Q - d)` where `d = |own - claim|`: negative when the claim is far outside 0..Q.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distance {
    /// Of an integer claim.
    Integer(i128),
    /// Of a float claim; NaN stays NaN.
    Float(f64),
}

impl Distance {
    /// Returns the distance of `claim` from the verifier's own sketch.
    ///
    /// The claim is taken as it is. The reference never checks that it lies in 0..Q.
    pub fn between(own: i64, claim: Claim) -> Self {
        match claim {
            Claim::Integer(claim) => {
                let gap = (i128::from(own) - claim.clamp(-INTEGER_MAX, INTEGER_MAX)).abs();
                Self::Integer(gap.min(i128::from(PRIME_Q) - gap))
            }
            Claim::Float(claim) => {
                let gap = (own as f64 - claim).abs();
                let around = PRIME_Q as f64 - gap;
                // Python's `min` keeps its first argument unless the second is smaller.
                Self::Float(if around < gap { around } else { gap })
            }
        }
    }

    /// Whether the reference accepts this distance at `position`. A negative one always passes.
    pub fn is_within(self, position: usize) -> bool {
        let tolerance = tolerance(position);
        match self {
            Self::Integer(distance) => distance <= i128::from(tolerance),
            Self::Float(distance) => distance <= tolerance as f64,
        }
    }
}
