//! Damaged and hostile files cost little, give no panic, and are never mistaken for other files.

#![expect(clippy::unwrap_used, reason = "files that are made here read back")]

use bytes::Bytes;
use grail_parquet::{Limits, ReadError, read, write};
use grail_protocol::v5::file::{Commit, Footer, JsonText, RolloutFields, Row, WindowFile};
use proptest::prelude::*;

fn file(n_rows: usize, n_tokens: usize) -> WindowFile {
    let row = |at: usize| Row {
        window_start: 30.into(),
        nonce: (at as i64).into(),
        block_hash: "0xab".into(),
        rollout_group: (at as i64 / 16).into(),
        commit: Commit {
            tokens: (0..n_tokens as i32).collect(),
            commitments: JsonText::of_sketches(&vec![at as i64; n_tokens]),
            beacon: JsonText::new(r#"{"randomness": "ab"}"#).unwrap(),
            rollout: RolloutFields {
                token_logprobs: vec![-0.5; n_tokens],
                total_reward: 1.0.into(),
                ..RolloutFields::default()
            },
            ..Commit::default()
        },
        hotkey: "5Grw".into(),
        ..Row::default()
    };
    let footer = Footer { wallet: "5Grw".into(), window_start: 30, ..Footer::default() };
    WindowFile { footer, rows: (0..n_rows).map(row).collect() }
}

fn bytes(file: &WindowFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(file, &mut bytes).unwrap();
    bytes
}

fn read_all(bytes: Vec<u8>, limits: &Limits) -> Result<WindowFile, ReadError> {
    read(Bytes::from(bytes), limits)
}

#[test]
fn every_limit_refuses_what_is_beyond_it() {
    let whole = bytes(&file(32, 100));
    let limits = Limits {
        rows: 32,
        tokens_per_row: 100,
        tokens: 3_200,
        page_bytes: 1 << 20,
        inflated_bytes: 1 << 20,
        decoded_bytes: 1 << 20,
    };
    assert!(read_all(whole.clone(), &limits).is_ok());
    for tighter in [
        Limits { rows: 31, ..limits },
        Limits { tokens_per_row: 99, ..limits },
        Limits { tokens: 3_199, ..limits },
        Limits { page_bytes: 5_000, ..limits },
        Limits { inflated_bytes: 50_000, ..limits },
        Limits { decoded_bytes: 50_000, ..limits },
    ] {
        let read = read_all(whole.clone(), &tighter);
        assert!(matches!(read, Err(ReadError::Unreadable(_))), "{tighter:?}");
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    let whole = bytes(&file(16, 40));
    for length in 0..whole.len() {
        let error = read_all(whole[..length].to_vec(), &Limits::default()).unwrap_err();
        // What is cut ends elsewhere than in the magic, unless that stands there by chance.
        assert!(matches!(error, ReadError::Corrupt(_)), "{length}: {error}");
    }
}

#[test]
fn every_byte_may_be_flipped() {
    let whole = bytes(&file(16, 8));
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= [0xff, 0x01, 0x80][at % 3];
        if let Ok(file) = read_all(damaged, &Limits::default()) {
            assert!(file.rows.len() <= Limits::default().rows);
        }
    }
}

#[test]
fn a_text_that_is_used_often_counts_each_time() {
    // The dictionary holds it once; the rows hold it a thousand times.
    let mut bomb = file(1_000, 1);
    for row in &mut bomb.rows {
        row.commit.commitments = JsonText::new(format!("[{}]", " ".repeat(100_000))).unwrap();
    }
    let bytes = bytes(&bomb);
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    let limits = Limits { decoded_bytes: 50 << 20, ..Limits::default() };
    assert!(matches!(read_all(bytes, &limits), Err(ReadError::Unreadable(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_with_the_magic_are_read_or_refused(
        body in prop::collection::vec(any::<u8>(), 0..300),
        footer_length in prop_oneof![0_u32..320, any::<u32>()],
    ) {
        let tail = [&footer_length.to_le_bytes()[..], b"PAR1"].concat();
        let _ = read_all([b"PAR1", &body[..], &tail].concat(), &Limits::default());
    }

    #[test]
    fn many_bytes_may_be_changed(changes in prop::collection::vec((any::<u16>(), any::<u8>()), 1..20)) {
        let mut damaged = bytes(&file(16, 8));
        let length = damaged.len();
        for (at, value) in changes {
            damaged[usize::from(at) % length] = value;
        }
        let _ = read_all(damaged, &Limits::default());
    }
}
