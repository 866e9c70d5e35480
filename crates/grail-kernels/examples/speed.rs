//! Prints the speed of the main kernels on this machine, per instruction set.
//!
//! ```text
//! cargo run --release -p grail-kernels --example speed -- [ISA] [THREADS]
//! ```
#![expect(clippy::print_stdout, reason = "an example program prints")]

use grail_kernels::{
    AttentionOptions, AttentionRow, AttentionSaved, AttentionShape, Init, Isa, Kernels, MatRef,
    PackedMatrix, RaceKey, RaceOutcome,
};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let isas = match arguments.next() {
        Some(name) => vec![name.parse()?],
        None => Isa::available().into_iter().rev().collect(),
    };
    let threads = arguments.next().map_or(Ok(1), |threads| threads.parse())?;
    for isa in isas {
        let kernels = Kernels::with_isa(isa, threads)?;
        println!("{kernels:?}");
        products(&kernels);
        attention(&kernels);
        head(&kernels)?;
        dispatch(&kernels);
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

fn products(kernels: &Kernels) {
    println!("  matrix product, GFLOP/s:    rows      f32     bf16   f32, a strided");
    for (n, k) in [(1536, 576), (576, 1536), (576, 576), (256, 64)] {
        let weights = values(n * k);
        let half: Vec<u16> = weights.iter().map(|&x| grail_kernels::math::f32_to_bf16(x)).collect();
        let single = PackedMatrix::pack_f32(n, k, &weights);
        let half = PackedMatrix::pack_bf16(n, k, &half);
        for rows in [1, 2, 4, 8, 16, 64, 256] {
            let x = values(rows * k);
            let mut y = vec![0.0; rows * n];
            let flops = 2e-9 * (rows * n * k) as f64;
            let mut speed = |a: MatRef<'_>, w: &PackedMatrix| {
                flops / time(|| kernels.gemm(a, w, black_box(&mut y), Init::Zero, None))
            };
            let rows_first = MatRef::row_major(&x, rows, k);
            let strided = MatRef::row_major(&x, k, rows).transposed();
            println!(
                "    [{n}, {k}]{rows:>20} {:8.1} {:8.1} {:8.1}",
                speed(rows_first, &single),
                speed(rows_first, &half),
                speed(strided, &single),
            );
        }
    }
}

fn attention(kernels: &Kernels) {
    let shape = AttentionShape { heads: 9, kv_heads: 3, head_dim: 64 };
    let options = AttentionOptions::default();
    for context in [64usize, 512] {
        let blocks: Vec<u32> = (0..context.div_ceil(16) as u32).collect();
        let pool = values(blocks.len() * 16 * 192);
        let rows = vec![AttentionRow { blocks: &blocks, context_len: context as u32 }; 16];
        let (q, mut out) = (values(16 * 576), vec![0.0; 16 * 576]);
        let flops = 4e-9 * (16 * context * 576) as f64;
        let seconds = time(|| {
            kernels.attention(&q, black_box(&mut out), &rows, &pool, &pool, shape, options)
        });
        println!(
            "  attention, 16 rows, context {context}: {:.1} us, {:.1} GFLOP/s",
            seconds * 1e6,
            flops / seconds
        );
    }
    let rows = 512;
    let (q, dout) = (values(rows * 576), values(rows * 576));
    let (k, v) = (values(rows * 192), values(rows * 192));
    let (mut out, mut saved) = (vec![0.0; rows * 576], AttentionSaved::default());
    let forward = time(|| {
        kernels.attention_train(
            &q,
            &k,
            &v,
            &[0, rows],
            black_box(&mut out),
            shape,
            options,
            &mut saved,
        );
    });
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let backward = time(|| {
        kernels.attention_backward(
            &dout,
            &q,
            &k,
            &v,
            &out,
            &saved,
            black_box(&mut dq),
            &mut dk,
            &mut dv,
        );
    });
    let flops = 2e-9 * (rows * rows * 576) as f64;
    println!(
        "  attention, training, 512 rows: forward {:.1} GFLOP/s, backward {:.1} GFLOP/s",
        flops / forward,
        2.5 * flops / backward
    );
}

fn head(kernels: &Kernels) -> Result<(), Box<dyn Error>> {
    let (rows, vocab) = (16, 49_152);
    let logits = values(rows * vocab);
    let keys = vec![RaceKey([1, 2, 3, 4]); rows];
    let (steps, tokens) = (vec![7; rows], vec![9; rows]);
    let mut winners = vec![RaceOutcome::default(); rows];
    let mut logprobs = vec![0.0; rows];
    kernels.race(&logits, vocab, &keys, &steps, 1.0, None, &mut winners)?;
    let per_token = 1e9 / (rows * vocab) as f64;
    let race = time(|| {
        let result =
            kernels.race(&logits, vocab, &keys, &steps, 1.0, None, black_box(&mut winners));
        assert!(result.is_ok());
    });
    let softmax = time(|| {
        let result = kernels.log_softmax_of(&logits, vocab, &tokens, black_box(&mut logprobs));
        assert!(result.is_ok());
    });
    println!(
        "  per logit: race {:.2} ns, log-softmax {:.2} ns",
        race * per_token,
        softmax * per_token
    );
    Ok(())
}

fn dispatch(kernels: &Kernels) {
    let empty = time(|| {
        kernels.parallel(kernels.threads(), &|task| {
            black_box(task);
        })
    });
    let (x, weight) = (values(16 * 576), values(576));
    let mut y = x.clone();
    let norm = time(|| kernels.rms_norm(&x, &weight, 1e-5, black_box(&mut y), None));
    let big = values(16 * 1536);
    let mut out = big.clone();
    let silu = time(|| kernels.silu_mul(&big, &big, black_box(&mut out)));
    println!(
        "  empty parallel call {:.2} us, rms_norm [16, 576] {:.2} us, silu_mul [16, 1536] {:.2} us",
        empty * 1e6,
        norm * 1e6,
        silu * 1e6
    );
}
