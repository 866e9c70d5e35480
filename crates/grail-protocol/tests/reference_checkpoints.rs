//! Checkpoints of the reference: metadata, signatures, markers and retention, case by case.

#![expect(clippy::unwrap_used, reason = "vectors that do not read fail the test")]

use std::collections::{BTreeMap, BTreeSet};

use grail_protocol::checkpoint::reference::delta_metadata::DeltaMetadata;
use grail_protocol::checkpoint::reference::generation::SamplingParams;
use grail_protocol::checkpoint::reference::{ReferenceMetadata, defaults};
use grail_protocol::checkpoint::retention::{
    Inventory, Links, Ready, anchor, is_anchor, keep_windows, publisher_keeps, window_of,
};
use grail_protocol::checkpoint::{
    CheckpointError, CheckpointType, Protocol, Published, SignedFiles, Unsigned, WeightsHash,
};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::v5::python::json::{self, Value as Python};
use grail_testkit::vectors::{bytes, every_case, every_entry, list, load, path, python, text};
use serde_json::Value;

const TOPIC: &str = "checkpoints";

fn window(value: &Value) -> Window {
    Window::from_start(value.as_u64().unwrap()).unwrap()
}

fn windows(value: &Value) -> BTreeSet<i64> {
    list(value).iter().map(|window| window.as_i64().unwrap()).collect()
}

/// An object of the published bucket.
#[expect(clippy::disallowed_methods, reason = "the rules read no file; their tests read vectors")]
fn object(key: &str) -> Option<Vec<u8>> {
    std::fs::read(path(TOPIC, "bucket").join(key)).ok()
}

fn bucket_keys() -> Vec<String> {
    let listing = load(TOPIC, "bucket_listing.json");
    list(&listing["keys"]).iter().map(|key| text(key).to_owned()).collect()
}

#[test]
fn published_metadata_is_verified_and_written_byte_for_byte() {
    every_case(TOPIC, "metadata_signatures.json", |case| {
        let key = text(&case["key"]);
        let bytes = object(key).unwrap();
        let signature = object(&key.replace("metadata.json", "manifest.sig")).unwrap();
        assert_eq!(
            String::from_utf8(signature.clone()).unwrap(),
            text(&case["signature"]),
            "{key}"
        );
        let signer: Hotkey = text(&case["signer"]).parse().unwrap();
        let named = Window::from_start(u64::try_from(window_of(key).unwrap()).unwrap()).unwrap();
        let open = |metadata: &[u8], signature: Option<&[u8]>, unsigned| {
            Published::open(&SignedFiles { metadata, signature }, signer, named, unsigned)
        };
        let opened = open(&bytes, Some(&signature), Unsigned::Refuse);
        assert_eq!(opened.is_ok(), case["verify"].as_bool().unwrap(), "{key}: {opened:?}");
        let Published::V5(metadata) = opened.unwrap() else { panic!("{key} is of v5") };
        assert_eq!(metadata.to_json().into_bytes(), bytes, "{key}");
        assert_eq!(metadata.canonical(), text(&case["canonical"]), "{key}");
        let config_hash = ReferenceMetadata::hash_config(&metadata.training_config);
        assert_eq!(config_hash, text(&case["config_hash"]), "{key}");
        assert_eq!(metadata.config_hash, Some(config_hash), "{key}");
        let parsed = json::parse(std::str::from_utf8(&bytes).unwrap()).unwrap();
        let names: Vec<&str> =
            parsed.as_object().unwrap().iter().map(|(key, _)| key.as_str().unwrap()).collect();
        let wanted: Vec<&str> = list(&case["keys_in_file_order"]).iter().map(text).collect();
        assert_eq!(names, wanted, "{key}");

        // Every byte of a value counts, and a signature may only be missing where that is allowed.
        let changed = String::from_utf8(bytes.clone()).unwrap().replace("\"git", "\"x\": 1, \"git");
        let refused = open(changed.as_bytes(), Some(&signature), Unsigned::Tolerate);
        assert!(matches!(refused, Err(CheckpointError::BadSignature(_))), "{key}: {refused:?}");
        assert_eq!(open(&bytes, None, Unsigned::Refuse), Err(CheckpointError::Unsigned), "{key}");
        assert_eq!(open(&bytes, None, Unsigned::Tolerate), Ok(Published::V5(metadata)), "{key}");
    });
}

