//! Writes and reads rollout files: `cargo bench -p grail-parquet [-- --json]`.
//!
//! The peer is `benches/peers/reference/measure.py`, with the same rows.

#![expect(clippy::print_stdout, reason = "the figures are what it is run for")]

mod work;

use std::time::Instant;

use bytes::Bytes;
use grail_parquet::{Limits, read, write};

const ROWS: usize = 1_024;
const TOKENS: usize = 512;
const ROUNDS: usize = 7;

fn main() {
    let as_json = std::env::args().any(|arg| arg == "--json");
    let file = work::file(ROWS, TOKENS, false);
    let encode = || {
        let mut bytes = Vec::new();
        write(&file, &mut bytes).expect("the rows fit the columns");
        bytes
    };
    let bytes = Bytes::from(encode());
    let rows = [
        ("parquet.write", seconds(|| drop(encode()))),
        (
            "parquet.read",
            seconds(|| {
                let again = read(bytes.clone(), &Limits::default()).expect("it was written here");
                assert_eq!(again.rows.len(), ROWS);
            }),
        ),
    ];
    for (name, seconds) in rows {
        if as_json {
            println!("{{\"name\": \"{name}\", \"ours\": {seconds:.6}, \"unit\": \"s\"}}");
        } else {
            println!("{name:<16} {seconds:>10.6} s   ({ROWS} rows of {TOKENS} tokens)");
        }
    }
}

/// Median of some rounds.
fn seconds(mut work: impl FnMut()) -> f64 {
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
