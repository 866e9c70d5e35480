//! Stores, chain and beacon fail at random: nobody honest is blamed, no cheater gets through.

mod support;

use std::collections::BTreeMap;

use grail_neurons::neuron::{Neuron, Tick};
use grail_ports::events::Event;
use grail_protocol::ids::BlockNumber;
use grail_services::mining::adversary::Cheat;
use grail_testkit::{FaultRates, Faults};
use support::{CHEATER, MINER, OTHER_MINER, TRAINER, VALIDATOR, World, hotkey, judgements};

const WINDOWS: u64 = 8;
/// Blocks of each window at which the roles look at the chain.
const LOOKS: u64 = 8;

/// Ticks a role at the head; failures are what this test is about.
async fn look(world: &World, neuron: &mut dyn Neuron, is_started: &mut bool, log: &mut String) {
    let head = world.chain.head();
    if !*is_started {
        match neuron.start().await {
            Ok(()) => *is_started = true,
            Err(error) => {
                assert!(!error.is_final(), "{error}\n{log}");
                return;
            }
        }
    }
    for _ in 0..3 {
        match neuron.tick(head).await {
            Ok(Tick::Done(what)) => *log += &format!("{}: {} {what}\n", head.number, neuron.role()),
            Ok(_) => return,
            Err(error) => {
                *log += &format!("{}: {} {error}\n", head.number, neuron.role());
                assert!(!error.is_final(), "{error}\n{log}");
                return;
            }
        }
    }
}

async fn survive(seed: u64) {
    let rates = FaultRates { unavailable: 40, lost_answer: 20, corrupt: 20, slow: 0 };
    let faults = Faults::new(seed, rates);
    let world = World { faults: Some(faults.clone()), groups: 2, problems: 4, ..World::new() };
    let mut roles: Vec<(Box<dyn Neuron>, bool)> = vec![
        (Box::new(world.miner(MINER)), false),
        (Box::new(world.miner(OTHER_MINER)), false),
        (Box::new(world.cheater(&Cheat::ALL)), false),
        (Box::new(world.validator()), false),
        (Box::new(world.trainer()), false),
    ];
    let mut log = format!("faults drawn from seed {seed}\n");
    for window in 0..=WINDOWS {
        for offset in 1..=LOOKS {
            world.chain.advance_to(BlockNumber(30 * window + offset));
            for (neuron, is_started) in &mut roles {
                look(&world, &mut **neuron, is_started, &mut log).await;
            }
        }
    }
    assert!(faults.drawn().len() > 50, "{} faults are no test\n{log}", faults.drawn().len());
    let events = world.take_events(VALIDATOR);
    let judged = judgements(&events);
    let mut accepted = BTreeMap::new();
    for ((window, of), judged) in &judged {
        if *of == hotkey(CHEATER) {
            assert!(judged.accepted == 0, "a cheater passed in window {window}\n{log}");
        } else {
            assert_eq!(judged.rejection, None, "an honest miner was blamed in {window}\n{log}");
            *accepted.entry(*of).or_insert(0) += judged.accepted;
        }
    }
    for seed in [MINER, OTHER_MINER] {
        let rollouts = accepted.get(&hotkey(seed)).copied().unwrap_or(0);
        assert!(rollouts >= 4 * 32, "{rollouts} rollouts of an honest miner were accepted\n{log}");
        assert!(world.weight(seed) > 0.0, "{log}");
    }
    assert_eq!(world.weight(CHEATER), 0.0, "{log}");
    let published = world.take_events(TRAINER).into_iter();
    let published = published.filter(|it| matches!(it, Event::CheckpointPublished { .. })).count();
    assert!(published >= 4, "{published} checkpoints were published\n{log}");
    // One checkpoint per window, each marked ready once.
    let markers = world.ready_markers();
    let mut checkpoints: Vec<_> = markers.iter().map(|marker| marker.checkpoint).collect();
    checkpoints.dedup();
    assert_eq!(checkpoints.len(), markers.len(), "{markers:?}\n{log}");
}

#[tokio::test(start_paused = true)]
async fn honest_roles_survive_faults() {
    for seed in 0..14 {
        survive(seed).await;
    }
}
