//! Attention: paged and whole, forward and backward.

use crate::{ALL, assert_same, config, reference, values};
use grail_kernels::math::exp;
use grail_kernels::{
    AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, BLOCK, KvLayout,
};
use proptest::prelude::*;

fn shape() -> impl Strategy<Value = AttentionShape> {
    let head_dim = prop::sample::select(vec![4, 8, 16, 20, 32, 48, 64, 72, 80]);
    (1..=3usize, 1..=6usize, head_dim).prop_map(|(kv_heads, group, head_dim)| AttentionShape {
        heads: kv_heads * group,
        kv_heads,
        head_dim,
    })
}

/// Every option on and off; windows from one position to more than a sequence.
fn options() -> impl Strategy<Value = AttentionOptions> {
    let scale = prop::option::of(prop::sample::select(vec![0.3, -1.0, 0.0]));
    let window = prop::option::of(prop_oneof![1..=5u32, 6..=40u32, Just(u32::MAX)]);
    let soft_cap = prop::option::of(prop::sample::select(vec![0.5, 5.0, 50.0]));
    (scale, window, soft_cap).prop_map(|(scale, window, soft_cap)| AttentionOptions {
        scale,
        window,
        soft_cap,
    })
}

/// Queries, keys and values of packed sequences.
struct Case {
    shape: AttentionShape,
    options: AttentionOptions,
    sequences: Vec<usize>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(shape: AttentionShape, options: AttentionOptions, lengths: &[usize], seed: u64) -> Self {
        let mut sequences = vec![0];
        for length in lengths {
            sequences.push(sequences[sequences.len() - 1] + length);
        }
        let rows = sequences[sequences.len() - 1];
        let kv = rows * shape.kv_heads * shape.head_dim;
        let q = values(seed, rows * shape.heads * shape.head_dim);
        Self { shape, options, sequences, q, k: values(seed ^ 1, kv), v: values(seed ^ 2, kv) }
    }

    /// Index of the first value of a head in a `[rows, heads, head_dim]` buffer.
    fn at(&self, heads: usize, row: usize, head: usize) -> usize {
        (row * heads + head) * self.shape.head_dim
    }

