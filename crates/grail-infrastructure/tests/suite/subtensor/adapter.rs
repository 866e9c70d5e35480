//! The chain port over a scripted chain with real metadata.

use std::sync::Arc;
use std::time::Duration;

use grail_infrastructure::substrate::Value;
use grail_infrastructure::subtensor::network::Network;
use grail_infrastructure::subtensor::rpc::Endpoint;
use grail_infrastructure::subtensor::{Subtensor, SubtensorConfig};
use grail_ports::chain::{Chain as _, ChainError, SentWeights, WeightSubmission, WeightsStatus};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{BlockNumber, Netuid, Uid};
use grail_testkit::FakeSigner;

use super::chain::{Chain, Fault, NETUID};
use super::node::{Memory, Node, config, url};

/// Connects to the scripted nodes `nodes`, and to archive nodes.
pub async fn connect(nodes: &[(&str, Node)], archives: &[&str]) -> Subtensor {
    connect_with(nodes, archives, |_| {}).await.unwrap()
}

/// As [`connect`], with other settings.
pub async fn connect_with(
    nodes: &[(&str, Node)],
    archives: &[&str],
    set: impl FnOnce(&mut SubtensorConfig),
) -> Result<Subtensor, ChainError> {
    connect_as(FakeSigner::new(1), nodes, archives, set).await
}

async fn connect_as(
    signer: FakeSigner,
    nodes: &[(&str, Node)],
    archives: &[&str],
    set: impl FnOnce(&mut SubtensorConfig),
) -> Result<Subtensor, ChainError> {
    let names: Vec<&str> =
        nodes.iter().map(|(name, _)| *name).filter(|name| !archives.contains(name)).collect();
    let parse = |names: &[&str]| {
        names.iter().map(|name| Endpoint::parse(&url(name)).unwrap()).collect::<Vec<_>>()
    };
    let network = Network {
        name: "scripted".to_owned(),
        endpoints: parse(&names),
        archive_endpoints: parse(archives),
        genesis: None,
    };
    let mut subtensor =
        SubtensorConfig { rpc: config(&names), ..SubtensorConfig::new(network, Netuid(NETUID)) };
    // The runtime aims at faster blocks than the scripted chain makes.
    subtensor.submit.grace = Duration::from_secs(300);
    set(&mut subtensor);
    Subtensor::connect_through(subtensor, Memory::new(nodes), Arc::new(signer)).await
}

pub fn scripted() -> Chain {
    Chain::new(FakeSigner::new(1).hotkey().0)
}

pub fn weights() -> WeightSubmission {
    WeightSubmission { weights: vec![(Uid(1), 0.25), (Uid(2), 0.75)], version_key: 0 }
}

