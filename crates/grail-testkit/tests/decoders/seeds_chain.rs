//! Valid inputs of the chain's targets, from what real nodes and packages were recorded to say.

use std::collections::BTreeSet;

use grail_testkit::vectors::{bytes, list, own};
use serde_json::{Value, json};

use crate::chain::{FUNCTIONS, ITEMS, KEYS, QUESTION_ID, QUESTIONS, WHOLE, warm_up};

/// Most inputs of one file.
const FILE_MAX: usize = 24;

fn load(topic: &str, file: &str) -> Value {
    let path = own(topic, file);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("vectors are JSON")
}

fn recorded(file: &str) -> Value {
    load("bittensor/recorded", file)
}

/// Metadata of three formats, of three runtimes.
pub fn metadata() -> Vec<Vec<u8>> {
    let files = [
        "subtensor_spec425_fast_v14.scale",
        "subtensor_spec461_v15.scale",
        "finney_spec393_v16.scale",
    ];
    warm_up();
    files.map(|file| std::fs::read(own("bittensor/metadata", file)).expect("it is there")).into()
}

/// Signed extrinsics of many calls, and the inherents of a real block.
pub fn extrinsics() -> Vec<Vec<u8>> {
    warm_up();
    let file = load("bittensor/extrinsics", "signed_spec461.json");
    let signed = list(&file["extrinsics"]).iter().map(|case| bytes(&case["extrinsic"]));
    let block = recorded("localnet_spec461.json");
    let block = list(&block["block"]["raw"]["block"]["extrinsics"]).iter().map(bytes);
    signed.take(FILE_MAX).chain(block).collect()
}

/// Keys and values of items, behind their two bytes.
pub fn storage() -> Vec<Vec<u8>> {
    warm_up();
    let localnet = recorded("localnet_spec461.json");
    let reads = list(&localnet["storage_values"]).iter();
    let mut seeds = Vec::new();
    for read in reads {
        let (pallet, name) = (&read["pallet"], &read["storage_function"]);
        let Some(index) = ITEMS.iter().position(|item| item.0 == *pallet && item.1 == *name) else {
            continue;
        };
        let index = u8::try_from(index).expect("a few items");
        seeds.push([&[index, 0], bytes(&read["key_hex"]).as_slice()].concat());
        if read["raw_hex"].is_string() {
            seeds.push([&[index, 1], bytes(&read["raw_hex"]).as_slice()].concat());
        }
    }
    let events = bytes(&localnet["events"]["raw_hex"]);
    seeds.push([&[at("Events"), 1], events.as_slice()].concat());
    let commitments = load("bittensor/storage", "values_commitments_spec461.json");
    for case in list(&commitments["values"]) {
        seeds.push([&[at("CommitmentOf"), 1], bytes(&case["scale"]).as_slice()].concat());
    }
    // Items whose types did not change since.
    let session = recorded("session_node425.json");
    for name in ["Uids", "Keys", "Weights", "LastUpdate", "RevealedCommitments"] {
        let named = list(&session["reads"]).iter().find(|read| read["item"] == name);
        let read = named.expect("the session reads it");
        seeds.push([&[at(name), 0], bytes(&read["key"]).as_slice()].concat());
        seeds.push([&[at(name), 1], bytes(&read["value_scale"]).as_slice()].concat());
    }
    seeds
}

fn at(name: &str) -> u8 {
    let index = ITEMS.iter().position(|(_, item)| *item == name).expect("it is one of the items");
    u8::try_from(index).expect("a few items")
}

/// Answers of the runtime, behind the byte of their function.
pub fn metagraphs() -> Vec<Vec<u8>> {
    warm_up();
    let files = [
        ("synthetic_metagraph_spec461.json", "get_metagraph", "option_scale"),
        ("synthetic_selective_metagraph_spec461.json", "get_selective_metagraph", "option_scale"),
        ("synthetic_neurons_lite_spec461.json", "get_neurons_lite", "scale"),
    ];
    let mut seeds = Vec::new();
    for (file, name, key) in files {
        let function = FUNCTIONS.iter().position(|(_, function)| *function == name);
        let function = u8::try_from(function.expect("it is one of them")).expect("a few");
        for case in list(&load("bittensor/metagraph", file)["cases"]) {
            seeds.push([&[function], bytes(&case[key]).as_slice()].concat());
        }
    }
    seeds
}

/// Recorded results, as the result alone and as a whole message.
pub fn replies() -> Vec<Vec<u8>> {
    let file = recorded("rpc_node425.json");
    let mut seeds = Vec::new();
    let mut add = |method: &str, result: &Value| {
        let Some(question) = QUESTIONS.iter().position(|question| *question == method) else {
            return;
        };
        let question = u8::try_from(question).expect("a few questions");
        seeds.push([&[question], result.to_string().as_bytes()].concat());
        if method != "chain_subscribeNewHeads" {
            let whole = json!({"jsonrpc": "2.0", "id": QUESTION_ID, "result": result});
            seeds.push([&[question | WHOLE], whole.to_string().as_bytes()].concat());
        }
    };
    let text = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
    let changes = KEYS.map(|key| json!([text(key), text(key)]));
    add("state_queryStorageAt", &json!([{"block": text(&[9; 32]), "changes": changes}]));
    add("state_getKeysPaged", &json!(KEYS.map(text)));
    add("state_getMetadata", &json!("0x6d657461"));
    let mut seen = BTreeSet::from(["state_queryStorageAt", "state_getKeysPaged"]);
    for record in list(&file["records"]) {
        if let Some(method) = record["method"].as_str() {
            // One of each, and what is absent.
            if record.get("result").is_some_and(|result| result.is_null() || seen.insert(method)) {
                add(method, &record["result"]);
            }
        } else if record["subscription"] == "chain_subscribeNewHeads" {
            add("chain_subscribeNewHeads", &record["messages"][0]["params"]["result"]);
        }
    }
    seeds
}
