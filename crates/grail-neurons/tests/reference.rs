//! A subnet of the reference's profile, moved block by block: honest miners earn, a copier is gated, a
//! corrupt file is banned, forged sketches pass, and a node of another profile waits.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use grail_neurons::neuron::Neuron;
use grail_ports::environment::Environment as _;
use grail_ports::events::Event;
use grail_ports::model::{GenerateRequest, ModelProvider as _, Sampling, ScoreRequest, StopFlag};
use grail_protocol::ids::{Hotkey, TokenId, Window};
use grail_protocol::v5::file::{gzip_key, object_key};
use grail_services::training::config::TrainingConfig;
use grail_services::v5::mining::adversary::ReferenceCheat;
use grail_testkit::{FakeEnvironment, FakeProvider};
use support::reference::Subnet;
use support::{CHEATER, MINER, OTHER_MINER, TRAINER, VALIDATOR, World, hotkey, judgements, settle};

fn key_of(owner: Hotkey, window: Window) -> String {
    object_key(&owner.to_ss58(), window.start().0 as i64)
}

#[tokio::test(start_paused = true)]
async fn honest_miners_earn_and_a_copier_is_gated() {
    let subnet = Subnet::new();
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let (mut miner, mut other) = (subnet.miner(MINER), subnet.miner(OTHER_MINER));
    let mut copier = subnet.cheater(ReferenceCheat::CopiedCompletions);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    other.start().await.unwrap();
    copier.start().await.unwrap();

    let world = &subnet.world;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    for _ in 0..8 {
        let head = world.next_window();
        log += &settle(&mut validator, head).await;
        log += &settle(&mut trainer, head).await;
        log += &settle(&mut miner, head).await;
        log += &settle(&mut other, head).await;
        log += &settle(&mut copier, subnet.next_block()).await;
    }

    let events = world.take_events(VALIDATOR);
    let judged = judgements(&events);
    assert!(judged.len() >= 12, "{judged:?}\n{log}");
    let mut copies = Vec::new();
    for ((window, of), judged) in &judged {
        if *of == hotkey(CHEATER) && judged.rejection.is_some() {
            assert_eq!(judged.rejection.as_deref(), Some("copycat"), "{log}");
            copies.push(*window);
        } else {
            assert_eq!(judged.rejection, None, "{window}\n{log}");
            assert_eq!(judged.checked, judged.accepted, "{window}\n{log}");
            assert!(judged.checked >= 16, "{window}\n{log}");
        }
    }
    let caught = *copies.first().unwrap_or_else(|| panic!("never caught\n{log}"));
    let later = |(window, of): &&(Window, Hotkey)| *of == hotkey(CHEATER) && *window > caught;
    assert_eq!(judged.keys().filter(later).count(), 0, "a gated miner is not checked\n{log}");

    let list = subnet.trust_list(caught);
    let names =
        |seeds: &[u64]| seeds.iter().map(|seed| hotkey(*seed).to_ss58()).collect::<Vec<_>>();
    assert_eq!(list.eligible_hotkeys, names(&[MINER, OTHER_MINER]));
    assert_eq!((list.active_count, list.excluded_failure_count), (3, 1));
    assert_eq!(world.weight(CHEATER), 0.0);
    assert!(world.weight(MINER) > 0.0 && world.weight(OTHER_MINER) > 0.0);

    let trained: Vec<u32> = world
        .take_events(TRAINER)
        .iter()
        .filter_map(|event| match event {
            Event::WindowTrained { steps, .. } => Some(*steps),
            _ => None,
        })
        .collect();
    assert!(trained.iter().any(|steps| *steps > 0), "{trained:?}\n{log}");
    assert!(world.ready_markers().len() > 1, "{log}");
}

