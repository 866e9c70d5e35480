//! A validator's weights on a fake chain that is moved block by block.

use std::sync::Arc;

use grail_ports::beacon::BeaconSchedule;
use grail_ports::chain::Hyperparameters;
use grail_ports::environment::Environment;
use grail_ports::model::StopFlag;
use grail_ports::signer::Signer as _;
use grail_protocol::ids::Window;
use grail_testkit::{
    FakeBeacon, FakeChain, FakeChainConfig, FakeEnvironment, FakeProvider, FakeReveal, FakeSigner,
    MemoryStorage, RecordingEvents,
};

use super::super::evidence::Ledger;
use super::super::history::WindowRecord;
use super::super::scoring::Tally;
use super::landing::SETTLING_BLOCKS;
use super::*;
use crate::context::{EnvironmentFactory, Heartbeat};

const SCHEDULE: WeightSchedule =
    WeightSchedule { interval_blocks: 360, warmup_windows: 1, uncertain_blocks: 18 };
const RULES: Hyperparameters = Hyperparameters {
    weights_rate_limit: 100,
    weights_version: 0,
    tempo: 360,
    reveal_epochs: None,
    weights_min: 0,
    weight_share_max: u16::MAX,
    stake_min: 0,
};
const SEALED: Hyperparameters = Hyperparameters { reveal_epochs: Some(1), ..RULES };
const VERSION: u64 = 6;

/// A validator with one judged window, on its chain.
struct Subnet {
    chain: FakeChain,
    events: Arc<RecordingEvents>,
    folder: tempfile::TempDir,
    validator: Uid,
}

/// One life of the validator.
struct Life {
    ctx: RunContext,
    history: History,
    setter: WeightSetter,
}

impl Subnet {
    fn new(rules: Hyperparameters) -> Self {
        let config = FakeChainConfig { hyperparameters: rules, ..FakeChainConfig::default() };
        let chain = FakeChain::new(config);
        let validator = chain.register(hotkey(1), 1_000, true);
        chain.register(hotkey(2), 0, false);
        let folder = tempfile::tempdir().unwrap();
        let subnet = Self { chain, events: Arc::default(), folder, validator };
        let mut life = subnet.live();
        let tallies = [(hotkey(2), Tally { rollouts: 64, had_failure: false })].into();
        let window = Window::from_start(0).unwrap();
        let (active, selected) = ([hotkey(2)].into(), [hotkey(2)].into());
        let record = WindowRecord { window, active, selected, tallies };
        life.history.add(record, Ledger::default()).unwrap();
        subnet
    }

    /// Starts the validator, for the first time or again.
    fn live(&self) -> Life {
        let clock = self.chain.clock();
        let schedule = BeaconSchedule { genesis_ms: clock(), period_ms: 3_000 };
        let environments: EnvironmentFactory =
            Arc::new(|_, _| Ok(Arc::new(FakeEnvironment::default()) as Arc<dyn Environment>));
        let ctx = RunContext {
            chain: self.chain.handle(hotkey(1)),
            beacon: Arc::new(FakeBeacon::new(schedule, clock.clone(), 7)),
            buckets: MemoryStorage::new(clock).buckets(hotkey(1)),
            signer: Arc::new(FakeSigner::new(1)),
            models: Arc::new(FakeProvider::default()),
            environments,
            events: self.events.clone(),
            state_dir: self.folder.path().to_owned(),
            stop: StopFlag::default(),
            heartbeat: Heartbeat::default(),
        };
        let history = History::open(&self.folder.path().join("validation")).unwrap();
        Life { ctx, history, setter: WeightSetter::new(SCHEDULE, ScoringRules::default(), VERSION) }
    }

    /// Blocks of the accepted submissions.
    fn blocks(&self) -> Vec<u64> {
        self.chain.submissions().iter().map(|it| it.block.0).collect()
    }

    fn failures(&self) -> Vec<(u64, String)> {
        let events = self.events.take().into_iter();
        let failure = |event| match event {
            Event::WeightsFailed { block, reason } => Some((block.0, reason)),
            _ => None,
        };
        events.filter_map(failure).collect()
    }
}

