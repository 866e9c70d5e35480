//! Checks on a real model, run only where `GRAIL_TEST_MODEL` names an imported folder or a GGUF
//! file of SmolLM2-135M-Instruct.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use grail_kernels::{Isa, Kernels};
use grail_model::formats::import_model;
use grail_model::tokenizer::Tokenizer;
use grail_model::{Engine, EngineConfig, ModelTrainer, Provider, ProviderConfig, TrainerConfig};
use grail_ports::environment::{ChatMessage, ChatRole};
use grail_ports::model::{
    Completion, GenerateRequest, ModelProvider, Sampling, StopFlag, Trainer, TrainingSequence,
};

use crate::models::{bits, generate, race_key, score, score_requests};

const VARIABLE: &str = "GRAIL_TEST_MODEL";

fn model() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<(PathBuf, Option<tempfile::TempDir>)>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let source = PathBuf::from(std::env::var_os(VARIABLE)?);
        if source.is_dir() {
            return Some((source, None));
        }
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("model");
        import_model(&source, &folder, &mut |_| {}).unwrap();
        Some((folder, Some(temporary)))
    });
    if folder.is_none() {
        eprintln!("not run: set {VARIABLE} to a model folder or a GGUF file");
    }
    folder.as_ref().map(|(folder, _)| folder.as_path())
}

fn engine(dir: &Path, isa: Isa, threads: usize, config: EngineConfig) -> Engine {
    let eos = Tokenizer::load(dir).unwrap().eos_token_ids().to_vec();
    Engine::load(dir, eos, Kernels::with_isa(isa, threads).unwrap(), config).unwrap()
}

fn requests(dir: &Path, n: u32, max_new_tokens: u32) -> Vec<GenerateRequest> {
    let tokenizer = Tokenizer::load(dir).unwrap();
    let texts = ["The sum of 17 and 25 is", "Once upon a time, in a small village by the sea,"];
    let request = |(text, group): (&str, u32)| GenerateRequest {
        prompt: tokenizer.encode(text, false).unwrap(),
        race_keys: (0..n).map(|rollout| race_key(group, rollout)).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens,
    };
    texts.into_iter().zip(0..).map(request).collect()
}

#[test]
fn real_model_bits_do_not_depend_on_batch_threads_or_instruction_set() {
    let Some(dir) = model() else { return };
    let requests = requests(dir, 8, 20);
    let best = Isa::detect();
    let base = generate(&engine(dir, best, 2, EngineConfig::default()), &requests);
    let alone =
        EngineConfig { max_running_sequences: 1, prefill_rows_max: 3, ..EngineConfig::default() };
    assert_eq!(generate(&engine(dir, best, 1, alone), &requests), base, "batch 1, one thread");
    for isa in Isa::available() {
        // The portable path is slow: one short completion of each group.
        let few: Vec<GenerateRequest> = requests
            .iter()
            .map(|request| GenerateRequest {
                race_keys: request.race_keys[..1].to_vec(),
                max_new_tokens: 6,
                ..request.clone()
            })
            .collect();
        let groups = generate(&engine(dir, isa, 2, EngineConfig::default()), &few);
        for (group, expected) in groups.iter().zip(&base) {
            let expected = &expected[0].logprobs;
            let n = group[0].logprobs.len();
            assert_eq!(bits(&group[0].logprobs), bits(&expected[..n]), "{isa}");
        }
    }
}

#[test]
fn real_model_scoring_and_training_have_the_bits_of_generation() {
    let Some(dir) = model() else { return };
    let requests = requests(dir, 4, 24);
    let engine = engine(dir, Isa::detect(), 2, EngineConfig::default());
    let groups = generate(&engine, &requests);
    let completions: Vec<&Completion> = groups.iter().flatten().collect();
    let sequences = score_requests(&requests, &groups);
    for (score, completion) in score(&engine, &sequences).iter().zip(&completions) {
        assert_eq!(bits(&score.logprobs), bits(&completion.logprobs));
        assert_eq!(score.winners, completion.tokens);
        assert_eq!(score.hidden_digest, completion.hidden_digest);
    }
    let kernels = Kernels::new(2).unwrap();
    let mut trainer = ModelTrainer::load(dir, kernels, TrainerConfig::default()).unwrap();
    let training: Vec<TrainingSequence> = sequences
        .into_iter()
        .map(|r| TrainingSequence { tokens: r.tokens, prompt_len: r.prompt_len })
        .collect();
    let mut loss = |idx: usize, logprobs: &[f32]| {
        assert_eq!(bits(logprobs), bits(&completions[idx].logprobs), "sequence {idx}");
        vec![0.0; logprobs.len()]
    };
    trainer.accumulate(&training, &mut loss, &StopFlag::default()).unwrap();
}

#[test]
fn real_model_knows_the_capital_of_france() {
    let Some(dir) = model() else { return };
    let provider = Provider::new(ProviderConfig::default()).unwrap();
    let model = provider.load(dir).unwrap();
    let question = "What is the capital of France?".to_owned();
    let messages = [ChatMessage { role: ChatRole::User, content: question }];
    let request = GenerateRequest {
        prompt: model.render(&messages).unwrap(),
        race_keys: vec![[0; 4]],
        sampling: Sampling::Greedy,
        max_new_tokens: 32,
    };
    let mut answer = String::new();
    model
        .generate(&[request], &StopFlag::default(), &mut |_, completions| {
            answer = model.decode(&completions[0].tokens).unwrap();
        })
        .unwrap();
    assert!(answer.contains("Paris"), "{answer}");
}
