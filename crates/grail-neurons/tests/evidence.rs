//! A miner that cheats in one rollout of twenty is ejected and comes back; an honest one never is.
//! The validator is started anew in every window: what it knows is on its disk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use grail_neurons::neuron::Neuron;
use grail_neurons::roles::{MinerNeuron, ValidatorNeuron};
use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Window};
use grail_services::context::RunContext;
use grail_services::mining::service::MiningService;
use grail_services::validation::calibrations::CalibrationSource;
use grail_services::validation::config::{JudgementMode, ValidationConfig};
use grail_services::validation::evidence::EvidenceRules;
use grail_services::validation::service::ValidationService;
use grail_testkit::{AlteredModel, AlteredProvider};
use support::{CHEATER, MINER, World, hotkey, judgements, settle, validation_config};

/// Windows that an ejection lasts here.
const EJECTION: u64 = 4;

/// Makes an engine draw one completion of twenty with randomness of its own.
fn sly(model: AlteredModel) -> AlteredModel {
    model.with_requests(|requests| {
        for key in requests.iter_mut().flat_map(|request| &mut request.race_keys) {
            // The words of a race key are as good as random.
            if key[0] % 20 == 0 {
                key[1] ^= 1;
            }
        }
    })
}

fn sly_miner(world: &World) -> MinerNeuron {
    let ctx = world.context(CHEATER);
    let models = Arc::new(AlteredProvider { inner: ctx.models.clone(), alter: sly });
    let ctx = RunContext { models, ..ctx };
    MinerNeuron::new(ctx.clone(), MiningService::new(ctx, world.mining_config()))
}

fn validator(world: &World, config: ValidationConfig) -> ValidatorNeuron {
    let ctx = world.context(support::VALIDATOR);
    ValidatorNeuron::new(
        ctx.clone(),
        ValidationService::new(ctx, config, CalibrationSource::default()),
    )
}

/// Where a miner stood after a window.
#[derive(Clone, Copy, Debug)]
struct Standing {
    wealth_log10: f64,
    bound_log10: f64,
    ejected_until: Option<Window>,
    life: u32,
}

/// Returns where everybody stood after each window.
fn standings(events: &[Event]) -> BTreeMap<(Window, Hotkey), Standing> {
    let of = |event: &Event| match *event {
        Event::MinerEvidence {
            window,
            hotkey,
            wealth_log10,
            bound_log10,
            ejected_until,
            life,
            ..
        } => {
            let standing = Standing { wealth_log10, bound_log10, ejected_until, life };
            Some(((window, hotkey), standing))
        }
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

/// Runs `windows` windows; the cheater reforms once it is out. Returns the validator's events, and
/// the cheater's weight after each window, as far as weights were set.
async fn run(
    world: &World,
    config: impl Fn() -> ValidationConfig,
    windows: u32,
) -> (Vec<Event>, Vec<f64>) {
    let mut trainer = world.trainer();
    trainer.start().await.unwrap();
    settle(&mut trainer, world.chain.head()).await;
    let mut honest = world.miner(MINER);
    let mut cheater = sly_miner(world);
    honest.start().await.unwrap();
    cheater.start().await.unwrap();
    let (mut events, mut weights) = (Vec::new(), Vec::new());
    let mut is_out = false;
    for _ in 0..windows {
        let head = world.next_window();
        settle(&mut honest, head).await;
        settle(&mut cheater, head).await;
        let mut judge = validator(world, config());
        judge.start().await.unwrap();
        settle(&mut judge, head).await;
        let news = world.take_events(support::VALIDATOR);
        let ejected = standings(&news).values().any(|standing| standing.ejected_until.is_some());
        if ejected && !is_out {
            is_out = true;
            cheater = world.miner(CHEATER);
            cheater.start().await.unwrap();
        }
        events.extend(news);
        if !world.chain.submissions().is_empty() {
            weights.push(world.weight(CHEATER));
        }
    }
    (events, weights)
}

#[tokio::test(start_paused = true)]
async fn one_cheat_in_twenty_rollouts_ejects_and_there_is_a_way_back() {
    let world = World::new();
    let evidence =
        EvidenceRules { bound: 1e-6, ejection_windows: EJECTION as u32, judge_ejected: false };
    let config = || ValidationConfig { evidence, ..validation_config() };
    let (events, weights) = run(&world, config, 14).await;

    let standings = standings(&events);
    let judged = judgements(&events);
    for ((window, of), standing) in &standings {
        if *of == hotkey(MINER) {
            assert_eq!((standing.ejected_until, standing.life), (None, 0), "{window}");
            assert!(standing.wealth_log10 <= 0.0, "{window}: {standing:?}");
            assert_eq!(judged[&(*window, *of)].rejection, None, "{window}");
        }
    }
    let cheater = |start: u64| (support::window(start), hotkey(CHEATER));
    let mut starts = (30..).step_by(30);
    let ejected_in =
        starts.find(|start| standings[&cheater(*start)].ejected_until.is_some()).unwrap();
    let windows = ejected_in / 30;
    assert!((3..=5).contains(&windows), "ejected after {windows} windows");
    let at = standings[&cheater(ejected_in)];
    assert!(at.wealth_log10 >= at.bound_log10);
    let until = ejected_in + 30 * (EJECTION + 1);
    assert_eq!(at.ejected_until, Some(support::window(until)));
    for start in (ejected_in + 30..until).step_by(30) {
        assert!(!judged.contains_key(&cheater(start)), "{start} was judged");
        assert_eq!(standings[&cheater(start)].ejected_until, Some(support::window(until)));
    }
    // By then it is honest, and paid again.
    for start in [until, until + 30] {
        assert_eq!(judged[&cheater(start)].rejection, None, "{start}");
        let standing = standings[&cheater(start)];
        assert_eq!((standing.ejected_until, standing.life), (None, 1));
        assert!(standing.bound_log10 > at.bound_log10);
    }
    assert!(weights.contains(&0.0), "no weight while it was out: {weights:?}");
    assert!(weights.last().is_some_and(|weight| *weight > 0.0), "{weights:?}");
}

#[tokio::test(start_paused = true)]
async fn the_reference_gates_by_the_last_windows_instead() {
    let world = World::new();
    let config = || ValidationConfig {
        judgement: JudgementMode::Reference,
        failure_lookback_windows: 3,
        ..validation_config()
    };
    let (events, weights) = run(&world, config, 8).await;
    assert!(standings(&events).is_empty(), "there is no evidence over time");
    let judged = judgements(&events);
    let cheater: Vec<u64> = judged
        .iter()
        .filter(|((_, of), _)| *of == hotkey(CHEATER))
        .map(|((window, _), found)| {
            assert_eq!(found.rejection.as_deref(), Some("race_lost"));
            u64::from(*window)
        })
        .collect();
    // A failure, three windows out, a failure.
    assert!(cheater.windows(2).all(|pair| pair[1] - pair[0] == 120), "{cheater:?}");
    assert!(weights.iter().all(|weight| *weight == 0.0), "{weights:?}");
    let honest = judged.keys().filter(|(_, of)| *of == hotkey(MINER)).count();
    assert_eq!(honest, 7, "judged in each complete window");
}