impl Life {
    async fn tick(&mut self, head: BlockNumber) {
        self.setter.run(&self.ctx, &mut self.history, head, true).await.unwrap();
    }

    /// Ticks at every block from the next one to `last`.
    async fn live_until(&mut self, chain: &FakeChain, last: u64) {
        while chain.head().number.0 < last {
            self.tick(chain.advance(1).number).await;
        }
    }
}

fn hotkey(seed: u64) -> Hotkey {
    FakeSigner::new(seed).hotkey()
}

/// The blocks at which attempts fail in a run of failures that begins at `first`.
fn throttled(first: u64, last: u64) -> Vec<u64> {
    let pauses = [1, 2, 4, 8, 16].into_iter().chain(std::iter::repeat(32));
    let mut block = first;
    let mut blocks = vec![first];
    for pause in pauses {
        block += pause;
        if block > last {
            return blocks;
        }
        blocks.push(block);
    }
    blocks
}

#[tokio::test]
async fn weights_are_set_once_an_interval_and_told_when_they_land() {
    let subnet = Subnet::new(RULES);
    subnet.chain.set_finality_lag(3);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 900).await;
    assert_eq!(subnet.blocks(), [1, 360, 720]);
    let events = subnet.events.take();
    let told: Vec<(&str, u64)> = events
        .iter()
        .map(|event| match event {
            Event::WeightsSet { block, weights } => {
                assert!(weights.iter().any(|(_, weight)| *weight > 0.0), "{weights:?}");
                ("set", block.0)
            }
            Event::WeightsLanded { block } => ("landed", block.0),
            other => panic!("{other:?}"),
        })
        .collect();
    let want = [1, 360, 720].into_iter().flat_map(|block| [("set", block), ("landed", block)]);
    assert_eq!(told, want.collect::<Vec<_>>());
    assert_eq!(life.setter.alarm(), None);
}

#[tokio::test]
async fn the_rate_limit_is_waited_for_without_an_attempt() {
    let subnet = Subnet::new(Hyperparameters { weights_rate_limit: 500, ..RULES });
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 1_200).await;
    // The chain refuses what comes too soon, and no refusal was told.
    assert_eq!(subnet.blocks(), [1, 501, 1_001]);
    assert_eq!(subnet.failures(), []);
}

#[tokio::test]
async fn weights_wait_for_the_newest_window_for_half_an_interval() {
    let subnet = Subnet::new(RULES);
    let mut life = subnet.live();
    for _ in 0..400 {
        let head = subnet.chain.advance(1).number;
        life.setter.run(&life.ctx, &mut life.history, head, false).await.unwrap();
    }
    assert_eq!(subnet.blocks(), [180]);
}

#[tokio::test]
async fn lost_weights_are_an_alarm_and_are_set_again() {
    let subnet = Subnet::new(RULES);
    subnet.chain.set_finality_lag(5);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 3).await;
    assert_eq!(subnet.blocks(), [1]);
    subnet.chain.lose_last_weights("a re-organisation took them");
    life.live_until(&subnet.chain, 4).await;
    let alarm = life.setter.alarm().expect("an alarm").to_owned();
    for part in ["block 1", "a re-organisation took them", "tried again from block 5"] {
        assert!(alarm.contains(part), "{alarm}");
    }
    assert_eq!(subnet.failures(), [(4, alarm)]);
    life.live_until(&subnet.chain, 300).await;
    assert_eq!(subnet.blocks(), [1, 5]);
    assert_eq!(life.setter.alarm(), None);
    assert!(matches!(
        subnet.events.take()[..],
        [Event::WeightsSet { .. }, Event::WeightsLanded { block: BlockNumber(5) }]
    ));
}

