//! Every port of a local network, from inside and from outside its process, against the contract
//! suites of the testkit.

use std::sync::Arc;

use crate::common::{Served, config};
use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::network::{Gateway, NetworkConfig, Node};
use grail_infrastructure::wallet::Wallet;
use grail_ports::chain::{Chain, WeightSubmission, WeightsStatus};
use grail_ports::observer::NoObserver;
use grail_ports::signer::Signer;
use grail_protocol::ids::Netuid;
use grail_testkit::contract::{self, Advance, ChainUnderTest};

fn with_version(weights_version: u64) -> NetworkConfig {
    let mut config = config();
    config.rules.weights_version = weights_version;
    config
}

fn advance(chain: &Arc<LocalChain>) -> Advance {
    let chain = Arc::clone(chain);
    Box::new(move |blocks| {
        let chain = Arc::clone(&chain);
        Box::pin(async move {
            chain.advance(blocks).unwrap();
        })
    })
}

fn with_hotkey(node: &Node) -> (grail_protocol::ids::Hotkey, Arc<dyn Chain>) {
    (node.wallet.hotkey(), Arc::clone(&node.chain))
}

async fn chain_contract(served: &Served, validator: Node, miner: Node) {
    let stranger = Arc::new(Wallet::from_seed(&[99; 32]));
    let (file, endpoint) = (served.network.file(), served.server.endpoint());
    let gateway = Gateway::open(&file, &endpoint, served.network.clock(), Arc::new(NoObserver))
        .await
        .unwrap();
    contract::chain(ChainUnderTest {
        validator: with_hotkey(&validator),
        miner: with_hotkey(&miner),
        stranger: (stranger.hotkey(), Arc::new(gateway.chain(stranger))),
        advance: advance(served.network.chain()),
    })
    .await;
}

#[tokio::test]
async fn the_chain_from_inside() {
    let served = Served::start(&with_version(3)).await;
    let validator = served.network.node("validator").await.unwrap();
    let miner = served.network.node("miner-1").await.unwrap();
    chain_contract(&served, validator, miner).await;
}

#[tokio::test]
async fn the_chain_from_outside() {
    let served = Served::start(&with_version(3)).await;
    let (validator, miner) = (served.remote("validator").await, served.remote("miner-1").await);
    chain_contract(&served, validator, miner).await;
}

#[tokio::test]
async fn the_pace_of_the_chain_is_that_of_its_rules() {
    for block_time_ms in [250, 1_000, 12_000] {
        let mut config = config();
        config.rules.block_time_ms = block_time_ms;
        let served = Served::start(&config).await;
        let node = served.remote("miner-1").await;
        assert_eq!(node.chain.block_time_ms(), block_time_ms);
        assert_eq!((node.chain.network(), node.chain.netuid()), ("local", Netuid(81)));
    }
}

#[tokio::test]
async fn sealed_weights_are_opened_by_the_rounds_of_the_embedded_beacon() {
    let mut config = config();
    config.rules.commit_reveal = true;
    config.rules.tempo = 20;
    config.rules.weights_rate_limit = 1;
    let served = Served::start(&config).await;
    let chain = served.network.chain();
    let node = served.remote("validator").await;
    chain.advance(10).unwrap();
    assert_eq!(node.chain.hyperparameters().await.unwrap().reveal_epochs, Some(1));
    let miner = served.network.node("miner-1").await.unwrap().entry.uid;
    let weights = WeightSubmission { weights: vec![(miner, 1.0)], version_key: 0 };
    node.chain.set_weights(&weights).await.unwrap();
    let status = node.chain.weights_status().await.unwrap();
    let WeightsStatus::Sealed { opens } = status else { panic!("{status:?}") };
    // Everything but the last block of the epoch that opens them.
    chain.advance(opens.0 + config.rules.tempo - 2 - chain.head().number.0).unwrap();
    assert_eq!(node.chain.weights_status().await, Ok(WeightsStatus::Landed));
    chain.advance(config.rules.tempo).unwrap();
    let metagraph = node.chain.metagraph().await.unwrap();
    assert_eq!(metagraph.uid(miner).unwrap().incentive, 1.0);
}

#[tokio::test]
async fn the_beacon_from_inside_and_outside() {
    let served = Served::start(&config()).await;
    served.network.chain().advance(5).unwrap();
    let local = served.network.node("trainer").await.unwrap();
    let remote = served.remote("trainer").await;
    assert_eq!(local.beacon.schedule(), remote.beacon.schedule());
    // Block 5 comes 5 s after round 1, and two rounds a second.
    contract::beacon(&*local.beacon, 11, 12).await;
    contract::beacon(&*remote.beacon, 11, 12).await;
    assert_eq!(local.beacon.round(7).await, remote.beacon.round(7).await);
}

#[tokio::test]
async fn the_store_from_inside() {
    let served = Served::start(&config()).await;
    let ours = served.network.node("miner-1").await.unwrap();
    let theirs = served.network.node("validator").await.unwrap();
    contract::object_store(&*ours.buckets.own()).await;
    contract::buckets(&*ours.buckets, &*theirs.buckets).await;
    let folder = tempfile::tempdir().unwrap();
    contract::files(&*ours.buckets, folder.path()).await;
    contract::large_file(&*ours.buckets.own(), folder.path(), (20 << 20) + 3).await;
}

#[tokio::test]
async fn the_store_from_outside() {
    let served = Served::start(&config()).await;
    let ours = served.remote("miner-1").await;
    let theirs = served.remote("validator").await;
    contract::object_store(&*ours.buckets.own()).await;
    contract::buckets(&*ours.buckets, &*theirs.buckets).await;
    let folder = tempfile::tempdir().unwrap();
    contract::files(&*ours.buckets, folder.path()).await;
    contract::large_file(&*ours.buckets.own(), folder.path(), (20 << 20) + 3).await;
}

#[tokio::test]
async fn the_store_from_both_sides() {
    let served = Served::start(&config()).await;
    let ours = served.remote("miner-1").await;
    let theirs = served.network.node("validator").await.unwrap();
    contract::buckets(&*ours.buckets, &*theirs.buckets).await;
    contract::buckets(&*theirs.buckets, &*ours.buckets).await;
}

#[tokio::test]
async fn both_sides_see_the_same_metagraph() {
    let served = Served::start(&config()).await;
    let local = served.network.node("validator").await.unwrap();
    let remote = served.remote("miner-1").await;
    let weights = WeightSubmission {
        weights: vec![(local.entry.uid, 0.0), (remote.entry.uid, 0.3)],
        version_key: 0,
    };
    local.chain.set_weights(&weights).await.unwrap();
    served.network.chain().advance(360).unwrap();
    let metagraph = local.chain.metagraph().await.unwrap();
    assert_eq!(metagraph.neuron(remote.entry.hotkey).unwrap().incentive, 1.0);
    assert_eq!(metagraph, remote.chain.metagraph().await.unwrap());
    let again = remote.chain.metagraph().await.unwrap();
    assert!(Arc::ptr_eq(&again, &remote.chain.metagraph().await.unwrap()), "cached by block");
    assert_eq!(local.chain.commitments().await, remote.chain.commitments().await);
    assert_eq!(local.chain.hyperparameters().await, remote.chain.hyperparameters().await);
}
