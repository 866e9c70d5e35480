//! The client's arithmetic against vectors of the published packages.

use grail_infrastructure::subtensor::schedule::{EpochState, QUICKNET, opening};
use grail_infrastructure::subtensor::weights::{Quantised, quantise, quicknet_key, seal};
use grail_infrastructure::subtensor::{Subnet, storage_index};
use grail_ports::chain::{ChainError, WeightSubmission};
use grail_protocol::ids::{Hotkey, Uid};
use grail_protocol::timelock::drand::{self, COMMIT_BYTES_MIN, open_commit, open_envelope};
use grail_protocol::timelock::{RoundOpener, RoundSignature, SealTo};
use grail_testkit::vectors;
use serde_json::Value;

const TIMELOCK: &str = "bittensor/timelock";

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} in {value}"))
}

fn state(value: &Value) -> EpochState {
    EpochState {
        tempo: number(value, "tempo"),
        last_epoch_block: number(value, "last_epoch_block"),
        pending_epoch_at: number(value, "pending_epoch_at"),
        index: number(value, "subnet_epoch_index"),
        blocks_since_last_step: number(value, "blocks_since_last_step"),
    }
}

#[test]
fn the_block_that_opens_seals_is_predicted() {
    let file = "reveal_block_prediction.json";
    vectors::every_entry(TIMELOCK, file, "cases", 43, |case| {
        let head = number(case, "current_block");
        let found = state(case).opening(head, number(case, "reveal_period_epochs"));
        match case.get("first_reveal_block").and_then(Value::as_u64) {
            Some(block) => assert_eq!(found.unwrap().1, block, "{case}"),
            None => assert!(found.is_err(), "{case}"),
        }
    });
}

#[test]
fn seals_name_the_round_and_have_the_length_of_the_package() {
    vectors::every_entry(TIMELOCK, "frozen_clock_commits.json", "cases", 12, |case| {
        let head = number(&case["state"], "current_block");
        let block_time_ms = (case["block_time"].as_f64().unwrap() * 1_000.0) as u64;
        let opening = opening(
            state(&case["state"]),
            head,
            number(case, "unix_time") * 1_000,
            block_time_ms,
            number(case, "reveal_period_epochs"),
        )
        .unwrap();
        assert_eq!(opening.block, number(case, "first_reveal_block"));
        assert_eq!(opening.round, number(case, "reveal_round"));

        let (hotkey, weights) = payload(case);
        let commit = seal(hotkey, &weights, opening.round, &[7; 32]).unwrap();
        let theirs = vectors::bytes(&case["commit"]);
        assert_eq!(commit.len(), theirs.len());
        assert!(commit.len() > COMMIT_BYTES_MIN);
        // Where the round has come out, both open to the same payload.
        if case.get("round_signature").is_some() {
            let opener = opener(case, opening.round);
            let payload = vectors::bytes(&case["decrypted_payload"]);
            assert_eq!(open_commit(&theirs, &opener).unwrap(), payload);
            assert_eq!(open_commit(&commit, &opener).unwrap(), payload);
        }
    });
}

fn opener(case: &Value, round: u64) -> RoundOpener {
    let signature = RoundSignature(vectors::bytes(&case["round_signature"]).try_into().unwrap());
    RoundOpener::new(quicknet_key(), round, signature).unwrap()
}

/// What the package sealed opens here, and what is sealed here has the package's length and opens.
#[test]
fn seals_of_the_package_open_and_ours_have_their_length() {
    vectors::every_entry(TIMELOCK, "ciphertexts.json", "cases", 10, |case| {
        let file = vectors::load(TIMELOCK, "ciphertexts.json");
        assert_eq!(vectors::bytes(&file["public_key"]), quicknet_key().0);
        assert_eq!(file["genesis_time"], QUICKNET.genesis_ms / 1_000);
        assert_eq!(file["period_s"], QUICKNET.period_ms / 1_000);
        let round = number(case, "round");
        let opener = opener(case, round);
        let commit = vectors::bytes(&case["commit"]);
        let envelope = vectors::bytes(&case["envelope"]);
        let content = open_commit(&commit, &opener).unwrap();
        assert_eq!(open_envelope(&envelope, &opener).unwrap(), content);
        assert_eq!(drand::envelope(&commit, round).unwrap(), envelope);
        let ours = if case["kind"] == "weights_payload" {
            assert_eq!(content, vectors::bytes(&case["payload_scale"]));
            let (hotkey, weights) = payload(case);
            seal(hotkey, &weights, round, &[9; 32]).unwrap()
        } else {
            assert_eq!(content, vectors::bytes(&case["plaintext"]));
            let to = SealTo { key: quicknet_key(), round };
            drand::seal_commit(to, &content, &[9; 32]).unwrap()
        };
        assert_eq!(ours.len(), commit.len());
        assert_ne!(ours, commit, "a seal is random");
        assert_eq!(open_commit(&ours, &opener).unwrap(), content);
    });
    vectors::every_entry(TIMELOCK, "ciphertexts.json", "failures", 4, |case| {
        assert_eq!(case["result"]["ok"], false);
        let opener = opener(case, 1_000);
        let error = open_envelope(&vectors::bytes(&case["envelope"]), &opener).unwrap_err();
        assert!(!error.to_string().is_empty(), "{case}");
    });
}

