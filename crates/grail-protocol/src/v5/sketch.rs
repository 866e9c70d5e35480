//! Sketches hidden states: 16 activations, bucketed, times 16 coefficients, modulo a prime.

use std::cmp::Reverse;

use super::bucket::bucket;
use super::constants::{PRIME_Q, PROOF_TOPK};

/// Returns the sketch of every row of `rows`, each in 0..2^31-1.
///
/// - `rows`: hidden states of all positions after the final norm, `[positions, hidden]`, row-major.
///   bf16 states are widened to f32, which is exact.
/// - `r_vec`: see [`super::r_vec::from_randomness`].
///
/// The reference commits to all positions, prompt included, and so must the caller.
/// Source: `grail_verifier.py`, the batched path; the one for single rows gives the same.
///
/// # Panics
/// When `hidden` is below 16 (the reference raises), `rows` is not whole rows, or `r_vec` has not 16
/// coefficients.
pub fn commit(rows: &[f32], hidden: usize, r_vec: &[i8]) -> Vec<i64> {
    assert!(hidden >= PROOF_TOPK, "{hidden} dimensions; a sketch needs at least {PROOF_TOPK}");
    assert!(rows.len().is_multiple_of(hidden), "{} values are no rows of {hidden}", rows.len());
    assert_eq!(r_vec.len(), PROOF_TOPK, "one coefficient per selected activation");
    rows.chunks_exact(hidden).map(|row| project(&buckets(row), r_vec)).collect()
}

/// Returns the buckets of the 16 activations of largest magnitude, in the order of their indices.
pub fn buckets(row: &[f32]) -> [i8; PROOF_TOPK] {
    top_indices(row).map(|index| bucket(f64::from(row[index])))
}

/// Returns the indices of the 16 entries of largest magnitude, ascending; NaN ranks above all.
///
/// Among equal magnitudes at the boundary the lower index wins. There the reference takes what its
/// sort kernel gives, which differs between its devices; the tolerance absorbs it.
///
/// # Panics
/// When the row has fewer than 16 entries.
pub fn top_indices(row: &[f32]) -> [usize; PROOF_TOPK] {
    assert!(row.len() >= PROOF_TOPK, "a row of {} entries", row.len());
    let largest = largest_of_blocks(row);
    // As many blocks as are wanted entries reach this, so at least as many entries do, and the
    // weakest that is chosen cannot be below it.
    let enough = match largest.len() {
        0..PROOF_TOPK => 0,
        _ => *largest.clone().select_nth_unstable_by(PROOF_TOPK - 1, |a, b| b.cmp(a)).1,
    };
    let mut candidates: Vec<(Reverse<u32>, usize)> = Vec::with_capacity(4 * PROOF_TOPK);
    for (block, activations) in row.chunks(BLOCK).enumerate() {
        if largest[block] < enough {
            continue;
        }
        // Without a branch for each entry; few of a block are candidates.
        let mut reached = activations.iter().enumerate().fold(0, |reached, (place, &entry)| {
            reached | u32::from(rank(entry) >= enough) << place
        });
        while reached != 0 {
            let place = reached.trailing_zeros() as usize;
            candidates.push((Reverse(rank(activations[place])), block * BLOCK + place));
            reached &= reached - 1;
        }
    }
    candidates.select_nth_unstable(PROOF_TOPK - 1);
    let mut indices = std::array::from_fn(|place| candidates[place].1);
    // By index, not magnitude: near-ties swap rank between devices.
    indices.sort_unstable();
    indices
}

/// Activations that are compared at a time, as many as a mask has bits.
const BLOCK: usize = 32;

/// Magnitudes are ordered as their bits are, with NaN above infinity. All NaN are alike.
fn rank(activation: f32) -> u32 {
    activation.abs().to_bits().min(NAN_RANK)
}

/// Above that of every number.
const NAN_RANK: u32 = f32::INFINITY.to_bits() + 1;

/// Returns the largest [`rank`] of each block of [`BLOCK`] entries.
fn largest_of_blocks(row: &[f32]) -> Vec<u32> {
    // Without their sign the bits are small enough for a signed comparison, which every vector unit
    // has. The largest is cut to the rank of NaN at the end: the order stays.
    let bits = |entry: &f32| (entry.to_bits() & !SIGN) as i32;
    let largest = |block: &[f32]| block.iter().map(bits).fold(0, i32::max) as u32;
    let (whole, rest) = row.as_chunks::<BLOCK>();
    let whole = whole.iter().map(|block| largest(block));
    let rest = (!rest.is_empty()).then(|| largest(rest));
    whole.chain(rest).map(|rank| rank.min(NAN_RANK)).collect()
}

/// The sign's bit of an f32.
const SIGN: u32 = 1 << 31;

fn project(buckets: &[i8; PROOF_TOPK], r_vec: &[i8]) -> i64 {
    let dot: i64 =
        buckets.iter().zip(r_vec).map(|(&bucket, &c)| i64::from(bucket) * i64::from(c)).sum();
    // Floored, as Python's `%`.
    dot.rem_euclid(PRIME_Q)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_magnitudes_are_chosen(row in prop::collection::vec(any::<f32>(), 16..600)) {
            let chosen = top_indices(&row);
            let mut sorted: Vec<usize> = (0..row.len()).collect();
            sorted.sort_by_key(|&index| Reverse(rank(row[index])));
            let mut want = sorted[..PROOF_TOPK].to_vec();
            want.sort_unstable();
            prop_assert_eq!(chosen.to_vec(), want);
        }

        #[test]
        fn a_sketch_is_small_around_zero(
            row in prop::collection::vec(any::<f32>(), 16..40),
            r_vec in prop::array::uniform16(-127i8..=127),
        ) {
            let sketch = commit(&row, row.len(), &r_vec)[0];
            prop_assert!((0..PRIME_Q).contains(&sketch));
            prop_assert!(sketch.min(PRIME_Q - sketch) <= 16 * 7 * 127);
        }
    }
}
