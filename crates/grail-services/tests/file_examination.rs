//! What the examination of a whole file says, beside what a validator makes of the same bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use grail_ports::model::StopFlag;
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Digest, Hotkey, Netuid, Window};
use grail_protocol::prover;
use grail_protocol::randomness::task_seed;
use grail_protocol::rollout::{FileHeader, Group, Proof};
use grail_protocol::verifier::{ExpectedSeal, Rejection};
use grail_services::context::Heartbeat;
use grail_services::mining::pipeline::{MiningJob, mine};
use grail_services::validation::examine::{
    CheckOutcome, FileReport, check_of, examine_file, file_checks,
};
use grail_services::validation::pipeline::{Bench, Judgement, judge};
use grail_testkit::{FakeEnvironment, FakeSigner};

use self::common::{NOWHERE, window};

struct Scene {
    bench: Bench,
    job: MiningJob,
    signer: FakeSigner,
    environment: Arc<FakeEnvironment>,
}

impl Scene {
    fn new() -> Self {
        let environment = Arc::new(FakeEnvironment::default());
        let signer = FakeSigner::new(3);
        let seal = (ExpectedSeal::Open, NOWHERE);
        let (bench, job) = window(environment.clone(), signer.hotkey(), seal, 2);
        Self { bench, job, signer, environment }
    }

    fn hotkey(&self) -> Hotkey {
        self.signer.hotkey()
    }

    fn groups(&self) -> Vec<Group> {
        mine(&self.job, 0, 3, &StopFlag::default()).unwrap()
    }

    /// A file with a change that its own miner signed.
    fn file(&self, change: impl FnOnce(&mut FileHeader, &mut Vec<Group>)) -> Vec<u8> {
        let (mut header, mut groups) = (self.job.header.clone(), self.groups());
        change(&mut header, &mut groups);
        prover::sign_open(header, groups, &|message| self.signer.sign(message)).unwrap()
    }

    fn examine(&self, bytes: &[u8]) -> FileReport {
        let mut report = examine_file(&self.bench, self.hotkey(), bytes);
        let chosen = report.chosen.clone();
        report.examine_groups(&self.bench, &chosen, &StopFlag::default()).unwrap();
        report
    }

    fn judge(&self, bytes: &[u8]) -> Judgement {
        let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
        judge(&self.bench, self.hotkey(), bytes, &stop, &heartbeat).unwrap()
    }
}

#[test]
fn an_honest_file_passes_every_check_with_its_numbers() {
    let scene = Scene::new();
    let bytes = scene.file(|_, _| {});
    let report = scene.examine(&bytes);
    let names: Vec<&str> = report.checks.iter().map(|check| check.check).collect();
    assert_eq!(names, file_checks::ALL);
    for check in &report.checks {
        assert_eq!(check.outcome, CheckOutcome::Passed, "{check:?}");
        if let (Some(measured), Some(threshold)) = (check.measured, check.threshold) {
            assert!(measured <= threshold, "{check:?}");
        }
    }
    let size = report.checks.iter().find(|check| check.check == file_checks::SIZE).unwrap();
    assert_eq!(size.measured, Some(f64::from(u32::try_from(bytes.len()).unwrap())));
    assert_eq!(report.first_violation(), None);
    assert_eq!((report.groups_in_file, report.rollouts_in_file), (3, 48));
    assert_eq!((report.chosen.len(), report.groups.len()), (2, 2));
    assert_eq!(scene.judge(&bytes).accepted, 32);
}

/// What a miner changes before it signs.
type Change = fn(&mut FileHeader, &mut Vec<Group>);

/// Examination and judgement name the same violation, and the examination the check it belongs to.
fn check(scene: &Scene, bytes: &[u8], broken: &str) {
    let (report, judgement) = (scene.examine(bytes), scene.judge(bytes));
    let rejection = judgement.rejection.unwrap_or_else(|| panic!("{broken} holds"));
    assert_eq!(report.first_violation(), Some(&rejection));
    assert_eq!(check_of(&rejection), broken, "{rejection}");
    let Some(at) = file_checks::ALL.iter().position(|check| *check == broken) else {
        assert!(report.file.is_some(), "{broken} needs the groups");
        return;
    };
    assert!(report.file.is_none() && report.groups.is_empty());
    for (place, check) in report.checks.iter().enumerate() {
        let is_field = check.check.starts_with("header.");
        match check.outcome {
            CheckOutcome::Failed => {
                assert_eq!((place, &check.detail), (at, &rejection.to_string()));
            }
            CheckOutcome::NotRun => {
                assert!(place > at && !(is_field && report.header.is_some()), "{check:?}");
            }
            CheckOutcome::Passed => assert!(place < at || is_field, "{check:?}"),
            _ => panic!("{check:?}"),
        }
    }
}

