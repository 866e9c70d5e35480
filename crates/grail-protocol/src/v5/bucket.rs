//! Puts an activation into one of 15 buckets by its logarithm.

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
