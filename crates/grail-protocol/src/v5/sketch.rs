//! Sketches hidden states: 16 activations, bucketed, times 16 coefficients, modulo a prime.

mod largest;

use fearless_simd::{Level, Simd, dispatch};

use self::largest::Largest;
use super::bucket::buckets_of;
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
    let r_vec: &[i8; PROOF_TOPK] =
        r_vec.try_into().expect("one coefficient per selected activation");
    let r_vec = r_vec.map(i32::from);
    dispatch!(Level::new(), simd => commit_on(simd, rows, hidden, &r_vec))
}

#[inline(always)]
fn commit_on<S: Simd>(simd: S, rows: &[f32], hidden: usize, r_vec: &[i32; PROOF_TOPK]) -> Vec<i64> {
    let mut largest = Largest::new(hidden);
    let mut sketches = vec![0; rows.len() / hidden];
    for (row, sketch) in rows.chunks_exact(hidden).zip(&mut sketches) {
        *sketch = project(selected(simd, row, &mut largest), r_vec);
    }
    sketches
}

/// Returns the buckets of the 16 activations of largest magnitude, in the order of their indices.
///
/// # Panics
/// When the row has fewer than 16 entries.
pub fn buckets(row: &[f32]) -> [i8; PROOF_TOPK] {
    assert!(row.len() >= PROOF_TOPK, "a row of {} entries", row.len());
    let mut largest = Largest::new(row.len());
    let selected = dispatch!(Level::new(), simd => selected(simd, row, &mut largest));
    buckets_of(selected).map(|bucket| bucket as i8)
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
    let mut largest = Largest::new(row.len());
    let indices = dispatch!(Level::new(), simd => largest.indices(simd, row));
    indices.map(|index| index as usize)
}

#[inline(always)]
fn selected<S: Simd>(simd: S, row: &[f32], largest: &mut Largest) -> [f32; PROOF_TOPK] {
    largest.indices(simd, row).map(|index| row[index as usize])
}

#[inline(always)]
fn project(selected: [f32; PROOF_TOPK], r_vec: &[i32; PROOF_TOPK]) -> i64 {
    let buckets = buckets_of(selected);
    let dot: i32 =
        buckets.iter().zip(r_vec).map(|(bucket, coefficient)| bucket * coefficient).sum();
    // Floored, as Python's `%`.
    i64::from(dot).rem_euclid(PRIME_Q)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bucket::bucket;
    use super::*;

    proptest! {
        #[test]
        fn a_sketch_is_the_dot_product_of_buckets(
            row in prop::collection::vec(-30.0f32..30.0, 16..300),
            r_vec in prop::array::uniform16(-127i8..=127),
        ) {
            let buckets = top_indices(&row).map(|index| bucket(f64::from(row[index])));
            prop_assert_eq!(super::buckets(&row), buckets);
            let pairs = buckets.iter().zip(&r_vec);
            let dot: i64 = pairs.map(|(&bucket, &c)| i64::from(bucket) * i64::from(c)).sum();
            prop_assert_eq!(commit(&row, row.len(), &r_vec)[0], dot.rem_euclid(PRIME_Q));
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