#[test]
fn a_broken_file_is_told_by_the_check_that_voids_it() {
    let scene = Scene::new();
    let changes: [(&str, Change); 11] = [
        (file_checks::HOTKEY, |header, _| header.hotkey = FakeSigner::new(4).hotkey()),
        (file_checks::NETUID, |header, _| header.netuid = Netuid(82)),
        (file_checks::CHECKPOINT, |header, _| header.checkpoint = Digest([9; 32])),
        (file_checks::SAMPLER, |header, _| header.sampler.temperature = 0.9),
        (file_checks::CONTIGUITY, |_, groups| drop(groups.remove(0))),
        (file_checks::GROUP_SIZE, |_, groups| drop(groups[1].rollouts.pop())),
        (file_checks::TOKENS, |_, groups| groups[2].rollouts[3].tokens[0] = 1 << 20),
        (file_checks::TERMINATION, |_, groups| groups[0].rollouts[5].tokens.clear()),
        (file_checks::PROMPT, |_, groups| groups.iter_mut().for_each(|it| it.prompt.push(65))),
        ("hidden_states", |_, groups| {
            groups.iter_mut().for_each(|it| it.rollouts[4].proof = Proof::Exact(Digest([9; 32])));
        }),
        ("reward", |_, groups| groups.iter_mut().for_each(|it| it.rollouts[2].reward += 1.0)),
    ];
    for (broken, change) in changes {
        check(&scene, &scene.file(change), broken);
    }
    let honest = scene.file(|_, _| {});
    check(&scene, &honest[..20], file_checks::FRAME);
    check(&scene, b"not a rollout file", file_checks::FRAME);
    let foreign = prover::sign_open(scene.job.header.clone(), scene.groups(), &|message| {
        FakeSigner::new(4).sign(message)
    });
    check(&scene, &foreign.unwrap(), file_checks::SIGNATURE);
    let mut changed = honest.clone();
    *changed.last_mut().unwrap() ^= 1;
    check(&scene, &changed, file_checks::ROOT);
    check(&scene, &honest[..honest.len() - 1], file_checks::CONTENT);
}

#[test]
fn every_differing_field_of_a_header_is_shown_beside_the_expected_one() {
    let scene = Scene::new();
    let bytes = scene.file(|header, _| {
        header.network = "mainnet".to_owned();
        header.window = Window::from_start(120).unwrap();
        header.numerics = "exact-1".to_owned();
    });
    let report = scene.examine(&bytes);
    let failed: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.outcome == CheckOutcome::Failed)
        .map(|check| check.check)
        .collect();
    assert_eq!(failed, [file_checks::NETWORK, file_checks::WINDOW]);
    let window = report.checks.iter().find(|check| check.check == file_checks::WINDOW).unwrap();
    assert_eq!(window.detail, "120, expected 90");
    assert_eq!(report.first_violation().unwrap().code(), "network_mismatch");
}

#[test]
fn all_chosen_groups_are_told_past_the_first_violation_and_our_failure_blames_nobody() {
    let mut scene = Scene::new();
    scene.bench.groups_checked_max = 3;
    let bytes = scene.file(|_, groups| groups[0].rollouts[2].reward += 1.0);
    let report = scene.examine(&bytes);
    let codes: Vec<Option<&str>> = report
        .groups
        .iter()
        .map(|group| group.found.as_ref().unwrap().rollouts[2].rejection.as_ref())
        .map(|rejection| rejection.map(Rejection::code))
        .collect();
    assert_eq!(codes, [Some("reward_mismatch"), None, None]);

    for group in 0..3 {
        scene.environment.break_seed(task_seed(scene.bench.randomness, scene.hotkey(), group));
    }
    let report = scene.examine(&bytes);
    assert_eq!(report.first_violation(), None, "rewards cannot be told, so none is forged");
    assert_eq!((scene.judge(&bytes).rejection, scene.judge(&bytes).unverified), (None, 48));
}
