//! Tests of the fake model and its trainer.

use std::path::Path;

use grail_ports::environment::{ChatRole, Environment as _};
use grail_ports::model::{ModelProvider as _, OptimizerConfig, Trainer as _, TrainingSequence};

use super::*;
use crate::{FakeEnvironment, contract};

fn adam(lr: f32) -> OptimizerConfig {
    OptimizerConfig { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0, grad_clip: 1.0 }
}

fn write(model: &FakeModel) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    model.write(dir.path()).unwrap();
    dir
}

#[test]
fn the_model_passes_the_contract() {
    contract::model(&FakeModel::new(1));
}

#[test]
fn provider_and_trainer_pass_the_contract() {
    let dir = write(&FakeModel::new(2));
    let scratch = tempfile::tempdir().unwrap();
    contract::trainer(&FakeProvider::default(), dir.path(), scratch.path());
}

#[test]
fn text_survives_and_prompts_are_rendered() {
    let model = FakeModel::new(1);
    let tokens = model.encode("a b\n?").unwrap();
    assert_eq!(model.decode(&tokens).unwrap(), "a b\n?");
    assert_eq!(model.decode(&model.encode("é\0").unwrap()).unwrap(), "??");
    assert_eq!(model.decode(&[END, 1, 2, b'x'.into()]).unwrap(), "x");
    assert!(model.decode(&[128]).is_err());
    let message = ChatMessage { role: ChatRole::User, content: "hi".to_owned() };
    let prompt = model.render(&[message]).unwrap();
    assert_eq!(model.decode(&prompt).unwrap(), "\nuhi>");
}

#[test]
fn noise_hides_behind_the_same_name_but_changes_the_digest() {
    let honest = FakeModel::new(1);
    let noisy = honest.with_noise(5, 1e-3);
    assert_eq!(honest.info(), noisy.info());
    let request = ScoreRequest {
        tokens: vec![97, 98, 99],
        prompt_len: 1,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let score = |model: &FakeModel| {
        model.score(std::slice::from_ref(&request), &StopFlag::default()).unwrap()
    };
    assert_ne!(score(&honest)[0].hidden_digest, score(&noisy)[0].hidden_digest);
    assert_ne!(FakeModel::new(2).info().checkpoint_digest, honest.info().checkpoint_digest);
}

#[test]
fn top_p_leaves_out_the_unlikely() {
    let model = FakeModel::new(1);
    let request = |top_p| GenerateRequest {
        prompt: vec![97],
        race_keys: (0..200).map(|key| [key, 1, 2, 3]).collect(),
        sampling: Sampling::TopP { temperature: 1.0, top_p },
        max_new_tokens: 1,
        whitening: None,
    };
    let first_tokens = |top_p| {
        let mut seen = std::collections::BTreeSet::new();
        let mut keep = |_, group: Vec<Completion>| {
            seen.extend(group.into_iter().map(|completion| completion.tokens[0]));
        };
        model.generate(&[request(top_p)], &StopFlag::default(), &mut keep).unwrap();
        seen
    };
    assert!(first_tokens(0.5).len() <= 5);
    assert!(first_tokens(1.0).len() > 10);
    assert_eq!(first_tokens(1e-6).len(), 1);
}

#[test]
fn damaged_checkpoints_are_refused() {
    let model = FakeModel::new(3);
    let damage = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let dir = write(&model);
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        FakeProvider::default().load(dir.path()).err()
    };
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(damage(name, &|_| ()).is_none());
        for change in [
            Vec::clear as fn(&mut Vec<u8>),
            |bytes| bytes.truncate(3),
            |bytes| {
                bytes.push(0);
            },
        ] {
            assert!(matches!(damage(name, &change), Some(ModelError::Unloadable(_))), "{name}");
        }
    }
    assert!(FakeProvider::default().load(Path::new("nowhere")).is_err());

    let provider = FakeProvider::default();
    let dir = write(&model);
    provider.fail_next(1);
    assert!(provider.load(dir.path()).is_err());
    let (first, second) = (provider.load(dir.path()).unwrap(), provider.load(dir.path()).unwrap());
    assert!(Arc::ptr_eq(&first, &second), "equal checkpoints are shared");
}

