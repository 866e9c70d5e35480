//! The numeric contract, as plain loops over scalars.

use grail_kernels::math::{exp, ln, tanh};
use grail_kernels::{AttentionOptions, AttentionShape, RaceKey, race_exponential};

/// Rule 2: `chain` continued over `terms` in order.
pub fn chain(start: f32, terms: impl Iterator<Item = (f32, f32)>) -> f32 {
    terms.fold(start, |sum, (x, y)| x.mul_add(y, sum))
}

/// Rule 3: element `i` in lane `i mod 16`, then the tree written out.
pub fn lanes(len: usize, step: impl Fn(f32, usize) -> f32) -> f32 {
    let mut l = [0.0; 16];
    for index in 0..len {
        l[index % 16] = step(l[index % 16], index);
    }
    let even = ((l[0] + l[8]) + (l[4] + l[12])) + ((l[2] + l[10]) + (l[6] + l[14]));
    let odd = ((l[1] + l[9]) + (l[5] + l[13])) + ((l[3] + l[11]) + (l[7] + l[15]));
    even + odd
}

pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    lanes(x.len(), |sum, i| x[i].mul_add(y[i], sum))
}

/// `[m, n]`: chains from `start`, over `x[i][k] * w[j][k]`, then the bias.
pub fn product(
    (m, n, k): (usize, usize, usize),
    x: impl Fn(usize, usize) -> f32,
    w: impl Fn(usize, usize) -> f32,
    start: Option<&[f32]>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut out = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let first = start.map_or(0.0, |start| start[i * n + j]);
            let sum = chain(first, (0..k).map(|k| (x(i, k), w(j, k))));
            out.push(bias.map_or(sum, |bias| sum + bias[j]));
        }
    }
    out
}

pub fn max(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The first of `len` positions that the last one sees.
pub fn first_seen(len: usize, options: AttentionOptions) -> usize {
    options.window.map_or(0, |window| len.saturating_sub(window as usize))
}

/// The score of a product of rule 2, and its `tanh` if there is a soft-cap.
pub fn score(product: f32, shape: AttentionShape, options: AttentionOptions) -> (f32, Option<f32>) {
    let score = product * options.scale.unwrap_or(shape.scale());
    match options.soft_cap {
        None => (score, None),
        Some(cap) => {
            let t = tanh(score / cap);
            (cap * t, Some(t))
        }
    }
}

/// Rule 4 for one query row and head over `len` positions; `k(j, d)` and `v(j, d)`.
pub fn attention(
    q: &[f32],
    len: usize,
    k: impl Fn(usize, usize) -> f32,
    v: impl Fn(usize, usize) -> f32,
    shape: AttentionShape,
    options: AttentionOptions,
) -> Vec<f32> {
    let product = |j| chain(0.0, q.iter().enumerate().map(|(d, &q)| (q, k(j, d))));
    let first = first_seen(len, options);
    let scores: Vec<f32> = (0..len).map(|j| score(product(j), shape, options).0).collect();
    let max = max(&scores[first..]);
    let p: Vec<f32> = scores.iter().map(|s| exp(s - max)).collect();
    let sum = lanes(len, |sum, j| if j < first { sum } else { sum + p[j] });
    (0..q.len()).map(|d| chain(0.0, (first..len).map(|j| (p[j], v(j, d)))) / sum).collect()
}

pub fn race_scores(logits: &[f32], key: RaceKey, step: u32, temperature: f32) -> Vec<f32> {
    let tokens = logits.iter().zip(0u32..);
    tokens.map(|(x, token)| x / temperature - ln(race_exponential(token, key, step))).collect()
}

/// The first largest.
pub fn argmax(scores: &[f32]) -> u32 {
    let best = max(scores);
    scores.iter().position(|&score| score == best).unwrap_or(0) as u32
}

/// `M`, `S` and the entropy of a row, block by block of 1024 tokens.
pub fn softmax(logits: &[f32]) -> (f32, f32, f32) {
    let row_max = max(logits);
    let (mut sum, mut moment) = (0.0f32, 0.0f32);
    for block in logits.chunks(1_024) {
        let m = max(block);
        if m == f32::NEG_INFINITY {
            continue;
        }
        let e = |i: usize| exp(block[i] - m);
        let s = lanes(block.len(), |sum, i| sum + e(i));
        let t =
            lanes(block.len(), |sum, i| sum + if e(i) > 0.0 { e(i) * (block[i] - m) } else { 0.0 });
        let weight = exp(m - row_max);
        sum = s.mul_add(weight, sum);
        if weight > 0.0 {
            moment = weight.mul_add(s.mul_add(m - row_max, t), moment);
        }
    }
    (row_max, sum, ln(sum) - moment / sum)
}
