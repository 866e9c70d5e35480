//! Training on the fake model: exact at first, reproducible, and it learns.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use grail_ports::environment::Environment as _;
use grail_ports::model::{
    GenerateRequest, Model, ModelError, ModelProvider as _, OptimizerConfig, Sampling, StopFlag,
    Trainer,
};
use grail_protocol::ids::{Digest, Hotkey, Netuid, Window};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::validated::{ValidatedFile, ValidatedGroup, ValidatedRollout};
use grail_services::context::Heartbeat;
use grail_services::training::config::TrainingConfig;
use grail_services::training::evaluation::{EvaluationResult, HeldOut, evaluate};
use grail_services::training::grpo::{Aggregation, ImportanceLevel, LossConfig};
use grail_services::training::pipeline::{StepsConfig, TrainingStats, prepare, refer, train};
use grail_services::training::sft::{
    SftConfig, SftError, SftObserver, SftStep, example, fine_tune,
};
use grail_services::training::sft_state::SftState;
use grail_testkit::{FakeEnvironment, FakeModel, FakeProvider};

const SAMPLER: SamplerParams = SamplerParams { temperature: 1.0, max_new_tokens: 4 };

/// Rollouts of a window, as a validator would publish them.
fn rollouts(model: &dyn Model, groups: u32) -> ValidatedFile {
    let environment = FakeEnvironment::default();
    let group = |index: u32| {
        let seed = u64::from(index) + 1000;
        let request = GenerateRequest {
            prompt: model.render(&environment.prompt(seed)).unwrap(),
            race_keys: (0..16).map(|rollout| [index, rollout, 3, 4]).collect(),
            sampling: Sampling::Race { temperature: SAMPLER.temperature },
            max_new_tokens: SAMPLER.max_new_tokens,
            whitening: None,
        };
        let prompt = request.prompt.clone();
        let mut answers = Vec::new();
        let mut keep = |_, completions| answers = completions;
        model.generate(&[request], &StopFlag::default(), &mut keep).unwrap();
        let rollout = |it: &grail_ports::model::Completion| {
            let worth = environment.evaluate(seed, &model.decode(&it.tokens).unwrap()).unwrap();
            ValidatedRollout {
                tokens: it.tokens.clone(),
                logprobs: it.logprobs.clone(),
                reward: worth.reward,
                success: worth.success,
            }
        };
        let rollouts = answers.iter().map(rollout).collect();
        ValidatedGroup { hotkey: Hotkey([1; 32]), index, prompt, rollouts }
    };
    ValidatedFile {
        network: "fake".to_owned(),
        netuid: Netuid(1),
        window: Window::from_start(30).unwrap(),
        validator: Hotkey([2; 32]),
        checkpoint: model.info().checkpoint_digest,
        groups: (0..groups).map(group).collect(),
    }
}

fn base() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    FakeModel::new(7).write(dir.path()).unwrap();
    dir
}

fn steps() -> StepsConfig {
    let steps = TrainingConfig::default().steps;
    let optimizer = OptimizerConfig { lr: 0.03, ..steps.optimizer };
    StepsConfig { optimizer, groups_per_step: 4, epochs: 2, ..steps }
}

fn train_once(dir: &Path, file: &ValidatedFile, steps: &StepsConfig) -> (TrainingStats, Digest) {
    let mut trainer = FakeProvider::default().trainer(dir).unwrap();
    let groups = prepare(file, steps);
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    let stats = train(&mut *trainer, &groups, steps, &stop, &heartbeat).unwrap();
    assert!(heartbeat.count() > 0);
    let out = tempfile::tempdir().unwrap();
    (stats, trainer.export(&out.path().join("checkpoint")).unwrap())
}

#[test]
fn the_first_step_sees_the_very_log_probabilities_that_sampled() {
    let dir = base();
    let file = rollouts(&FakeModel::new(7), 12);
    let (stats, _) = train_once(dir.path(), &file, &steps());
    assert_eq!(stats.first_log_ratio_max.to_bits(), 0.0_f64.to_bits());
    assert!(stats.steps >= 4 && stats.grad_norm > 0.0, "{stats:?}");
    assert!(stats.rollouts > 0 && stats.rollouts.is_multiple_of(16), "{stats:?}");
    // Rollouts of other weights are told apart.
    let stale = rollouts(&FakeModel::new(7).with_noise(1, 0.01), 12);
    let (stats, _) = train_once(dir.path(), &stale, &steps());
    assert!(stats.first_log_ratio_max > 0.0);
}

#[test]
fn equal_rollouts_give_the_same_checkpoint_twice() {
    let dir = base();
    let file = rollouts(&FakeModel::new(7), 12);
    let first = train_once(dir.path(), &file, &steps());
    assert_eq!(train_once(dir.path(), &file, &steps()), first);
    let fewer = ValidatedFile { groups: file.groups[..11].to_vec(), ..file.clone() };
    assert_ne!(train_once(dir.path(), &fewer, &steps()).1, first.1);
}

