//! What the node answers, against its own metadata and against what a real node was recorded to say.

use std::sync::Arc;

use grail_protocol::ids::Hotkey;
use serde_json::{Value as Json, json};

use super::*;
use crate::local::chain::rules::{ALICE, ChainRules};
use crate::substrate::Value;

const MINER: Hotkey = Hotkey([12; 32]);

fn node(runtime: Arc<Runtime>) -> Arc<Node> {
    let rules = ChainRules { sudo: Some(ALICE), ..ChainRules::local(1_700_000_000_000) };
    let neurons = [(Hotkey([11; 32]), 1000), (MINER, 0)];
    Node::new(LocalChain::in_memory(rules, &[1; 32], &neurons).unwrap(), runtime)
}

pub(super) async fn ask(node: &Arc<Node>, method: &str, params: Json) -> Json {
    let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    answer(node, request.to_string().as_bytes()).await.unwrap()
}

pub(super) fn unhex(json: &Json) -> Vec<u8> {
    hex::decode(json.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

#[tokio::test]
async fn every_runtime_function_has_the_shape_of_the_metadata() {
    let node = node(Runtime::current());
    node.chain.advance(3).unwrap();
    let runtime = node.runtime();
    let block = node.chain.sealed_at(node.chain.head().number).unwrap();
    let view = apis::View { rules: node.chain.rules(), runtime: &runtime, block: &block };
    let indices = Vec::from_iter(0_u16..77);
    let selective = parity_scale_codec::Encode::encode(&(81_u16, indices));
    let mut failures = Vec::new();
    for (name, args) in [
        ("SubnetInfoRuntimeApi_get_metagraph", vec![81, 0]),
        ("SubnetInfoRuntimeApi_get_mechagraph", vec![81, 0, 0]),
        ("SubnetInfoRuntimeApi_get_next_epoch_start_block", vec![81, 0]),
        ("SubnetInfoRuntimeApi_get_subnet_hyperparams", vec![81, 0]),
        ("SubnetInfoRuntimeApi_get_subnet_hyperparams_v2", vec![81, 0]),
        ("SubnetInfoRuntimeApi_get_subnet_hyperparams_v3", vec![81, 0]),
        ("SubnetInfoRuntimeApi_get_selective_metagraph", selective),
        ("NeuronInfoRuntimeApi_get_neurons_lite", vec![81, 0]),
        ("NeuronInfoRuntimeApi_get_neurons", vec![81, 0]),
        ("NeuronInfoRuntimeApi_get_neuron_lite", vec![81, 0, 1, 0]),
    ] {
        if let Err(error) = view.described(name, &args).unwrap() {
            failures.push(format!("{name}: {error}"));
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

#[tokio::test]
async fn metadata_comes_in_both_formats() {
    let node = node(Runtime::current());
    let versions = ask(&node, "state_call", json!(["Metadata_metadata_versions", "0x"])).await;
    assert_eq!(versions["result"], "0x080e0000000f000000");
    let answer = ask(&node, "state_call", json!(["Metadata_metadata_at_version", "0x0f000000"]));
    let new = crate::substrate::Metadata::parse_at_version(&unhex(&answer.await["result"]));
    let new = new.unwrap().unwrap();
    let old = unhex(&ask(&node, "state_getMetadata", json!([])).await["result"]);
    let old = crate::substrate::Metadata::parse(&old).unwrap();
    assert_eq!((old.format(), new.format()), (14, 15));
    assert_eq!(old.extensions().len(), new.extensions().len());
    let absent = ask(&node, "state_call", json!(["Metadata_metadata_at_version", "0x10000000"]));
    assert_eq!(absent.await["result"], "0x00");
}

/// Clients read the pace of a chain and its beacon from the chain itself.
#[tokio::test]
async fn the_runtime_and_its_storage_tell_the_chains_own_rules() {
    let key = grail_protocol::timelock::BeaconPublicKey([5; 96]);
    let schedule =
        grail_protocol::randomness::BeaconSchedule { genesis_ms: 7_900, period_ms: 1_500 };
    let rules = ChainRules {
        block_time_ms: 3000,
        beacon_key: Some(key),
        beacon_times: Some(schedule.into()),
        ..ChainRules::local(1_700_000_000_000)
    };
    let chain = LocalChain::in_memory(rules, &[1; 32], &[(MINER, 0)]).unwrap();
    let node = Node::new(chain, Runtime::current());
    let answer = ask(&node, "state_call", json!(["Metadata_metadata_at_version", "0x0f000000"]));
    let new = crate::substrate::Metadata::parse_at_version(&unhex(&answer.await["result"]));
    let old = unhex(&ask(&node, "state_getMetadata", json!([])).await["result"]);
    for metadata in [new.unwrap().unwrap(), crate::substrate::Metadata::parse(&old).unwrap()] {
        for (pallet, name, value) in
            [("Aura", "SlotDuration", 3000_u64), ("Timestamp", "MinimumPeriod", 1500)]
        {
            assert_eq!(metadata.constant(pallet, name).unwrap(), Value::from(value));
        }
        // The official SDK sets no weights where it is missing.
        let item = metadata.storage("SubtensorModule", "SubnetEpochConsensus").unwrap();
        assert_eq!(item.decode(None).unwrap(), Some(Value::unit("Yuma")));
        let item = metadata.storage("Drand", "BeaconConfig").unwrap();
        let item_key = format!("0x{}", hex::encode(item.key(&[]).unwrap()));
        let stored = unhex(&ask(&node, "state_getStorage", json!([item_key])).await["result"]);
        let stored = item.decode(Some(&stored)).unwrap().unwrap();
        assert_eq!(stored.field("public_key").unwrap(), &Value::bytes(key.0));
        assert_eq!(stored.field("period").unwrap().as_uint(), Ok(2_u32));
        assert_eq!(stored.field("genesis_time").unwrap().as_uint(), Ok(7_u32));
    }
    assert_eq!(
        ask(&node, "state_getRuntimeVersion", json!([])).await["result"]["specVersion"],
        461
    );
}

#[tokio::test]
async fn storage_reads_back_what_was_done() {
    let node = node(Runtime::current());
    node.chain.advance(1).unwrap();
    let runtime = node.runtime();
    let item = runtime.metadata.storage("SubtensorModule", "Keys").unwrap();
    let prefix = item.key(&[Value::from(81_u16)]).unwrap();
    let prefix = format!("0x{}", hex::encode(prefix));
    let keys = ask(&node, "state_getKeysPaged", json!([prefix, 1, prefix])).await;
    let keys = keys["result"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 1);
    let rest = ask(&node, "state_getKeysPaged", json!([prefix, 1000, keys[0]])).await;
    let second = &rest["result"][0];
    assert_eq!(rest["result"].as_array().unwrap().len(), 1);
    let value = ask(&node, "state_getStorage", json!([second])).await;
    assert_eq!(unhex(&value["result"]), MINER.0);
    let absent = ask(&node, "state_getStorage", json!(["0x00"])).await;
    assert_eq!(absent["result"], Json::Null);
}

#[tokio::test]
async fn nonsense_is_refused_with_the_protocols_codes() {
    let node = node(Runtime::current());
    for (text, code) in [
        ("{", -32700),
        ("[]", -32600),
        ("1", -32600),
        (r#"{"method":"system_chain","params":{"a":1}}"#, -32602),
        (r#"{"method":"mint"}"#, -32601),
    ] {
        let found = answer(&node, text.as_bytes()).await.unwrap();
        assert_eq!(found["error"]["code"], code, "{text}");
    }
    let batch = vec![json!({"method": "system_chain"}); BATCH_MAX + 1];
    let found = answer(&node, json!(batch).to_string().as_bytes()).await.unwrap();
    assert_eq!(found["error"]["code"], -32010);
    node.chain.advance(3).unwrap();
    let old = node.chain.sealed_at(grail_protocol::ids::BlockNumber(1)).unwrap().row.hash;
    node.chain.prune(1);
    let hash = format!("0x{old}");
    let found = ask(&node, "state_getStorage", json!(["0x00", hash])).await;
    assert!(found["error"]["message"].as_str().unwrap().contains("State already discarded"));
}