#[tokio::test]
async fn sealed_weights_are_in_flight_until_they_are_opened() {
    let subnet = Subnet::new(SEALED);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 359).await;
    assert_eq!(subnet.blocks(), [1]);
    assert_eq!(subnet.events.take().len(), 1, "set, and not landed yet");
    life.live_until(&subnet.chain, 1_100).await;
    // Each is opened with the next epoch, when the next ones are due.
    assert_eq!(subnet.blocks(), [1, 360, 720, 1_080]);
    assert_eq!(subnet.failures(), []);
}

#[tokio::test]
async fn an_interval_that_is_shorter_than_the_seal_sets_no_second_weights() {
    let subnet = Subnet::new(Hyperparameters { reveal_epochs: Some(3), ..RULES });
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 2_300).await;
    assert_eq!(subnet.blocks(), [1, 1_080, 2_160]);
    assert_eq!(subnet.failures(), []);
}

#[tokio::test]
async fn weights_that_were_dropped_sealed_are_an_alarm() {
    let subnet = Subnet::new(SEALED);
    subnet.chain.set_reveal(FakeReveal::Drop);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 719).await;
    assert_eq!((subnet.blocks(), subnet.failures()), (vec![1], vec![]));
    subnet.chain.set_reveal(FakeReveal::Open);
    life.live_until(&subnet.chain, 721).await;
    let failures = subnet.failures();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!(failures[0].0, 720);
    assert!(failures[0].1.contains("the epoch that should have opened them is over"));
    assert_eq!(subnet.blocks(), [1, 721]);
    assert!(life.setter.alarm().is_some(), "until the new ones have landed");
    life.live_until(&subnet.chain, 1_080).await;
    assert_eq!(life.setter.alarm(), None);
}

#[tokio::test]
async fn weights_that_nobody_opens_are_an_alarm_after_the_epoch() {
    let subnet = Subnet::new(SEALED);
    subnet.chain.set_reveal(FakeReveal::Never);
    let mut life = subnet.live();
    // Opened from 360 on, within an epoch.
    life.live_until(&subnet.chain, 720 + SETTLING_BLOCKS).await;
    assert_eq!((subnet.blocks(), subnet.failures()), (vec![1], vec![]));
    life.live_until(&subnet.chain, 721 + SETTLING_BLOCKS).await;
    let failures = subnet.failures();
    assert!(failures[0].1.contains("should be open since block 360"), "{failures:?}");
}

#[tokio::test]
async fn every_refusal_is_told_with_its_advice_and_tried_again_with_pauses() {
    let names = [
        "SettingWeightsTooFast",
        "CommittingWeightsTooFast",
        "RateLimitExceeded",
        "NotEnoughStakeToSetWeights",
        "NeuronNoValidatorPermit",
        "IncorrectWeightVersionKey",
        "IncorrectCommitRevealVersion",
        "CommitRevealEnabled",
        "CommitRevealDisabled",
        "InvalidRevealRound",
        "TooManyUnrevealedCommits",
        "WeightVecLengthIsLow",
        "MaxWeightExceeded",
        "HotKeyNotRegisteredInSubNet",
    ];
    let subnet = Subnet::new(RULES);
    let mut life = subnet.live();
    names.iter().for_each(|name| subnet.chain.refuse_next_weights(name));
    life.live_until(&subnet.chain, 359).await;
    let failures = subnet.failures();
    for (name, (block, reason)) in names.iter().zip(&failures) {
        assert!(reason.contains(name), "at {block}: {reason}");
        assert!(reason.contains("a test asked for this refusal"), "at {block}: {reason}");
    }
    let blocks: Vec<u64> = failures.iter().map(|(block, _)| *block).collect();
    assert_eq!(blocks, throttled(1, 359)[..names.len()], "pauses double up to 32 blocks");
    assert_eq!(subnet.blocks().len(), 1);
    assert_eq!(life.setter.alarm(), None);
}

