//! Every refusal that a real node was recorded to give, and what the adapter makes of it: the class
//! of the error, its name, and what to do.

use std::collections::BTreeSet;

use grail_infrastructure::subtensor::Subtensor;
use grail_ports::chain::{Chain as _, ChainError};
use grail_testkit::vectors::{every_entry, text};
use serde_json::Value as Json;

use super::adapter::{connect, scripted, weights};
use super::chain::Chain;

const TOPIC: &str = "bittensor/recorded";

/// What is said where nothing is known that helps.
const NO_ADVICE: &str = "see the pallet's documentation";

/// Runs on paused time: what is waited for costs nothing.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(test);
}

fn assert_refused(outcome: &ChainError, want: &str) {
    let ChainError::Refused { call, name, advice } = outcome else { panic!("{want}: {outcome:?}") };
    assert_eq!((call.as_str(), name.as_str()), ("set_weights", want));
    assert!(!advice.is_empty() && !advice.contains(NO_ADVICE), "{name}: {advice}");
    assert!(advice.len() < 300 && !advice.contains('\n'), "{name}: {advice}");
}

#[test]
fn every_recorded_refusal_of_a_call_has_class_name_and_advice() {
    let (mut in_blocks, mut in_pool) = (BTreeSet::new(), 0);
    every_entry(TOPIC, "session_node425.json", "transactions", 61, |case| {
        if let Some(error) = case.get("error") {
            run(refused_in_block(error));
            in_blocks.insert(text(&error["name"]).to_owned());
        } else if let Some(error) = case.get("rpc_error") {
            run(refused_in_pool(error));
            in_pool += 1;
        }
    });
    println!("{} errors of pallets, {in_pool} refusals of the pool", in_blocks.len());
}

/// The chain took the extrinsic and did not do what it asks.
async fn refused_in_block(error: &Json) {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let name = text(&error["name"]);
    let (pallet, index) = numbers(&chain, name);
    chain.refuse_next(pallet, index);
    let outcome = subtensor.set_weights(&weights()).await.unwrap_err();
    assert_refused(&outcome, name);
    // The next try is not hindered.
    subtensor.set_weights(&weights()).await.unwrap();
}

/// Returns the numbers of an error in the scripted chain's runtime, which is newer.
fn numbers(chain: &Chain, name: &str) -> (u8, u8) {
    let pallets = ["SubtensorModule", "Commitments", "Balances", "System"];
    let value = pallets.iter().find_map(|pallet| chain.metadata().error_value(pallet, name).ok());
    let value = value.unwrap_or_else(|| panic!("no pallet has an error {name}"));
    let module = value.item(0).unwrap();
    let error = module.field("error").unwrap().as_bytes().unwrap();
    (module.field("index").unwrap().as_uint().unwrap(), error[0])
}

async fn refused_in_pool(error: &Json) {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let data = error["data"].as_str().unwrap_or_default();
    chain.refuse_in_pool(vec![error.clone()], false);
    let once = subtensor.set_weights(&weights()).await;
    if data.contains("bad signature") || data.contains("outdated") {
        // Signed for a state that has passed: it is signed again, once.
        once.unwrap();
        chain.refuse_in_pool(vec![error.clone(), error.clone()], false);
        let twice = subtensor.set_weights(&weights()).await.unwrap_err();
        assert_refused(&twice, data);
        return;
    }
    let outcome = once.unwrap_err();
    if data.contains("Inability to pay") {
        assert_refused(&outcome, "InabilityToPay");
    } else if let Some(number) = data.strip_prefix("Custom error: ") {
        let ChainError::Refused { name, .. } = &outcome else { panic!("{outcome:?}") };
        assert!(!name.contains(number), "the number {number} has the name {name}");
        assert_refused(&outcome, name);
    } else {
        panic!("a refusal that no test knows: {error}");
    }
    subtensor.set_weights(&weights()).await.unwrap();
}

/// The method that the adapter asks in place of the recorded one, and a call of the port that does.
fn asked_by(method: &str) -> (&str, &str) {
    match method {
        "state_getStorage" | "state_queryStorageAt" => ("state_queryStorageAt", "hyperparameters"),
        "state_call" => ("state_call", "metagraph"),
        "state_getKeysPaged" => ("state_getKeysPaged", "commitments"),
        "system_accountNextIndex" => ("system_accountNextIndex", "set_weights"),
        "author_submitExtrinsic" | "author_submitAndWatchExtrinsic" => {
            ("author_submitAndWatchExtrinsic", "set_weights")
        }
        _ => ("chain_getFinalizedHead", "finalized"),
    }
}

async fn ask(subtensor: &Subtensor, call: &str) -> Result<(), ChainError> {
    match call {
        "hyperparameters" => subtensor.hyperparameters().await.map(drop),
        "metagraph" => subtensor.metagraph().await.map(drop),
        "commitments" => subtensor.commitments().await.map(drop),
        "set_weights" => subtensor.set_weights(&weights()).await.map(drop),
        "finalized" => subtensor.finalized().await.map(drop),
        other => panic!("{other} is no call"),
    }
}

#[test]
fn every_recorded_refusal_of_a_question_has_its_class() {
    let mut refusals = 0;
    every_entry(TOPIC, "rpc_node425.json", "records", 37, |record| {
        let (Some(error), Some(method)) = (record.get("error"), record["method"].as_str()) else {
            return;
        };
        refusals += 1;
        run(async {
            let chain = scripted();
            let subtensor = connect(&[("a", chain.node())], &[]).await;
            let (method, call) = asked_by(method);
            chain.answer_with(method, Some(error.clone()));
            let outcome = ask(&subtensor, call).await.unwrap_err();
            assert_class(error, &outcome);
            // It is asked again with the next call, a moment later and without a restart.
            chain.answer_with(method, None);
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            ask(&subtensor, call).await.unwrap();
        });
    });
    println!("{refusals} refusals");
}

/// A node's own words are told in one line; its back traces are not.
fn assert_class(error: &Json, outcome: &ChainError) {
    let (code, message) = (error["code"].as_i64().unwrap(), text(&error["message"]));
    let shown = outcome.to_string();
    assert!(!shown.contains('\n') && shown.len() < 500, "{shown}");
    match outcome {
        // The block is gone, or what was handed in is in none.
        ChainError::Unavailable(_) => {
            assert!(message.contains("UnknownBlock") || code == 1013, "{shown}");
        }
        ChainError::Refused { name, advice, .. } => {
            assert!([1002, 1040].contains(&code), "{shown}");
            assert_eq!(name, "NotAnExtrinsic");
            assert!(!advice.contains(NO_ADVICE), "{advice}");
        }
        // Asking again changes nothing: the node, or this program, is another than it should be.
        ChainError::Malformed { .. } => {
            assert!([-32602, -32601, 4002, 4003].contains(&code), "{shown}");
            assert!(!message.contains("UnknownBlock"), "{shown}");
            let line = message.lines().next().unwrap();
            assert!(shown.contains(line) && shown.contains(&code.to_string()), "{shown}");
        }
        ChainError::Pruned(block) => panic!("no block was named: {block:?}"),
    }
}
