//! Every role is killed at every call of its ports, before and after the effect, and started again:
//! the buckets end up the same, byte for byte, as if nothing had happened.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use grail_neurons::neuron::{Neuron, Tick};
use grail_ports::chain::Block;
use grail_protocol::checkpoint::Protocol;
use grail_protocol::ids::Uid;
use grail_testkit::FakeProvider;
use support::crash::CrashPlan;
use support::reference::Subnet;
use support::{MINER, TRAINER, VALIDATOR, World};

/// The role of a hotkey, made anew from its folder.
fn make(subnet: &Subnet, protocol: Protocol, seed: u64) -> Box<dyn Neuron> {
    let world = &subnet.world;
    match (protocol, seed) {
        (Protocol::V6, TRAINER) => Box::new(world.trainer()),
        (Protocol::V6, VALIDATOR) => Box::new(world.validator()),
        (Protocol::V6, seed) => Box::new(world.miner(seed)),
        (Protocol::V5, TRAINER) => Box::new(subnet.trainer()),
        (Protocol::V5, VALIDATOR) => Box::new(subnet.validator()),
        (Protocol::V5, seed) => Box::new(subnet.miner(seed)),
    }
}

/// Ticks a role until it has nothing to do; returns the role, or nothing if it was killed.
async fn live(
    mut neuron: Box<dyn Neuron>,
    head: Block,
    plan: Option<Arc<CrashPlan>>,
) -> Option<Box<dyn Neuron>> {
    let mut life = tokio::spawn(async move {
        neuron.start().await.unwrap();
        for _ in 0..8 {
            match neuron.tick(head).await.unwrap() {
                Tick::Idle | Tick::Waiting(_) => break,
                Tick::Done(_) => {}
            }
        }
        neuron
    });
    let Some(plan) = plan else {
        return Some(life.await.unwrap());
    };
    tokio::select! {
        biased;
        () = plan.dead.notified() => {
            life.abort();
            // Whatever blocks has to end before another process could start.
            let _ = (&mut life).await;
            None
        }
        ended = &mut life => ended.ok(),
    }
}

/// What a run leaves behind.
#[derive(Debug, PartialEq)]
struct Remains {
    objects: BTreeMap<(u64, String), Bytes>,
    weights: Vec<Vec<(Uid, f64)>>,
}

/// Runs four windows; the role `victim` is killed by `plan` and started again at the same block.
async fn run(
    protocol: Protocol,
    victim: u64,
    plan: Option<Arc<CrashPlan>>,
    models: &Arc<FakeProvider>,
) -> Remains {
    let world = World { groups: 1, problems: 4, models: models.clone(), ..World::new() };
    let mut subnet = Subnet::of(world);
    subnet.world.doomed = plan.clone().map(|plan| (victim, plan));
    let roles = [MINER, VALIDATOR, TRAINER];
    let mut neurons: BTreeMap<u64, Box<dyn Neuron>> =
        roles.iter().map(|seed| (*seed, make(&subnet, protocol, *seed))).collect();
    subnet.world.doomed = None;
    let healthy = &subnet.world;
    let mut order = vec![TRAINER];
    for round in 0..4 {
        let head = if round == 0 { healthy.chain.head() } else { healthy.next_window() };
        for seed in order {
            let neuron = neurons.remove(&seed).unwrap();
            let plan = plan.clone().filter(|_| seed == victim);
            let survivor = match live(neuron, head, plan).await {
                Some(neuron) => neuron,
                None => live(make(&subnet, protocol, seed), head, None).await.unwrap(),
            };
            neurons.insert(seed, survivor);
        }
        order = roles.to_vec();
    }
    let mut objects = BTreeMap::new();
    for seed in roles {
        for key in healthy.storage.keys(support::hotkey(seed)) {
            let bytes = healthy.storage.peek(support::hotkey(seed), &key).unwrap();
            objects.insert((seed, key), bytes);
        }
    }
    let mut weights: Vec<_> =
        healthy.chain.submissions().into_iter().map(|it| it.submission.weights).collect();
    // An answer that was lost may lead to a second, equal submission.
    weights.dedup();
    Remains { objects, weights }
}

/// Kills a role at every call, before or after the call had its effect. The two are tests of their
/// own, so that both cores have work to the end.
async fn kill_everywhere(protocol: Protocol, victim: u64, calls_at_least: u64, after_effect: bool) {
    // All runs train the same checkpoints, and each measures them over the same public text.
    let models = Arc::new(FakeProvider::remembering());
    let undisturbed = run(protocol, victim, None, &models).await;
    assert!(undisturbed.objects.len() > 20, "{:?}", undisturbed.objects.keys());
    for at_call in 1.. {
        let plan = CrashPlan::new(at_call, after_effect);
        let remains = run(protocol, victim, Some(plan.clone()), &models).await;
        if !plan.has_struck() {
            assert!(at_call > calls_at_least, "only {at_call} calls were made");
            return;
        }
        let what = format!("role {victim} killed at call {at_call}, after: {after_effect}");
        let keys = |remains: &Remains| remains.objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&remains), keys(&undisturbed), "{what}");
        for (key, bytes) in &remains.objects {
            assert!(undisturbed.objects[key] == *bytes, "{key:?} differs: {what}");
        }
        assert_eq!(remains.weights, undisturbed.weights, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trainer_can_be_killed_before_any_effect() {
    // Two of its three checkpoints are deltas, which have fewer objects than whole ones.
    kill_everywhere(Protocol::V6, TRAINER, 80, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_trainer_can_be_killed_after_any_effect() {
    kill_everywhere(Protocol::V6, TRAINER, 80, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_trainer_of_the_references_profile_can_be_killed_before_any_effect() {
    kill_everywhere(Protocol::V5, TRAINER, 80, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_trainer_of_the_references_profile_can_be_killed_after_any_effect() {
    kill_everywhere(Protocol::V5, TRAINER, 80, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_validator_can_be_killed_before_any_effect() {
    kill_everywhere(Protocol::V6, VALIDATOR, 40, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_validator_can_be_killed_after_any_effect() {
    kill_everywhere(Protocol::V6, VALIDATOR, 40, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_miner_can_be_killed_before_any_effect() {
    kill_everywhere(Protocol::V6, MINER, 20, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_miner_can_be_killed_after_any_effect() {
    kill_everywhere(Protocol::V6, MINER, 20, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_miner_of_the_references_profile_can_be_killed_before_any_effect() {
    kill_everywhere(Protocol::V5, MINER, 20, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_miner_of_the_references_profile_can_be_killed_after_any_effect() {
    kill_everywhere(Protocol::V5, MINER, 20, true).await;
}
