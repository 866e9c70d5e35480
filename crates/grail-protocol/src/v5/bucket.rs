//! Puts an activation into one of 15 buckets by its logarithm.

use std::array::from_fn;

/// Magnitudes below this are in bucket 0. The smallest that are not equal it, as f64.
const DEAD_ZONE: f64 = 1e-6;

/// Smallest f64 `|x| + 1` of buckets 1 to 7.
///
/// These are the first for which `trunc(log2(|x| + 1) * 0.8)`, with each step rounded to f64, reaches
/// the bucket; `2^(1.25 b)` up to a few units of the last place. Comparing needs no logarithm, so
/// every machine agrees. Checked against 366 values around the edges.
const EDGES: [u64; 7] = [
    0x4003_06fe_0a31_b715,
    0x4016_a09e_667f_3bcc,
    0x402a_e89f_995a_d3aa,
    0x403f_ffff_ffff_fffe,
    0x4053_06fe_0a31_b711,
    0x4066_a09e_667f_3bc7,
    0x407a_e89f_995a_d3a9,
];

/// Returns the bucket of an activation, -7 to 7: its sign times a step of its logarithm.
///
/// NaN is in bucket 0, infinities in the outermost. Source: `grail_verifier.py`.
pub fn bucket(activation: f64) -> i8 {
    let magnitude = activation.abs();
    if magnitude.is_nan() || magnitude < DEAD_ZONE {
        return 0;
    }
    let shifted = (magnitude + 1.0).to_bits();
    // Positive floats are ordered as their bits are.
    let index: i8 = EDGES.iter().map(|&edge| i8::from(shifted >= edge)).sum();
    if activation < 0.0 { -index } else { index }
}

/// Smallest magnitude bits of an f32 of buckets 1 to 7.
const EDGES_F32: [i32; EDGES.len()] = edges_f32();

const fn edges_f32() -> [i32; EDGES.len()] {
    let mut edges = [0; EDGES.len()];
    let mut at = 0;
    while at < EDGES.len() {
        let (mut low, mut high) = (0, f32::INFINITY.to_bits());
        while low < high {
            let middle = low + (high - low) / 2;
            let shifted = f32::from_bits(middle) as f64 + 1.0;
            match shifted.to_bits() >= EDGES[at] {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        edges[at] = low as i32;
        at += 1;
    }
    edges
}

/// Returns the [`bucket`] of each of some activations, without a branch.
///
/// The dead zone needs no comparison: bucket 1 begins far above it.
#[inline(always)]
pub(super) fn buckets_of<const N: usize>(activations: [f32; N]) -> [i32; N] {
    let bits = activations.map(|activation| activation.to_bits() as i32);
    let mut buckets = [0; N];
    for edge in EDGES_F32 {
        buckets = from_fn(|at| buckets[at] + i32::from((bits[at] & i32::MAX) >= edge));
    }
    from_fn(|at| {
        let nan = (bits[at] & i32::MAX) > f32::INFINITY.to_bits() as i32;
        let bucket = if nan { 0 } else { buckets[at] };
        // All ones where it is negative: the two's complement follows.
        let sign = bits[at] >> 31;
        (bucket ^ sign) - sign
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn buckets_of_f32_are_those_of_f64(
            wide in any::<[f32; 4]>(),
            usual in prop::array::uniform4(-90.0f32..90.0),
        ) {
            for four in [wide, usual] {
                prop_assert_eq!(buckets_of(four), four.map(|x| i32::from(bucket(x.into()))));
            }
        }
    }

    #[test]
    fn an_f32_changes_its_bucket_at_the_edge() {
        for (edge, want) in EDGES_F32.iter().zip(1..) {
            for (bits, want) in [(edge - 1, want - 1), (*edge, want)] {
                let activation = f32::from_bits(bits as u32);
                assert_eq!(i32::from(bucket(activation.into())), want);
                assert_eq!(buckets_of([activation, -activation]), [want, -want]);
            }
        }
        let odd = [f32::NAN, -f32::NAN, f32::INFINITY, -f32::INFINITY, 0.0, -0.0];
        assert_eq!(buckets_of(odd), [0, 0, 7, -7, 0, 0]);
    }
}
