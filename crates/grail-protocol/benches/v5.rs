//! What the v5 profile computes per token: `cargo bench -p grail-protocol --bench v5 [-- --json]`.
//!
//! The peer is `benches/peers/reference/measure.py`, with the same work. Each row is measured on one
//! thread and on all.

#![expect(clippy::print_stdout, reason = "the figures are what it is run for")]
#![expect(clippy::disallowed_types, clippy::disallowed_methods, reason = "it times")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::Instant;

use grail_protocol::v5::file::{
    Commit, GroupKeys, JsonText, RolloutFields, Row, commit_digest, completion_digest,
};
use grail_protocol::v5::sketch;

const ROWS: usize = 1_280;
const TOKENS: usize = 512;
const PROMPT: usize = 64;
const POSITIONS: usize = 512;
const HIDDEN: usize = 2_048;
/// Rollouts of [`POSITIONS`] that do not fit a cache together: 256 MiB.
const ROLLOUTS: usize = 64;
const ROUNDS: usize = 9;

fn main() {
    let as_json = std::env::args().any(|arg| arg == "--json");
    let rows: Vec<Row> = (0..ROWS).map(row).collect();
    let hidden: Vec<f32> = (0..POSITIONS * HIDDEN).map(activation).collect();
    let r_vec: [i8; 16] = std::array::from_fn(|at| (at as i8) * 15 - 112);

    let group_keys = |threads| {
        let digests = shared_out(&rows, threads, |row| commit_digest(&row.commit));
        let mut keys = GroupKeys::default();
        for (row, digest) in rows.iter().zip(&digests) {
            keys.push(&row.rollout_group, digest);
        }
        black_box(keys.rows_to_check("5Grw", "ab"));
    };
    let digests = |threads| {
        drop(black_box(shared_out(&rows, threads, |row| completion_digest(&row.commit))));
    };
    let sketches = |hidden: &[f32], again: usize, threads: NonZero<usize>| {
        let share = hidden.len() / HIDDEN / threads * HIDDEN;
        let work = |part: &[f32]| {
            for rollout in part.chunks(POSITIONS * HIDDEN) {
                drop(black_box(sketch::commit(rollout, HIDDEN, &r_vec)));
            }
        };
        let spent = seconds(|| {
            thread::scope(|scope| {
                for part in hidden.chunks(share) {
                    scope.spawn(move || (0..again).for_each(|_| work(part)));
                }
            });
        });
        spent * 1e6 / (again * hidden.len() / HIDDEN) as f64
    };
    let rollouts = hidden.repeat(ROLLOUTS);
    let tokens = (ROWS * TOKENS) as f64;
    let all = thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    for threads in BTreeSet::from([NonZero::<usize>::MIN, all]) {
        let name = |work: &str| format!("{work}.{threads}_threads");
        let each = seconds(|| group_keys(threads)) * 1e9 / tokens;
        report(as_json, &name("group_keys"), each, "ns/token");
        let each = seconds(|| digests(threads)) * 1e9 / tokens;
        report(as_json, &name("digests"), each, "ns/token");
        let each = sketches(&hidden, ROLLOUTS, threads);
        report(as_json, &name("sketches"), each, "us/position");
        let each = sketches(&rollouts, 1, threads);
        report(as_json, &name("sketches_from_memory"), each, "us/position");
    }
}

fn shared_out<T: Send>(
    rows: &[Row],
    threads: NonZero<usize>,
    work: impl Fn(&Row) -> T + Sync,
) -> Vec<T> {
    let work = &work;
    thread::scope(|scope| {
        let parts = rows.chunks(rows.len().div_ceil(threads.get()));
        let running: Vec<_> = parts
            .map(|part| scope.spawn(move || part.iter().map(work).collect::<Vec<T>>()))
            .collect();
        running.into_iter().flat_map(|part| part.join().expect("no row panics")).collect()
    })
}

fn report(as_json: bool, name: &str, ours: f64, unit: &str) {
    if as_json {
        println!("{{\"name\": \"{name}\", \"ours\": {ours:.3}, \"unit\": \"{unit}\"}}");
    } else {
        println!("{name:<32} {ours:>10.3} {unit}");
    }
}

fn mixed(row: usize, place: usize, salt: u64) -> u64 {
    let x = (row as u64) << 32 | place as u64;
    let x = (x ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 16
}

/// Activations of both signs, most of them small.
fn activation(at: usize) -> f32 {
    let unit = (mixed(at / HIDDEN, at % HIDDEN, 4) % 2_000_001) as f32 / 1_000_000.0 - 1.0;
    unit * unit * unit * 40.0
}

fn row(at: usize) -> Row {
    let sketches: Vec<i64> = (0..TOKENS)
        .map(|i| ((mixed(at, i, 2) % 4_001) as i64 - 2_000).rem_euclid(2_147_483_647))
        .collect();
    let logprob = |i: usize| match i {
        0..PROMPT => 0.0,
        _ => f64::from(-((mixed(at, i, 3) % 1_000_000) as f32) / 400_000.0),
    };
    Row {
        rollout_group: (at as i64 / 16).into(),
        commit: Commit {
            tokens: (0..TOKENS).map(|i| (mixed(at, i, 1) % 151_643) as i32).collect(),
            commitments: JsonText::of_sketches(&sketches),
            proof_version: "v5".into(),
            model_name: "async_trainer_snapshot".into(),
            layer_index: (-1).into(),
            signature: "ab".repeat(64).into(),
            beacon: JsonText::new(format!("{{\"randomness\": \"{}\"}}", "ab".repeat(32)))
                .expect("it is JSON"),
            rollout: RolloutFields {
                total_reward: 1.0.into(),
                advantage: 0.5.into(),
                success: true.into(),
                token_logprobs: (0..TOKENS).map(logprob).collect(),
                prompt_length: (PROMPT as i32).into(),
                completion_length: ((TOKENS - PROMPT) as i32).into(),
            },
        },
        ..Row::default()
    }
}

/// Median of some rounds.
fn seconds(work: impl Fn()) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64()
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
