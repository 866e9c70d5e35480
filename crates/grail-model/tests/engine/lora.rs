//! LoRA: fresh pairs change nothing, gradients are right, exports are what the trainer computed.

use std::path::Path;

use grail_kernels::Kernels;
use grail_kernels::math::f32_to_bf16;
use grail_model::formats::safetensors::TensorSource;
use grail_model::{LoraConfig, ModelTrainer, Precision, TrainerConfig};
use grail_ports::model::{ModelError, OptimizerConfig, StopFlag, Trainer, TrainingSequence};
use serde_json::Value;

use crate::golden::{assert_close, case};
use crate::models::{
    NAMES, bf16, bits, golden, isas, kernels, model_in, plain_engine, score, tokens,
};

const ADAMW: OptimizerConfig = OptimizerConfig {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.01,
    grad_clip: 1.0,
};

fn config() -> LoraConfig {
    LoraConfig { rank: 5, alpha: 8, seed: 3, ..LoraConfig::default() }
}

fn trainer(dir: &Path, kernels: Kernels, lora: Option<LoraConfig>) -> ModelTrainer {
    let config = TrainerConfig { micro_batch_tokens: 50, lora, ..TrainerConfig::default() };
    ModelTrainer::load(dir, kernels, config).unwrap()
}

fn sequences() -> Vec<TrainingSequence> {
    [(20, 4), (33, 10), (2, 1)]
        .into_iter()
        .zip(0..)
        .map(|((len, prompt_len), seed)| TrainingSequence { tokens: tokens(len, seed), prompt_len })
        .collect()
}

fn accumulate(trainer: &mut ModelTrainer) -> Vec<Vec<u32>> {
    let mut all = Vec::new();
    let mut loss = |_: usize, logprobs: &[f32]| {
        all.push(bits(logprobs));
        (0..logprobs.len()).map(|t| (t % 5) as f32 / 5.0 - 0.7).collect()
    };
    trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
    all
}

fn train(trainer: &mut ModelTrainer, n_steps: usize) {
    for _ in 0..n_steps {
        accumulate(trainer);
        assert!(trainer.step(&ADAMW, &StopFlag::default()).unwrap().applied);
    }
}

fn export(trainer: &ModelTrainer, dir: &Path) -> grail_protocol::ids::Digest {
    trainer.export(dir).unwrap()
}

#[test]
fn fresh_pairs_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for name in NAMES {
        let full = export(&trainer(&golden(name), kernels(1), None), &dir.path().join(name));
        let fresh = trainer(&golden(name), kernels(2), Some(config()));
        assert_eq!(export(&fresh, &dir.path().join(format!("{name}-lora"))), full, "{name}");
    }
}

#[test]
fn gradients_are_those_of_pytorch() {
    let facts = std::fs::read_to_string(golden("lora").join("case.json")).unwrap();
    let facts: Value = serde_json::from_str(&facts).unwrap();
    let targets: Vec<&str> =
        facts["targets"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let lora = LoraConfig {
        rank: usize::try_from(facts["rank"].as_u64().unwrap()).unwrap(),
        alpha: u32::try_from(facts["alpha"].as_u64().unwrap()).unwrap(),
        targets: targets.join(",").parse().unwrap(),
        seed: 0,
    };
    let config =
        TrainerConfig { precision: Precision::F32, lora: Some(lora), ..TrainerConfig::default() };
    let mut trainer = ModelTrainer::load(&golden("qwen2"), kernels(2), config).unwrap();
    let expected = TensorSource::open_file(&golden("lora").join("expected.safetensors")).unwrap();
    for full_name in expected.names() {
        if let Some(name) = full_name.strip_prefix("pair.") {
            trainer.set_master(name, &expected.to_f32(full_name).unwrap()).unwrap();
        }
    }
    let case = case("qwen2");
    let sequences: Vec<TrainingSequence> = case
        .sequences
        .iter()
        .map(|(ids, _)| TrainingSequence { tokens: ids.clone(), prompt_len: 1 })
        .collect();
    let mut sum = 0.0;
    let mut loss = |idx: usize, logprobs: &[f32]| {
        let weights = &case.sequences[idx].1;
        sum -= weights.iter().zip(logprobs).map(|(w, l)| w * l).sum::<f32>();
        weights.iter().map(|weight| -weight).collect()
    };
    trainer.accumulate(&sequences, &mut loss, &StopFlag::default()).unwrap();
    assert_close(&[sum], &[facts["loss"].as_f64().unwrap() as f32], 1e-5, "loss");
    let mut checked = 0;
    for full_name in expected.names() {
        let Some(name) = full_name.strip_prefix("grad.") else { continue };
        let want = expected.to_f32(full_name).unwrap();
        assert_close(trainer.gradient(name).unwrap(), &want, 2.5e-5, name);
        checked += 1;
    }
    // Two layers, five projections, a pair each; nothing else has a gradient.
    assert_eq!(checked, 20);
    assert!(trainer.gradient("model.norm.weight").is_none());
}

#[test]
fn the_exported_model_scores_as_the_trainer_does() {
    for name in NAMES {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("checkpoint");
        let mut trainer = trainer(&golden(name), kernels(2), Some(config()));
        train(&mut trainer, 3);
        trainer.export(&out).unwrap();
        let logprobs = accumulate(&mut trainer);
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
            assert_eq!(bits(&score.logprobs), *logprobs, "{name}");
        }
    }
}

