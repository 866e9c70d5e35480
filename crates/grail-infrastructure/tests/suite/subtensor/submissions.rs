//! A call on its way into a block, whatever the pool, the chain and its runtime do meanwhile.

use std::time::Duration;

use grail_infrastructure::subtensor::Subtensor;
use grail_ports::chain::{Chain as _, ChainError, WeightsStatus};
use grail_protocol::ids::BlockNumber;
use serde_json::json;
use tokio::time::Instant;

use super::adapter::{connect, connect_with, scripted, weights};
use super::chain::{Chain, Told};
use super::node::Node;

async fn patient(node: &Node) -> Subtensor {
    let wait = |config: &mut grail_infrastructure::subtensor::SubtensorConfig| {
        config.submit.wait_for_finality = true;
    };
    connect_with(&[("a", node.clone())], &[], wait).await.unwrap()
}

fn handed_in(node: &Node) -> usize {
    node.calls().iter().filter(|call| *call == "author_submitAndWatchExtrinsic").count()
}

/// What left the pool is in no block: a refusal that names the reason, or a failure to try again.
#[tokio::test(start_paused = true)]
async fn every_way_out_of_the_pool_is_told_apart() {
    for (told, is_refused) in [
        (Told::Of("usurped"), true),
        (Told::Word("dropped"), false),
        (Told::Word("invalid"), false),
    ] {
        let chain = scripted();
        let node = chain.node();
        let subtensor = connect(&[("a", node.clone())], &[]).await;
        chain.tell(false, &[(0, Told::Word("future")), (1, Told::Word("ready")), (1, told)]);
        let start = Instant::now();
        let outcome = subtensor.set_weights(&weights()).await.unwrap_err();
        assert_eq!(start.elapsed(), Duration::from_secs(2), "{told:?}");
        match &outcome {
            ChainError::Refused { name, advice, .. } => {
                assert!(is_refused, "{told:?}: {outcome}");
                assert_eq!(name, "Usurped");
                assert!(advice.contains("second program"), "{advice}");
            }
            ChainError::Unavailable(reason) => {
                assert!(!is_refused, "{told:?}: {outcome}");
                let Told::Word(word) = told else { panic!("{told:?}") };
                assert!(reason.contains(word) && reason.contains("try again"), "{reason}");
            }
            other => panic!("{told:?}: {other}"),
        }
        assert_eq!(handed_in(&node), 1);
        // Nothing was sent, and the next try is not hindered.
        assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Unknown));
        subtensor.set_weights(&weights()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_in_its_block_or_when_that_is_final() {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let start = Instant::now();
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!((block, start.elapsed()), (BlockNumber(101), Duration::from_secs(12)));

    let chain = scripted();
    let subtensor = patient(&chain.node()).await;
    let start = Instant::now();
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!((block, start.elapsed()), (BlockNumber(101), Duration::from_secs(36)));
    assert!(subtensor.finalized().await.unwrap() >= block);
}

/// A node that stops watching, or says what nobody knows, leaves the blocks to be searched; with
/// finality asked for, only the final ones.
#[tokio::test(start_paused = true)]
async fn blocks_are_searched_when_the_node_stops_watching() {
    for told in [Told::Elsewhere("finalityTimeout"), Told::Word("something new")] {
        for is_patient in [false, true] {
            let chain = scripted();
            let node = chain.node();
            let nodes = [("a", node.clone())];
            let subtensor =
                if is_patient { patient(&node).await } else { connect(&nodes, &[]).await };
            chain.tell(true, &[(0, Told::Word("ready")), (1, told)]);
            let block = subtensor.set_weights(&weights()).await.unwrap();
            assert_eq!(block, BlockNumber(101), "{told:?}");
            let last_final = subtensor.finalized().await.unwrap();
            assert!(!is_patient || last_final >= block, "{told:?}: {last_final:?}");
            assert_eq!(handed_in(&node), 1);
        }
    }
}

/// The block with the call goes away before it is final, and another one has the call.
#[tokio::test(start_paused = true)]
async fn a_reorganisation_before_finality_is_outlived() {
    let script = [
        (0, Told::Word("ready")),
        (12, Told::Of("inBlock")),
        (6, Told::TakenAway),
        (0, Told::Elsewhere("retracted")),
        (12, Told::Again),
        (0, Told::Of("inBlock")),
        (24, Told::Of("finalized")),
    ];
    let chain = scripted();
    let node = chain.node();
    let subtensor = patient(&node).await;
    chain.tell(true, &script);
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert!(block > BlockNumber(101), "{block:?} was taken away");
    assert_eq!(handed_in(&node), 1, "it is not made twice");
    assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Landed));
}

