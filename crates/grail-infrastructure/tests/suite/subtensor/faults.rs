//! Every fault at every call: bounded time, the right class of error, recovery without a restart.

use std::time::Duration;

use grail_infrastructure::subtensor::Subtensor;
use grail_ports::chain::{Chain as _, ChainError, SentWeights};
use grail_protocol::ids::BlockNumber;
use tokio::time::{Instant, sleep};

use super::adapter::{connect, scripted, weights};
use super::chain::{FAULTS, Fault};

const CALLS: [&str; 10] = [
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
];

/// Longest time of any call: the life of an extrinsic, and the questions around it.
const CALL_MAX: Duration = Duration::from_secs(420);
/// Longest time until calls succeed again.
const RECOVERY_MAX: Duration = Duration::from_secs(120);

async fn call(subtensor: &Subtensor, name: &str) -> Result<(), ChainError> {
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
        other => panic!("{other} is no call"),
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
    let mut counted = 0;
    for fault in FAULTS {
        let chain = scripted();
        let node = chain.node();
        let subtensor = connect(&[("a", node.clone())], &[]).await;
        for name in CALLS {
            call(&subtensor, name).await.unwrap();
            chain.advance(1);

            chain.set(fault);
            node.set_down(fault == Fault::Restart);
            let start = Instant::now();
            let outcome = call(&subtensor, name).await;
            let took = start.elapsed();
            assert!(took <= CALL_MAX, "{fault:?} x {name} took {took:?}");
            assert!(is_right(fault, &outcome), "{fault:?} x {name}: {outcome:?}");

            chain.set(Fault::None);
            node.set_down(false);
            let start = Instant::now();
            while let Err(error) = call(&subtensor, name).await {
                let waited = start.elapsed();
                assert!(waited <= RECOVERY_MAX, "{fault:?} x {name}: {error} after {waited:?}");
                sleep(Duration::from_secs(1)).await;
            }
            counted += 1;
        }
    }
    println!("faults x calls: {counted}");
    assert_eq!(counted, FAULTS.len() * CALLS.len());
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
