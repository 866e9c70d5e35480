//! Attention over the cache and over whole sequences, forward and backward.

use super::choices::{Choices, Kind};
use super::{ALL, assert_same, reference};
use grail_kernels::{
    AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, BLOCK, KvLayout,
};

fn shape(choices: &mut Choices<'_>) -> AttentionShape {
    let (kv_heads, group) = (1 + choices.below(3), 1 + choices.below(6));
    let head_dim = choices.of(&[4, 8, 16, 20, 32, 48, 64, 72, 80, 128]);
    AttentionShape { heads: kv_heads * group, kv_heads, head_dim }
}

fn options(choices: &mut Choices<'_>) -> AttentionOptions {
    AttentionOptions {
        scale: choices.flag().then(|| choices.of(&[0.3, 1.0, -1.0, 0.0])),
        window: choices.flag().then(|| choices.of(&[1, 2, 15, 16, 17, 40, u32::MAX])),
        soft_cap: choices.flag().then(|| choices.of(&[0.5, 5.0, 50.0])),
    }
}

/// Attention of every query head of one row over the keys that `at(position)` finds.
fn row(
    q: &[f32],
    len: usize,
    (k, v): (&[f32], &[f32]),
    at: impl Fn(usize, usize) -> usize,
    shape: AttentionShape,
    options: AttentionOptions,
) -> Vec<f32> {
    let group = shape.heads / shape.kv_heads;
    let heads = q.chunks(shape.head_dim).enumerate();
    heads
        .flat_map(|(head, q)| {
            let index = |j: usize, d: usize| at(j, head / group) + d;
            let (k, v) = (|j, d| k[index(j, d)], |j, d| v[index(j, d)]);
            reference::attention(q, len, k, v, shape, options)
        })
        .collect()
}

/// Queries anywhere in sequences whose blocks are scattered over the pool.
pub(super) fn inference(choices: &mut Choices<'_>) {
    let (shape, options) = (shape(choices), options(choices));
    let layout = KvLayout { kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let longest = choices.size(150);
    let k = choices.values(longest * kv_width, Kind::Moderate);
    let v = choices.values(longest * kv_width, Kind::Moderate);
    let blocks = longest.div_ceil(BLOCK) as u32;
    // Every other block, from the last to the first; the rest of the pool is junk.
    let table: Vec<u32> = (0..blocks).rev().map(|block| 2 * block).collect();
    let pool_len = 2 * table.len() * layout.block_len();
    let (mut k_pool, mut v_pool) = (vec![f32::NAN; pool_len], vec![f32::NAN; pool_len]);
    for (position, (k, v)) in k.chunks(kv_width).zip(v.chunks(kv_width)).enumerate() {
        let block = table[position / BLOCK];
        layout.store(&mut k_pool, &mut v_pool, block, position % BLOCK, k, v);
    }
    let lengths: Vec<usize> = (0..choices.size(20)).map(|_| choices.size(longest)).collect();
    let q = choices.values(lengths.len() * width, Kind::Moderate);
    let at = |position: usize, head: usize| position * kv_width + head * shape.head_dim;
    let want: Vec<f32> = q
        .chunks(width)
        .zip(&lengths)
        .flat_map(|(q, &len)| row(q, len, (&k, &v), at, shape, options))
        .collect();
    let rows: Vec<AttentionRow<'_>> = lengths
        .iter()
        .map(|&len| AttentionRow { blocks: &table, context_len: len as u32 })
        .collect();
    for kernels in ALL.iter() {
        let mut out = vec![f32::NAN; q.len()];
        kernels.attention(&q, &mut out, &rows, &k_pool, &v_pool, shape, options);
        assert_same("attention", kernels, &out, &want);
    }
}

/// Packed sequences: the output against the definition, gradients against the portable kernel.
pub(super) fn training(choices: &mut Choices<'_>) {
    let (shape, options) = (shape(choices), options(choices));
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let mut sequences = vec![0];
    for _ in 0..1 + choices.below(3) {
        sequences.push(sequences[sequences.len() - 1] + choices.size(70));
    }
    let n_rows = sequences[sequences.len() - 1];
    let (q, dout) = (
        choices.values(n_rows * width, Kind::Moderate),
        choices.values(n_rows * width, Kind::Moderate),
    );
    let k = choices.values(n_rows * kv_width, Kind::Moderate);
    let v = choices.values(n_rows * kv_width, Kind::Moderate);
    let mut want = Vec::with_capacity(q.len());
    for pair in sequences.windows(2) {
        for index in pair[0]..pair[1] {
            let at = |j: usize, head: usize| (pair[0] + j) * kv_width + head * shape.head_dim;
            let (q, len) = (&q[index * width..][..width], index + 1 - pair[0]);
            want.extend(row(q, len, (&k, &v), at, shape, options));
        }
    }
    let mut first: Option<[Vec<f32>; 3]> = None;
    for kernels in ALL.iter() {
        let (mut out, mut saved) = (vec![f32::NAN; q.len()], AttentionSaved::default());
        kernels.attention_train(&q, &k, &v, &sequences, &mut out, shape, options, &mut saved);
        assert_same("attention_train", kernels, &out, &want);
        // Written, not carried: what the buffers held must not matter.
        let mut got = [vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]];
        let [dq, dk, dv] = &mut got;
        kernels.attention_backward(&dout, &q, &k, &v, &out, &saved, dq, dk, dv);
        let first = first.get_or_insert_with(|| got.clone());
        for (what, (got, want)) in ["dq", "dk", "dv"].into_iter().zip(got.iter().zip(first)) {
            assert_same(what, kernels, got, want);
        }
    }
}
