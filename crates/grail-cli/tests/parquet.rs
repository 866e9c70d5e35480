//! `grail verify` on a rollout file of the reference: everything that needs no model.

#![expect(clippy::unwrap_used, reason = "what does not read fails the test")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use grail_parquet::{FileSource, Limits, read, write};
use grail_protocol::v5::file::{JsonText, WindowFile};
use grail_testkit::vectors::{load, path, text};
use serde_json::Value;

/// The honest file of the topic `e2e`, whose signatures are real.
fn honest() -> PathBuf {
    path("e2e", text(&load("e2e", "manifest.json")["parquet"]))
}

fn path_of_model() -> String {
    path("e2e", "model").display().to_string()
}

/// The first number that is no token of the model.
fn no_token() -> i32 {
    let config = load("e2e", "model/config.json");
    config["vocab_size"].as_u64().unwrap().try_into().unwrap()
}

fn verify(file: &Path, extra: &[&str], code: i32) -> Value {
    let mut command = Command::cargo_bin("grail").unwrap();
    let output = command.arg("verify").arg(file).arg("--json").args(extra).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_honest_file_is_accepted_as_far_as_it_is_checked() {
    let answer = verify(&honest(), &[], 0);
    assert_eq!(answer["verdict"], "accepted");
    assert_eq!(answer["protocol"], "v5");
    let rows = read(FileSource::open(&honest()).unwrap(), &Limits::default()).unwrap().rows.len();
    assert_eq!(answer["rollouts"], rows);
    assert_eq!(answer["taken_from_file"], serde_json::json!(["block_hash"]));
    let not_run = answer["checks"].as_array().unwrap().iter();
    let not_run = not_run.filter(|check| check["outcome"] == "not_run").count();
    assert_eq!(not_run, 7, "what needs the model is said not to have run");
    // On a screen too.
    let output = Command::cargo_bin("grail").unwrap().arg("verify").arg(honest()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("without the model") && text.contains("envelope_signature"), "{text}");
}

#[test]
fn what_is_forged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let original = read(FileSource::open(&honest()).unwrap(), &Limits::default()).unwrap();
    let name = honest().file_name().unwrap().to_owned();
    let spoilt = |spoil: fn(&mut WindowFile)| {
        let mut file = original.clone();
        spoil(&mut file);
        let path = dir.path().join(&name);
        write(&file, std::fs::File::create(&path).unwrap()).unwrap();
        // With the model's vocabulary.
        let model = path_of_model();
        verify(&path, &["--checkpoint", &model], 1)["reason"].as_str().unwrap().to_owned()
    };
    for (want, spoil) in [
        ("wallet_mismatch", (|file| file.footer.wallet = "5Grw".into()) as fn(&mut WindowFile)),
        ("duplicate_nonce", |file| file.rows[1].nonce = file.rows[0].nonce.clone()),
        ("invalid_group_size", |file| {
            file.rows.pop();
        }),
        ("proof_form", |file| file.rows[5].commit.tokens[0] ^= 1),
        ("schema_valid", |file| file.rows[5].commit.commitments = JsonText::default()),
        ("envelope_signature", |file| file.rows[3].challenge = "|0xab|3".into()),
        ("tokens_valid", |file| file.rows[3].commit.tokens[0] = no_token()),
        ("logprob_count", |file| file.rows[0].commit.rollout.token_logprobs.truncate(3)),
        ("finite_numbers", |file| file.rows[0].commit.rollout.token_logprobs[2] = f64::NAN),
        ("groups", |file| file.rows[0].commit.rollout.advantage = 9.0.into()),
    ] {
        assert_eq!(spoilt(spoil), want);
    }
}

#[test]
fn files_that_give_no_rows_are_rejected_and_a_missing_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    assert_eq!(verify(&path, &[], 2)["verdict"], "undecided");
    std::fs::write(&path, [0; 100]).unwrap();
    assert_eq!(verify(&path, &[], 1)["reason"], "size");
    std::fs::write(&path, [0; 1000]).unwrap();
    assert_eq!(verify(&path, &[], 1)["reason"], "corrupt_parquet");
    let mut cut = std::fs::read(honest()).unwrap();
    let middle = cut.len() / 2;
    cut[4..middle].fill(0xff);
    std::fs::write(&path, cut).unwrap();
    assert_eq!(verify(&path, &[], 1)["reason"], "unreadable");
}