/// The node names a block which is gone when it is read: the others are searched.
#[tokio::test(start_paused = true)]
async fn a_block_that_is_gone_is_looked_for_elsewhere() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    let script = [(0, Told::TakenAway), (0, Told::Elsewhere("inBlock")), (20, Told::Again)];
    chain.tell(true, &script);
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert!(block > BlockNumber(101), "{block:?} was taken away");
    assert_eq!(handed_in(&node), 1);
}

/// A call that no block has when its life is over is missed, in bounded time, and may be made again.
#[tokio::test(start_paused = true)]
async fn a_call_that_never_lands_is_missed_when_its_life_is_over() {
    for is_patient in [false, true] {
        let chain = scripted();
        let node = chain.node();
        let nodes = [("a", node.clone())];
        let subtensor = if is_patient { patient(&node).await } else { connect(&nodes, &[]).await };
        chain.tell(
            true,
            &[(1, Told::Of("inBlock")), (0, Told::TakenAway), (5, Told::Word("dropped"))],
        );
        let outcome = subtensor.set_weights(&weights()).await;
        if is_patient {
            assert!(matches!(&outcome, Err(ChainError::Unavailable(_))), "{outcome:?}");
        }
        chain.tell(false, &[(0, Told::Word("ready")), (0, Told::Elsewhere("finalityTimeout"))]);
        let start = Instant::now();
        let outcome = subtensor.set_weights(&weights()).await;
        let Err(ChainError::Unavailable(reason)) = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("in no block") || reason.contains("no block has it"), "{reason}");
        let life = Duration::from_secs(12 * (16 + 2) + 15 + 12);
        assert!(start.elapsed() <= life, "{:?}", start.elapsed());
        subtensor.set_weights(&weights()).await.unwrap();
    }
}

/// The runtime changes between signature and hand-in: the pool refuses, and the call is signed anew.
#[tokio::test(start_paused = true)]
async fn an_upgrade_at_the_hand_in_costs_one_more_signature() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    chain.upgrade_at_hand_in();
    let block = subtensor.set_weights(&weights()).await.unwrap();
    assert_eq!((block, handed_in(&node)), (BlockNumber(101), 2));
    chain.advance(1);
    assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Landed));
}

/// The runtime changes while the call waits for its block: the block is read with its own metadata.
#[tokio::test(start_paused = true)]
async fn an_upgrade_before_the_block_does_not_hide_the_outcome() {
    let script = [(0, Told::Word("ready")), (6, Told::Upgraded), (6, Told::Of("inBlock"))];
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    let count = || node.calls().iter().filter(|call| *call == "state_call").count();
    let before = count();
    chain.tell(true, &script);
    assert_eq!(subtensor.set_weights(&weights()).await, Ok(BlockNumber(101)));
    assert_eq!(count(), before + 1, "the new metadata is read once");
    assert_eq!(handed_in(&node), 1);
    // A refusal is named by the new runtime's own numbers.
    let metadata: &Chain = &chain;
    let pallet = metadata.metadata().pallet_index("SubtensorModule").unwrap();
    chain.refuse_next(pallet, 29);
    chain.tell(true, &script);
    let refusal = subtensor.set_weights(&weights()).await.unwrap_err();
    assert!(matches!(refusal, ChainError::Refused { .. }), "{refusal}");
}