    /// The (sequence start, row) of every row.
    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        self.sequences.windows(2).flat_map(|pair| (pair[0]..pair[1]).map(move |row| (pair[0], row)))
    }

    fn want(&self) -> Vec<f32> {
        let shape = self.shape;
        let mut want = Vec::new();
        for (start, row) in self.rows() {
            for head in 0..shape.heads {
                let q = &self.q[self.at(shape.heads, row, head)..][..shape.head_dim];
                let kv_head = head / (shape.heads / shape.kv_heads);
                let at = |j: usize, d: usize| self.at(shape.kv_heads, start + j, kv_head) + d;
                let (k, v) = (|j, d| self.k[at(j, d)], |j, d| self.v[at(j, d)]);
                want.extend(reference::attention(q, row + 1 - start, k, v, shape, self.options));
            }
        }
        want
    }

    /// The cache of all sequences, with the blocks of each in a scattered order, and junk elsewhere.
    fn pools(&self) -> (Vec<f32>, Vec<f32>, Vec<Vec<u32>>) {
        let layout = KvLayout { kv_heads: self.shape.kv_heads, head_dim: self.shape.head_dim };
        let lengths = || self.sequences.windows(2).map(|pair| pair[1] - pair[0]);
        let used: usize = lengths().map(|length| length.div_ceil(BLOCK)).sum();
        let mut free: Vec<u32> = (0..2 * used as u32).step_by(2).collect();
        let tables: Vec<Vec<u32>> = lengths()
            .map(|length| (0..length.div_ceil(BLOCK)).filter_map(|_| free.pop()).collect())
            .collect();
        let len = 2 * used * layout.block_len();
        let (mut k_pool, mut v_pool) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        let width = layout.kv_heads * layout.head_dim;
        for (pair, table) in self.sequences.windows(2).zip(&tables) {
            for row in pair[0]..pair[1] {
                let position = row - pair[0];
                let (k, v) = (&self.k[row * width..][..width], &self.v[row * width..][..width]);
                let block = table[position / BLOCK];
                layout.store(&mut k_pool, &mut v_pool, block, position % BLOCK, k, v);
            }
        }
        (k_pool, v_pool, tables)
    }
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn attention_is_its_definition(
        shape in shape(),
        options in options(),
        lengths in prop::collection::vec(1..=70usize, 1..=3),
        seed: u64,
    ) {
        let case = Case::new(shape, options, &lengths, seed);
        let want = case.want();
        let (k_pool, v_pool, tables) = case.pools();
        let width = shape.heads * shape.head_dim;
        let mut rows = Vec::new();
        for (pair, blocks) in case.sequences.windows(2).zip(&tables) {
            let lengths = 1..=(pair[1] - pair[0]) as u32;
            rows.extend(lengths.map(|context_len| AttentionRow { blocks, context_len }));
        }
        for kernels in ALL.iter() {
            let mut out = vec![0.0; case.q.len()];
            kernels.attention(&case.q, &mut out, &rows, &k_pool, &v_pool, shape, options);
            assert_same("prefill", kernels, &out, &want);

            let last = rows.len() - 1;
            let mut alone = vec![0.0; width];
            let q = &case.q[last * width..];
            kernels.attention(q, &mut alone, &rows[last..], &k_pool, &v_pool, shape, options);
            assert_same("decode", kernels, &alone, &want[last * width..]);

            let mut saved = AttentionSaved::default();
            out.fill(0.0);
            kernels.attention_train(&case.q, &case.k, &case.v, &case.sequences, &mut out, shape, options, &mut saved);
            assert_same("train", kernels, &out, &want);
        }
    }

    /// Tables over few blocks, so that many rows have the beginnings of their tables in common.
    #[test]
    fn rows_that_share_blocks_are_their_definition(
        shape in shape(),
        options in options(),
        tables in prop::collection::vec((prop::collection::vec(0..3u32, 1..=9), 1..=16u32), 1..=24),
        seed: u64,
    ) {
        let rows: Vec<AttentionRow<'_>> = tables
            .iter()
            .map(|(blocks, last)| AttentionRow {
                // The last block is not part of every context.
                context_len: (16 * blocks.len() as u32 - last).max(1),
                blocks,
            })
            .collect();
        check_rows(shape, options, &rows, seed);
    }

    #[test]
    fn attention_backward_is_its_definition(
        shape in shape(),
        options in options(),
        lengths in prop::collection::vec(1..=70usize, 1..=3),
        seed: u64,
    ) {
        let case = Case::new(shape, options, &lengths, seed);
        let dout = values(seed ^ 3, case.q.len());
        let want = backward(&case, &dout);
        for kernels in ALL.iter() {
            let (mut out, mut saved) = (vec![0.0; case.q.len()], AttentionSaved::default());
            kernels.attention_train(&case.q, &case.k, &case.v, &case.sequences, &mut out, shape, options, &mut saved);
            // Written, not carried: what the buffers held must not matter.
            let mut dq = vec![f32::NAN; case.q.len()];
            let (mut dk, mut dv) = (vec![f32::NAN; case.k.len()], vec![f32::NAN; case.k.len()]);
            kernels.attention_backward(
                &dout, &case.q, &case.k, &case.v, &out, &saved, &mut dq, &mut dk, &mut dv,
            );
            assert_same("dq", kernels, &dq, &want[0]);
            assert_same("dk", kernels, &dk, &want[1]);
            assert_same("dv", kernels, &dv, &want[2]);
        }
    }
}

