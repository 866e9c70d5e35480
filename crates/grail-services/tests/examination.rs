//! What a report says of honest and of changed groups, and what a judgement makes of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use grail_ports::model::{Model as _, RaceCheck, ScoreRequest, StopFlag};
use grail_ports::signer::Signer as _;
use grail_protocol::calibration::{Calibration, Pairing, RolloutSample};
use grail_protocol::ids::{Digest, Netuid};
use grail_protocol::rollout::{Group, Proof};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::checkpoint::{LoadedCheckpoint, whitening};
use grail_services::mining::pipeline::{MiningJob, mine};
use grail_services::validation::examine::{
    CheckOutcome, Fault, GroupReport, ProfileName, checks, examine_group,
};
use grail_services::validation::pipeline::Bench;
use grail_testkit::{FakeEnvironment, FakeModel, FakeSigner};

use self::common::{NOWHERE, window};

struct Scene {
    bench: Bench,
    job: MiningJob,
    environment: Arc<FakeEnvironment>,
}

impl Scene {
    fn new() -> Self {
        let environment = Arc::new(FakeEnvironment::default());
        let hotkey = FakeSigner::new(3).hotkey();
        let (bench, job) = window(environment.clone(), hotkey, (ExpectedSeal::Open, NOWHERE), 4);
        Self { bench, job, environment }
    }

    fn group(&self) -> Group {
        mine(&self.job, 1, 1, &StopFlag::default()).unwrap().remove(0)
    }

    fn examine(&self, group: &Group) -> GroupReport {
        examine_group(&self.bench, &self.job.header, group, &StopFlag::default()).unwrap()
    }
}

fn outcomes(report: &GroupReport, rollout: usize) -> Vec<(&'static str, CheckOutcome)> {
    report.rollouts[rollout].checks.iter().map(|it| (it.check, it.outcome)).collect()
}

fn code(report: &GroupReport) -> Option<&'static str> {
    match report.first_fault() {
        Some(Fault::Violation(rejection)) => Some(rejection.code()),
        Some(Fault::Undecided(check)) => Some(check.check),
        None => None,
    }
}

#[test]
fn an_honest_group_passes_every_check() {
    let scene = Scene::new();
    let group = scene.group();
    let report = scene.examine(&group);
    assert_eq!(code(&report), None);
    assert_eq!(report.rollouts.len(), 16);
    for (index, (found, rollout)) in report.rollouts.iter().zip(&group.rollouts).enumerate() {
        let passed = [checks::HIDDEN_STATES, checks::RACE, checks::REWARD, checks::LOGPROBS]
            .map(|check| (check, CheckOutcome::Passed));
        assert_eq!(outcomes(&report, index), passed);
        assert_eq!(found.profile, ProfileName::Exact);
        assert_eq!(found.rejection, None);
        assert_eq!(found.margins, vec![0.0; rollout.tokens.len()]);
        assert_eq!(found.logprobs.len(), rollout.tokens.len());
        assert_eq!((found.reward, found.success), (Some(rollout.reward), Some(rollout.success)));
        assert_eq!((found.lost, found.tail_hits), (None, [false; 3]));
    }
}

#[test]
fn every_check_runs_and_the_first_check_decides_over_all_rollouts() {
    let scene = Scene::new();
    let mut group = scene.group();
    // Rollout 2 claims too much, 7 has other tokens, 9 another digest.
    group.rollouts[2].reward += 1.0;
    let changed = &mut group.rollouts[7].tokens[0];
    *changed = if *changed == 50 { 51 } else { 50 };
    let report = scene.examine(&group);
    assert_eq!(code(&report), Some("hidden_state_mismatch"));
    group.rollouts[9].proof = Proof::Exact(Digest([9; 32]));
    let report = scene.examine(&group);

    let failed = |rollout: usize| -> Vec<&str> {
        let failed = report.rollouts[rollout].checks.iter();
        failed.filter(|it| it.outcome == CheckOutcome::Failed).map(|it| it.check).collect()
    };
    assert_eq!(failed(2), [checks::REWARD]);
    assert!(failed(7).starts_with(&[checks::HIDDEN_STATES, checks::RACE]), "{:?}", failed(7));
    assert_eq!(failed(9), [checks::HIDDEN_STATES]);
    let lost = report.rollouts[7].lost.unwrap();
    assert_eq!((lost.position, lost.claimed), (0, group.rollouts[7].tokens[0]));
    assert!(lost.margin > 0.0 && lost.winner != lost.claimed);
    let race = &report.rollouts[7].checks[1];
    assert!(race.measured.unwrap() > 0.0 && race.threshold == Some(0.0));
    let Some(Fault::Violation(first)) = report.first_fault() else { panic!("two rules broken") };
    assert!(first.to_string().contains("rollout 7"), "{first}");
    assert_eq!(report.rollouts[2].rejection.as_ref().unwrap().code(), "reward_mismatch");
}

