//! Rows of single kernels, in the model's shapes.

use std::hint::black_box;

use anyhow::Result;
use grail_kernels::math::f32_to_bf16;
use grail_kernels::{
    AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, BLOCK, HeadOptions, HeadQuery,
    Init, Kernels, KvLayout, MatRef, PackedMatrix, Pick, RaceKey,
};

use super::record::Work;
use super::work::{COLD_BYTES, GROUP, LONG, Matrix, matrices};
use super::{Bench, Row};

/// Rows of the left operand in the rows of products.
const PRODUCT_ROWS: [usize; 6] = [1, 4, 16, 64, 256, 512];

/// Measures the kernels that are selected.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    products(bench)?;
    attention(bench)?;
    head(bench)
}

/// Values in [-1, 1), the same on every run.
fn values(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Times `kernel` as the row `id` if it is selected.
fn measure(
    bench: &mut Bench<'_>,
    id: &str,
    what: String,
    work: Work,
    mut kernel: impl FnMut(&Kernels),
) -> Result<()> {
    if !bench.selection.wants(id) {
        return Ok(());
    }
    let kernels = bench.kernels;
    let seconds = bench.effort.of_kernel(|| kernel(kernels));
    bench.push(Row::new(id, what, work, &seconds, &bench.machine))
}

fn products(bench: &mut Bench<'_>) -> Result<()> {
    let [layer @ .., _] = matrices(bench.model);
    for matrix in layer {
        if bench.selection.touches(&format!("gemm.{}", matrix.0)) {
            products_with(bench, matrix)?;
        }
    }
    Ok(())
}

/// Products with one matrix: *hot*, again and again with the same weights, and *cold*, each time
/// with weights that have to come from memory.
fn products_with(bench: &mut Bench<'_>, (name, n, k): Matrix) -> Result<()> {
    let weights: Vec<u16> = values(n * k).into_iter().map(f32_to_bf16).collect();
    let hot = PackedMatrix::pack_bf16(n, k, &weights);
    let weight_bytes = (2 * n * k) as f64;
    let copies = vec![hot.clone(); COLD_BYTES.div_ceil(2 * n * k)];
    for rows in PRODUCT_ROWS {
        let (x, mut y) = (values(rows * k), vec![0.0; rows * n]);
        let a = MatRef::row_major(&x, rows, k);
        let flop = 2.0 * (rows * n * k) as f64;
        let what =
            |kind: &str| format!("[{rows}, {k}] times [{n}, {k}] transposed, {kind} weights");
        let work = Work { flop, ..Work::default() };
        measure(bench, &format!("gemm.{name}.{rows}.hot"), what("hot"), work, |kernels| {
            kernels.gemm(a, &hot, black_box(&mut y), Init::Zero, None);
        })?;
        let mut next = 0;
        let work = Work { flop, bytes: weight_bytes, ..Work::default() };
        measure(bench, &format!("gemm.{name}.{rows}.cold"), what("cold"), work, |kernels| {
            kernels.gemm(a, &copies[next], black_box(&mut y), Init::Zero, None);
            next = (next + 1) % copies.len();
        })?;
    }
    Ok(())
}

fn attention(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.selection.touches("attention") {
        return Ok(());
    }
    let model = bench.model;
    let shape = AttentionShape {
        heads: model.num_attention_heads,
        kv_heads: model.num_key_value_heads,
        head_dim: model.head_dim,
    };
    let options = AttentionOptions::default();
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let len = LONG.1;
    let blocks: Vec<u32> = (0..).take(len / BLOCK).collect();
    let pool_len =
        blocks.len() * KvLayout { kv_heads: shape.kv_heads, head_dim: shape.head_dim }.block_len();
    let (k_pool, v_pool) = (values(pool_len), values(pool_len));
    let full = u32::try_from(len).unwrap_or(u32::MAX);

    let rows = vec![AttentionRow { blocks: &blocks, context_len: full }; GROUP];
    let (q, mut out) = (values(GROUP * width), vec![0.0; GROUP * width]);
    let work = Work { flop: 4.0 * (GROUP * len * width) as f64, ..Work::default() };
    let what = format!("{GROUP} queries at position {} of one layer", len - 1);
    measure(bench, "attention.decode", what, work, |kernels| {
        kernels.attention(&q, black_box(&mut out), &rows, &k_pool, &v_pool, shape, options);
    })?;

    let rows: Vec<AttentionRow<'_>> =
        (1..=full).map(|context_len| AttentionRow { blocks: &blocks, context_len }).collect();
    let (q, mut out) = (values(len * width), vec![0.0; len * width]);
    let seen = 2.0 * (len * (len + 1) * width) as f64;
    let work = Work { flop: seen, ..Work::default() };
    let what = format!("{len} queries of one sequence, one layer, from the cache");
    measure(bench, "attention.prefill", what, work, |kernels| {
        kernels.attention(&q, black_box(&mut out), &rows, &k_pool, &v_pool, shape, options);
    })?;

    let (k, v) = (values(len * kv_width), values(len * kv_width));
    let mut saved = AttentionSaved::default();
    let what = format!("{len} queries of one sequence, one layer, kept for the gradient");
    measure(bench, "attention.train.forward", what, work, |kernels| {
        kernels.attention_train(
            &q,
            &k,
            &v,
            &[0, len],
            black_box(&mut out),
            shape,
            options,
            &mut saved,
        );
    })?;
    if bench.selection.wants("attention.train.backward") {
        bench.kernels.attention_train(&q, &k, &v, &[0, len], &mut out, shape, options, &mut saved);
        let dout = values(len * width);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        // Scores and their gradients, values, and the gradients of queries and keys: five products.
        let work = Work { flop: 2.5 * seen, ..Work::default() };
        let what = format!("gradients of {len} queries of one sequence, one layer");
        measure(bench, "attention.train.backward", what, work, |kernels| {
            let dq = black_box(&mut dq);
            kernels.attention_backward(&dout, &q, &k, &v, &out, &saved, dq, &mut dk, &mut dv);
        })?;
    }
    Ok(())
}

/// The LM head with softmax and race: logits never leave the cache, and the weights of a usual
/// vocabulary are larger than one.
fn head(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.selection.touches("head") {
        return Ok(());
    }
    let (vocab, k) = (bench.model.vocab_size, bench.model.hidden_size);
    let weights: Vec<u16> = values(vocab * k).into_iter().map(f32_to_bf16).collect();
    let weight = PackedMatrix::pack_bf16(vocab, k, &weights);
    let race = Pick::Race { key: RaceKey([1, 2, 3, 4]), step: 7, temperature: 1.0 };
    let cases = PRODUCT_ROWS.map(|rows| (format!("head.{rows}"), rows, race, "race"));
    let plain = (format!("head.{GROUP}.plain"), GROUP, Pick::None, "no choice");
    for (id, rows, pick, choice) in cases.into_iter().chain([plain]) {
        let x = values(rows * k);
        let queries = vec![HeadQuery { pick, claimed: None }; rows];
        let work = Work {
            tokens: rows as u64,
            flop: 2.0 * (rows * vocab * k) as f64,
            bytes: (2 * vocab * k) as f64,
        };
        let what = format!("the head of {rows} rows over {vocab} tokens: softmax and {choice}");
        measure(bench, &id, what, work, |kernels| {
            let found = kernels.head(&x, &weight, &queries, HeadOptions::default());
            assert!(black_box(found).is_ok(), "the logits are finite");
        })?;
    }
    Ok(())
}