#[test]
fn groups_that_teach_nothing_are_left_out() {
    let mut file = rollouts(&FakeModel::new(7), 3);
    for group in &mut file.groups {
        let is_flat = group.index == 1;
        for (rollout, reward) in group.rollouts.iter_mut().zip([0.0, 1.0].into_iter().cycle()) {
            rollout.reward = if is_flat { 0.5 } else { reward };
        }
    }
    assert_eq!(prepare(&file, &steps()).len(), 2);
    assert_eq!(prepare(&file, &StepsConfig { groups_max: 1, ..steps() }).len(), 1);
    file.groups.clear();
    assert!(prepare(&file, &steps()).is_empty());
}

/// Trains with other settings of the loss, against the starting model as the reference.
fn train_with(dir: &Path, file: &ValidatedFile, loss: LossConfig) -> (TrainingStats, Digest) {
    let steps = StepsConfig { loss, epochs: 4, ..steps() };
    let provider = FakeProvider::default();
    let mut trainer = provider.trainer(dir).unwrap();
    let mut groups = prepare(file, &steps);
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    refer(&mut groups, &*provider.load(dir).unwrap(), &stop, &heartbeat).unwrap();
    let stats = train(&mut *trainer, &groups, &steps, &stop, &heartbeat).unwrap();
    let out = tempfile::tempdir().unwrap();
    (stats, trainer.export(&out.path().join("checkpoint")).unwrap())
}

#[test]
fn a_reference_holds_the_policy_back_and_a_bonus_keeps_it_open() {
    let dir = base();
    let file = rollouts(&FakeModel::new(7), 12);
    let plain = LossConfig::default();
    let (free, first) = train_with(dir.path(), &file, plain);
    assert!(free.kl > 0.0 && free.entropy == 0.0, "{free:?}");
    let (held, _) = train_with(dir.path(), &file, LossConfig { kl_coef: 5.0, ..plain });
    assert!(held.kl < 0.5 * free.kl, "{held:?} {free:?}");
    // Without a factor the reference changes nothing.
    assert_eq!(train_with(dir.path(), &file, LossConfig { kl_coef: 0.0, ..plain }).1, first);

    let with_bonus = |entropy_coef| {
        train_with(dir.path(), &file, LossConfig { entropy_coef, ..plain }).0.entropy
    };
    let (little, much) = (with_bonus(1e-6), with_bonus(1.0));
    assert!(little > 0.0 && much > little, "{little} {much}");
}

#[test]
fn each_variant_of_the_loss_trains_in_its_own_way() {
    let dir = base();
    // Rows of different lengths and several epochs: else some variants are the same.
    let file = rollouts(&FakeModel::new(7), 5);
    let mut seen = std::collections::BTreeSet::new();
    for aggregation in [Aggregation::Grpo, Aggregation::Dapo, Aggregation::DrGrpo] {
        for importance in [ImportanceLevel::Token, ImportanceLevel::Sequence] {
            let loss = LossConfig { aggregation, importance, ..LossConfig::default() };
            let (stats, digest) = train_with(dir.path(), &file, loss);
            assert!(stats.steps > 0, "{loss:?}");
            seen.insert(digest.0);
        }
    }
    assert_eq!(seen.len(), 6);
    // On one process the mean over its tokens is that over all tokens.
    let of = |aggregation| {
        train_with(dir.path(), &file, LossConfig { aggregation, ..LossConfig::default() }).1
    };
    assert_eq!(of(Aggregation::Bnpo), of(Aggregation::Dapo));
}

#[test]
fn a_stop_ends_training_early() {
    let dir = base();
    let file = rollouts(&FakeModel::new(7), 4);
    let mut trainer = FakeProvider::default().trainer(dir.path()).unwrap();
    let stop = StopFlag::default();
    stop.stop();
    let groups = prepare(&file, &steps());
    let stopped = train(&mut *trainer, &groups, &steps(), &stop, &Heartbeat::default());
    assert_eq!(stopped, Err(ModelError::Stopped));
}

fn measure(model: &dyn Model) -> EvaluationResult {
    let held_out = HeldOut { problems: 50, seeds: Arc::new(u64::from), at_once: 16 };
    let environment = FakeEnvironment::default();
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    evaluate(model, &environment, SAMPLER, &held_out, None, &stop, &heartbeat).unwrap()
}

#[derive(Default)]
struct Notes {
    steps: Vec<SftStep>,
    looks: Vec<u32>,
}

impl SftObserver for Notes {
    fn stepped(&mut self, step: &SftStep) {
        self.steps.push(*step);
    }

    fn look(&mut self, step: u32, _: &dyn Trainer) -> Result<(), SftError> {
        self.looks.push(step);
        Ok(())
    }
}

