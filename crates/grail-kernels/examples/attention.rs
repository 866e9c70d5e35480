//! Prints the speed of the attention kernels on this machine: SmolLM2's heads, one line a case.
//!
//! ```text
//! cargo run --release -p grail-kernels --example attention -- [ISA] [THREADS] [CASE]
//! ```
//! Only the cases whose name contains CASE are run. A query and a position that it sees count
//! `4 * head_dim` operations forward and `10 * head_dim` backward; softmax counts nothing.
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
    let case = arguments.next().unwrap_or_default();
    let bench = Bench { kernels, case };
    println!("{:?}, GFLOP/s", bench.kernels);
    for length in [512, 2048] {
        bench.prefill(length, None);
    }
    bench.prefill(2048, Some(512));
    for (context, shared) in [(64, 48), (512, 512), (512, 256), (512, 0), (2048, 1024), (2048, 0)] {
        bench.decode(16, context, shared);
    }
    bench.decode(1, 512, 0);
    for (sequences, length) in [(8, 256), (1, 512), (1, 2048)] {
        bench.train(sequences, length);
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

struct Bench {
    kernels: Kernels,
    case: String,
}

impl Bench {
    /// Times `call`, which has `seen` pairs of a query and a position, and prints its speed.
    fn measure(&self, what: &str, seen: usize, per_value: usize, call: impl FnMut()) {
        if what.contains(&self.case) {
            let seconds = time(call);
            let operations = (seen * WIDTH * per_value) as f64;
            println!("  {what:<46} {:>9.1} us {:>7.1}", seconds * 1e6, operations / seconds * 1e-9);
        }
    }

    fn paged(&self, what: &str, rows: &[AttentionRow<'_>], window: Option<u32>) {
        let blocks = rows.iter().flat_map(|row| row.blocks).max().map_or(0, |&block| block + 1);
        let len = blocks as usize * 16 * KV_WIDTH;
        let (k_pool, v_pool) = (values(len), values(len));
        let (q, mut out) = (values(rows.len() * WIDTH), vec![0.0; rows.len() * WIDTH]);
        let options = AttentionOptions { window, ..AttentionOptions::default() };
        let most = window.unwrap_or(u32::MAX);
        let seen = rows.iter().map(|row| row.context_len.min(most) as usize).sum();
        self.measure(what, seen, 4, || {
            let out = black_box(&mut out);
            self.kernels.attention(&q, out, rows, &k_pool, &v_pool, SHAPE, options);
        });
    }

    /// The last 256 rows of a sequence.
    fn prefill(&self, length: u32, window: Option<u32>) {
        let blocks: Vec<u32> = (0..length.div_ceil(16)).collect();
        let row = |context_len| AttentionRow { blocks: &blocks, context_len };
        let rows: Vec<AttentionRow<'_>> = (length - 255..=length).map(row).collect();
        let window_text = window.map_or(String::new(), |window| format!(", window {window}"));
        self.paged(&format!("prefill, last 256 rows of {length}{window_text}"), &rows, window);
    }

    /// One row for each of `count` sequences that share the blocks of `shared` positions.
    fn decode(&self, count: u32, context: u32, shared: u32) {
        let (common, own) = (shared / 16, context.div_ceil(16) - shared / 16);
        let table = |row| (0..common).chain((0..own).map(move |i| common + row * own + i));
        let tables: Vec<Vec<u32>> = (0..count).map(|row| table(row).collect()).collect();
        let row = |blocks| AttentionRow { blocks, context_len: context };
        let rows: Vec<AttentionRow<'_>> = tables.iter().map(|table| row(&table[..])).collect();
        let what = format!("decode, {count} rows, context {context}, {shared} shared");
        self.paged(&what, &rows, None);
    }

    fn train(&self, sequences: usize, length: usize) {
        let rows = sequences * length;
        let offsets: Vec<usize> = (0..=sequences).map(|sequence| sequence * length).collect();
        let (q, dout) = (values(rows * WIDTH), values(rows * WIDTH));
        let (k, v) = (values(rows * KV_WIDTH), values(rows * KV_WIDTH));
        let (mut out, mut saved) = (vec![0.0; q.len()], AttentionSaved::default());
        let options = AttentionOptions::default();
        let seen = sequences * length * (length + 1) / 2;
        let mut forward = || {
            let out = black_box(&mut out);
            self.kernels.attention_train(&q, &k, &v, &offsets, out, SHAPE, options, &mut saved);
        };
        forward();
        self.measure(&format!("training, {sequences} x {length}, forward"), seen, 4, forward);
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        self.measure(&format!("training, {sequences} x {length}, backward"), seen, 10, || {
            let dq = black_box(&mut dq);
            self.kernels.attention_backward(&dout, &q, &k, &v, &out, &saved, dq, &mut dk, &mut dv);
        });
    }
}
