//! Miners whose engine is not exact, block by block: measured, then judged, and never taken at a
//! false word.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use grail_neurons::neuron::Neuron;
use grail_neurons::roles::{CheaterNeuron, MinerNeuron};
use grail_ports::environment::Environment as _;
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelProvider as _, RaceCheck, Sampling, ScoreRequest,
    StopFlag,
};
use grail_ports::signer::Signer as _;
use grail_protocol::calibration::{Calibration, Pairing, RolloutSample};
use grail_protocol::constants::NUMERICS_EXACT;
use grail_protocol::ids::{Digest, Window};
use grail_protocol::keys;
use grail_protocol::sketch::Whitening;
use grail_protocol::verdict::VerdictRecord;
use grail_services::checkpoint::cache::identity_of;
use grail_services::checkpoint::whitening;
use grail_services::context::RunContext;
use grail_services::mining::adversary::{Adversary, Cheat, Perturb};
use grail_services::mining::service::MiningService;
use grail_services::validation::calibrations::CalibrationSource;
use grail_testkit::{FakeEnvironment, FakeProvider, FakeSigner};
use support::{MINER, OTHER_MINER, ROLLOUTS, VALIDATOR, World, hotkey, settle};

/// A miner with models of its own.
fn miner_with(world: &World, seed: u64, models: FakeProvider) -> MinerNeuron {
    let ctx = RunContext { models: Arc::new(models), ..world.context(seed) };
    MinerNeuron::new(ctx.clone(), MiningService::new(ctx, world.mining_config()))
}

/// Measures honest work of the bf16 engine on the base model, and writes a signed calibration.
fn calibrate(world: &World, signer: &FakeSigner, file: &Path) {
    let base = world.folder.path().join("base");
    let exact = FakeProvider::default().load(&base).unwrap();
    let bf16 = FakeProvider::in_bf16().load(&base).unwrap();
    let record = whitening::measure(&*exact, &StopFlag::default()).unwrap();
    let whitening = Arc::new(record.read().unwrap());
    let samples: Vec<RolloutSample> =
        (0..40).flat_map(|seed| measure(&*exact, &*bf16, &whitening, seed)).collect();
    let pairing = Pairing {
        model: identity_of(&base).unwrap(),
        checkpoint: exact.info().checkpoint_digest,
        window: Window::from_start(0).unwrap(),
        miner_runtime: bf16.info().numerics.clone(),
        verifier_runtime: NUMERICS_EXACT.to_owned(),
        temperature: 1.0,
    };
    let calibration = Calibration::fit(pairing, Digest([1; 32]), &samples).unwrap();
    let text = calibration.sign(signer.hotkey(), &|message| signer.sign(message)).unwrap();
    std::fs::write(file, text).unwrap();
}

/// One group of the miner's engine, seen by the verifier's.
fn measure(
    verifier: &dyn Model,
    miner: &dyn Model,
    whitening: &Arc<Whitening>,
    seed: u32,
) -> Vec<RolloutSample> {
    let prompt = miner.render(&FakeEnvironment::default().prompt(seed.into())).unwrap();
    let request = GenerateRequest {
        prompt: prompt.clone(),
        race_keys: (0..16).map(|rollout| [seed, rollout, 1, 2]).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens: 4,
        whitening: Some(whitening.clone()),
    };
    let (stop, mut answers) = (StopFlag::default(), Vec::new());
    miner.generate(std::slice::from_ref(&request), &stop, &mut |_, group| answers = group).unwrap();
    let score = |(answer, key): (&Completion, &[u32; 4])| ScoreRequest {
        tokens: [prompt.as_slice(), &answer.tokens].concat(),
        prompt_len: prompt.len(),
        race: Some(RaceCheck { key: *key, temperature: 1.0 }),
        entropy: false,
        whitening: Some(whitening.clone()),
        rows: false,
    };
    let requests: Vec<_> = answers.iter().zip(&request.race_keys).map(score).collect();
    let scores = verifier.score(&requests, &stop).unwrap();
    let sample = |(answer, score): (&Completion, grail_ports::model::Score)| {
        let pairs = answer.sketches.iter().zip(&score.sketches);
        let distances = pairs.map(|(theirs, ours)| u8::try_from(theirs.distance(*ours)).unwrap());
        RolloutSample { distances: distances.collect(), margins: score.margins }
    };
    answers.iter().zip(scores).map(sample).collect()
}

