//! A subnet over many windows: honest miners are accepted, every cheat is caught for its own reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use grail_neurons::neuron::Neuron as _;
use grail_ports::events::Event;
use grail_services::mining::adversary::Cheat;
use support::{
    CHEATER, GROUPS, Judged, MINER, OTHER_MINER, ROLLOUTS, TRAINER, VALIDATOR, World, hotkey,
    judgements, settle, window,
};

fn accepted() -> Judged {
    Judged { checked: ROLLOUTS, accepted: ROLLOUTS, rejection: None }
}

#[tokio::test(start_paused = true)]
async fn honest_miners_are_accepted_and_cheaters_are_not() {
    let world = World::new();
    let (mut trainer, mut validator) = (world.trainer(), world.validator());
    let (mut miner, mut other) = (world.miner(MINER), world.miner(OTHER_MINER));
    let mut cheater = world.cheater(&Cheat::ALL);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    miner.start().await.unwrap();
    other.start().await.unwrap();
    cheater.start().await.unwrap();

    let mut log = settle(&mut trainer, world.chain.head()).await;
    for _ in 0..12 {
        let head = world.next_window();
        log += &settle(&mut miner, head).await;
        log += &settle(&mut other, head).await;
        log += &settle(&mut cheater, head).await;
        log += &settle(&mut validator, head).await;
        log += &settle(&mut trainer, head).await;
    }

    let events = world.take_events(VALIDATOR);
    let judged = judgements(&events);
    // Windows 30 to 330 are complete at the end; 0 had no checkpoint before it.
    for start in (30..=330).step_by(30) {
        let window = window(start);
        for seed in [MINER, OTHER_MINER] {
            assert_eq!(judged.get(&(window, hotkey(seed))), Some(&accepted()), "{window}\n{log}");
        }
        let cheat = Cheat::ALL[start as usize / 30 % Cheat::ALL.len()];
        let caught = Judged {
            checked: ROLLOUTS,
            accepted: 0,
            rejection: Some(cheat.expected_rejection().to_owned()),
        };
        assert_eq!(judged.get(&(window, hotkey(CHEATER))), Some(&caught), "{cheat}\n{log}");
    }
    assert_eq!(judged.len(), 33, "{log}");
    check_weights(&world, &events);
    check_training(&world);
    check_uploads(&world);
}

fn check_weights(world: &World, events: &[Event]) {
    let set = events.iter().filter(|event| matches!(event, Event::WeightsSet { .. })).count();
    // Intervals of one window; the first processed window is warm-up.
    assert_eq!(set, world.chain.submissions().len());
    assert_eq!(set, 10);
    assert!(world.weight(MINER) > 0.0);
    assert!((world.weight(MINER) - world.weight(OTHER_MINER)).abs() < 1e-15);
    assert_eq!(world.weight(CHEATER), 0.0);
    assert!(world.weight(TRAINER) > 0.9, "the rest is burnt");
    let sum: f64 =
        world.chain.submissions().last().unwrap().submission.weights.iter().map(|w| w.1).sum();
    assert!((sum - 1.0).abs() < 1e-12);
}

fn check_training(world: &World) {
    let events = world.take_events(TRAINER);
    let log_ratios: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::WindowTrained { first_log_ratio_max, steps, .. } => {
                assert!(*steps > 0);
                Some(*first_log_ratio_max)
            }
            _ => None,
        })
        .collect();
    assert_eq!(log_ratios.len(), 11);
    // The first rollouts came from the very weights that train on them.
    assert_eq!(log_ratios[0].to_bits(), 0.0_f64.to_bits());
    assert!(log_ratios[2..].iter().all(|ratio| *ratio > 0.0), "{log_ratios:?}");
    let curve: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Evaluated { pass_at_1, problems, .. } => {
                assert_eq!(*problems, 64);
                Some(*pass_at_1)
            }
            _ => None,
        })
        .collect();
    assert_eq!(curve.len(), 12);
    assert!(curve[11] > curve[0] + 0.2, "the model learns: {curve:?}");
    // Window 240 and later ones need checkpoint 210 and later ones, and those before 300 are deltas
    // that go back to the first one.
    let mut stay: Vec<u64> =
        world.ready_markers().iter().map(|it| it.checkpoint.start().0).collect();
    stay.sort_unstable();
    let window_30_had_no_rollouts = |start: &u64| *start != 30;
    let made = (0..=360).step_by(30).filter(window_30_had_no_rollouts);
    assert_eq!(stay, made.collect::<Vec<_>>());
    check_deltas(world);
}

/// All but the first are deltas, and the one at the anchor went up whole as well.
fn check_deltas(world: &World) {
    let keys = world.storage.keys(hotkey(TRAINER));
    let with = |part: &str| -> Vec<u64> {
        let keys = keys.iter().filter(|key| key.ends_with(part));
        keys.filter_map(|key| key.split('-').nth(1)?.split('/').next()?.parse().ok()).collect()
    };
    let mut whole = with("/FULL/manifest.sig");
    whole.sort_unstable();
    assert_eq!(whole, [0, 300]);
    let mut deltas = with("/DELTA/manifest.sig");
    deltas.sort_unstable();
    assert_eq!(deltas, (30..=360).step_by(30).skip(1).collect::<Vec<_>>());
}

fn check_uploads(world: &World) {
    for seed in [MINER, OTHER_MINER, CHEATER] {
        let events = world.take_events(seed);
        let uploads: Vec<(u64, u32)> = events
            .iter()
            .filter_map(|event| match event {
                Event::RolloutsUploaded { window, groups, .. } => Some((window.start().0, *groups)),
                _ => None,
            })
            .collect();
        // Who carries a seal away cannot count what is inside.
        let is_unread = |start: u64| {
            let turn = usize::try_from(start / 30).unwrap() % Cheat::ALL.len();
            seed == CHEATER && Cheat::ALL[turn] == Cheat::CopiedSeal
        };
        let groups = |start| if is_unread(start) { 0 } else { GROUPS };
        let expected: Vec<(u64, u32)> =
            (30..=360).step_by(30).map(|start| (start, groups(start))).collect();
        assert_eq!(uploads, expected, "role {seed}: {events:?}");
    }
}