#[test]
fn another_prompt_is_named_first_and_the_rest_is_examined_all_the_same() {
    let scene = Scene::new();
    let mut group = scene.group();
    group.prompt.push(65);
    group.rollouts[0].reward += 1.0;
    let report = scene.examine(&group);
    assert_eq!(code(&report), Some("prompt_mismatch"));
    assert_eq!(report.rollouts.len(), 16);
    assert!(report.rollouts[0].rejection.is_some());
}

#[test]
fn a_broken_environment_leaves_rewards_undecided_but_not_the_races() {
    let scene = Scene::new();
    let seed =
        grail_protocol::randomness::task_seed(scene.bench.randomness, scene.job.header.hotkey, 1);
    let mut group = scene.group();
    scene.environment.break_seed(seed);
    let report = scene.examine(&group);
    assert_eq!(code(&report), Some(checks::REWARD));
    assert_eq!(report.rollouts[0].reward, None);
    group.rollouts[3].proof = Proof::Exact(Digest([9; 32]));
    assert_eq!(code(&scene.examine(&group)), Some("hidden_state_mismatch"));
}

/// The miner's checkpoint in bf16, its rollouts, and a bench that can compare sketches.
fn in_bf16(scene: &Scene) -> (Bench, MiningJob) {
    let exact = FakeModel::new(7);
    let record = whitening::measure(&exact, &StopFlag::default()).unwrap();
    let whitening = Some(Arc::new(record.read().unwrap()));
    let ours = LoadedCheckpoint { whitening, ..(*scene.bench.checkpoint).clone() };
    let theirs = LoadedCheckpoint { model: Arc::new(exact.in_bf16()), ..ours.clone() };
    let bench = Bench { checkpoint: Arc::new(ours), ..scene.bench.clone() };
    let header = theirs.header("local", Netuid(81), bench.window, scene.job.header.hotkey);
    let job = MiningJob { checkpoint: Arc::new(theirs), header, ..scene.job.clone() };
    (bench, job)
}

/// A calibration from groups 100 and later.
fn calibrated(bench: &Bench, job: &MiningJob) -> Bench {
    let stop = StopFlag::default();
    let groups = mine(job, 100, 20, &stop).unwrap();
    let reports = groups
        .iter()
        .flat_map(|group| examine_group(bench, &job.header, group, &stop).unwrap().rollouts);
    let samples: Vec<RolloutSample> =
        reports.map(|it| RolloutSample { margins: it.margins, distances: it.distances }).collect();
    let pairing = Pairing {
        model: bench.checkpoint.identity,
        checkpoint: bench.checkpoint.digest(),
        window: bench.checkpoint.window,
        miner_runtime: "bf16-1".to_owned(),
        verifier_runtime: "exact-1".to_owned(),
        temperature: 1.0,
    };
    let calibration = Calibration::fit(pairing, Digest([1; 32]), &samples).unwrap();
    Bench { calibrations: Arc::new(vec![calibration]), ..bench.clone() }
}

