//! The attack lab on the embedded model: endings, resuming, the page, refused options.

mod support;

use std::path::Path;

use assert_cmd::assert::OutputAssertExt as _;
use serde_json::Value;
use support::grail;

/// Rows that are quick and end for different reasons.
const ROWS: &str = "honest,proof-constant,weights-noise,free-sampling,prefilled-answer,truncated,\
                    wrong-prompt,skipped-group,forged-reward,substituted-window";

/// Runs the lab with few rollouts; returns its exit code and what it wrote, both streams together.
fn lab(out: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = grail();
    command.args(["lab", "attacks", "--out"]).arg(out);
    command.args(["--rollouts", "32", "--honest-rollouts", "64", "--threads", "2"]).args(more);
    let output = command.output().expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn report(out: &Path) -> Value {
    let bytes = std::fs::read(out.join("report.json")).expect("the lab writes a report");
    serde_json::from_slice(&bytes).expect("the report is JSON")
}

/// Takes out what differs from run to run and machine to machine.
fn without_times(mut report: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("timing");
                map.remove("machine");
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut report);
    report
}

#[test]
fn attacks_end_for_their_reasons_and_a_killed_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    let (code, text) = lab(&whole, &["--profile", "exact", "--attack", ROWS]);
    assert_eq!(code, Some(0), "{text}");
    let found = report(&whole);
    assert_eq!(found["failures"], serde_json::json!([]), "{text}");
    for (id, outcome, reason) in [
        ("honest", "accepted", None),
        ("proof-constant", "rejected", Some("hidden_state_mismatch")),
        ("weights-noise", "rejected", Some("hidden_state_mismatch")),
        ("free-sampling", "rejected", Some("race_lost")),
        ("prefilled-answer", "rejected", Some("race_lost")),
        ("truncated", "rejected", Some("bad_termination")),
        ("wrong-prompt", "rejected", Some("prompt_mismatch")),
        ("skipped-group", "rejected", Some("groups_not_contiguous")),
        ("forged-reward", "rejected", Some("reward_mismatch")),
        ("substituted-window", "rejected", Some("window_mismatch")),
    ] {
        let rows = found["rows"].as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no {id}"));
        assert_eq!(row["outcome"], outcome, "{id}: {row}");
        assert!(row["counted"].as_u64().unwrap() > 0, "{id}");
        if let Some(reason) = reason {
            assert_eq!(row["codes"][reason], row["counted"], "{id}: {row}");
        }
    }
    let honest = &found["rows"][0];
    assert_eq!((&honest["false_positives"], &honest["counted"]), (&0.into(), &32.into()));

    // A run that was killed is one without some of its chunks.
    let killed = dir.path().join("killed");
    let (code, text) = lab(&killed, &["--profile", "exact", "--attack", "honest,truncated"]);
    assert_eq!(code, Some(0), "{text}");
    let chunk = killed.join("rows/exact/truncated/0000.json");
    std::fs::write(&chunk, b"{\"records\":[").unwrap();
    let again = ["--profile", "exact", "--attack", ROWS, "--resume"];
    let (code, text) = lab(&killed, &again);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(without_times(report(&killed)), without_times(found));

    let page = std::fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("proof-constant") && page.ends_with("</html>\n"));
    for part in ["<script", "http://", "https://", "@import", "url(", "src="] {
        assert!(!page.contains(part), "{part} must not occur");
    }

    let (code, text) = lab(&whole, &["--profile", "exact"]);
    assert!(code == Some(1) && text.contains("--resume"), "{text}");
    let (code, text) = lab(&whole, &["--seed", "2", "--resume"]);
    assert!(code == Some(1) && text.contains("seed 1, now it is 2"), "{text}");
}

#[test]
fn honest_bf16_work_passes_where_forgeries_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let calibration = dir.path().join("calibration.json");
    let calibrate = || {
        let mut command = grail();
        command.args(["lab", "calibrate", "--rollouts", "128", "--threads", "2", "--out"]);
        command.arg(&calibration);
        command.output().unwrap()
    };
    let made = calibrate();
    assert!(String::from_utf8_lossy(&made.stdout).contains("signed by 5"), "{made:?}");
    let again = calibrate();
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists"));

    let out = dir.path().join("lab");
    let rows =
        "honest,honest-batch-size,proof-random,garbage,false-exact,near-tie-1,proof-replayed";
    let given = calibration.to_str().unwrap();
    let more = ["--profile", "exact,tolerant", "--attack", rows, "--calibration", given];
    let (code, text) = lab(&out, &more);
    let found = report(&out);
    for row in found["rows"].as_array().unwrap() {
        let is_forged = row["id"] == "proof-random" || row["id"] == "garbage";
        if row["honest"] == true {
            assert_eq!(row["outcome"], "accepted", "{row}\n{text}");
        } else if is_forged || row["profile"] == "exact" {
            let outcome = row["outcome"].as_str().unwrap();
            assert!(["rejected", "nothing_to_detect"].contains(&outcome), "{row}\n{text}");
        }
    }
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(found["calibration"]["rollouts"], 128);
    std::fs::write(&calibration, b"{}").unwrap();
    let (code, text) = lab(&dir.path().join("other"), &more);
    assert!(code == Some(1) && text.contains("cannot be used"), "{text}");
}

#[test]
fn the_list_names_every_row_with_its_profiles() {
    let output = grail().args(["lab", "attacks", "--list", "--json"]).output().unwrap();
    output.clone().assert().success();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let find = |id: &str| rows.iter().find(|row| row["id"] == id).unwrap();
    assert_eq!(find("honest")["profiles"], serde_json::json!(["exact", "tolerant", "v5"]));
    assert_eq!(find("garbage")["profiles"], serde_json::json!(["exact", "tolerant"]));
    assert!(rows.len() > 50);
    let text = grail().args(["lab", "attacks", "--list"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&text.stdout).lines().count(), rows.len());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("lab");
    for (more, part) in [
        (&["--attack", "bribery"][..], "--attack bribery is no row"),
        (&["--profile", "v7"], "use exact, tolerant or v5"),
        (&["--rollouts", "0"], "the argument '--rollouts <N>' cannot be used multiple times"),
        (&["--max-new-tokens", "0"], "--max-new-tokens"),
        (&["--model", "absent.gguf"], "no model at absent.gguf"),
    ] {
        let (code, text) = lab(&out, more);
        assert_ne!(code, Some(0), "{more:?}: {text}");
        assert!(text.contains(part), "{more:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    assert!(!out.exists(), "nothing was begun");
}
