//! The contract of [`Chain`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use grail_ports::chain::{Chain, ChainError, WeightSubmission};
use grail_protocol::ids::{BlockNumber, Hotkey, Uid};

/// Makes that many blocks, and returns when every handle can see them.
pub type Advance = Box<dyn Fn(u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// A fresh subnet with a validator that has a permit and has never set weights, a miner without
/// one, and a hotkey that is not registered; nobody has committed anything.
pub struct ChainUnderTest {
    /// Registered with a permit.
    pub validator: (Hotkey, Arc<dyn Chain>),
    /// Registered without a permit.
    pub miner: (Hotkey, Arc<dyn Chain>),
    /// Not registered.
    pub stranger: (Hotkey, Arc<dyn Chain>),
    /// Makes blocks.
    pub advance: Advance,
}

/// Checks a chain; it makes a few hundred blocks at most, beyond the rate limit of weights.
///
/// # Panics
/// When the chain breaks the contract.
pub async fn chain(chain: ChainUnderTest) {
    blocks(&chain).await;
    metagraph(&chain).await;
    commitments(&chain).await;
    weights(&chain).await;
}

async fn blocks(chain: &ChainUnderTest) {
    let handle = &chain.miner.1;
    let head = handle.head().await.expect("the chain answers");
    (chain.advance)(3).await;
    let later = handle.head().await.expect("the chain answers");
    assert!(later.number.0 >= head.number.0 + 3, "blocks come when they are made");
    assert!(later.timestamp_ms > head.timestamp_ms, "time passes with blocks");
    assert_ne!(later.hash, head.hash, "each block has its own hash");

    let block = |number| async move { handle.block(BlockNumber(number)).await };
    let again = block(head.number.0).await.expect("a recent block is kept");
    assert_eq!(again, Some(head), "a block never changes");
    let far = later.number.0 + 1_000_000;
    assert_eq!(block(far).await, Ok(None), "a block that is not there yet is None");
    let next = block(head.number.0 + 1).await.expect("a recent block is kept");
    let next = next.expect("a block below the head exists");
    assert_eq!(next.number.0, head.number.0 + 1, "the answer names the block asked for");
    assert!(
        head.timestamp_ms < next.timestamp_ms && next.timestamp_ms < later.timestamp_ms,
        "timestamps ascend"
    );
    let other = chain.validator.1.block(head.number).await.expect("a recent block is kept");
    assert_eq!(other, Some(head), "all handles see the same chain");
}

async fn metagraph(chain: &ChainUnderTest) {
    let handle = &chain.miner.1;
    let metagraph = handle.metagraph().await.expect("the chain answers");
    assert_eq!(metagraph.netuid, handle.netuid(), "the metagraph is of the handle's subnet");
    assert_eq!(handle.netuid(), chain.validator.1.netuid(), "one subnet");
    assert_eq!(handle.network(), chain.validator.1.network(), "one network");
    for (index, neuron) in metagraph.neurons.iter().enumerate() {
        assert_eq!(usize::from(neuron.uid.0), index, "neurons come in the order of their uids");
        assert!((0.0..=1.0).contains(&neuron.incentive), "an incentive is a share");
    }
    let neuron = |hotkey| metagraph.neuron(hotkey);
    assert!(neuron(chain.validator.0).expect("the validator is registered").validator_permit);
    assert!(!neuron(chain.miner.0).expect("the miner is registered").validator_permit);
    assert_eq!(neuron(chain.stranger.0), None, "the stranger is not registered");
}

async fn commitments(chain: &ChainUnderTest) {
    let (hotkey, handle) = &chain.miner;
    let before = handle.commitments().await.expect("the chain answers");
    assert!(!before.contains_key(hotkey), "the contract needs a hotkey that has not committed");

    for data in [vec![b'x'], (0..128).collect(), vec![0xff; 128]] {
        handle.set_commitment(&data).await.expect("1 to 128 bytes can be committed");
        (chain.advance)(1).await;
        let after = chain.validator.1.commitments().await.expect("the chain answers");
        assert_eq!(after.get(hotkey), Some(&data), "the newest commitment is what others read");
    }
    for data in [vec![], vec![0; 129]] {
        assert!(handle.set_commitment(&data).await.is_err(), "{} bytes", data.len());
    }
    let refusal = chain.stranger.1.set_commitment(b"x").await;
    assert!(matches!(refusal, Err(ChainError::Refused { .. })), "a stranger may not commit");
    (chain.advance)(1).await;
    let after = handle.commitments().await.expect("the chain answers");
    assert_eq!(after.get(hotkey), Some(&vec![0xff; 128]), "a refused commitment changes nothing");
    assert!(!after.contains_key(&chain.stranger.0));
}

async fn weights(chain: &ChainUnderTest) {
    let (validator, handle) = &chain.validator;
    let rules = handle.hyperparameters().await.expect("the chain answers");
    // A chain may count the rate limit from the registration on.
    (chain.advance)(rules.weights_rate_limit).await;
    let metagraph = handle.metagraph().await.expect("the chain answers");
    let uid = |hotkey: Hotkey| metagraph.neuron(hotkey).expect("it is registered").uid;
    let (ours, miner) = (uid(*validator), uid(chain.miner.0));
    let version_key = rules.weights_version;
    let submit = |weights: Vec<(Uid, f64)>| WeightSubmission { weights, version_key };
    let good = submit(vec![(ours, 0.25), (miner, 0.75)]);

    for (name, bad) in [
        ("a uid that does not exist", submit(vec![(Uid(u16::MAX), 1.0)])),
        ("a uid twice", submit(vec![(miner, 0.5), (miner, 0.5)])),
        ("a negative weight", submit(vec![(ours, 1.0), (miner, -1.0)])),
        ("a weight that is no number", submit(vec![(ours, 1.0), (miner, f64::NAN)])),
        ("an infinite weight", submit(vec![(ours, 1.0), (miner, f64::INFINITY)])),
        ("no weight", submit(vec![])),
    ] {
        assert!(handle.set_weights(&bad).await.is_err(), "{name} is refused");
    }
    if let Some(old) = version_key.checked_sub(1) {
        let bad = WeightSubmission { version_key: old, ..good.clone() };
        let refusal = handle.set_weights(&bad).await;
        assert!(matches!(refusal, Err(ChainError::Refused { .. })), "an old version is refused");
    }
    for (name, handle) in [("a miner", &chain.miner.1), ("a stranger", &chain.stranger.1)] {
        let refusal = handle.set_weights(&good).await;
        assert!(matches!(refusal, Err(ChainError::Refused { .. })), "{name} may not set weights");
    }

    let head = handle.head().await.expect("the chain answers").number;
    let block = handle.set_weights(&good).await.expect("good weights are accepted");
    assert!(block >= head, "weights are included now or later");
    (chain.advance)(1).await;
    let metagraph = handle.metagraph().await.expect("the chain answers");
    let neuron = metagraph.neuron(*validator).expect("it is registered");
    assert_eq!(neuron.last_update, block, "the metagraph tells when weights were set");

    if rules.weights_rate_limit > 2 {
        let refusal = handle.set_weights(&good).await;
        assert!(matches!(refusal, Err(ChainError::Refused { .. })), "the rate limit holds");
    }
    (chain.advance)(rules.weights_rate_limit).await;
    handle.set_weights(&good).await.expect("after the rate limit weights are accepted again");
}