#[test]
fn another_engine_is_measured_without_a_calibration_and_judged_with_one() {
    let (bench, job) = in_bf16(&Scene::new());
    let stop = StopFlag::default();
    let group = mine(&job, 1, 1, &stop).unwrap().remove(0);
    assert!(matches!(&group.rollouts[0].proof, Proof::Tolerant(sketches) if !sketches.is_empty()));

    let shadow = examine_group(&bench, &job.header, &group, &stop).unwrap();
    assert_eq!((shadow.profile, code(&shadow)), (ProfileName::Shadow, None));
    let sums = &outcomes(&shadow, 0)[..4];
    assert!(sums.iter().all(|(_, outcome)| *outcome == CheckOutcome::Shadow), "{sums:?}");

    let bench = calibrated(&bench, &job);
    let report = examine_group(&bench, &job.header, &group, &stop).unwrap();
    assert_eq!((report.profile, code(&report)), (ProfileName::Tolerant, None));
    assert_eq!(report.calibration, Some(bench.calibrations[0].digest()));
    let evidence = report.evidence().unwrap();
    assert_eq!(evidence.rollouts, 16);

    // A calibration does not excuse another model, another text or another reward.
    let other = LoadedCheckpoint {
        model: Arc::new(FakeModel::new(7).with_noise(3, 0.5).in_bf16()),
        ..(*job.checkpoint).clone()
    };
    let cheat = MiningJob { checkpoint: Arc::new(other), ..job.clone() };
    let noisy = mine(&cheat, 1, 1, &stop).unwrap().remove(0);
    let report = examine_group(&bench, &job.header, &noisy, &stop).unwrap();
    assert_eq!(code(&report), Some("sketch_sum_exceeded"));
    let mut edited = group.clone();
    edited.rollouts[4].tokens[0] = 50;
    let report = examine_group(&bench, &job.header, &edited, &stop).unwrap();
    assert!(report.rollouts[4].rejection.as_ref().unwrap().is_statistical());
    assert_eq!(report.rollouts[4].tail_hits, [true; 3]);
    assert_eq!(report.rollouts[4].lost.unwrap().claimed, 50);
    let mut forged = group.clone();
    forged.rollouts[4].reward += 1.0;
    let report = examine_group(&bench, &job.header, &forged, &stop).unwrap();
    assert_eq!(code(&report), Some("reward_mismatch"));
}

#[test]
fn a_claim_to_be_exact_is_taken_at_its_word() {
    let (bench, job) = in_bf16(&Scene::new());
    let bench = calibrated(&bench, &job);
    let mut header = job.header.clone();
    header.numerics = "exact-1".to_owned();
    let liar = MiningJob { header, ..job };
    let group = mine(&liar, 1, 1, &StopFlag::default()).unwrap().remove(0);
    let report = examine_group(&bench, &liar.header, &group, &StopFlag::default()).unwrap();
    assert_eq!(report.profile, ProfileName::Exact);
    assert_eq!(code(&report), Some("hidden_state_mismatch"));
}

#[test]
fn unrelated_states_differ_in_about_half_of_the_signs() {
    let model = FakeModel::new(7);
    let record = whitening::measure(&model, &StopFlag::default()).unwrap();
    let whitening = Arc::new(record.read().unwrap());
    let request = |text: &str| ScoreRequest {
        tokens: model.encode(text).unwrap(),
        prompt_len: 1,
        race: Some(RaceCheck { key: [1, 2, 3, 4], temperature: 1.0 }),
        entropy: false,
        whitening: Some(whitening.clone()),
        rows: false,
    };
    let texts = [
        "the tide was out and the boats lay on their sides in the mud of the harbour, waiting",
        "let total = prices.iter().sum::<u64>(); println!(\"{total}\"); // 17 + 25 = 42, 9 * 8 = 72",
    ];
    let scores = model.score(&texts.map(request), &StopFlag::default()).unwrap();
    let pairs = scores[0].sketches.iter().zip(&scores[1].sketches);
    let distances: Vec<u32> = pairs.map(|(one, other)| one.distance(*other)).collect();
    let mean = f64::from(distances.iter().sum::<u32>()) / distances.len() as f64;
    assert!((24.0..40.0).contains(&mean), "{mean} of 64: {distances:?}");
}
