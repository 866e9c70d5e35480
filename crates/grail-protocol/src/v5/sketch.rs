//! Sketches hidden states: 16 activations, bucketed, times 16 coefficients, modulo a prime.

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
    let mut top: [(u32, usize); PROOF_TOPK] =
        std::array::from_fn(|index| (rank(row[index]), index));
    let mut weakest = weakest_of(&top);
    for (block, activations) in row[PROOF_TOPK..].chunks(BLOCK).enumerate() {
        // Few blocks hold a magnitude that enters, and a whole block is compared without a branch.
        let largest = activations.iter().fold(0, |largest, &entry| rank(entry).max(largest));
        if largest <= top[weakest].0 {
            continue;
        }
        for (place, &activation) in activations.iter().enumerate() {
            let rank = rank(activation);
            if rank > top[weakest].0 {
                top[weakest] = (rank, PROOF_TOPK + block * BLOCK + place);
                weakest = weakest_of(&top);
            }
        }
    }
    let mut indices = top.map(|(_, index)| index);
    // By index, not magnitude: near-ties swap rank between devices.
    indices.sort_unstable();
    indices
}

/// Activations that are compared at a time.
const BLOCK: usize = 32;

/// Magnitudes are ordered as their bits are, with NaN above infinity. All NaN are alike.
fn rank(activation: f32) -> u32 {
    activation.abs().to_bits().min(f32::INFINITY.to_bits() + 1)
}

/// Returns the place of the entry that leaves first: the smallest, and of these the last.
fn weakest_of(top: &[(u32, usize); PROOF_TOPK]) -> usize {
    let mut weakest = 0;
    for (place, entry) in top.iter().enumerate() {
        let (rank, index) = top[weakest];
        if entry.0 < rank || (entry.0 == rank && entry.1 > index) {
            weakest = place;
        }
    }
    weakest
}

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
        fn the_largest_magnitudes_are_chosen(row in prop::collection::vec(any::<f32>(), 16..80)) {
            let chosen = top_indices(&row);
            let mut sorted: Vec<usize> = (0..row.len()).collect();
            sorted.sort_by_key(|&index| std::cmp::Reverse(rank(row[index])));
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
