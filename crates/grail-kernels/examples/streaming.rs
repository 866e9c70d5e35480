//! Prints the speed of products whose weights come from memory, as those of a model's layers do.
//!
//! ```text
//! cargo run --release -p grail-kernels --example streaming -- [THREADS]
//! ```
#![expect(clippy::print_stdout, reason = "an example program prints")]

use grail_kernels::math::f32_to_bf16;
use grail_kernels::{
    GateFunction, GatedOutput, HeadOptions, HeadQuery, Kernels, LinearOutput, PackedMatrix, Pick,
    Projection, RaceKey,
};
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Weights of each row of the table: several times what a last-level cache holds.
const BYTES: usize = 96 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |threads| threads.parse())?;
    let kernels = Kernels::new(threads)?;
    println!("{kernels:?}\n{:>16} {:>6} {:>9} {:>9}", "weights, bf16", "rows", "GFLOP/s", "GB/s");
    for (n, k) in [(960, 576), (576, 576), (576, 1536)] {
        let matrices = vec![matrix(n, k); BYTES / (2 * n * k)];
        for rows in [1, 4, 8, 16, 32] {
            let (x, mut y) = (values(rows * k), vec![0.0; rows * n]);
            let seconds = time(|turn| {
                let weight = &matrices[turn % matrices.len()];
                let then = Some(&matrices[(turn + 1) % matrices.len()]);
                let projection = Projection { weight, bias: None, then };
                kernels.linear_each(&x, [LinearOutput { projection, y: black_box(&mut y) }]);
            });
            report(&format!("[{n}, {k}]"), rows, n * k, seconds);
        }
    }
    let (n, k) = (1536, 576);
    let matrices = vec![matrix(n, k); BYTES / (2 * n * k)];
    for rows in [1, 4, 8, 16, 32] {
        let (x, mut y) = (values(rows * k), vec![0.0; rows * n]);
        let seconds = time(|turn| {
            let projection = |idx: usize| Projection {
                weight: &matrices[idx % matrices.len()],
                bias: None,
                then: Some(&matrices[(2 * turn + 2) % matrices.len()]),
            };
            let output = GatedOutput { gated: black_box(&mut y), kept: None };
            let (gate, up) = (projection(2 * turn), projection(2 * turn + 1));
            kernels.linear_gated(&x, gate, up, GateFunction::Silu, output);
        });
        report("gate, up", rows, 2 * n * k, seconds);
    }
    head(&kernels)
}

/// The fused head of a vocabulary of 49,152 tokens.
fn head(kernels: &Kernels) -> Result<(), Box<dyn Error>> {
    let (n, k) = (49_152, 576);
    let weight = matrix(n, k);
    let race = Pick::Race { key: RaceKey([1, 2, 3, 4]), step: 5, temperature: 1.0 };
    for pick in [Pick::None, Pick::Greedy, race] {
        for rows in [1, 16, 64] {
            let x: Vec<f32> = values(rows * k).iter().map(|x| 3.0 * x).collect();
            let queries = vec![HeadQuery { pick, claimed: None }; rows];
            kernels.head(&x, &weight, &queries, HeadOptions::default())?;
            let seconds = time(|_| {
                let rows = kernels.head(&x, &weight, &queries, HeadOptions::default());
                assert!(black_box(rows).is_ok());
            });
            let name = match pick {
                Pick::None => "head",
                Pick::Greedy => "head, greedy",
                Pick::Race { .. } => "head, race",
            };
            report(name, rows, n * k, seconds);
        }
    }
    Ok(())
}

fn matrix(n: usize, k: usize) -> PackedMatrix {
    let half: Vec<u16> = values(n * k).iter().map(|&x| f32_to_bf16(x)).collect();
    PackedMatrix::pack_bf16(n, k, &half)
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

/// Seconds per call, over a quarter of a second.
fn time(mut call: impl FnMut(usize)) -> f64 {
    let (start, mut turn) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(250) {
        (0..8).for_each(|offset| call(turn + offset));
        turn += 8;
    }
    start.elapsed().as_secs_f64() / turn as f64
}

fn report(what: &str, rows: usize, weights: usize, seconds: f64) {
    let flops = 2e-9 * (rows * weights) as f64 / seconds;
    println!("{what:>16} {rows:>6} {flops:>9.1} {:>9.1}", 2e-9 * weights as f64 / seconds);
}