#[test]
fn gradients_agree_with_finite_differences() {
    let weights = Weights::new(4);
    let tokens = [117u32, 98, 10, 62, 98, 97, 0];
    // Loss: 0.3 * first logprob - 0.7 * second + 0.1 * third squared.
    let loss = |weights: &Weights| {
        let logprob = |(position, token): (Position, TokenId)| {
            f64::from(weights::logprob(&position.logits(weights), token))
        };
        let values: Vec<f64> = weights::positions(weights, &tokens, 4).map(logprob).collect();
        0.3 * values[0] - 0.7 * values[1] + 0.1 * values[2] * values[2]
    };
    let mut trainer = FakeTrainer::new(weights.clone());
    let sequence = TrainingSequence { tokens: tokens.to_vec(), prompt_len: 4 };
    let mut slopes = |_: usize, logprobs: &[f32]| vec![0.3, -0.7, 0.2 * logprobs[2]];
    trainer.accumulate(&[sequence], &mut slopes, &StopFlag::default()).unwrap();
    // A plain gradient step shows the gradient: SGD is AdamW's direction for one tiny step only,
    // so differences are compared through the loss along the step.
    let before = loss(&trainer.weights);
    let stats = trainer.step(&adam(1e-3), &StopFlag::default()).unwrap();
    assert!(stats.applied && stats.grad_norm > 0.1);
    assert!(loss(&trainer.weights) < before, "a step against the gradient lowers the loss");

    // And the norm is that of the finite differences.
    let mut square = 0.0;
    for at in 0..weights.head.len() {
        let at_offset = |offset: f32| {
            let mut moved = weights.clone();
            moved.head[at] += offset;
            loss(&moved)
        };
        square += ((at_offset(1e-2) - at_offset(-1e-2)) / 2e-2).powi(2);
    }
    let norm = square.sqrt();
    let off = (f64::from(stats.grad_norm) - norm).abs() / norm;
    assert!(off < 1e-2, "{} against {norm}", stats.grad_norm);
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let mut trainer = FakeTrainer::new(Weights::new(4));
    let sequence = TrainingSequence { tokens: vec![97, 98], prompt_len: 1 };
    let mut slopes = |_: usize, _: &[f32]| vec![f32::NAN];
    trainer.accumulate(&[sequence], &mut slopes, &StopFlag::default()).unwrap();
    let stats = trainer.step(&adam(1.0), &StopFlag::default()).unwrap();
    assert!(!stats.applied && !stats.grad_norm.is_finite());
    assert_eq!(trainer.weights, Weights::new(4));
}

/// Group-relative policy gradients on the fake environment: what services are tested with must be
/// able to learn.
#[test]
fn the_fake_model_learns_the_fake_environment() {
    let environment = FakeEnvironment::default();
    let mut trainer = FakeTrainer::new(Weights::new(1));
    let mut rates = Vec::new();
    for step in 0..12 {
        let model = FakeModel::from_weights(trainer.weights.clone());
        let seeds: Vec<u64> = (0..8).map(|group| step * 8 + group).collect();
        let requests: Vec<GenerateRequest> = seeds
            .iter()
            .map(|&seed| GenerateRequest {
                prompt: model.render(&environment.prompt(seed)).unwrap(),
                race_keys: (0..16).map(|key| [key, u32::try_from(seed).unwrap(), 0, 0]).collect(),
                sampling: Sampling::Race { temperature: 1.0 },
                max_new_tokens: 4,
                whitening: None,
            })
            .collect();
        let (mut sequences, mut advantages, mut successes) = (Vec::new(), Vec::new(), 0);
        let mut keep = |index: usize, group: Vec<Completion>| {
            let prompt = &requests[index].prompt;
            let rewards: Vec<f32> = group
                .iter()
                .map(|completion| {
                    let text = model.decode(&completion.tokens).unwrap();
                    let worth = environment.evaluate(seeds[index], &text).unwrap();
                    successes += u32::from(worth.success);
                    worth.reward
                })
                .collect();
            let mean = rewards.iter().sum::<f32>() / 16.0;
            let variance = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f32>() / 16.0;
            for (completion, reward) in group.iter().zip(&rewards) {
                let tokens = [prompt.as_slice(), &completion.tokens].concat();
                sequences.push(TrainingSequence { tokens, prompt_len: prompt.len() });
                advantages.push((reward - mean) / (variance.sqrt() + 1e-4));
            }
        };
        model.generate(&requests, &StopFlag::default(), &mut keep).unwrap();
        rates.push(f64::from(successes) / 128.0);
        let mut loss = |index: usize, logprobs: &[f32]| vec![-advantages[index]; logprobs.len()];
        trainer.accumulate(&sequences, &mut loss, &StopFlag::default()).unwrap();
        trainer.step(&adam(0.1), &StopFlag::default()).unwrap();
    }
    assert!(rates[0] < 0.2, "it starts imperfect: {rates:?}");
    assert!(rates[11] > 0.8, "it learns: {rates:?}");
}