#[tokio::test]
async fn an_old_version_is_told_and_not_sent() {
    let subnet = Subnet::new(Hyperparameters { weights_version: VERSION + 1, ..RULES });
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 20).await;
    assert!(subnet.blocks().is_empty());
    let failures = subnet.failures();
    let text = "demands scoring rules of version 7, and this program has version 6; update";
    assert!(failures[0].1.contains(text), "{failures:?}");
    assert_eq!(failures.iter().map(|it| it.0).collect::<Vec<_>>(), throttled(1, 20));
    subnet.chain.set_hyperparameters(RULES);
    life.live_until(&subnet.chain, 60).await;
    assert_eq!(subnet.blocks(), [32]);
    assert_eq!(life.setter.alarm(), None);
}

#[tokio::test]
async fn without_a_permit_nothing_is_sent_until_there_is_one() {
    let subnet = Subnet::new(SEALED);
    subnet.chain.set_permit(subnet.validator, false);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 8).await;
    assert!(subnet.blocks().is_empty());
    let failures = subnet.failures();
    assert!(failures[0].1.contains("has no validator permit on netuid 81"), "{failures:?}");
    assert!(failures[0].1.contains("stake"), "{failures:?}");
    subnet.chain.set_permit(subnet.validator, true);
    life.live_until(&subnet.chain, 360).await;
    assert_eq!(subnet.blocks(), [16, 360]);
}

#[tokio::test]
async fn a_hotkey_that_is_no_longer_registered_is_told_what_to_do() {
    let subnet = Subnet::new(SEALED);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 2).await;
    subnet.chain.replace(subnet.validator, hotkey(9));
    life.live_until(&subnet.chain, 4).await;
    let failures = subnet.failures();
    assert!(failures[0].1.contains("not registered"), "{failures:?}");
    assert!(failures[1].1.contains("btcli subnet register"), "{failures:?}");
    assert_eq!(subnet.blocks(), [1]);
}

#[tokio::test]
async fn a_chain_that_is_away_is_asked_again_with_pauses() {
    let subnet = Subnet::new(RULES);
    let mut life = subnet.live();
    subnet.chain.set_down(true);
    life.live_until(&subnet.chain, 10).await;
    let blocks: Vec<u64> = subnet.failures().iter().map(|it| it.0).collect();
    assert_eq!(blocks, throttled(1, 10));
    subnet.chain.set_down(false);
    life.live_until(&subnet.chain, 20).await;
    assert_eq!(subnet.blocks(), [16]);
    assert_eq!(life.setter.alarm(), None);

    // While weights are on their way it is no alarm: they may be there.
    let subnet = Subnet::new(SEALED);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 2).await;
    subnet.chain.set_down(true);
    life.live_until(&subnet.chain, 500).await;
    subnet.chain.set_down(false);
    life.live_until(&subnet.chain, 501).await;
    assert_eq!(subnet.failures(), []);
    assert_eq!(subnet.blocks(), [1, 501]);
}

#[tokio::test]
async fn weights_whose_answer_was_lost_are_found_and_not_set_twice() {
    for rules in [RULES, SEALED, Hyperparameters { weights_rate_limit: 0, ..RULES }] {
        let subnet = Subnet::new(rules);
        subnet.chain.lose_next_answer();
        let mut life = subnet.live();
        life.live_until(&subnet.chain, 359).await;
        assert_eq!(subnet.blocks(), [1], "{rules:?}");
        let events = subnet.events.take();
        assert!(matches!(events[0], Event::WeightsFailed { block: BlockNumber(1), .. }));
        assert!(matches!(events[1], Event::WeightsSet { block: BlockNumber(1), .. }));
        life.live_until(&subnet.chain, 360).await;
        assert!(life.setter.alarm().is_none(), "{rules:?}");
    }
}