/// Keeps the state every few steps, and stops during a step.
struct Interrupted<'a> {
    state: &'a SftState,
    stop: StopFlag,
    stop_after: u32,
}

impl SftObserver for Interrupted<'_> {
    fn stepped(&mut self, step: &SftStep) {
        if step.step == self.stop_after {
            self.stop.stop();
        }
    }

    fn look(&mut self, step: u32, trainer: &dyn Trainer) -> Result<(), SftError> {
        self.state.save(step, trainer)
    }
}

#[test]
fn an_interrupted_fine_tuning_goes_on_as_if_never_stopped() {
    let dir = base();
    let config = SftConfig {
        steps: 30,
        batch: 4,
        optimizer: OptimizerConfig { lr: 0.1, ..SftConfig::default().optimizer },
        look_every: 4,
        ..SftConfig::default()
    };
    let unbroken = fine_tune_once(dir.path(), &config).2;
    let folder = tempfile::tempdir().unwrap();
    let state = SftState::new(folder.path().join("run"), Digest([1; 32]));
    assert!(!state.exists().unwrap());

    let provider = FakeProvider::default();
    let model = provider.load(dir.path()).unwrap();
    let environment = FakeEnvironment::default();
    let example_of = |seed| example(&*model, &environment, seed, seed, None);
    let go_on = |stop_after: u32| {
        let mut trainer = provider.trainer(dir.path()).unwrap();
        let steps_done = state.load(&mut *trainer).unwrap();
        let config = SftConfig { steps_done, ..config };
        let stop = StopFlag::default();
        let mut observer = Interrupted { state: &state, stop: stop.clone(), stop_after };
        let seed_of = |number| number | 1 << 63;
        let ended = fine_tune(&mut *trainer, &config, &example_of, &seed_of, &mut observer, &stop);
        (steps_done, ended, trainer)
    };
    // Killed after a state was kept, and later steps are lost; then stopped, and nothing is.
    let stopped = Err(SftError::Model(ModelError::Stopped));
    let (done, ended, _) = go_on(10);
    assert_eq!((done, ended), (0, stopped.clone()));
    let (done, ended, trainer) = go_on(21);
    assert_eq!((done, ended), (8, stopped));
    state.save(21, &*trainer).unwrap();
    let (done, ended, trainer) = go_on(u32::MAX);
    assert_eq!((done, ended), (21, Ok(())));
    assert_eq!(trainer.export(&folder.path().join("checkpoint")).unwrap(), unbroken);

    let other = SftState::new(folder.path().join("run"), Digest([2; 32]));
    let mut trainer = provider.trainer(dir.path()).unwrap();
    assert!(matches!(other.load(&mut *trainer), Err(SftError::OtherSettings(_))));
    state.remove().unwrap();
    assert_eq!(state.load(&mut *trainer).unwrap(), 0);
}

fn fine_tune_once(dir: &Path, config: &SftConfig) -> (Notes, Arc<dyn Model>, Digest) {
    let provider = FakeProvider::default();
    let model = provider.load(dir).unwrap();
    let environment = FakeEnvironment::default();
    let mut trainer = provider.trainer(dir).unwrap();
    let mut notes = Notes::default();
    fine_tune(
        &mut *trainer,
        config,
        &|seed| example(&*model, &environment, seed, seed, None),
        &|number| number | 1 << 63,
        &mut notes,
        &StopFlag::default(),
    )
    .unwrap();
    let out = tempfile::tempdir().unwrap();
    let digest = trainer.export(&out.path().join("checkpoint")).unwrap();
    let tuned = provider.load(&out.path().join("checkpoint")).unwrap();
    (notes, tuned, digest)
}

#[test]
fn fine_tuning_teaches_and_is_reproducible() {
    let dir = base();
    let optimizer = OptimizerConfig { lr: 0.1, ..SftConfig::default().optimizer };
    let config = SftConfig {
        steps: 60,
        batch: 16,
        micro_batch: 5,
        warmup_steps: 5,
        look_every: 25,
        optimizer,
        ..SftConfig::default()
    };
    let before = measure(&FakeModel::new(7));
    let (notes, tuned, digest) = fine_tune_once(dir.path(), &config);
    let after = measure(&*tuned);
    assert_eq!((before.problems, after.problems), (50, 50));
    assert!(before.pass_at_1() < 0.5 && after.pass_at_1() > 0.8, "{before:?} {after:?}");
    assert!(after.reward_mean() >= after.pass_at_1());
    assert_eq!(notes.looks, [25, 50]);
    assert!(notes.steps[59].loss < 0.5 * notes.steps[0].loss);
    // Two tokens an answer: the letter and the end.
    assert!(notes.steps.iter().all(|step| step.tokens == 32));

    assert_eq!(fine_tune_once(dir.path(), &config).2, digest);
    assert_ne!(fine_tune_once(dir.path(), &SftConfig { seed: 1, ..config }).2, digest);
}