/// The documented order of the backward pass, as loops over scalars.
fn backward(case: &Case, dout: &[f32]) -> [Vec<f32>; 3] {
    let (shape, options) = (case.shape, case.options);
    let dim = shape.head_dim;
    let out = case.want();
    let (mut dq, mut dk, mut dv) =
        (vec![0.0; case.q.len()], vec![0.0; case.k.len()], vec![0.0; case.v.len()]);
    for head in 0..shape.heads {
        for (start, row) in case.rows() {
            let at = case.at(shape.heads, row, head);
            let (q, dout) = (&case.q[at..][..dim], &dout[at..][..dim]);
            let kv = |j: usize| {
                case.at(shape.kv_heads, start + j, head / (shape.heads / shape.kv_heads))
            };
            let len = row + 1 - start;
            let product = |x: &[f32], y: &[f32], at: usize| {
                reference::chain(0.0, x.iter().copied().zip(y[at..][..dim].iter().copied()))
            };
            let first = reference::first_seen(len, options);
            let scores: Vec<(f32, Option<f32>)> = (0..len)
                .map(|j| reference::score(product(q, &case.k, kv(j)), shape, options))
                .collect();
            let seen: Vec<f32> = scores[first..].iter().map(|score| score.0).collect();
            let max = reference::max(&seen);
            let exps: Vec<f32> = scores.iter().map(|score| exp(score.0 - max)).collect();
            let sum = reference::lanes(len, |sum, j| if j < first { sum } else { sum + exps[j] });
            let delta = reference::dot(dout, &out[at..][..dim]);
            for j in first..len {
                let p = exps[j] / sum;
                let mut ds = p * (product(dout, &case.v, kv(j)) - delta);
                if let Some(t) = scores[j].1 {
                    ds *= (-t).mul_add(t, 1.0);
                }
                ds *= options.scale.unwrap_or(shape.scale());
                for d in 0..dim {
                    dq[at + d] = ds.mul_add(case.k[kv(j) + d], dq[at + d]);
                    dk[kv(j) + d] = ds.mul_add(q[d], dk[kv(j) + d]);
                    dv[kv(j) + d] = p.mul_add(dout[d], dv[kv(j) + d]);
                }
            }
        }
    }
    [dq, dk, dv]
}

/// Compares rows over three blocks of keys and values with the definition.
fn check_rows(
    shape: AttentionShape,
    options: AttentionOptions,
    rows: &[AttentionRow<'_>],
    seed: u64,
) {
    let AttentionShape { heads, kv_heads, head_dim } = shape;
    let len = 3 * kv_heads * head_dim * BLOCK;
    let (k_pool, v_pool) = (values(seed ^ 1, len), values(seed ^ 2, len));
    let q = values(seed, rows.len() * heads * head_dim);
    let mut want = Vec::new();
    for (row, q) in rows.iter().zip(q.chunks(heads * head_dim)) {
        for (head, q) in q.chunks(head_dim).enumerate() {
            let start = |j: usize| {
                let block = row.blocks[j / BLOCK] as usize * kv_heads;
                (block + head / (heads / kv_heads)) * head_dim * BLOCK
            };
            let k = |j: usize, d: usize| k_pool[start(j) + d * BLOCK + j % BLOCK];
            let v = |j: usize, d: usize| v_pool[start(j) + j % BLOCK * head_dim + d];
            want.extend(reference::attention(q, row.context_len as usize, k, v, shape, options));
        }
    }
    for kernels in ALL.iter() {
        let mut out = vec![f32::NAN; q.len()];
        kernels.attention(&q, &mut out, rows, &k_pool, &v_pool, shape, options);
        assert_same("rows", kernels, &out, &want);
    }
}

#[test]
fn large_heads_and_many_heads_to_a_key() {
    let plain = AttentionOptions::default();
    let window = AttentionOptions { window: Some(21), ..plain };
    let blocks = [0, 1, 2, 1, 0];
    let row = |context_len| AttentionRow { blocks: &blocks, context_len };
    let rows: Vec<AttentionRow<'_>> = [80, 1, 65, 66, 67, 64, 17].map(row).to_vec();
    for (heads, kv_heads, head_dim) in
        [(4, 1, 256), (2, 2, 250), (8, 2, 128), (71, 1, 64), (3, 3, 112), (1, 1, 1), (2, 1, 240)]
    {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        check_rows(shape, plain, &rows, 11);
        check_rows(shape, window, &rows, 12);
        check_long(&Case::new(shape, window, &[37, 20], 13));
    }
}

/// Longer than a block of the backward pass and than the tiles of scores.
#[test]
fn sequences_of_many_tiles() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 256 };
    check_long(&Case::new(shape, AttentionOptions::default(), &[210], 14));
    let options = AttentionOptions { window: Some(70), ..AttentionOptions::default() };
    check_long(&Case::new(shape, options, &[200], 15));
}