/// The answer to the hand-in says that the pool has it: it is looked for, and not handed in again.
#[tokio::test(start_paused = true)]
async fn a_call_that_the_pool_has_already_is_found() {
    let chain = scripted();
    let node = chain.node();
    let subtensor = connect(&[("a", node.clone())], &[]).await;
    let error =
        json!({"code": 1013, "message": "Transaction Already Imported", "data": "Any { .. }"});
    chain.refuse_in_pool(vec![error], true);
    assert_eq!(subtensor.set_weights(&weights()).await, Ok(BlockNumber(101)));
    assert_eq!(handed_in(&node), 1);
}

mod heads {
    use super::*;

    async fn following(node: &Node) -> Subtensor {
        let follow = |config: &mut grail_infrastructure::subtensor::SubtensorConfig| {
            config.follow_heads = true;
        };
        let subtensor = connect_with(&[("a", node.clone())], &[], follow).await.unwrap();
        // The subscription is a task of its own.
        tokio::time::sleep(Duration::from_secs(1)).await;
        subtensor
    }

    fn asked(node: &Node) -> usize {
        node.calls().iter().filter(|call| *call == "chain_getHeader").count()
    }

    /// What the runtime aims at.
    const BLOCK: Duration = Duration::from_millis(250);

    /// Asks for the head once a block, and checks that it moves as the chain does.
    async fn follow(subtensor: &Subtensor) {
        let first = subtensor.head().await.unwrap().number;
        let mut last = first;
        for _ in 0..50 {
            tokio::time::sleep(BLOCK).await;
            let head = subtensor.head().await.unwrap();
            assert!(head.number >= last, "{head:?} after {last:?}");
            assert_eq!(subtensor.block(head.number).await, Ok(Some(head)));
            last = head.number;
        }
        assert!((48..=52).contains(&(last.0 - first.0)), "from {first:?} to {last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_tells_of_heads_and_is_not_asked() {
        let chain = scripted();
        chain.set_block_time(BLOCK);
        chain.tell_heads(Some(1_000));
        let node = chain.node();
        let subtensor = following(&node).await;
        let before = asked(&node);
        follow(&subtensor).await;
        assert_eq!(asked(&node), before, "no head was asked for");
    }

    #[tokio::test(start_paused = true)]
    async fn heads_are_asked_for_where_the_node_tells_of_none() {
        // It refuses, tells of one and falls silent, or hangs up.
        for heads in [None, Some(0)] {
            let chain = scripted();
            chain.tell_heads(heads);
            let node = chain.node();
            let subtensor = following(&node).await;
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(36)).await;
                let head = subtensor.head().await.unwrap();
                assert_eq!(head.hash.0, chain.head_hash(), "{heads:?}");
            }
            assert!(asked(&node) >= 10);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_node_tells_of_heads_again_after_its_connection_broke() {
        let chain = scripted();
        chain.set_block_time(BLOCK);
        chain.tell_heads(Some(1_000));
        let node = chain.node();
        let subtensor = following(&node).await;
        chain.set(super::super::chain::Fault::Reset);
        assert!(subtensor.finalized().await.is_err(), "the connection breaks");
        chain.set(super::super::chain::Fault::None);
        let head = subtensor.head().await.unwrap();
        assert_eq!(head.hash.0, chain.head_hash(), "asked for meanwhile");
        tokio::time::sleep(Duration::from_secs(90)).await;
        let before = asked(&node);
        follow(&subtensor).await;
        assert_eq!(asked(&node), before, "told of again");
        let subscribed =
            node.calls().iter().filter(|call| *call == "chain_subscribeNewHeads").count();
        assert!(subscribed >= 2, "{subscribed}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_stops_listening() {
        let chain = scripted();
        chain.tell_heads(Some(10));
        let node = chain.node();
        let subtensor = following(&node).await;
        subtensor.close().await;
        drop(subtensor);
        let before = node.calls().len();
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(node.calls().len(), before);
    }
}