#[tokio::test]
async fn a_restart_neither_repeats_nor_forgets() {
    for rules in [RULES, SEALED] {
        // Undisturbed, and with a new life at every block.
        for every in [u64::MAX, 1, 7] {
            let subnet = Subnet::new(rules);
            subnet.chain.set_finality_lag(4);
            let mut life = subnet.live();
            for block in 1..=800 {
                if block % every == 0 {
                    life = subnet.live();
                }
                life.live_until(&subnet.chain, block).await;
            }
            // Seals are opened at 360, which is final four blocks later.
            let want = if rules == SEALED { [1, 364, 724] } else { [1, 360, 720] };
            assert_eq!(subnet.blocks(), want, "{rules:?}, every {every}");
            let landed = |it: &&Event| matches!(it, Event::WeightsLanded { .. });
            let events = subnet.events.take();
            let want = if rules == SEALED { 2 } else { 3 };
            assert_eq!(events.iter().filter(landed).count(), want, "{events:?}");
        }
    }
}

#[tokio::test]
async fn a_crash_around_the_call_sets_no_second_weights() {
    for (is_in, want) in [(true, vec![1]), (false, vec![19])] {
        // What is on the disk while the call is under way; the chain has it, or never gets it.
        let subnet = Subnet::new(RULES);
        let mut life = subnet.live();
        let head = subnet.chain.advance(1).number;
        life.setter.kept = Some(Kept::open(life.history.folder()).unwrap());
        let Ok(Ready::Now(submission, before)) =
            life.setter.ready(&life.ctx, &life.history, head).await
        else {
            panic!("weights are due");
        };
        let flight = Flight::new(0, &submission, before, BlockNumber(head.0 + 18));
        life.setter.change(|memory| memory.flight = Some(flight)).unwrap();
        if is_in {
            life.ctx.chain.set_weights(&submission).await.unwrap();
        }
        let mut life = subnet.live();
        life.tick(head).await;
        life.live_until(&subnet.chain, 300).await;
        assert_eq!(subnet.blocks(), want);
        let events = subnet.events.take();
        assert!(matches!(events[..], [Event::WeightsSet { .. }, Event::WeightsLanded { .. }]));
    }
}

#[tokio::test]
async fn an_alarm_outlives_a_restart() {
    let subnet = Subnet::new(Hyperparameters { weights_version: VERSION + 1, ..RULES });
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 4).await;
    let before = life.setter.alarm().unwrap().to_owned();
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 5).await;
    assert_eq!(life.setter.alarm(), Some(before.as_str()), "and the pause as well");
    assert_eq!(subnet.failures().len(), 3);
}

#[tokio::test]
async fn rules_that_change_in_between_are_followed() {
    // Sealing begins while open weights are on their way, and the limit grows.
    let subnet = Subnet::new(RULES);
    subnet.chain.set_finality_lag(5);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 3).await;
    subnet.chain.set_hyperparameters(Hyperparameters { weights_rate_limit: 400, ..SEALED });
    life.live_until(&subnet.chain, 800).await;
    assert_eq!(subnet.blocks(), [1, 401]);
    // The epoch grows while weights are sealed: they have that much longer.
    subnet.chain.set_reveal(FakeReveal::Never);
    let subnet_rules = Hyperparameters { tempo: 1_000, ..SEALED };
    life.live_until(&subnet.chain, 810).await;
    assert_eq!(subnet.blocks(), [1, 401, 801]);
    subnet.chain.set_hyperparameters(subnet_rules);
    life.live_until(&subnet.chain, 1_080 + 1_000 + SETTLING_BLOCKS).await;
    assert_eq!(subnet.failures(), []);
    life.live_until(&subnet.chain, 1_081 + 1_000 + SETTLING_BLOCKS).await;
    assert_eq!(subnet.failures().len(), 1);
}

#[tokio::test]
async fn finality_that_stands_still_does_not_stop_the_weights() {
    let subnet = Subnet::new(RULES);
    subnet.chain.set_finality_lag(u64::MAX);
    let mut life = subnet.live();
    life.live_until(&subnet.chain, 1 + SETTLING_BLOCKS).await;
    let landed = |it: &Event| matches!(it, Event::WeightsLanded { .. });
    assert!(!subnet.events.take().iter().any(landed));
    life.live_until(&subnet.chain, 360).await;
    assert!(subnet.events.take().iter().any(landed));
    assert_eq!(subnet.blocks(), [1, 360]);
}