#[test]
fn an_export_is_the_rounded_sum_and_the_rest_is_frozen() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("checkpoint");
    let model = bf16("qwen2");
    let lora = LoraConfig { targets: "k_proj,up_proj".parse().unwrap(), ..config() };
    let mut trainer = trainer(&model_in(&model), kernels(2), Some(lora));
    train(&mut trainer, 2);
    trainer.export(&out).unwrap();
    let (base, merged) =
        (TensorSource::open(&model_in(&model)).unwrap(), TensorSource::open(&out).unwrap());
    let mut changed = 0;
    for name in base.names() {
        let (base, merged) = (base.to_f32(name).unwrap(), merged.to_f32(name).unwrap());
        if !(name.ends_with("k_proj.weight") || name.ends_with("up_proj.weight")) {
            assert_eq!(bits(&base), bits(&merged), "{name} is frozen");
            continue;
        }
        let stem = name.strip_suffix(".weight").unwrap();
        let a = trainer.master(&format!("{stem}.lora_A.weight")).unwrap();
        let b = trainer.master(&format!("{stem}.lora_B.weight")).unwrap();
        let (rank, k) = (5, a.len() / 5);
        for (idx, (base, merged)) in base.iter().zip(&merged).enumerate() {
            let (row, column) = (idx / k, idx % k);
            let terms = (0..rank).map(|r| (b[row * rank + r], a[r * k + column]));
            let delta = terms.fold(0.0f32, |sum, (b, a)| b.mul_add(a, sum));
            let want = f32_to_bf16(base + (8.0 / 5.0) * delta);
            assert_eq!(f32_to_bf16(*merged), want, "{name}[{idx}]");
            changed += usize::from(base.to_bits() != merged.to_bits());
        }
    }
    assert!(changed > 1000, "{changed} weights changed");
}

#[test]
fn training_does_not_depend_on_threads_or_instruction_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = None;
    for (idx, isa) in isas().into_iter().enumerate() {
        for threads in [1, 2] {
            let kernels = Kernels::with_isa(isa, threads).unwrap();
            let mut trainer = trainer(&golden("qwen3"), kernels, Some(config()));
            train(&mut trainer, 2);
            let digest = export(&trainer, &dir.path().join(format!("{idx}-{threads}")));
            assert_eq!(digest, *first.get_or_insert(digest), "{isa}, {threads} threads");
        }
    }
}

#[test]
fn a_resumed_training_goes_on_as_if_never_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut unbroken = trainer(&golden("llama"), kernels(1), Some(config()));
    train(&mut unbroken, 2);
    unbroken.save_state(&path("state")).unwrap();
    unbroken.export(&path("half-way")).unwrap();
    train(&mut unbroken, 2);

    // As a network's trainer does: from its newest checkpoint, which holds the pairs already.
    let mut resumed = trainer(&path("half-way"), kernels(2), Some(config()));
    resumed.load_state(&path("state")).unwrap();
    train(&mut resumed, 2);
    assert_eq!(export(&resumed, &path("resumed")), export(&unbroken, &path("unbroken")));

    let refuse = |lora: Option<LoraConfig>| {
        let mut other = trainer(&golden("llama"), kernels(1), lora);
        let error = other.load_state(&path("state")).unwrap_err().to_string();
        assert!(error.contains("LoRA settings"), "{error}");
    };
    refuse(None);
    refuse(Some(LoraConfig { alpha: 9, ..config() }));
    refuse(Some(LoraConfig { targets: "q_proj".parse().unwrap(), ..config() }));
}

#[test]
fn an_adapter_holds_the_pairs_under_the_names_of_peft() {
    let dir = tempfile::tempdir().unwrap();
    let mut trained = trainer(&golden("llama"), kernels(1), Some(config()));
    train(&mut trained, 1);
    let out = dir.path().join("adapter");
    trained.export_adapter(&out).unwrap();
    let text = std::fs::read_to_string(out.join("adapter_config.json")).unwrap();
    let facts: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&facts["r"], &facts["lora_alpha"]), (&Value::from(5), &Value::from(8)));
    assert_eq!(facts["target_modules"].as_array().unwrap().len(), 7);
    let weights = TensorSource::open_file(&out.join("adapter_model.safetensors")).unwrap();
    assert_eq!(weights.names().count(), 2 * 7 * 2);
    let name = "model.layers.1.mlp.down_proj.lora_B.weight";
    let tensor = weights.tensor(&format!("base_model.model.{name}")).unwrap();
    assert_eq!(tensor.shape, [32, 5]);
    let stored = weights.to_f32(&format!("base_model.model.{name}")).unwrap();
    assert_eq!(bits(&stored), bits(trained.master(name).unwrap()));

    let full = trainer(&golden("llama"), kernels(1), None);
    let error = full.export_adapter(&dir.path().join("none")).unwrap_err();
    assert!(matches!(error, ModelError::BadRequest(_)), "{error}");
}

#[test]
fn pairs_learn() {
    let mut trainer = trainer(&golden("llama"), kernels(2), Some(config()));
    let mut means = Vec::new();
    for _ in 0..25 {
        let (mut sum, mut n) = (0.0, 0);
        let mut loss = |_: usize, logprobs: &[f32]| {
            sum += logprobs.iter().sum::<f32>();
            n += logprobs.len();
            vec![-0.01; logprobs.len()]
        };
        trainer.accumulate(&sequences(), &mut loss, &StopFlag::default()).unwrap();
        means.push(sum / n as f32);
        trainer.step(&ADAMW, &StopFlag::default()).unwrap();
    }
    assert!(means[24] > means[0] + 1.0, "{means:?}");
}
