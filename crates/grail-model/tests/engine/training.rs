//! The trainer: its numbers are the engine's, its gradients are right, its runs repeat.

use std::path::Path;

use grail_kernels::Kernels;
use grail_model::{EngineConfig, ModelTrainer, Precision, TrainerConfig, folder_digest};
use grail_ports::model::{ModelError, OptimizerConfig, StopFlag, Trainer, TrainingSequence};
use grail_protocol::ids::{Digest, TokenId};

use crate::models::{
    NAMES, bf16, bits, edge_requests, engine, generate, golden, isas, kernels, model_in,
    plain_engine, score, score_requests, tokens,
};

const ADAMW: OptimizerConfig = OptimizerConfig {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    grad_clip: 1.0,
};

fn trainer(dir: &Path, kernels: Kernels, micro_batch_tokens: usize) -> ModelTrainer {
    let config = TrainerConfig { micro_batch_tokens, ..TrainerConfig::default() };
    ModelTrainer::load(dir, kernels, config).unwrap()
}

fn sequences() -> Vec<TrainingSequence> {
    [(3, 1), (20, 4), (17, 16), (33, 10), (2, 1), (48, 7)]
        .into_iter()
        .zip(0..)
        .map(|((len, prompt_len), seed)| TrainingSequence { tokens: tokens(len, seed), prompt_len })
        .collect()
}

/// Derivatives of both signs, and none at all for one sequence.
fn derivatives(idx: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|t| if idx == 2 { 0.0 } else { ((idx * 7 + t * 3) % 11) as f32 / 5.0 - 1.0 })
        .collect()
}

fn accumulate(trainer: &mut ModelTrainer, sequences: &[TrainingSequence]) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let mut loss = |idx: usize, logprobs: &[f32]| {
        assert_eq!(idx, all.len(), "sequences come in order");
        all.push(logprobs.to_vec());
        derivatives(idx, logprobs.len())
    };
    trainer.accumulate(sequences, &mut loss, &StopFlag::default()).unwrap();
    all
}

fn train(trainer: &mut ModelTrainer, n_steps: usize) {
    for _ in 0..n_steps {
        accumulate(trainer, &sequences());
        assert!(trainer.step(&ADAMW, &StopFlag::default()).unwrap().applied);
    }
}

fn export(trainer: &ModelTrainer) -> Digest {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("checkpoint");
    let digest = trainer.export(&out).unwrap();
    assert_eq!(folder_digest(&out).unwrap(), digest);
    digest
}

fn gradients(trainer: &ModelTrainer, dir: &Path) -> Vec<u32> {
    let weights = grail_model::formats::safetensors::TensorSource::open(dir).unwrap();
    weights.names().flat_map(|name| bits(trainer.gradient(name).unwrap())).collect()
}

#[test]
fn logprobs_are_those_of_generation_and_scoring_bit_for_bit() {
    for name in NAMES {
        let model = bf16(name);
        let dir = model_in(&model);
        let requests = edge_requests();
        let groups = generate(&plain_engine(&dir), &requests);
        let sequences: Vec<TrainingSequence> = score_requests(&requests, &groups)
            .into_iter()
            .map(|r| TrainingSequence { tokens: r.tokens, prompt_len: r.prompt_len })
            .collect();
        for micro_batch_tokens in [1, 100, 100_000] {
            let mut trainer = trainer(&dir, kernels(2), micro_batch_tokens);
            let logprobs = accumulate(&mut trainer, &sequences);
            for (logprobs, completion) in logprobs.iter().zip(groups.iter().flatten()) {
                assert_eq!(bits(logprobs), bits(&completion.logprobs), "{name}");
            }
        }
    }
}

