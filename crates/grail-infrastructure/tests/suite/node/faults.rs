//! Every switch that makes the node misbehave, and our own client, which recovers without a restart.

use std::sync::Arc;
use std::time::Duration;

use grail_infrastructure::local::chain::rules::ChainRules;
use grail_infrastructure::local::rpc::{Fault, Runtime};
use grail_infrastructure::subtensor::network::Network;
use grail_infrastructure::subtensor::rpc::{Backoff, RpcConfig};
use grail_infrastructure::subtensor::{SubmitConfig, Subtensor, SubtensorConfig};
use grail_ports::chain::{Chain as _, ChainError};
use grail_protocol::ids::{BlockNumber, Netuid};
use serde_json::json;
use tokio::net::TcpListener;

use super::{NETUID, Served, Socket, key, rules, serve};
use crate::common::blocks_on_demand;

/// Longest time of a call here. Answers take milliseconds; a busy machine may need more.
const CALL: Duration = Duration::from_secs(2);

async fn client(served: &Served, call_timeout: Duration) -> Subtensor {
    let network = Network::parse(&served.endpoint()).unwrap();
    let backoff = Backoff { first: Duration::from_millis(5), max: Duration::from_millis(50) };
    let rpc = RpcConfig {
        connect_timeout: CALL,
        call_timeout,
        backoff,
        jitter_seed: Some(1),
        ..RpcConfig::new(network.endpoints.clone())
    };
    let submit = SubmitConfig { grace: CALL, ..SubmitConfig::default() };
    let config = SubtensorConfig { rpc, submit, ..SubtensorConfig::new(network, Netuid(NETUID)) };
    Subtensor::connect(config, Arc::new(key("Miner"))).await.unwrap()
}

async fn works(served: &Served, chain: &Subtensor, text: &str) {
    // The client may still be on its way back to the node.
    let mut last = chain.set_commitment(text.as_bytes()).await;
    for _ in 0..20 {
        match &last {
            Err(ChainError::Unavailable(_)) => {}
            _ => break,
        }
        last = chain.set_commitment(text.as_bytes()).await;
    }
    last.unwrap();
    let read = chain.commitments().await.unwrap();
    assert_eq!(read[&key("Miner").address()], text.as_bytes());
    assert_eq!(chain.head().await.unwrap(), served.chain.head());
    assert_eq!(chain.metagraph().await.unwrap().neurons.len(), 2);
}

fn is_unavailable<T>(outcome: &Result<T, ChainError>) -> bool {
    matches!(outcome, Err(ChainError::Unavailable(_)))
}

#[tokio::test]
async fn a_node_that_hangs_drops_or_is_slow() {
    let served = Served::start(rules()).await;
    let _blocks = blocks_on_demand(&served.chain);
    let brief = Duration::from_millis(300);
    let chain = client(&served, CALL).await;
    let hasty = client(&served, brief).await;
    works(&served, &chain, "before").await;
    for (index, fault) in
        [Fault::Hang, Fault::Drop, Fault::Slow(Duration::from_secs(3600))].into_iter().enumerate()
    {
        served.node.faults().set(None, fault.clone());
        assert!(is_unavailable(&hasty.head().await), "{fault:?}");
        assert!(is_unavailable(&hasty.set_commitment(b"lost").await), "{fault:?}");
        served.node.faults().set(None, Fault::None);
        works(&served, &chain, &format!("after {index}")).await;
    }
    served.node.faults().set(None, Fault::Slow(Duration::from_millis(2)));
    works(&served, &chain, "slow").await;
}

#[tokio::test]
async fn a_fault_of_one_method_leaves_the_others() {
    // An extrinsic that is lost is waited for as long as it may live: with these blocks not long.
    let served = Served::start(ChainRules { block_time_ms: 50, ..rules() }).await;
    let _blocks = blocks_on_demand(&served.chain);
    let chain = client(&served, CALL).await;
    works(&served, &chain, "before").await;
    served.node.faults().set(Some("author_submitAndWatchExtrinsic"), Fault::Drop);
    assert!(is_unavailable(&chain.set_commitment(b"dropped").await));
    assert_eq!(served.chain.head(), chain.head().await.unwrap());
    served.node.faults().set(Some("state_queryStorageAt"), Fault::Drop);
    let head = chain.head().await;
    assert!(head.is_ok(), "{head:?}");
    served.node.faults().set(None, Fault::None);
    works(&served, &chain, "after").await;
}

#[tokio::test]
async fn a_node_that_cuts_connections_or_restarts() {
    let mut served = Served::start(rules()).await;
    let _blocks = blocks_on_demand(&served.chain);
    let chain = client(&served, CALL).await;
    let mut socket = Socket::connect(&served).await;
    let heads = socket.subscribe("chain_subscribeNewHeads", json!([])).await;
    socket.told(&heads).await;
    served.node.faults().cut();
    assert_eq!(socket.receive().await, None, "every connection is cut");
    works(&served, &chain, "after the cut").await;
    served.serving.abort();
    served.node.faults().cut();
    // The port is free once the server has gone.
    let listener = loop {
        match TcpListener::bind(served.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    served.serving = serve(&served.node, listener);
    works(&served, &chain, "after the restart").await;
}

#[tokio::test]
async fn state_that_was_pruned_is_said_to_be_gone_and_blocks_are_not() {
    let served = Served::start(rules()).await;
    served.chain.advance(30).unwrap();
    let chain = client(&served, CALL).await;
    served.chain.prune(5);
    let old = BlockNumber(9);
    let row = served.chain.block(old).unwrap().unwrap();
    let read = async |hash: String| served.ask("state_getStorage", json!(["0x00", hash])).await;
    let gone = read(format!("0x{}", row.hash)).await["error"].clone();
    assert_eq!(gone["code"], 4003);
    assert!(gone.to_string().contains("State already discarded"), "{gone}");
    let head = served.chain.head();
    assert_eq!(read(format!("0x{}", head.hash)).await["error"], serde_json::Value::Null);
    let block = chain.block(old).await.unwrap().unwrap();
    assert_eq!((block.hash, block.timestamp_ms), (row.hash, row.timestamp_ms));
    assert_eq!(chain.block(BlockNumber(31)).await, Ok(None));
    let _blocks = blocks_on_demand(&served.chain);
    works(&served, &chain, "after").await;
}

#[tokio::test]
async fn an_upgrade_is_followed_and_a_fork_is_too() {
    let served = Served::start(rules()).await;
    served.chain.set_finality_lag(5);
    let _blocks = blocks_on_demand(&served.chain);
    let chain = client(&served, CALL).await;
    works(&served, &chain, "461").await;
    served.node.upgrade(Arc::new(Runtime::current().at_version(462).unwrap()));
    works(&served, &chain, "462").await;
    let left = chain.head().await.unwrap();
    served.chain.fork(1, true).unwrap();
    assert_ne!(chain.block(left.number).await.unwrap().unwrap().hash, left.hash);
    works(&served, &chain, "after the fork").await;
    let finalised = served.chain.heads().borrow().finalised;
    assert_eq!(chain.finalized().await, Ok(finalised));
}