#[tokio::test(start_paused = true)]
async fn blocks_and_rules_are_read() {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let head = subtensor.head().await.unwrap();
    assert_eq!((head.number, head.hash.0), (BlockNumber(100), chain.head_hash()));
    assert_eq!(subtensor.finalized().await, Ok(BlockNumber(98)));
    let block = subtensor.block(BlockNumber(90)).await.unwrap().unwrap();
    assert_eq!(head.timestamp_ms - block.timestamp_ms, 10 * 12_000);
    assert_eq!(subtensor.block(BlockNumber(1_000)).await, Ok(None));
    let rules = subtensor.hyperparameters().await.unwrap();
    assert_eq!((rules.tempo, rules.weights_rate_limit, rules.reveal_epochs), (360, 100, None));
    assert_eq!(subtensor.registration().await, Ok(Uid(0)));
    assert!(subtensor.block_time_ms() >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_is_told_how_to_register_and_what_it_costs() {
    let chain = scripted();
    chain.put("SubtensorModule", "Burn", &[NETUID.into()], &1_250_000_000_u64.into());
    let stranger = FakeSigner::new(9);
    let hotkey = stranger.hotkey().to_string();
    let subtensor = connect_as(stranger, &[("a", chain.node())], &[], |_| {}).await.unwrap();
    let Err(ChainError::Refused { name, advice, .. }) = subtensor.registration().await else {
        panic!("a stranger is registered");
    };
    assert_eq!(name, "HotKeyNotRegisteredInSubNet");
    for part in [hotkey.as_str(), "now 1.25 TAO", "btcli subnet register --netuid"] {
        assert!(advice.contains(part), "{advice}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_metagraph_is_asked_for_once_a_block() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    let count = || node.calls().iter().filter(|call| *call == "state_call").count();
    let before = count();
    let metagraph = subtensor.metagraph().await.unwrap();
    for _ in 0..5 {
        assert_eq!(subtensor.metagraph().await.unwrap(), metagraph);
    }
    assert_eq!(count(), before + 1);
    chain.advance(1);
    assert_eq!(subtensor.metagraph().await.unwrap().block, BlockNumber(101));
    assert_eq!(count(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn commitments_are_set_read_and_kept() {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let own = FakeSigner::new(1).hotkey();
    assert!(subtensor.commitments().await.unwrap().is_empty());
    subtensor.set_commitment(&[b'x'; 128]).await.unwrap();
    let raw = |fields: Vec<Value>| {
        Value::record([
            ("deposit", 0_u64.into()),
            ("block", 1_u64.into()),
            ("info", Value::record([("fields", Value::List(fields))])),
        ])
    };
    let put = |hotkey: u8, value: &Value| {
        chain.put("Commitments", "CommitmentOf", &[NETUID.into(), [hotkey; 32].into()], value);
    };
    // Strangers commit what they like.
    put(1, &raw(vec![]));
    put(2, &raw(vec![Value::variant("BigRaw", Value::bytes([1; 200]))]));
    put(3, &raw(vec![Value::variant("Raw3", Value::bytes([0xff, 0xfe, 0]))]));
    chain.advance(1);
    let map = subtensor.commitments().await.unwrap();
    assert_eq!(map.get(&own).map(Vec::as_slice), Some(&[b'x'; 128][..]));
    assert_eq!(map.len(), 2, "{map:?}");
    // A failed refresh keeps the map.
    chain.advance(1);
    chain.set(Fault::WrongData);
    assert_eq!(subtensor.commitments().await.unwrap(), map);
    for data in [&[][..], &[0; 129]] {
        let refusal = subtensor.set_commitment(data).await;
        assert!(matches!(refusal, Err(ChainError::Refused { .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn weights_are_set_found_and_missed_when_they_vanish() {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Unknown));
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!(block, BlockNumber(101));
    chain.advance(1);
    assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Landed));
    let row = [NETUID.into(), 0_u16.into()];
    chain.put("SubtensorModule", "Weights", &row, &Value::List(vec![]));
    chain.advance(1);
    let status = subtensor.weights_status().await.unwrap();
    assert!(matches!(status, WeightsStatus::Lost { .. }), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn weights_are_found_again_after_a_restart() {
    for is_sealed in [false, true] {
        let chain = scripted();
        let net = [Value::from(NETUID)];
        chain.put("SubtensorModule", "CommitRevealWeightsEnabled", &net, &is_sealed.into());
        let before = connect(&[("a", chain.node())], &[]).await;
        let block = before.set_weights(&weights()).await.unwrap();
        chain.advance(3);
        let told = before.weights_status().await.unwrap();
        before.close().await;

        let after = connect(&[("a", chain.node())], &[]).await;
        assert_eq!(after.weights_status().await, Ok(WeightsStatus::Unknown));
        let sent = SentWeights { submission: weights(), block };
        after.watch_weights(&sent).await.unwrap();
        assert_eq!(after.weights_status().await, Ok(told.clone()), "sealed: {is_sealed}");
        assert_eq!(matches!(told, WeightsStatus::Sealed { .. }), is_sealed, "{told:?}");

        // Others than were sent are not found, and what the chain cannot have taken is refused.
        let other = vec![(Uid(1), 1.0), (Uid(2), 1.0)];
        let submission = WeightSubmission { weights: other, ..weights() };
        after.watch_weights(&SentWeights { submission, block }).await.unwrap();
        let status = after.weights_status().await.unwrap();
        assert_eq!(matches!(status, WeightsStatus::Lost { .. }), !is_sealed, "{status:?}");
        let submission = WeightSubmission { weights: vec![], ..weights() };
        let refusal = after.watch_weights(&SentWeights { submission, block }).await;
        assert!(matches!(refusal, Err(ChainError::Refused { .. })), "{refusal:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn sealed_weights_are_followed_until_they_are_opened_or_lost() {
    let chain = scripted();
    let net = [Value::from(NETUID)];
    chain.put("SubtensorModule", "CommitRevealWeightsEnabled", &net, &true.into());
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    subtensor.set_weights(&weights()).await.unwrap();
    chain.advance(1);
    let status = subtensor.weights_status().await.unwrap();
    let WeightsStatus::Sealed { opens } = status else { panic!("{status:?}") };
    assert_eq!(opens, BlockNumber(360));
    let row = [NETUID.into(), 0_u16.into()];
    let pairs = Value::list([
        Value::list([Value::from(1_u16), Value::from(21_845_u16)]),
        Value::list([Value::from(2_u16), Value::from(65_535_u16)]),
    ]);
    chain.put("SubtensorModule", "Weights", &row, &pairs);
    chain.advance(300);
    assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Landed));
    chain.put("SubtensorModule", "Weights", &row, &Value::List(vec![]));
    chain.put("SubtensorModule", "SubnetEpochIndex", &net, &2_u64.into());
    chain.advance(1);
    let status = subtensor.weights_status().await.unwrap();
    assert!(matches!(&status, WeightsStatus::Lost { reason } if reason.contains("dropped")));
}

#[tokio::test(start_paused = true)]
async fn refusals_have_names_and_advice() {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let pallet = chain.metadata().pallet_index("SubtensorModule").unwrap();
    for (error, want) in [(29, "SettingWeightsTooFast"), (15, "NeuronNoValidatorPermit")] {
        chain.refuse_next(pallet, error);
        let refusal = subtensor.set_weights(&weights()).await.unwrap_err();
        assert!(matches!(&refusal, ChainError::Refused { name, .. } if name == want), "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_does_not_lose_the_outcome_or_repeat_the_call() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    chain.set_breaks_watch(true);
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!(block, BlockNumber(101));
    let submitted =
        node.calls().iter().filter(|call| *call == "author_submitAndWatchExtrinsic").count();
    assert_eq!(submitted, 1);
}

#[tokio::test(start_paused = true)]
async fn an_upgrade_needs_no_restart() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    subtensor.set_weights(&weights()).await.unwrap();
    chain.set(Fault::Upgrade);
    chain.set(Fault::None);
    chain.advance(1);
    let count = || node.calls().iter().filter(|call| *call == "state_call").count();
    let before = count();
    subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!(count(), before + 1, "the metadata is read again, once");
}

#[tokio::test(start_paused = true)]
async fn pruned_state_is_asked_of_the_archive() {
    let (chain, archive) = (scripted(), scripted());
    let lite = [("a", chain.node())];
    let subtensor = connect(&lite, &[]).await;
    chain.set(Fault::Pruned);
    let old = BlockNumber(7);
    assert_eq!(subtensor.block(old).await, Err(ChainError::Pruned(old)));

    chain.set(Fault::None);
    let both = [("a", chain.node()), ("archive", archive.node())];
    let subtensor = connect(&both, &["archive"]).await;
    chain.set(Fault::Pruned);
    let block = subtensor.block(old).await.unwrap().unwrap();
    assert_eq!(block.number, old);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stands_still_is_left() {
    let (stuck, alive) = (scripted(), scripted());
    let (stuck_node, alive_node) = (stuck.node(), alive.node());
    let subtensor = connect(&[("stuck", stuck_node), ("alive", alive_node.clone())], &[]).await;
    stuck.set(Fault::None);
    let first = subtensor.head().await.unwrap();
    alive.advance(50);
    let start = tokio::time::Instant::now();
    while subtensor.head().await.unwrap().number.0 < first.number.0 + 50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stuck.freeze();
        assert!(start.elapsed() < Duration::from_secs(300), "it stays with a stuck node");
    }
}