/// Compares whole sequences, forward and backward, with the definition.
fn check_long(case: &Case) {
    let want = case.want();
    let want_gradients = backward(case, &case.q);
    let Case { shape, options, sequences, q, k, v } = case;
    for kernels in ALL.iter() {
        let (mut out, mut saved) = (vec![0.0; q.len()], AttentionSaved::default());
        kernels.attention_train(q, k, v, sequences, &mut out, *shape, *options, &mut saved);
        assert_same("long", kernels, &out, &want);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        kernels.attention_backward(q, q, k, v, &out, &saved, &mut dq, &mut dk, &mut dv);
        assert_same("long dq", kernels, &dq, &want_gradients[0]);
        assert_same("long dk", kernels, &dk, &want_gradients[1]);
        assert_same("long dv", kernels, &dv, &want_gradients[2]);
    }
}

#[test]
fn long_attention_does_not_depend_on_threads_or_isa() {
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 64 };
    check_long(&Case::new(shape, AttentionOptions::default(), &[300, 1, 45], 5));
    let options = AttentionOptions { scale: None, window: Some(100), soft_cap: Some(20.0) };
    check_long(&Case::new(shape, options, &[45, 290], 6));
}

#[test]
fn nothing_is_attended_to_in_an_empty_batch() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 8 };
    let options = AttentionOptions::default();
    for kernels in ALL.iter() {
        kernels.attention(&[], &mut [], &[], &[], &[], shape, options);
        let mut saved = AttentionSaved::default();
        for sequences in [&[0][..], &[0, 0]] {
            kernels.attention_train(&[], &[], &[], sequences, &mut [], shape, options, &mut saved);
            kernels.attention_backward(&[], &[], &[], &[], &[], &saved, &mut [], &mut [], &mut []);
        }
    }
}

#[test]
fn a_window_as_long_as_the_sequence_is_none() {
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 16 };
    let window = AttentionOptions { window: Some(40), ..AttentionOptions::default() };
    let plain = Case::new(shape, AttentionOptions::default(), &[40], 7);
    let windowed = Case::new(shape, window, &[40], 7);
    assert_same("window", &ALL[0], &windowed.want(), &plain.want());
}

#[test]
#[should_panic(expected = "a block is outside the pool")]
fn a_block_outside_the_pool_is_refused() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 4 };
    let options = AttentionOptions::default();
    let rows = [AttentionRow { blocks: &[1], context_len: 1 }];
    ALL[0].attention(&[0.0; 4], &mut [0.0; 4], &rows, &[0.0; 64], &[0.0; 64], shape, options);
}

#[test]
#[should_panic(expected = "a context of 17 positions in 1 blocks")]
fn a_context_longer_than_its_blocks_is_refused() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 4 };
    let options = AttentionOptions::default();
    let rows = [AttentionRow { blocks: &[0], context_len: 17 }];
    ALL[0].attention(&[0.0; 4], &mut [0.0; 4], &rows, &[0.0; 64], &[0.0; 64], shape, options);
}

#[test]
#[should_panic(expected = "invalid options")]
fn a_window_of_nothing_is_refused() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 4 };
    let options = AttentionOptions { window: Some(0), ..AttentionOptions::default() };
    ALL[0].attention(&[], &mut [], &[], &[], &[], shape, options);
}