#[test]
fn a_protocol_that_nobody_here_speaks_is_named() {
    let signer: Hotkey = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY".parse().unwrap();
    let window = Window::from_start(30).unwrap();
    for (metadata, named) in [
        (r#"{"protocol": "v7", "window": 30}"#, "'v7'"),
        (r#"{"protocol": null}"#, "None"),
        (r#"{"protocol": 6}"#, "6"),
        // Only the absence says v5: whoever writes the field is another program.
        (r#"{"protocol": "V5"}"#, "'V5'"),
    ] {
        let files = SignedFiles { metadata: metadata.as_bytes(), signature: None };
        let error = Published::open(&files, signer, window, Unsigned::Tolerate).unwrap_err();
        assert_eq!(error, CheckpointError::UnknownProtocol(named.to_owned()));
        assert!(error.to_string().contains("it waits"), "{error}");
    }
    let value = json::parse(r#"{"protocol": "v5"}"#).unwrap();
    assert_eq!(Protocol::of(&value), Ok(Protocol::V5));
    for damaged in
        ["", "[]", "{", "{\"window\": 31}", "{\"window\": 60}", "{\"file_manifest\": []}"]
    {
        let files = SignedFiles { metadata: damaged.as_bytes(), signature: None };
        assert!(Published::open(&files, signer, window, Unsigned::Tolerate).is_err(), "{damaged}");
    }
}

#[test]
fn complaints_are_the_references() {
    every_case(TOPIC, "metadata_validation.json", |case| {
        let read = python(&case["metadata"]);
        let metadata = ReferenceMetadata::from_value(&read, window(&case["metadata"]["window"]));
        let missing: Vec<&str> = list(&case["missing"]).iter().map(text).collect();
        assert_eq!(metadata.unwrap().missing(), missing, "{}", case["name"]);
    });
    every_entry(TOPIC, "metadata_validation.json", "generation_params", 46, |case| {
        // A number that JSON has no text for stands in quotes, which Python converts just as well.
        let read = SamplingParams::read(&python(&case["input"]));
        if case["ok"] != true {
            assert_eq!(read.unwrap_err().to_string(), text(&case["error"]), "{case}");
            return;
        }
        let (read, want) = (read.unwrap(), &case["value"]);
        assert_eq!(Value::from(read.max_new_tokens), want["max_new_tokens"], "{case}");
        assert_eq!(Value::from(read.temperature), want["temperature"], "{case}");
        assert_eq!(Value::from(read.top_p), want["top_p"], "{case}");
        assert_eq!(read.top_k.map_or(Value::Null, Value::from), want["top_k"], "{case}");
        assert_eq!(Value::from(read.repetition_penalty), want["repetition_penalty"], "{case}");
        assert_eq!(
            (&want["do_sample"], &want["trim_right_padding"]),
            (&true.into(), &false.into())
        );
    });
}

#[test]
fn a_publisher_says_what_the_reference_says() {
    every_case(TOPIC, "publisher_defaults.json", |case| {
        let setting = |name: &str| case["env"].get(name).map(|value| text(value).to_owned());
        let check = |found: Result<Python, String>, want: &Value| match found {
            Ok(value) => assert_eq!(value, python(&want["value"]), "{case}"),
            Err(error) => {
                assert_eq!((error.as_str(), false), (text(&want["error"]), want["ok"] == true));
            }
        };
        let environment = defaults::environment(&setting);
        let environment =
            environment.map(|(id, params)| Python::List(vec![id.as_str().into(), params]));
        check(environment.map_err(|error| error.to_string()), &case["env_config"]);
        let thinking_mode = defaults::thinking_mode(&setting).map(|mode| mode.as_str().into());
        check(thinking_mode.map_err(|error| error.to_string()), &case["thinking_mode"]);
        let params = defaults::generation_params(&setting);
        assert_eq!(params, python(&case["generation_params"]), "{case}");
    });
}

#[test]
fn retention_is_the_references() {
    every_case(TOPIC, "retention.json", |case| {
        let current = case["current_window"].as_i64().unwrap();
        assert_eq!(keep_windows(current, None), windows(&case["keep"]), "{current}");
        assert_eq!(Value::from(anchor(current)), case["anchor"], "{current}");
        assert_eq!(Value::from(is_anchor(current)), case["is_anchor"], "{current}");
    });
    every_entry(TOPIC, "retention.json", "chain", 12, |case| {
        let map = |value: &Value| -> BTreeMap<i64, i64> {
            let entries = value.as_object().unwrap().iter();
            entries.map(|(key, value)| (key.parse().unwrap(), value.as_i64().unwrap())).collect()
        };
        let links = Links { prev: map(&case["chain_map"]), anchor: map(&case["anchor_map"]) };
        let retained: Vec<i64> = windows(&case["retained"]).into_iter().collect();
        assert_eq!(links.needed(&retained), windows(&case["keep"]), "{case}");
    });
    every_entry(TOPIC, "retention.json", "inventory", 1, |case| {
        let inventory = Inventory::of(list(&case["keys"]).iter().map(text));
        let lists = [inventory.all, inventory.full_only, inventory.delta];
        assert_eq!(Value::from(lists.map(Value::from).to_vec()), case["inventory"], "{case}");
    });
    every_entry(TOPIC, "retention.json", "parse_prefix", 11, |case| {
        let found = window_of(text(&case["prefix"]));
        assert_eq!(found.map_or(Value::Null, Value::from), case["window"], "{case}");
    });
    let paths = &load(TOPIC, "retention.json")["paths"];
    let at = window(&paths["window"]);
    let delta = keys::delta_file(at, keys::METADATA_FILE);
    let full = keys::checkpoint_file(at, keys::METADATA_FILE);
    assert_eq!(
        (full.as_str(), delta.as_str()),
        (text(&paths["full_meta"]), text(&paths["delta_meta"]))
    );
    assert!(full.starts_with(text(&paths["full"])) && delta.starts_with(text(&paths["delta"])));
    let marker = keys::ReadyMarker::parse(text(&paths["ready"])).unwrap();
    assert_eq!((marker.checkpoint, marker.key().as_str()), (at, text(&paths["ready"])));
    println!("vectors: {TOPIC}/retention.json: {} paths", paths.as_object().unwrap().len());
}

#[test]
fn milestones_stay_and_names_cannot_fill_the_memory() {
    let keep = keep_windows(3_030, Some(20));
    assert!([600, 1_200, 1_800, 2_400, 3_000].iter().all(|window| keep.contains(window)));
    assert!(!keep.contains(&1_230));
    assert!(keep_windows(i64::MAX, Some(1)).len() < 20_000);
    assert!(keep_windows(i64::MIN, Some(1)).is_empty());
    assert_eq!(publisher_keeps(&Inventory::default(), &Links::default(), Some(1)), BTreeSet::new());
    // A chain that goes round ends.
    let links = Links { prev: [(60, 30), (30, 60)].into(), anchor: [(60, 0)].into() };
    assert_eq!(links.needed(&[60]), [0, 30, 60].into());
}

#[test]
fn a_publisher_keeps_what_the_reference_keeps() {
    let keys = bucket_keys();
    let inventory = Inventory::of(keys.iter().map(String::as_str));
    let mut links = Links::default();
    for delta in &inventory.delta {
        let at = Window::from_start(u64::try_from(*delta).unwrap()).unwrap();
        let bytes = object(&keys::delta_file(at, keys::METADATA_FILE)).unwrap();
        let value = json::parse(std::str::from_utf8(&bytes).unwrap()).unwrap();
        let metadata = ReferenceMetadata::from_value(&value, at).unwrap();
        let start = |window: Window| i64::try_from(window.start().0).unwrap();
        links.prev.extend(metadata.prev_window.map(|prev| (*delta, start(prev))));
        links.anchor.extend(metadata.anchor_window.map(|anchor| (*delta, start(anchor))));
    }
    let want = windows(&load(TOPIC, "publisher_keep_windows.json")["keep"]);
    println!("vectors: {TOPIC}/publisher_keep_windows.json: {} windows", want.len());
    assert!(!want.is_empty());
    assert_eq!(publisher_keeps(&inventory, &links, None), want);
}

#[test]
fn markers_and_metadata_are_found_as_in_the_reference() {
    let keys = bucket_keys();
    let names = || keys.iter().map(String::as_str);
    let mut ran = BTreeMap::<String, usize>::new();
    every_case(TOPIC, "consumer.json", |case| {
        let op = text(&case["op"]);
        *ran.entry(op.to_owned()).or_default() += 1;
        let shown = |found: Option<i64>| found.map_or(Value::Null, Value::from);
        match op {
            "get_latest_ready_checkpoint" => {
                let before = case["before_window"].as_i64().unwrap();
                let found = Ready::latest(names(), before).map(|marker| marker.checkpoint);
                assert_eq!(shown(found), case["result"], "{case}");
                let full = Ready::latest_full(names(), before).map(|marker| marker.checkpoint);
                assert_eq!(shown(full), case["latest_full"], "{case}");
            }
            "get_checkpoint_metadata" => check_metadata(case),
            // Downloads are the consumer's, which the services hold.
            "get_checkpoint cold cache" => {}
            other => panic!("{other}"),
        }
    });
    println!("vectors: {TOPIC}/consumer.json: {ran:?}");
}

/// Metadata of the fast path: that of the delta first.
fn check_metadata(case: &Value) {
    let Ok(at) = Window::from_start(case["window"].as_u64().unwrap()) else {
        // The reference asks the bucket for it; ours has no such window.
        assert!(case["type"].is_null() && case["missing"].is_null(), "{case}");
        return;
    };
    let found =
        [keys::delta_file(at, keys::METADATA_FILE), keys::checkpoint_file(at, keys::METADATA_FILE)]
            .iter()
            .find_map(|key| object(key));
    let Some(found) = found else {
        assert!(case["type"].is_null() && case["missing"].is_null(), "{case}");
        return;
    };
    let value = json::parse(std::str::from_utf8(&found).unwrap()).unwrap();
    let metadata = ReferenceMetadata::from_value(&value, at).unwrap();
    let start = |window: Option<Window>| window.map_or(Value::Null, |it| it.start().0.into());
    let kind = match metadata.checkpoint_type.unwrap() {
        CheckpointType::Full => "FULL",
        CheckpointType::Delta => "DELTA",
    };
    assert_eq!(kind, case["type"], "{case}");
    assert_eq!(start(metadata.prev_window), case["prev_window"], "{case}");
    assert_eq!(start(metadata.anchor_window), case["anchor_window"], "{case}");
    assert_eq!(Value::from(metadata.env_id.as_str()), case["env_id"], "{case}");
    assert_eq!(Value::from(metadata.missing()), case["missing"], "{case}");
}

#[test]
fn every_state_has_the_published_hash() {
    every_case(TOPIC, "states.json", |case| {
        let tensors = case["state"].as_object().unwrap().iter();
        let tensors: Vec<(&str, Vec<u8>)> =
            tensors.map(|(name, tensor)| (name.as_str(), bytes(&tensor["le_hex"]))).collect();
        let hash = WeightsHash::of(tensors.iter().map(|(name, bytes)| (*name, &bytes[..])));
        assert_eq!(hash.to_string(), text(&case["weights_hash"]), "{}", case["window"]);
        let published = list(&load(TOPIC, "bucket_listing.json")["keys"])
            .iter()
            .map(text)
            .filter(|key| {
                window_of(key) == case["window"].as_i64() && key.ends_with("/metadata.json")
            })
            .map(|key| String::from_utf8(object(key).unwrap()).unwrap())
            .collect::<Vec<_>>();
        assert!(!published.is_empty());
        assert!(published.iter().all(|metadata| metadata.contains(&hash.to_string())), "{case}");
    });
}

#[test]
fn what_is_said_of_a_delta_is_written_byte_for_byte() {
    let keys = bucket_keys();
    let files: Vec<&String> =
        keys.iter().filter(|key| key.ends_with("/delta_metadata.json")).collect();
    for key in &files {
        let file = object(key).unwrap();
        let value: Value = serde_json::from_slice(&file).unwrap();
        let parsed = json::parse(std::str::from_utf8(&file).unwrap()).unwrap();
        let shapes = parsed.get("shapes").unwrap().as_object().unwrap().iter();
        let shapes = shapes.map(|(name, sizes)| {
            let size = |size: &Python| match size {
                Python::Integer(size) => u64::try_from(*size).unwrap(),
                other => panic!("{other:?} is no size"),
            };
            let sizes = sizes.as_list().unwrap().iter().map(size).collect();
            (name.as_str().unwrap().to_owned(), sizes)
        });
        let metadata = DeltaMetadata {
            format: DeltaMetadata::read_format(&file).unwrap(),
            threshold: value["threshold"].as_f64().unwrap(),
            prev_window: window(&value["prev_window"]),
            anchor_window: window(&value["anchor_window"]),
            shapes: shapes.collect(),
            total_params: value["total_params"].as_u64().unwrap(),
            nonzero_params: value["nonzero_params"].as_u64().unwrap(),
        };
        assert_eq!(metadata.to_json().into_bytes(), file, "{key}");
    }
    println!("vectors: {TOPIC}/bucket: {} files about deltas", files.len());
    assert!(!files.is_empty());
    for text in ["", "{}", "{\"format\": \"sparse_codec_v4\"}", "{\"format\": 3}"] {
        assert!(DeltaMetadata::read_format(text.as_bytes()).is_err(), "{text}");
    }
}
