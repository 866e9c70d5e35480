//! Rollout files of the reference, as Parquet and as the JSON text in them.

use bytes::Bytes;
use grail_parquet::{Limits, read, write};
use grail_protocol::v5::file::{
    Commit, Expected, JsonText, check_structure, commit_digest, rows_to_check,
};
use grail_protocol::v5::selection::group_digest;
use sha2::{Digest as _, Sha256};

/// What a fuzzer's small files may take.
const LIMITS: Limits = Limits {
    rows: 1_000,
    tokens_per_row: 10_000,
    tokens: 20_000,
    page_bytes: 1 << 20,
    inflated_bytes: 4 << 20,
    decoded_bytes: 2 << 20,
};

pub fn file(data: &[u8]) -> bool {
    let Ok(file) = read(Bytes::copy_from_slice(data), &LIMITS) else { return false };
    let expected = Expected { hotkey: "5Grw", window_start: 30, block_hash: "0xab" };
    let _ = check_structure(&file, &expected);
    if !file.rows.is_empty() {
        let rows = rows_to_check("5Grw", "ab", &file.rows);
        assert!(rows.iter().all(|&row| row < file.rows.len()), "a row that the file has not");
    }
    let mut bytes = Vec::new();
    // A column may have had another type than the schema's, which no writer gives it.
    if write(&file, &mut bytes).is_ok() {
        let again = read(Bytes::from(bytes), &LIMITS);
        // A file without groups reads once: its column is one of nulls then.
        if file.rows.iter().all(|row| !row.rollout_group.is_null()) {
            let again = again.expect("what was written is read");
            assert_eq!(format!("{again:?}"), format!("{file:?}"), "a file reads in two ways");
        }
    }
    true
}

pub fn json(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(commitments) = JsonText::new(text) else { return false };
    let commit = Commit { commitments, ..Commit::default() };
    // The quick way and the slow one print the same.
    let of_group: [u8; 32] = Sha256::digest(commit_digest(&commit)).into();
    assert_eq!(of_group, group_digest([&commit.to_value()]), "a text has two digests");
    if let Some(sketches) = commit.commitments.sketches() {
        let printed = JsonText::of_sketches(&sketches);
        assert_eq!(printed.value(), commit.commitments.value(), "sketches print otherwise");
    }
    true
}