#[test]
fn after_steps_the_exported_model_scores_as_the_trainer_does() {
    for name in NAMES {
        let mut trainer = trainer(&golden(name), kernels(1), 60);
        train(&mut trainer, 3);
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("checkpoint");
        trainer.export(&out).unwrap();
        let logprobs = accumulate(&mut trainer, &sequences());
        let requests: Vec<_> = sequences()
            .into_iter()
            .map(|s| grail_ports::model::ScoreRequest {
                tokens: s.tokens,
                prompt_len: s.prompt_len,
                race: None,
                entropy: false,
                whitening: None,
                rows: false,
            })
            .collect();
        for (score, logprobs) in score(&plain_engine(&out), &requests).iter().zip(&logprobs) {
            assert_eq!(bits(&score.logprobs), bits(logprobs), "{name}");
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for name in NAMES {
        let config = TrainerConfig { precision: Precision::F32, ..TrainerConfig::default() };
        let mut trainer = ModelTrainer::load(&golden(name), kernels(2), config).unwrap();
        accumulate(&mut trainer, &sequences());
        let weights = grail_model::formats::safetensors::TensorSource::open(&golden(name)).unwrap();
        let names: Vec<&str> = weights.names().collect();
        let gradients: Vec<Vec<f32>> =
            names.iter().map(|name| trainer.gradient(name).unwrap().to_vec()).collect();
        for (parameter, gradient) in names.into_iter().zip(gradients) {
            let base = trainer.master(parameter).unwrap().to_vec();
            // Along the gradient itself the derivative is the gradient's norm.
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{name} {parameter} has no gradient to speak of");
            let step = 2e-3;
            let mut loss_at = |distance: f64| {
                let moved: Vec<f32> = base
                    .iter()
                    .zip(&gradient)
                    .map(|(w, g)| (f64::from(*w) + distance * f64::from(*g) / norm) as f32)
                    .collect();
                trainer.set_master(parameter, &moved).unwrap();
                loss(&mut trainer)
            };
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            let error = (slope - norm).abs() / norm;
            assert!(error < 0.01, "{name} {parameter}: slope {slope}, gradient {norm}");
            trainer.set_master(parameter, &base).unwrap();
        }
    }
}

/// The loss whose gradient [`accumulate`] takes.
fn loss(trainer: &mut ModelTrainer) -> f64 {
    let mut sum = 0.0;
    let mut loss = |idx: usize, logprobs: &[f32]| {
        let weights = derivatives(idx, logprobs.len());
        sum +=
            weights.iter().zip(logprobs).map(|(w, l)| f64::from(*w) * f64::from(*l)).sum::<f64>();
        vec![0.0; logprobs.len()]
    };
    trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
    sum
}

/// Of both signs, and none for one sequence.
const FACTORS: [f32; 6] = [-0.5, 0.25, 0.0, -1.0, 2.0, -0.125];

/// Accumulates the entropy term, and besides it the gradient of [`derivatives`] or of nothing.
fn accumulate_entropy(trainer: &mut ModelTrainer, is_alone: bool) -> f64 {
    let mut loss = |idx: usize, logprobs: &[f32]| match is_alone {
        true => vec![0.0; logprobs.len()],
        false => derivatives(idx, logprobs.len()),
    };
    let stop = StopFlag::default();
    trainer.accumulate_with_entropy(&sequences(), &FACTORS, &mut loss, &stop).unwrap()
}

#[test]
fn the_gradient_of_entropy_agrees_with_finite_differences() {
    for name in NAMES {
        let config = TrainerConfig { precision: Precision::F32, ..TrainerConfig::default() };
        let load = || ModelTrainer::load(&golden(name), kernels(2), config).unwrap();
        let mut trainer = load();
        accumulate_entropy(&mut trainer, true);
        let parameter = "model.norm.weight";
        let gradient = trainer.gradient(parameter).unwrap().to_vec();
        let base = trainer.master(parameter).unwrap().to_vec();
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let step = 2e-3;
        let mut term_at = |distance: f64| {
            let moved: Vec<f32> = base
                .iter()
                .zip(&gradient)
                .map(|(w, g)| (f64::from(*w) + distance * f64::from(*g) / norm) as f32)
                .collect();
            trainer.set_master(parameter, &moved).unwrap();
            accumulate_entropy(&mut trainer, true)
        };
        let slope = (term_at(step) - term_at(-step)) / (2.0 * step);
        let error = (slope - norm).abs() / norm;
        assert!(error < 0.01, "{name}: slope {slope}, gradient {norm}");

        // Both terms together have the sum of their gradients.
        let sum_of = |trainer: &ModelTrainer| trainer.gradient(parameter).unwrap().to_vec();
        let (mut both, mut policy) = (load(), load());
        accumulate_entropy(&mut both, false);
        accumulate(&mut policy, &sequences());
        for ((both, policy), entropy) in sum_of(&both).iter().zip(sum_of(&policy)).zip(&gradient) {
            let gap = (both - (policy + entropy)).abs();
            assert!(gap < 1e-4 * (1.0 + both.abs()), "{name}: {both}, {policy} + {entropy}");
        }
    }
}

#[test]
fn factors_that_fit_no_sequence_are_refused() {
    let mut trainer = trainer(&golden(NAMES[0]), kernels(1), 64);
    for factors in [&FACTORS[1..], &[f32::NAN; 6]] {
        let mut loss = |_: usize, logprobs: &[f32]| vec![0.0; logprobs.len()];
        let refused =
            trainer.accumulate_with_entropy(&sequences(), factors, &mut loss, &StopFlag::default());
        assert!(matches!(refused, Err(ModelError::BadRequest(_))), "{refused:?}");
    }
}

#[test]
fn gradients_do_not_depend_on_threads_or_instruction_set() {
    for name in NAMES {
        let mut base = None;
        for isa in isas() {
            for threads in [1, 2, 3] {
                let kernels = Kernels::with_isa(isa, threads).unwrap();
                let mut trainer = trainer(&golden(name), kernels, 50);
                accumulate(&mut trainer, &sequences());
                let found = gradients(&trainer, &golden(name));
                assert!(found.iter().any(|bits| *bits != 0));
                assert_eq!(found, *base.get_or_insert_with(|| found.clone()), "{name} {isa}");
            }
        }
    }
}

#[test]
fn gradients_do_not_depend_on_how_many_layers_keep_their_activations() {
    for name in NAMES {
        let mut base = None;
        // Nothing, about one layer of the largest micro-batch, everything.
        for activations_bytes_max in [0, 60_000, usize::MAX] {
            let config = TrainerConfig {
                micro_batch_tokens: 60,
                activations_bytes_max,
                ..TrainerConfig::default()
            };
            let mut trainer = ModelTrainer::load(&golden(name), kernels(2), config).unwrap();
            accumulate(&mut trainer, &sequences());
            let found = gradients(&trainer, &golden(name));
            assert_eq!(found, *base.get_or_insert_with(|| found.clone()), "{name}");
        }
    }
}

#[test]
fn two_calls_accumulate_as_one_with_the_same_micro_batches() {
    let mut whole = trainer(&golden("llama"), kernels(1), 1);
    accumulate(&mut whole, &sequences());
    let mut parts = trainer(&golden("llama"), kernels(1), 1);
    for (idx, sequence) in sequences().into_iter().enumerate() {
        let mut loss = |_: usize, logprobs: &[f32]| derivatives(idx, logprobs.len());
        parts.accumulate(&[sequence], &mut loss, &StopFlag::default()).unwrap();
    }
    assert_eq!(gradients(&whole, &golden("llama")), gradients(&parts, &golden("llama")));
}

#[test]
fn the_same_training_gives_the_same_checkpoint_twice() {
    for name in NAMES {
        let digest = |kernels: Kernels| {
            let mut trainer = trainer(&golden(name), kernels, 50);
            train(&mut trainer, 4);
            export(&trainer)
        };
        let first = digest(kernels(1));
        assert_eq!(first, digest(kernels(1)), "{name}");
        assert_eq!(first, digest(kernels(2)), "{name}: other thread count");
        let portable = Kernels::with_isa(grail_kernels::Isa::Portable, 1).unwrap();
        assert_eq!(first, digest(portable), "{name}: other instruction set");
        assert_ne!(first, export(&trainer(&golden(name), kernels(1), 50)), "{name}: no training");
    }
}

#[test]
fn a_resumed_training_goes_on_as_if_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut unbroken = trainer(&golden("qwen3"), kernels(1), 50);
    train(&mut unbroken, 2);
    unbroken.save_state(&state).unwrap();
    train(&mut unbroken, 3);

    let mut resumed = trainer(&golden("qwen3"), kernels(1), 50);
    train(&mut resumed, 1);
    accumulate(&mut resumed, &sequences());
    resumed.load_state(&state).unwrap();
    assert_eq!(resumed.step_count(), 2);
    train(&mut resumed, 3);
    assert_eq!(export(&resumed), export(&unbroken));
    for name in ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"] {
        assert_eq!(bits(resumed.master(name).unwrap()), bits(unbroken.master(name).unwrap()));
    }
}

