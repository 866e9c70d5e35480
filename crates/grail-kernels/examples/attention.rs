//! Prints the speed of the attention kernels on this machine: SmolLM2's heads, one line a case.
//!
//! ```text
//! cargo run --release -p grail-kernels --example attention -- [ISA] [THREADS]
//! ```
//! A query and a position that it sees count `4 * head_dim` operations forward (`10 * head_dim`
//! backward, where two of the five products are computed again); softmax counts nothing.
#![expect(clippy::print_stdout, reason = "an example program prints")]

use grail_kernels::{AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, Isa, Kernels};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SHAPE: AttentionShape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 };
const WIDTH: usize = SHAPE.heads * SHAPE.head_dim;
const KV_WIDTH: usize = SHAPE.kv_heads * SHAPE.head_dim;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let isa = arguments.next().map_or(Ok(Isa::detect()), |name| name.parse())?;
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    let kernels = Kernels::with_isa(isa, threads)?;
    println!("{kernels:?}, GFLOP/s");
    for length in [512, 2048] {
        prefill(&kernels, length, None);
    }
    prefill(&kernels, 2048, Some(512));
    for (context, shared) in [(64, 48), (512, 512), (512, 256), (512, 0), (2048, 1024)] {
        decode(&kernels, 16, context, shared);
    }
    decode(&kernels, 1, 512, 0);
    for (sequences, length) in [(8, 256), (1, 512), (1, 2048)] {
        train(&kernels, sequences, length);
    }
    Ok(())
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

/// Seconds per call, the best of many runs in about a fifth of a second.
fn time(mut call: impl FnMut()) -> f64 {
    call();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(200) {
        let run = Instant::now();
        call();
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}

fn report(what: &str, seconds: f64, seen: usize, per_value: usize) {
    let operations = (seen * WIDTH * per_value) as f64;
    println!("  {what:<52} {:>9.1} us {:>7.1}", seconds * 1e6, operations / seconds * 1e-9);
}

fn measure(kernels: &Kernels, what: &str, rows: &[AttentionRow<'_>], window: Option<u32>) {
    let blocks = rows.iter().flat_map(|row| row.blocks).max().map_or(0, |&block| block + 1);
    let pool = values(blocks as usize * 16 * KV_WIDTH);
    let (q, mut out) = (values(rows.len() * WIDTH), vec![0.0; rows.len() * WIDTH]);
    let options = AttentionOptions { window, ..AttentionOptions::default() };
    let seconds =
        time(|| kernels.attention(&q, black_box(&mut out), rows, &pool, &pool, SHAPE, options));
    let seen = |row: &AttentionRow<'_>| row.context_len.min(window.unwrap_or(u32::MAX)) as usize;
    report(what, seconds, rows.iter().map(seen).sum(), 4);
}

/// The last 256 rows of a sequence.
fn prefill(kernels: &Kernels, length: u32, window: Option<u32>) {
    let blocks: Vec<u32> = (0..length.div_ceil(16)).collect();
    let rows: Vec<AttentionRow<'_>> = (length - 255..=length)
        .map(|context_len| AttentionRow { blocks: &blocks, context_len })
        .collect();
    let window_text = window.map_or(String::new(), |window| format!(", window {window}"));
    measure(kernels, &format!("prefill, last 256 rows of {length}{window_text}"), &rows, window);
}

/// One row for each of `count` sequences that share the blocks of `shared` positions.
fn decode(kernels: &Kernels, count: u32, context: u32, shared: u32) {
    let (shared_blocks, own) = (shared / 16, context.div_ceil(16) - shared / 16);
    let tables: Vec<Vec<u32>> = (0..count)
        .map(|row| {
            (0..shared_blocks).chain((0..own).map(|i| shared_blocks + row * own + i)).collect()
        })
        .collect();
    let rows: Vec<AttentionRow<'_>> =
        tables.iter().map(|blocks| AttentionRow { blocks, context_len: context }).collect();
    measure(
        kernels,
        &format!("decode, {count} rows, context {context}, {shared} shared"),
        &rows,
        None,
    );
}

fn train(kernels: &Kernels, sequences: usize, length: usize) {
    let rows = sequences * length;
    let offsets: Vec<usize> = (0..=sequences).map(|sequence| sequence * length).collect();
    let (q, dout) = (values(rows * WIDTH), values(rows * WIDTH));
    let (k, v) = (values(rows * KV_WIDTH), values(rows * KV_WIDTH));
    let (mut out, mut saved) = (vec![0.0; q.len()], AttentionSaved::default());
    let options = AttentionOptions::default();
    let forward = time(|| {
        let out = black_box(&mut out);
        kernels.attention_train(&q, &k, &v, &offsets, out, SHAPE, options, &mut saved);
    });
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let backward = time(|| {
        let dq = black_box(&mut dq);
        kernels.attention_backward(&dout, &q, &k, &v, &out, &saved, dq, &mut dk, &mut dv);
    });
    let seen = sequences * length * (length + 1) / 2;
    report(&format!("training, {sequences} x {length}, forward"), forward, seen, 4);
    report(&format!("training, {sequences} x {length}, backward"), backward, seen, 10);
}
