//! A large file is read with a few pages in memory, and written with no more than itself.
//!
//! The only test of its process, since the heap is measured for all of it.

#![expect(clippy::unwrap_used, reason = "a file that is made here reads back")]

use std::fs::File;

use grail_parquet::{FileSource, Limits, RowReader, write};
use grail_protocol::v5::file::{Commit, Footer, JsonText, RolloutFields, Row, WindowFile};
use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;

/// Rows of the longest completions that the protocol knows.
const ROWS: usize = 1_280;
const TOKENS: usize = 8_192;

/// The file is at least this long, as nothing in it repeats.
const FILE_BYTES_MIN: usize = 100 * MIB;

/// Most heap while the rows pass: a page of each column, stored and inflated, and a batch of rows.
const READING_MAX: usize = 32 * MIB;

/// Most heap beyond the file's own length while it is written.
const WRITING_MAX: usize = 48 * MIB;

/// Numbers without a pattern, 64 bits each.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, most: u64) -> i64 {
        (self.next() % most).cast_signed()
    }
}

fn row(at: usize, numbers: &mut Numbers) -> Row {
    let sketches: Vec<i64> = (0..TOKENS).map(|_| numbers.below(2_147_483_647)).collect();
    Row {
        window_start: 30.into(),
        nonce: (at as i64).into(),
        block_hash: "0xab".into(),
        rollout_group: (at as i64 / 16).into(),
        commit: Commit {
            tokens: (0..TOKENS).map(|_| numbers.below(151_936) as i32).collect(),
            commitments: JsonText::of_sketches(&sketches),
            beacon: JsonText::new(r#"{"randomness": "ab"}"#).unwrap(),
            rollout: RolloutFields {
                token_logprobs: (0..TOKENS).map(|_| -(numbers.below(1 << 24) as f64)).collect(),
                total_reward: 1.0.into(),
                ..RolloutFields::default()
            },
            ..Commit::default()
        },
        hotkey: "5Grw".into(),
        ..Row::default()
    }
}

/// Returns the most heap that `work` held beyond what was there before it.
fn peak_of<T>(work: impl FnOnce() -> T) -> (usize, T) {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let result = work();
    (HEAP.peak_usage().saturating_sub(before), result)
}

#[test]
fn a_large_file_passes_through_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.parquet");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let footer = Footer { wallet: "5Grw".into(), window_start: 30, ..Footer::default() };
    let file = WindowFile { footer, rows: (0..ROWS).map(|at| row(at, &mut numbers)).collect() };

    let (writing, ()) = peak_of(|| write(&file, File::create(&path).unwrap()).unwrap());
    let length = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
    println!("{} MiB, written with {} MiB of heap", length / MIB, writing / MIB);
    assert!(length >= FILE_BYTES_MIN, "the file has {length} bytes");
    assert!(writing <= length + WRITING_MAX, "{writing} bytes of heap for {length} of file");

    let (reading, n_rows) = peak_of(|| {
        let rows = RowReader::open(FileSource::open(&path).unwrap(), &Limits::default()).unwrap();
        // Each row is dropped before the next is asked for.
        rows.enumerate().map(|(at, row)| assert_eq!(row.unwrap(), file.rows[at])).count()
    });
    println!("read with {} MiB of heap", reading / MIB);
    assert_eq!(n_rows, ROWS);
    assert!(reading <= READING_MAX, "{reading} bytes of heap to read {length}");
}
