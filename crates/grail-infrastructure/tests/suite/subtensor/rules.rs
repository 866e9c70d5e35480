//! The client's arithmetic against vectors of the published packages.

use grail_infrastructure::subtensor::schedule::{EpochState, opening};
use grail_infrastructure::subtensor::weights::{quantise, seal};
use grail_infrastructure::subtensor::{Subnet, storage_index};
use grail_ports::chain::WeightSubmission;
use grail_protocol::ids::{Hotkey, Uid};
use grail_protocol::timelock::drand::COMMIT_BYTES_MIN;
use grail_testkit::vectors;
use serde_json::Value;

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
    let file = "timelock/reveal_block_prediction.json";
    vectors::every_entry("bittensor", file, "cases", 43, |case| {
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
    let file = "timelock/frozen_clock_commits.json";
    vectors::every_entry("bittensor", file, "cases", 12, |case| {
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

        let list = |name: &str| -> Vec<u16> {
            let list = case[name].as_array().unwrap().iter();
            list.map(|item| u16::try_from(item.as_u64().unwrap()).unwrap()).collect()
        };
        let key = hex::decode(&case["hotkey_public_key"].as_str().unwrap()[2..]).unwrap();
        let weights = grail_infrastructure::subtensor::weights::Quantised {
            uids: list("uids"),
            values: list("values"),
            version_key: number(case, "version_key"),
        };
        let hotkey = Hotkey(key.try_into().unwrap());
        let commit = seal(hotkey, &weights, opening.round, &[7; 32]).unwrap();
        let theirs = case["commit"].as_str().unwrap().len() / 2 - 1;
        assert_eq!(commit.len(), theirs);
        assert!(commit.len() > COMMIT_BYTES_MIN);
    });
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
    vectors::every_entry("bittensor", "weights/quantise.json", "cases", 35, |case| {
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
        match quantise(&subnet, &submission) {
            Ok((_, quantised)) => {
                assert_eq!(serde_json::json!(quantised.uids), want["uids"], "{case}");
                assert_eq!(serde_json::json!(quantised.values), want["values"], "{case}");
            }
            Err(_) => assert!(want.get("error").is_some(), "{case}"),
        }
    });
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
