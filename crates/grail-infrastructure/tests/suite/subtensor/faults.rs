//! Every fault at every call: bounded time, the right class of error, recovery without a restart.

use std::time::Duration;

use grail_infrastructure::subtensor::{Subtensor, SubtensorConfig};
use grail_ports::chain::{Chain as _, ChainError, SentWeights};
use grail_protocol::ids::BlockNumber;
use grail_testkit::FakeSigner;
use tokio::time::{Instant, sleep};

use super::adapter::{connect, connect_with, scripted, weights};
use super::chain::{Chain, FAULTS, Fault};

/// Every call of the port, then those of the adapter alone.
const CALLS: [&str; 14] = [
    "head",
    "block",
    "metagraph",
    "hyperparameters",
    "commitments",
    "set_commitment",
    "set_weights",
    "finalized",
    "weights_status",
    "watch_weights",
    "seal_weights",
    "registration",
    "register",
    "connect",
];

/// Longest time of any call: the life of an extrinsic, and the questions around it.
const CALL_MAX: Duration = Duration::from_secs(420);
/// Longest time until calls succeed again.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

async fn call(
    chain: &Chain,
    subtensor: &Subtensor,
    name: &str,
    mode: Mode,
) -> Result<(), ChainError> {
    match name {
        "head" => subtensor.head().await.map(drop),
        "block" => subtensor.block(BlockNumber(50)).await.map(drop),
        "metagraph" => subtensor.metagraph().await.map(drop),
        "hyperparameters" => subtensor.hyperparameters().await.map(drop),
        "commitments" => subtensor.commitments().await.map(drop),
        "set_commitment" => subtensor.set_commitment(b"data").await,
        "set_weights" => subtensor.set_weights(&weights()).await.map(drop),
        "finalized" => subtensor.finalized().await.map(drop),
        "weights_status" => subtensor.weights_status().await.map(drop),
        "watch_weights" => {
            let sent = SentWeights { submission: weights(), block: BlockNumber(90) };
            subtensor.watch_weights(&sent).await
        }
        "seal_weights" => {
            chain.seal(true);
            let outcome = subtensor.set_weights(&weights()).await.map(drop);
            chain.seal(false);
            outcome
        }
        "registration" => subtensor.registration().await.map(drop),
        "register" => subtensor.register(&FakeSigner::new(1)).await.map(drop),
        "connect" => {
            let other =
                connect_with(&[("a", chain.node())], &[], |config| mode.set(config)).await?;
            other.close().await;
            Ok(())
        }
        other => panic!("{other} is no call"),
    }
}

/// How the adapter is set up.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// It asks for heads, and a call counts when it is in a block.
    Usual,
    /// The node tells of heads, and a call counts when its block is final.
    Patient,
}

impl Mode {
    fn set(self, config: &mut SubtensorConfig) {
        if matches!(self, Self::Patient) {
            config.follow_heads = true;
            config.submit.wait_for_finality = true;
        }
    }
}

/// Whether a fault may end a call with this.
fn is_right(fault: Fault, outcome: &Result<(), ChainError>) -> bool {
    match (fault, outcome) {
        // Cached answers, calls that the fault does not touch, and faults that a call outlives.
        (_, Ok(())) => !matches!(fault, Fault::None),
        (Fault::Hang | Fault::Reset | Fault::Slow | Fault::Restart | Fault::NoJson, Err(error)) => {
            matches!(error, ChainError::Unavailable(_))
        }
        (Fault::WrongData, Err(error)) => matches!(error, ChainError::Malformed { .. }),
        // On a connection that was checked before, its hashes are those of unknown blocks.
        (Fault::OtherChain | Fault::Pruned, Err(error)) => {
            matches!(error, ChainError::Pruned(_) | ChainError::Unavailable(_))
        }
        // Neither may disturb anybody.
        (Fault::Upgrade | Fault::Reorg | Fault::None, Err(_)) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_call() {
    every_fault(Mode::Usual).await;
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_call_that_waits_for_finality() {
    every_fault(Mode::Patient).await;
}

async fn every_fault(mode: Mode) {
    let mut counted = 0;
    for fault in FAULTS {
        let chain = scripted();
        chain.tell_heads(Some(1_000));
        let node = chain.node();
        let nodes = [("a", node.clone())];
        let subtensor = connect_with(&nodes, &[], |config| mode.set(config)).await.unwrap();
        for name in CALLS {
            let call = || call(&chain, &subtensor, name, mode);
            call().await.unwrap();
            chain.advance(1);

            chain.set(fault);
            chain.set_down(fault == Fault::Restart);
            let start = Instant::now();
            let outcome = call().await;
            let took = start.elapsed();
            assert!(took <= CALL_MAX, "{fault:?} x {name} took {took:?}");
            assert!(is_right(fault, &outcome), "{fault:?} x {name}: {outcome:?}");

            chain.set(Fault::None);
            chain.set_down(false);
            let start = Instant::now();
            while let Err(error) = call().await {
                let waited = start.elapsed();
                assert!(waited <= RECOVERY_MAX, "{fault:?} x {name}: {error} after {waited:?}");
                sleep(Duration::from_secs(1)).await;
            }
            counted += 1;
        }
    }
    println!("faults x calls, {mode:?}: {counted}");
    assert_eq!(counted, FAULTS.len() * CALLS.len());
}

/// With archive nodes at hand no call notices that the others have dropped what it reads.
#[tokio::test(start_paused = true)]
async fn every_call_finds_dropped_state_in_the_archive() {
    let chain = scripted();
    let nodes = [("a", chain.node()), ("archive", chain.archive_node())];
    let subtensor = connect(&nodes, &["archive"]).await;
    let mut counted = 0;
    // Who connects anew here has no archive.
    for name in CALLS.into_iter().filter(|name| *name != "connect") {
        chain.advance(1);
        chain.set(Fault::Pruned);
        let outcome = call(&chain, &subtensor, name, Mode::Usual).await;
        assert_eq!(outcome, Ok(()), "{name}");
        chain.set(Fault::None);
        counted += 1;
    }
    println!("calls with an archive: {counted}");
}

#[tokio::test(start_paused = true)]
async fn another_chain_is_left_for_the_right_one() {
    let (ours, theirs) = (scripted(), scripted());
    let right = ours.node();
    let nodes = [("right", right.clone()), ("wrong", theirs.node())];
    let subtensor = connect(&nodes, &[]).await;
    theirs.set(Fault::OtherChain);
    ours.set(Fault::Reset);
    let error = loop {
        match subtensor.head().await {
            Err(error @ ChainError::Malformed { .. }) => break error,
            _ => sleep(Duration::from_secs(1)).await,
        }
    };
    assert!(error.to_string().contains("another chain"), "{error}");
    ours.set(Fault::None);
    let start = Instant::now();
    while subtensor.head().await.is_err() {
        assert!(start.elapsed() < RECOVERY_MAX);
        sleep(Duration::from_secs(1)).await;
    }
}