/// Returns who sealed, and what.
fn payload(case: &Value) -> (Hotkey, Quantised) {
    let small = |name: &str| -> Vec<u16> {
        let numbers = vectors::sizes(&case[name]).into_iter();
        numbers.map(|number| u16::try_from(number).unwrap()).collect()
    };
    let hotkey = vectors::bytes(&case["hotkey_public_key"]).try_into().unwrap();
    let (uids, values) = (small("uids"), small("values"));
    (Hotkey(hotkey), Quantised { uids, values, version_key: number(case, "version_key") })
}

fn subnet(own: u16, weights_min: u16, weight_share_max: u16) -> Subnet {
    Subnet {
        number: 0,
        timestamp_ms: 0,
        neurons: 4_096,
        uid: Some(Uid(own)),
        tempo: 360,
        last_epoch_block: 0,
        pending_epoch_at: 0,
        epoch_index: 0,
        blocks_since_last_step: 0,
        commit_reveal: false,
        reveal_period_epochs: 1,
        commit_reveal_version: 4,
        weights_rate_limit: 100,
        weights_version: 0,
        weights_min,
        weight_share_max,
        stake_min: 0,
        last_stored_round: 0,
    }
}

#[test]
fn weights_become_the_integers_of_the_package() {
    vectors::every_entry("bittensor/weights", "quantise.json", "cases", 35, |case| {
        let uids = case["uids"].as_array().unwrap();
        let weights = case["weights"].as_array().unwrap();
        let float = |value: &Value| match value.as_str() {
            Some("NaN") => f64::NAN,
            Some(_) => f64::INFINITY,
            None => value.as_f64().unwrap(),
        };
        let uid = |value: &Value| u16::try_from(value.as_u64().unwrap()).ok().map(Uid);
        let pairs: Option<Vec<(Uid, f64)>> =
            uids.iter().zip(weights).map(|(u, w)| Some((uid(u)?, float(w)))).collect();
        let want = &case["sdk11_conform"];
        // Lists of other lengths and larger uids cannot be said to this port.
        let (Some(pairs), true) = (pairs, uids.len() == weights.len()) else {
            assert!(want.get("error").is_some(), "{case}");
            return;
        };
        let small = |name: &str| u16::try_from(number(case, name)).unwrap();
        let subnet =
            subnet(small("own_uid"), small("min_allowed_weights"), small("max_weight_limit_u16"));
        let submission = WeightSubmission { weights: pairs, version_key: 0 };
        assert_quantised(quantise(&subnet, &submission), want, case);
        // Without limits, and the form of the older package: its single precision rounds the same.
        let free = quantise(&self::subnet(small("own_uid"), 0, u16::MAX), &submission);
        for name in ["sdk11_normalize", "sdk9_12_1_emit_f32"] {
            assert_quantised(free.clone(), &case[name], case);
        }
        if let (Some(shares), Ok((_, quantised))) =
            (case["sdk11_clip"].as_array(), quantise(&subnet, &submission))
        {
            assert_shares(&quantised, &submission, &vectors::floats(&Value::from(shares.clone())));
        }
    });
}

/// The packages send an empty row where nothing is above 0; the chain refuses it, so it is not sent.
fn assert_quantised(found: Result<(Uid, Quantised), ChainError>, want: &Value, case: &Value) {
    match found {
        Ok((_, quantised)) => {
            assert_eq!(serde_json::json!(quantised.uids), want["uids"], "{case}");
            assert_eq!(serde_json::json!(quantised.values), want["values"], "{case}");
        }
        Err(ChainError::Refused { name, .. }) => {
            let is_empty = want["uids"].as_array().is_some_and(Vec::is_empty);
            assert!(want.get("error").is_some() || is_empty, "{case}");
            assert!(!is_empty || name == "WeightVecLengthIsLow", "{name}: {case}");
        }
        Err(other) => panic!("{other}: {case}"),
    }
}

/// Checks the integers against the shares of the sum that the package clips to.
fn assert_shares(found: &Quantised, submission: &WeightSubmission, shares: &[f64]) {
    let largest = shares.iter().copied().fold(0.0, f64::max);
    for ((uid, _), share) in submission.weights.iter().zip(shares) {
        let value = found.uids.iter().position(|known| *known == uid.0);
        let value = value.map_or(0, |at| found.values[at]);
        let want = share / largest * f64::from(u16::MAX);
        assert!((f64::from(value) - want).abs() <= 0.5 + 1e-6, "{value} of {want}");
    }
}

#[test]
fn version_keys_and_strangers_are_refused_before_anything_is_sent() {
    let submission = |version_key| WeightSubmission { weights: vec![(Uid(1), 1.0)], version_key };
    let mut rules = subnet(3, 0, u16::MAX);
    rules.weights_version = 5;
    let refusal = quantise(&rules, &submission(4)).unwrap_err().to_string();
    assert!(refusal.contains("IncorrectWeightVersionKey"), "{refusal}");
    assert_eq!(quantise(&rules, &submission(9)).unwrap().1.version_key, 9);
    rules.uid = None;
    let refusal = quantise(&rules, &submission(9)).unwrap_err().to_string();
    assert!(refusal.contains("HotKeyNotRegisteredInSubNet"), "{refusal}");
    assert_eq!(storage_index(81, 0), 81);
    assert_eq!(storage_index(81, 2), 8_273);
}