/// A cheater in bf16 that writes other answers and proves them as well as it can.
fn editor(world: &World) -> CheaterNeuron {
    let ctx =
        RunContext { models: Arc::new(FakeProvider::in_bf16()), ..world.context(OTHER_MINER) };
    let unused: Perturb = Arc::new(|_, _| Err("its weights are its own".to_owned()));
    let cheats = vec![Cheat::EditedAnswer];
    CheaterNeuron::new(ctx.clone(), Adversary::new(ctx, world.mining_config(), cheats, unused))
}

/// Runs a window of an exact miner and one in bf16; returns the verdicts on both.
async fn run_window(world: &World) -> (VerdictRecord, VerdictRecord) {
    let mut bf16 = miner_with(world, OTHER_MINER, FakeProvider::in_bf16());
    run_window_with(world, &mut bf16).await
}

/// The same with `bf16` as the other miner.
async fn run_window_with(world: &World, bf16: &mut impl Neuron) -> (VerdictRecord, VerdictRecord) {
    let (mut trainer, mut validator) = (world.trainer(), world.validator());
    let mut exact = world.miner(MINER);
    trainer.start().await.unwrap();
    validator.start().await.unwrap();
    exact.start().await.unwrap();
    bf16.start().await.unwrap();
    settle(&mut trainer, world.chain.head()).await;
    let head = world.next_window();
    let window = Window::containing(head.number);
    let log = settle(&mut exact, head).await + &settle(bf16, head).await;
    let log = log + &settle(&mut validator, world.next_window()).await;
    let read = |seed| {
        let bytes = world.storage.peek(hotkey(VALIDATOR), &keys::verdict(window, hotkey(seed)));
        VerdictRecord::from_json(&bytes.unwrap_or_else(|| panic!("no verdict\n{log}"))).unwrap()
    };
    (read(MINER), read(OTHER_MINER))
}

#[tokio::test(start_paused = true)]
async fn without_a_calibration_another_engine_is_measured_and_not_paid() {
    let world = World::new();
    let (exact, bf16) = run_window(&world).await;
    assert_eq!((exact.profile.as_str(), exact.accepted), ("exact", ROLLOUTS));
    assert_eq!((bf16.profile.as_str(), bf16.accepted), ("shadow", 0));
    assert_eq!((bf16.unverified, bf16.evidence), (ROLLOUTS, None));
    assert_eq!(bf16.checks["sketch_sum"].shadow, ROLLOUTS);
    assert!(bf16.checks["margin_sum"].mean.is_some());
}

#[tokio::test(start_paused = true)]
async fn with_a_calibration_another_engine_is_judged_and_paid() {
    let mut world = World::new();
    let (file, signer) = (world.folder.path().join("bf16.json"), FakeSigner::new(50));
    calibrate(&world, &signer, &file);
    world.calibrations = CalibrationSource { paths: vec![file], signers: vec![signer.hotkey()] };
    let (_, bf16) = run_window(&world).await;
    assert_eq!((bf16.profile.as_str(), bf16.accepted), ("tolerant", ROLLOUTS), "{bf16:?}");
    assert!(bf16.calibration.is_some());

    // The same file under a signer whom nobody trusts is no calibration.
    let mut world = World::new();
    let file = world.folder.path().join("bf16.json");
    calibrate(&world, &signer, &file);
    world.calibrations = CalibrationSource { paths: vec![file], signers: vec![hotkey(VALIDATOR)] };
    assert_eq!(run_window(&world).await.1.profile, "shadow");
}

#[tokio::test(start_paused = true)]
async fn a_calibration_does_not_excuse_another_answer() {
    let mut world = World::new();
    let (file, signer) = (world.folder.path().join("bf16.json"), FakeSigner::new(50));
    calibrate(&world, &signer, &file);
    world.calibrations = CalibrationSource { paths: vec![file], signers: vec![signer.hotkey()] };
    let (exact, cheater) = run_window_with(&world, &mut editor(&world)).await;
    assert_eq!(exact.accepted, ROLLOUTS);
    assert_eq!((cheater.profile.as_str(), cheater.accepted), ("tolerant", 0), "{cheater:?}");
    assert!(cheater.rejected.contains_key("margin_veto"), "{:?}", cheater.rejected);
}