#[test]
fn training_makes_what_it_rewards_more_likely() {
    let mut trainer = trainer(&golden("llama"), kernels(2), 1000);
    let sequences = sequences();
    let mut means = Vec::new();
    for _ in 0..30 {
        let (mut sum, mut n) = (0.0, 0);
        let mut loss = |_: usize, logprobs: &[f32]| {
            sum += logprobs.iter().sum::<f32>();
            n += logprobs.len();
            vec![-0.01; logprobs.len()]
        };
        trainer.accumulate(&sequences, &mut loss, &StopFlag::default()).unwrap();
        means.push(sum / n as f32);
        trainer.step(&OptimizerConfig { lr: 1e-2, ..ADAMW }, &StopFlag::default()).unwrap();
    }
    assert!(means[29] > means[0] + 2.0, "{means:?}");
}

#[test]
fn updates_smaller_than_a_bf16_step_are_kept() {
    let model = bf16("llama");
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut trainer = trainer(&model_in(&model), kernels(1), 1000);
    let before = trainer.master(name).unwrap().to_vec();
    accumulate(&mut trainer, &sequences());
    trainer.step(&OptimizerConfig { lr: 1e-6, ..ADAMW }, &StopFlag::default()).unwrap();
    assert_ne!(trainer.master(name).unwrap(), before);
}

