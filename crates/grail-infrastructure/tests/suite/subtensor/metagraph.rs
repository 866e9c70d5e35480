//! The neurons of a subnet as the port tells them, from the packages' own blobs, and runtimes that do
//! not describe how they tell.

use grail_infrastructure::substrate::Address;
use grail_ports::chain::{Chain as _, ChainError, WeightsStatus};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::Hotkey;
use grail_testkit::FakeSigner;
use grail_testkit::vectors::{bytes, every_entry, list, size, text};
use serde_json::Value as Json;

use super::adapter::{connect, scripted, weights};
use super::chain::{Chain, Offer};

#[test]
fn neurons_are_those_of_the_package() {
    let (topic, file) = ("bittensor/metagraph", "synthetic_metagraph_spec461.json");
    every_entry(topic, file, "cases", 4, |case| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(assert_neurons(case));
    });
}

async fn assert_neurons(case: &Json) {
    let chain = scripted();
    let subtensor = connect(&[("a", chain.node())], &[]).await;
    let answer = bytes(&case["option_scale"]);
    // A newer runtime appends fields.
    for answer in [answer.clone(), [answer.as_slice(), &[7; 40]].concat()] {
        chain.set_metagraph(answer);
        let block = chain.advance(1);
        let metagraph = subtensor.metagraph().await.unwrap();
        assert_eq!(metagraph.block.0, u64::from(block));
        assert_eq!(metagraph.neurons.len(), size(&case["n"]));
        let decoded = &case["decoded"];
        for (at, neuron) in metagraph.neurons.iter().enumerate() {
            let of = |name: &str| &list(&decoded[name])[at];
            assert_eq!(usize::from(neuron.uid.0), at);
            let hotkey: Address = text(of("hotkeys")).parse().unwrap();
            assert_eq!(neuron.hotkey, Hotkey(hotkey.account));
            assert_eq!(Some(neuron.stake), of("total_stake").as_u64());
            assert_eq!(Some(neuron.validator_permit), of("validator_permit").as_bool());
            assert_eq!(Some(neuron.last_update.0), of("last_update").as_u64());
            let share = of("incentives").as_f64().unwrap() / f64::from(u16::MAX);
            assert!((neuron.incentive - share).abs() < 1e-12, "{neuron:?}");
        }
    }
    // No part of an answer passes for one.
    for cut in [1, 2, answer.len() / 2, answer.len() - 1] {
        chain.set_metagraph(answer[..cut].to_vec());
        chain.advance(1);
        moment().await;
        let outcome = subtensor.metagraph().await;
        assert!(matches!(outcome, Err(ChainError::Malformed { .. })), "{cut}: {outcome:?}");
    }
    chain.set_metagraph(vec![0]);
    chain.advance(1);
    moment().await;
    let error = subtensor.metagraph().await.unwrap_err();
    assert!(error.to_string().contains("there is no subnet"), "{error}");
}

/// Failures are shared by whoever asks at the same moment.
async fn moment() {
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
}

/// Format 14 tells of storage and calls, and not of the runtime's own summaries: what needs those is
/// refused, and everything else works.
#[tokio::test(start_paused = true)]
async fn a_runtime_of_format_14_is_used_and_its_metagraph_refused() {
    let own = FakeSigner::new(1).hotkey();
    for offer in [Offer::Old, Offer::VeryOld] {
        let chain = Chain::old(own.0, offer);
        assert_eq!(chain.metadata().format(), 14);
        let subtensor = connect(&[("a", chain.node())], &[]).await;
        assert_eq!(subtensor.head().await.unwrap().hash.0, chain.head_hash());
        assert_eq!(subtensor.hyperparameters().await.unwrap().tempo, 360);
        subtensor.set_commitment(b"bucket").await.unwrap();
        let block = subtensor.set_weights(&weights()).await.unwrap();
        chain.advance(1);
        assert_eq!(subtensor.weights_status().await, Ok(WeightsStatus::Landed), "{block:?}");
        let commitments = subtensor.commitments().await.unwrap();
        assert_eq!(commitments.get(&own).map(Vec::as_slice), Some(&b"bucket"[..]));

        let error = subtensor.metagraph().await.unwrap_err();
        assert!(matches!(&error, ChainError::Malformed { .. }), "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains("format 14") && shown.contains("format 15"), "{shown}");
    }
}
