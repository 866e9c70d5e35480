//! Prints what a reader makes of files: `cargo run --release -p grail-parquet --example outcomes -- FILE...`.
//!
//! One line a file: `ok ROWS DIGEST`, `corrupt` (the miner is banned) or `unreadable` (the file counts
//! as absent). The digest is of all commits, by which `benches/peers/reference/differ.py` compares.

#![expect(clippy::print_stdout, reason = "the outcomes are what it is run for")]

use std::path::Path;

use grail_parquet::{FileSource, Limits, ReadError, read};
use grail_protocol::v5::file::commit_digest;
use sha2::{Digest as _, Sha256};

fn main() {
    for path in std::env::args().skip(1) {
        let source = FileSource::open(Path::new(&path)).map_err(ReadError::from);
        match source.and_then(|source| read(source, &Limits::default())) {
            Ok(file) => {
                let mut hash = Sha256::new();
                for row in &file.rows {
                    hash.update(commit_digest(&row.commit));
                }
                println!("ok {} {:x}", file.rows.len(), hash.finalize());
            }
            Err(ReadError::Corrupt(_)) => println!("corrupt"),
            Err(ReadError::Unreadable(_)) => println!("unreadable"),
            Err(ReadError::Io(error)) => println!("io {error}"),
        }
    }
}