#[test]
fn a_large_gradient_is_clipped_to_the_norm() {
    let masters = |grad_clip: f32, scale: f32| {
        let mut trainer = trainer(&golden("llama"), kernels(1), 1000);
        let mut loss = |idx: usize, logprobs: &[f32]| {
            derivatives(idx, logprobs.len()).iter().map(|d| d * scale).collect()
        };
        trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
        // A large eps makes the update proportional to the gradient.
        let stats = trainer
            .step(&OptimizerConfig { grad_clip, eps: 100.0, ..ADAMW }, &StopFlag::default())
            .unwrap();
        (stats.grad_norm, trainer.master("model.norm.weight").unwrap().to_vec())
    };
    let (norm, _) = masters(f32::INFINITY, 1.0);
    let (same_norm, clipped) = masters(norm / 4.0, 1.0);
    let (small_norm, small) = masters(f32::INFINITY, 0.25);
    assert_eq!(norm, same_norm, "the reported norm is the one before clipping");
    assert!((small_norm * 4.0 / norm - 1.0).abs() < 1e-5);
    for (clipped, small) in clipped.iter().zip(&small) {
        assert!((clipped - small).abs() < 1e-6, "{clipped} {small}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_takes_no_step() {
    let mut trainer = trainer(&golden("llama"), kernels(1), 1000);
    let before = export(&trainer);
    let mut loss = |_: usize, logprobs: &[f32]| vec![f32::NAN; logprobs.len()];
    trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
    let stats = trainer.step(&ADAMW, &StopFlag::default()).unwrap();
    assert!(!stats.applied && !stats.grad_norm.is_finite());
    assert_eq!((export(&trainer), trainer.step_count()), (before, 0));
    // What was accumulated is gone, and training goes on.
    train(&mut trainer, 1);
}

#[test]
fn mad_optimiser_settings_are_refused_and_an_overflow_is_reported() {
    let mut trainer = trainer(&golden("llama"), kernels(1), 1000);
    accumulate(&mut trainer, &sequences());
    for (config, said) in [
        (OptimizerConfig { lr: -1.0, ..ADAMW }, "lr is -1"),
        (OptimizerConfig { lr: f32::NAN, ..ADAMW }, "lr is NaN"),
        (OptimizerConfig { beta1: 1.0, ..ADAMW }, "beta1 is 1"),
        (OptimizerConfig { beta2: -0.5, ..ADAMW }, "beta2 is -0.5"),
        (OptimizerConfig { eps: 0.0, ..ADAMW }, "eps is 0"),
        (OptimizerConfig { weight_decay: f32::INFINITY, ..ADAMW }, "weight_decay is inf"),
        (OptimizerConfig { grad_clip: 0.0, ..ADAMW }, "grad_clip is 0"),
        (OptimizerConfig { grad_clip: f32::NAN, ..ADAMW }, "grad_clip is NaN"),
    ] {
        let error = trainer.step(&config, &StopFlag::default()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert_eq!(trainer.step_count(), 0);
    let huge = OptimizerConfig { lr: f32::MAX, weight_decay: 0.0, ..ADAMW };
    assert!(matches!(trainer.step(&huge, &StopFlag::default()), Err(ModelError::NotFinite(_))));
}

#[test]
fn a_step_that_is_stopped_changes_nothing() {
    let mut stopped = trainer(&golden("llama"), kernels(2), 1000);
    let mut plain = trainer(&golden("llama"), kernels(2), 1000);
    accumulate(&mut stopped, &sequences());
    accumulate(&mut plain, &sequences());
    let stop = StopFlag::default();
    stop.stop();
    assert_eq!(stopped.step(&ADAMW, &stop), Err(ModelError::Stopped));
    assert_eq!(stopped.step_count(), 0);
    // The gradients are still there, so the step can be taken later.
    for trainer in [&mut stopped, &mut plain] {
        assert!(trainer.step(&ADAMW, &StopFlag::default()).unwrap().applied);
    }
    assert_eq!(export(&stopped), export(&plain));
}

#[test]
fn sequences_without_advantage_add_nothing() {
    let mut trainer = trainer(&golden("llama"), kernels(1), 1000);
    let mut loss = |_: usize, logprobs: &[f32]| vec![0.0; logprobs.len()];
    trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
    assert!(gradients(&trainer, &golden("llama")).iter().all(|bits| *bits == 0));
    assert_eq!(trainer.step(&ADAMW, &StopFlag::default()).unwrap().grad_norm, 0.0);
}

#[test]
fn an_error_drops_the_half_batch() {
    let dir = golden("llama");
    let untouched = |trainer: &ModelTrainer| gradients(trainer, &dir).iter().all(|bits| *bits == 0);
    let mut trainer = trainer(&dir, kernels(1), 1);
    let stop = StopFlag::default();
    let mut stopping = |idx: usize, logprobs: &[f32]| {
        if idx == 3 {
            stop.stop();
        }
        derivatives(idx, logprobs.len())
    };
    let result = trainer.accumulate(&sequences(), &mut stopping, &stop);
    assert_eq!(result, Err(ModelError::Stopped));
    assert!(untouched(&trainer));

    let mut short = |idx: usize, _: &[f32]| if idx == 3 { vec![] } else { vec![1.0; 99] };
    let result = trainer.accumulate(&sequences(), &mut short, &StopFlag::default());
    assert!(matches!(result, Err(ModelError::BadRequest(text)) if text.contains("99 derivatives")));
    assert!(untouched(&trainer));

    for (tokens, prompt_len) in [(vec![], 1), (vec![1, 2], 2), (vec![1, 2], 0), (vec![1, 96], 1)] {
        let tokens: Vec<TokenId> = tokens;
        let bad = [TrainingSequence { tokens, prompt_len }];
        let result = trainer.accumulate(&bad, &mut stopping, &StopFlag::default());
        assert!(matches!(result, Err(ModelError::BadRequest(_))), "{result:?}");
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let other = trainer(&golden("qwen2"), kernels(1), 50);
    other.save_state(&state).unwrap();
    let mut trainer = trainer(&golden("llama"), kernels(1), 50);
    train(&mut trainer, 1);
    let before = export(&trainer);
    let mut refuse = |said: &str| {
        let error = trainer.load_state(&state).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    };
    refuse("shape");
    std::fs::write(state.join("trainer.json"), "{\"version\": 9, \"step\": 1}").unwrap();
    refuse("version is 9");
    std::fs::write(state.join("trainer.json"), "{").unwrap();
    refuse("not JSON");
    std::fs::write(state.join("trainer.json"), "{\"version\": 1, \"step\": 1}").unwrap();
    std::fs::write(state.join("trainer.safetensors"), "").unwrap();
    refuse("trainer.safetensors");
    std::fs::remove_file(state.join("trainer.json")).unwrap();
    refuse("trainer.json");
    assert_eq!(export(&trainer), before);
    assert_eq!(trainer.step_count(), 1);
}

#[test]
fn nothing_is_written_over_or_half_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(&golden("llama"), kernels(1), 50);
    for folder in ["checkpoint", "state"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    assert!(trainer.export(&dir.path().join("checkpoint")).is_err());
    assert!(trainer.save_state(&dir.path().join("state")).is_err());
    accumulate(&mut trainer, &sequences());
    let error = trainer.save_state(&dir.path().join("new")).unwrap_err();
    assert!(error.to_string().contains("take the step first"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn in_f32_nothing_is_rounded() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("checkpoint");
    let config = TrainerConfig { precision: Precision::F32, ..TrainerConfig::default() };
    ModelTrainer::load(&golden("qwen2"), kernels(1), config).unwrap().export(&out).unwrap();
    let logits = |dir: &Path| bits(&plain_engine(dir).logits(&tokens(40, 2)).unwrap());
    assert_eq!(logits(&out), logits(&golden("qwen2")));
    let rounded = bf16("qwen2");
    assert_ne!(logits(&model_in(&rounded)), logits(&out));
}

#[test]
fn an_export_loads_as_a_bf16_model() {
    let model = bf16("qwen3");
    let dir = model_in(&model);
    let weights = grail_model::formats::safetensors::TensorSource::open(&dir).unwrap();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        assert_eq!(tensor.dtype, grail_model::formats::Dtype::BF16, "{name}");
    }
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    assert!(config.contains("bfloat16") && !config.contains("float32"), "{config}");
    engine(&dir, kernels(1), EngineConfig::default());
}
