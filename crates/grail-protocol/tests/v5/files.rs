//! Rollout files: packaging, the choice of rows, and copied completions.

use std::collections::{BTreeMap, BTreeSet};

use grail_protocol::v5::copycat::{self, CopycatTracker, Pair, Submission};
use grail_protocol::v5::file::{GroupKeys, Row, commit_digest, rows_to_check};
use grail_protocol::v5::metrics::{WindowMetrics, gate_copiers};
use grail_protocol::v5::python::json::Value as Python;
use grail_testkit::vectors::{
    bytes, every_case, every_entry, integer, is_own, list, load, python_list, size, sizes, text,
};
use serde_json::Value;

#[test]
fn rows_that_are_packaged_are_sampled_as_in_the_reference() {
    let files = python_list("group_sampling", "group_sampling.json", "cases");
    let mut files = files.iter();
    let mut sampled = 0;
    every_case("group_sampling", "group_sampling.json", |case| {
        let Some(rows) = files.next().unwrap().get("inferences").and_then(Python::as_list) else {
            return;
        };
        sampled += 1;
        let rows: Vec<Row> = rows.iter().map(|row| Row::from_payload(row).unwrap()).collect();
        let mut keys = GroupKeys::default();
        for row in &rows {
            keys.push(&row.rollout_group, &commit_digest(&row.commit));
        }
        for (group, place) in keys.places() {
            assert_eq!(integer(&case["group_index_by_id"][group]), *place as i128);
            if let Some(digests) = case.get("group_digests") {
                assert_eq!(keys.digests()[*place][..], bytes(&digests[group]), "group {group}");
            }
        }
        let [hotkey, randomness] = ["hotkey", "window_rand"].map(|key| text(&case[key]));
        assert_eq!(rows_to_check(hotkey, randomness, &rows), sizes(&case["indices"]));
    });
    assert!(!is_own() || sampled > 0, "no case has rows");
}

#[test]
fn copies_are_found_as_in_the_reference() {
    let file = load("copycat", "copycat.json");
    assert_eq!(file["window_threshold"], copycat::WINDOW_THRESHOLD);
    assert_eq!(file["interval_threshold"], copycat::INTERVAL_THRESHOLD);
    every_case("copycat", "copycat.json", |case| {
        let mut tracker = CopycatTracker::default();
        for window in list(&case["windows"]) {
            if let Some(interval) = window["reset_interval"].as_i64() {
                tracker.set_interval(interval);
            }
            let submissions = window["submissions"].as_object().unwrap().iter();
            let submissions: BTreeMap<String, Submission> = submissions
                .enumerate()
                .map(|(place, (miner, file))| (miner.clone(), submission(place, file)))
                .collect();
            let findings = tracker.ingest(&submissions);
            check_scope(window, "window", &findings.window);
            check_scope(window, "interval", &findings.interval);
        }
    });
}

/// A file whose digests that nobody else has are made up.
fn submission(place: usize, file: &Value) -> Submission {
    let shared = file["digests"].as_object().unwrap().iter();
    let mut digests: BTreeMap<[u8; 32], u64> = shared
        .map(|(digest, count)| {
            (bytes(&Value::from(digest.as_str())).try_into().unwrap(), count.as_u64().unwrap())
        })
        .collect();
    for other in 0..size(&file["other_unique_digests"]) {
        let mut digest = [0xff; 32];
        digest[..8].copy_from_slice(&(place as u64).to_be_bytes());
        digest[8..16].copy_from_slice(&(other as u64).to_be_bytes());
        digests.insert(digest, 1);
    }
    Submission {
        digests,
        total_rollouts: file["total_rollouts"].as_u64().unwrap(),
        uploaded: file["upload_time"].as_f64(),
    }
}

fn check_scope(window: &Value, scope: &str, pairs: &[Pair]) {
    let told = |pair: &Pair, is_violation: bool| {
        let [copier, victim] = if is_violation {
            [pair.cheater(), pair.victim()].map(|miner| miner.map(str::to_owned))
        } else {
            [None, None]
        };
        (BTreeSet::from(pair.miners.clone()), pair.shared, pair.denominator, copier, victim)
    };
    let named = |pair: &Value| {
        let miners = list(&pair["pair"]).iter().map(|miner| text(miner).to_owned());
        let miner = |key: &str| pair[key].as_str().map(str::to_owned);
        let count = |key: &str| pair[key].as_u64().unwrap();
        let counts = (count("shared"), count("denominator"));
        (miners.collect::<BTreeSet<_>>(), counts.0, counts.1, miner("copier"), miner("victim"))
    };
    let want = |key: &str| -> BTreeSet<_> {
        list(&window[format!("{scope}_{key}")]).iter().map(named).collect()
    };
    let all: BTreeSet<_> = pairs.iter().map(|pair| told(pair, false)).collect();
    assert_eq!(all, want("pairs"), "{scope}");
    let violations = pairs.iter().filter(|pair| pair.is_violation());
    let violations: BTreeSet<_> = violations.map(|pair| told(pair, true)).collect();
    assert_eq!(violations, want("violations"), "{scope}");
    for pair in list(&window[format!("{scope}_pairs")]) {
        let ours = pairs.iter().find(|ours| told(ours, false) == named(pair)).unwrap();
        assert_eq!(ours.ratio, pair["ratio"].as_f64().unwrap(), "{pair}");
    }
    let cheaters: BTreeSet<&str> = pairs.iter().filter_map(Pair::cheater).collect();
    let want: BTreeSet<&str> =
        list(&window[format!("{scope}_cheaters")]).iter().map(text).collect();
    assert_eq!(cheaters, want, "{scope}");
}

#[test]
fn the_later_upload_is_the_copy() {
    every_entry("copycat", "copycat.json", "attribution", 6, |case| {
        let later = copycat::later(["upload_a", "upload_b"].map(|key| case[key].as_f64()));
        assert_eq!(later.map(|miner| ["A", "B"][miner]), case["copier"].as_str(), "{case}");
        assert_eq!(later.map(|miner| ["B", "A"][miner]), case["victim"].as_str(), "{case}");
    });
}

#[test]
fn copiers_are_gated_as_in_the_reference() {
    let file = load("copycat", "copycat.json");
    let Some(gating) = file.get("gating") else { return };
    let read = |metrics: &Value| -> BTreeMap<String, WindowMetrics> {
        let miners = metrics.as_object().unwrap().iter();
        miners.map(|(miner, counts)| (miner.clone(), metrics_of(counts))).collect()
    };
    let mut metrics = read(&gating["before"]);
    let copiers = list(&gating["cheaters"]).iter().map(|miner| text(miner).to_owned()).collect();
    gate_copiers(&mut metrics, &copiers);
    assert_eq!(metrics, read(&gating["after"]));
}

/// Counts that the file leaves out are 0.
fn metrics_of(counts: &Value) -> WindowMetrics {
    let count = |key: &str| counts.get(key).map_or(0, |count| count.as_u64().unwrap());
    WindowMetrics {
        valid: count("valid"),
        checked: count("checked"),
        total: count("total"),
        estimated_valid: count("estimated_valid"),
        successful: count("successful"),
        estimated_successful: count("estimated_successful"),
        unique: count("unique"),
        estimated_unique: count("estimated_unique"),
        prompt_valid: count("prompt_valid"),
        prompt_mismatch: count("prompt_mismatch"),
        had_failure: count("had_failure") > 0,
    }
}