#[tokio::test(start_paused = true)]
async fn the_model_learns_from_what_trusted_miners_wrote() {
    const WINDOWS: usize = 12;
    // Of 32 tokens only the first earns something, and a model that only came to like one letter must
    // not look as if it had learnt: that takes many groups.
    let mut subnet = Subnet::of(World { groups: 16, problems: 4, ..World::new() });
    (subnet.training.steps.groups_per_step, subnet.training.steps.epochs) = (32, 1);
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let (mut miner, mut other) = (subnet.miner(MINER), subnet.miner(OTHER_MINER));
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    other.start().await.unwrap();
    let world = &subnet.world;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    for _ in 0..WINDOWS {
        let head = world.next_window();
        log += &settle(&mut validator, head).await;
        log += &settle(&mut trainer, head).await;
        log += &settle(&mut miner, head).await;
        log += &settle(&mut other, head).await;
    }

    let mut rewards = Vec::new();
    let mut log_ratios = Vec::new();
    for event in world.take_events(TRAINER) {
        if let Event::WindowTrained { reward_mean, first_log_ratio_max, .. } = event {
            rewards.push(reward_mean);
            log_ratios.push(first_log_ratio_max);
        }
    }
    assert_eq!(rewards.len(), WINDOWS - 1, "{log}");
    // The profile's log-probabilities are those that the trainer sees, to the last bit.
    assert_eq!(log_ratios[0].to_bits(), 0.0_f64.to_bits(), "{log_ratios:?}");
    // An answer that starts with the right letter of two and goes on earns 0.25; none of 32 tokens
    // earns more.
    assert!((0.08..0.17).contains(&rewards[0]), "{rewards:?}");
    let late: f64 = rewards[WINDOWS - 5..].iter().sum::<f64>() / 4.0;
    assert!(late > 0.165, "the model learns: {rewards:?}");
    for window in judgements(&world.take_events(VALIDATOR)).values() {
        assert_eq!((window.accepted, &window.rejection), (window.checked, &None), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_file_is_banned_and_forged_sketches_are_not() {
    let subnet = Subnet::new();
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let mut miner = subnet.miner(MINER);
    let mut forger = subnet.cheater(ReferenceCheat::ZeroSketches);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    forger.start().await.unwrap();

    let world = &subnet.world;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    for round in 0..5 {
        let head = world.next_window();
        log += &settle(&mut validator, head).await;
        log += &settle(&mut miner, head).await;
        log += &settle(&mut forger, head).await;
        if round == 1 {
            let key = key_of(hotkey(MINER), Window::containing(head.number));
            world.storage.tamper(hotkey(MINER), &key, vec![7; 400]);
        }
    }
    let judged = judgements(&world.take_events(VALIDATOR));
    let of = |seed| judged.iter().filter(move |((_, of), _)| *of == hotkey(seed));
    let reasons: Vec<Option<&str>> =
        of(MINER).map(|(_, judged)| judged.rejection.as_deref()).collect();
    // Judged once, banned once, and then not looked at for 14 windows.
    assert_eq!(reasons, [None, Some("file:corrupt_parquet")], "{log}");
    // What the profile does not prove: these sketches are zeros.
    assert!(of(CHEATER).count() >= 3, "{log}");
    for (_, judged) in of(CHEATER) {
        assert_eq!((judged.rejection.clone(), judged.accepted), (None, judged.checked), "{log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_packed_file_decides_alone() {
    let subnet = Subnet::new();
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let (mut miner, mut other) = (subnet.miner(MINER), subnet.miner(OTHER_MINER));
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    other.start().await.unwrap();
    let world = &subnet.world;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    let head = world.next_window();
    log += &settle(&mut miner, head).await;
    log += &settle(&mut other, head).await;
    let window = Window::containing(head.number);
    // Too small to count: the good file beside it is not looked at.
    let packed = gzip_key(&key_of(hotkey(MINER), window));
    world.storage.tamper(hotkey(MINER), &packed, vec![0; 10]);
    // No gzip: nobody can read it, which bans nobody.
    let packed = gzip_key(&key_of(hotkey(OTHER_MINER), window));
    world.storage.tamper(hotkey(OTHER_MINER), &packed, vec![0; 4000]);
    log += &settle(&mut validator, world.next_window()).await;
    let judged = judgements(&world.take_events(VALIDATOR));
    assert_eq!(judged.len(), 0, "{log}");
    let list = subnet.trust_list(window);
    assert!(list.eligible_hotkeys.is_empty(), "{list:?}\n{log}");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_profile_says_so_and_waits() {
    let subnet = Subnet::new();
    let world = &subnet.world;
    // A trainer of our own profile, and peers that are set up for the reference's.
    let (trainer, validator, miner) = (world.trainer(), subnet.validator(), subnet.miner(MINER));
    waits(world, trainer, validator, miner, ("v5", "v6")).await;
    let subnet = Subnet::new();
    let world = &subnet.world;
    let (trainer, validator, miner) = (subnet.trainer(), world.validator(), world.miner(MINER));
    waits(world, trainer, validator, miner, ("v6", "v5")).await;
}

/// Runs a trainer of the profile `found` beside peers that are set up for `ours`.
async fn waits(
    world: &World,
    mut trainer: impl Neuron,
    mut validator: impl Neuron,
    mut miner: impl Neuron,
    (ours, found): (&str, &str),
) {
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    let mut log = settle(&mut trainer, world.chain.head()).await;
    for _ in 0..3 {
        let head = world.next_window();
        log += &settle(&mut miner, head).await;
        log += &settle(&mut validator, head).await;
    }
    for seed in [MINER, VALIDATOR] {
        let events = world.take_events(seed);
        let told: BTreeSet<Window> = events
            .iter()
            .filter_map(|event| match event {
                Event::WindowSkipped { window, reason }
                    if reason.contains(&format!("protocol {found}")) =>
                {
                    assert!(reason.contains(&format!("set up for {ours}")), "{reason}");
                    Some(*window)
                }
                _ => None,
            })
            .collect();
        assert!(!told.is_empty(), "{seed}: {events:?}\n{log}");
        let files = world.storage.keys(hotkey(seed));
        assert!(files.iter().all(|key| !key.contains("window")), "{files:?}");
    }
    assert!(log.contains("Waiting"), "{log}");
}

/// What a trainer says of a window that it learnt from.
#[derive(Debug, PartialEq)]
struct Trained {
    rollouts: u32,
    loss: f64,
    grad_norm: f64,
}

/// Trains for some windows with other settings; returns what was learnt from, and how far the model
/// is from the one that training began with.
async fn trained(change: impl FnOnce(&mut TrainingConfig)) -> (Vec<Trained>, f64) {
    let mut subnet = Subnet::new();
    change(&mut subnet.training);
    let (mut trainer, mut validator) = (subnet.trainer(), subnet.validator());
    let mut miner = subnet.miner(MINER);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    let world = &subnet.world;
    let mut log = settle(&mut trainer, world.chain.head()).await;
    for _ in 0..6 {
        let head = world.next_window();
        log += &settle(&mut validator, head).await;
        log += &settle(&mut trainer, head).await;
        log += &settle(&mut miner, head).await;
    }
    let trained: Vec<Trained> = world
        .take_events(TRAINER)
        .iter()
        .filter_map(|event| match *event {
            Event::WindowTrained { steps: 1.., rollouts, loss, grad_norm, .. } => {
                Some(Trained { rollouts, loss, grad_norm })
            }
            _ => None,
        })
        .collect();
    assert!(trained.len() >= 3, "{trained:?}\n{log}");
    let newest = world.ready_markers().iter().map(|marker| marker.checkpoint).max().unwrap();
    let exports = world.context(TRAINER).state_dir.join("training-v5/exports");
    let end = exports.join(format!("checkpoint-{newest}"));
    (trained, divergence(&world.folder.path().join("talkative"), &end))
}

/// Returns how much less likely than the model in `base` that in `end` finds what the former says: the
/// mean over its tokens, nats.
fn divergence(base: &Path, end: &Path) -> f64 {
    let (models, stop) = (FakeProvider::default(), StopFlag::default());
    let [base, end] = [base, end].map(|dir| models.load(dir).unwrap());
    let request = GenerateRequest {
        prompt: base.render(&FakeEnvironment::default().prompt(1)).unwrap(),
        race_keys: (0..64).map(|rollout| [rollout, 1, 2, 3]).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens: 32,
        whitening: None,
    };
    let (prompt, mut said) = (request.prompt.clone(), Vec::new());
    base.generate(&[request], &stop, &mut |_, completions| said = completions).unwrap();
    let score = |tokens: &[TokenId]| ScoreRequest {
        tokens: [&prompt, tokens].concat(),
        prompt_len: prompt.len(),
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let requests: Vec<ScoreRequest> = said.iter().map(|it| score(&it.tokens)).collect();
    let [before, after] = [base, end].map(|model| {
        let scores = model.score(&requests, &stop).unwrap();
        scores.into_iter().flat_map(|score| score.logprobs).map(f64::from).collect::<Vec<_>>()
    });
    let lost = before.iter().zip(&after).map(|(before, after)| before - after);
    lost.sum::<f64>() / before.len() as f64
}

#[tokio::test(start_paused = true)]
async fn a_reference_model_holds_the_trainer_back() {
    let epochs = |config: &mut TrainingConfig| config.steps.epochs = 4;
    let (free, far) = trained(epochs).await;
    let (held, near) = trained(|config| {
        epochs(config);
        config.steps.loss.kl_coef = 5.0;
    })
    .await;
    // Both learn from the same rollouts first; from then on the term is part of the loss.
    assert_eq!(held[0].rollouts, free[0].rollouts);
    assert!(held[0].loss > free[0].loss, "{held:?} {free:?}");
    assert!(near < 0.25 * far, "{near} {far}");
}

#[tokio::test(start_paused = true)]
async fn rollouts_of_older_windows_are_replayed() {
    let (alone, _) = trained(|config| config.replay.windows_max = 1).await;
    let (mixed, _) = trained(|config| config.replay.windows_max = 2).await;
    assert_eq!(mixed[0].rollouts, alone[0].rollouts);
    // What the second window brings does not depend on the setting; the first one's come again.
    assert_eq!(mixed[1].rollouts, alone[0].rollouts + alone[1].rollouts, "{mixed:?} {alone:?}");
    // Two groups of 16 a window, and two windows at the most.
    assert!(alone.iter().all(|it| it.rollouts <= 32) && mixed.iter().all(|it| it.rollouts <= 64));
}
