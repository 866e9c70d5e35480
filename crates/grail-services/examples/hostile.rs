//! Measures what a hostile rollout file costs a validator, in time and in memory.
//!
//! ```console
//! $ cargo run --release -p grail-services --example hostile
//! ```
//!
//! Each row is a file that a miner could upload, as large as the rules allow where size is the
//! attack, judged by the validator's own code up to its rejection. Time is the least of three runs;
//! memory is the most on the heap beside the file itself. A rollout's share is that of the 16,384
//! that a file may hold.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[path = "../tests/hostile/attacks.rs"]
mod attacks;
#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use attacks::{ATTACKS, Scale, Scene};
use grail_protocol::constants::{GROUPS_PER_FILE_MAX, ROLLOUT_FILE_BYTES_MAX, ROLLOUTS_PER_GROUP};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const RUNS: usize = 3;

/// Prompt and completion fit the fake model's 4,096 positions.
const TOKENS: u32 = 4_000;

fn main() {
    let scene = Scene::new(Scale {
        groups: GROUPS_PER_FILE_MAX,
        tokens: TOKENS,
        bytes: usize::try_from(ROLLOUT_FILE_BYTES_MAX).expect("350 MiB fit"),
    });
    println!(
        "{:<42} {:>7} {:>8} {:>10} {:>8}  rejection",
        "file", "MiB", "ms", "us/rollout", "heap"
    );
    let mut worst = Duration::ZERO;
    for attack in &ATTACKS {
        let bytes = (attack.make)(&scene);
        let (mut time, mut held) = (Duration::MAX, 0);
        for _ in 0..RUNS {
            HEAP.reset_peak_usage();
            let before = HEAP.current_usage();
            let start = Instant::now();
            let code = scene.judge(&bytes);
            time = time.min(start.elapsed());
            held = held.max(HEAP.peak_usage() - before);
            assert_eq!(code, Some(attack.code), "{}", attack.name);
        }
        worst = worst.max(time);
        println!(
            "{:<42} {:>7.1} {:>8.2} {:>10.2} {:>8.1}  {}",
            attack.name,
            mebibytes(bytes.len()),
            time.as_secs_f64() * 1e3,
            per_rollout(time).as_secs_f64() * 1e6,
            mebibytes(held),
            attack.code,
        );
    }
    println!("worst: {:.3} ms a rollout", per_rollout(worst).as_secs_f64() * 1e3);
}

fn per_rollout(time: Duration) -> Duration {
    time / (GROUPS_PER_FILE_MAX * ROLLOUTS_PER_GROUP)
}

fn mebibytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
