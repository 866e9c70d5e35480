//! Checks on real models, run only where variables name their imported folders or GGUF files:
//! `GRAIL_TEST_MODEL` SmolLM2-135M-Instruct, `GRAIL_TEST_MODEL_QWEN` Qwen2.5-Coder-0.5B-Instruct,
//! `GRAIL_TEST_MODEL_GEMMA` the base Gemma-3-270M.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use grail_kernels::{Isa, Kernels};
use grail_model::formats::import_model;
use grail_model::tokenizer::Tokenizer;
use grail_model::{
    Engine, EngineConfig, ModelTrainer, Provider, ProviderConfig, Runtime, TrainerConfig,
};
use grail_ports::environment::{ChatMessage, ChatRole};
use grail_ports::model::{
    Completion, GenerateRequest, ModelProvider, Sampling, Score, ScoreRequest, StopFlag, Trainer,
    TrainingSequence,
};
use grail_protocol::ids::TokenId;
use grail_protocol::sampler::RaceKey;
use grail_protocol::sketch::{STRIDE, SketchKey, Sketcher, Whitening};
use serde_json::Value;

use crate::models::{bits, generate, race_key, score, score_requests};

/// A model that a variable of the environment may name, imported once if it is a GGUF file.
struct RealModel {
    variable: &'static str,
    folder: OnceLock<Option<(PathBuf, Option<tempfile::TempDir>)>>,
}

static SMOLLM2: RealModel = RealModel::new("GRAIL_TEST_MODEL");
static QWEN: RealModel = RealModel::new("GRAIL_TEST_MODEL_QWEN");
static GEMMA: RealModel = RealModel::new("GRAIL_TEST_MODEL_GEMMA");

impl RealModel {
    const fn new(variable: &'static str) -> Self {
        Self { variable, folder: OnceLock::new() }
    }

    fn folder(&'static self) -> Option<&'static Path> {
        let folder = self.folder.get_or_init(|| {
            let source = PathBuf::from(std::env::var_os(self.variable)?);
            if source.is_dir() {
                return Some((source, None));
            }
            let temporary = tempfile::tempdir().unwrap();
            let folder = temporary.path().join("model");
            import_model(&source, &folder, &mut |_| {}).unwrap();
            Some((folder, Some(temporary)))
        });
        if folder.is_none() {
            eprintln!("not run: set {} to a model folder or a GGUF file", self.variable);
        }
        folder.as_ref().map(|(folder, _)| folder.as_path())
    }
}

fn model() -> Option<&'static Path> {
    SMOLLM2.folder()
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
        whitening: None,
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
        whitening: None,
    };
    let mut answer = String::new();
    model
        .generate(&[request], &StopFlag::default(), &mut |_, completions| {
            answer = model.decode(&completions[0].tokens).unwrap();
        })
        .unwrap();
    assert!(answer.contains("Paris"), "{answer}");
}

/// Compares with what PyTorch computes in f32 from the same bf16 weights: see the README of
/// `tests/vectors/real`.
fn check_golden(model: &'static RealModel, name: &str) {
    let Some(dir) = model.folder() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/real").join(name);
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ids = |key: &str| -> Vec<TokenId> {
        let ids = golden[key].as_array().unwrap().iter();
        ids.map(|id| TokenId::try_from(id.as_u64().unwrap()).unwrap()).collect()
    };
    let (tokens, argmax) = (ids("input_ids"), ids("argmax"));
    let engine = engine(dir, Isa::detect(), 2, EngineConfig::default());
    let logits = engine.logits(&tokens).unwrap();
    let vocab = logits.len() / tokens.len();
    let largest = |row: &[f32]| {
        let pairs = row.iter().zip(0..);
        pairs.max_by(|left, right| left.0.total_cmp(right.0)).map(|(_, id)| id).unwrap()
    };
    let found: Vec<TokenId> = logits.chunks_exact(vocab).map(largest).collect();
    assert_eq!(found, argmax, "the likeliest tokens");

    let stride = usize::try_from(golden["stride"].as_u64().unwrap()).unwrap();
    let (mut error, mut scale, mut compared) = (0.0f64, 0.0f64, 0);
    for (position, want) in golden["logits"].as_object().unwrap() {
        let row = &logits[position.parse::<usize>().unwrap() * vocab..][..vocab];
        let want = want.as_array().unwrap();
        assert_eq!(want.len(), row.len().div_ceil(stride));
        for (got, want) in row.iter().step_by(stride).zip(want) {
            let want = want.as_f64().unwrap();
            error = error.max((f64::from(*got) - want).abs());
            scale = scale.max(want.abs());
            compared += 1;
        }
    }
    let request = ScoreRequest {
        tokens,
        prompt_len: 1,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let scores = score(&engine, &[request]);
    let mut logprob_error = 0.0f64;
    for (got, want) in scores[0].logprobs.iter().zip(golden["logprobs"].as_array().unwrap()) {
        logprob_error = logprob_error.max((f64::from(*got) - want.as_f64().unwrap()).abs());
    }
    eprintln!(
        "{name}: {} positions with the same likeliest token; {compared} logits differ by at most \
         {error:.1e} (largest magnitude {scale:.1}), log-probabilities by {logprob_error:.1e}",
        argmax.len()
    );
    assert!(error < 2e-5 * scale && logprob_error < 2e-5 * scale);
}

#[test]
fn real_model_smollm2_is_that_of_pytorch() {
    check_golden(&SMOLLM2, "smollm2.json");
}

#[test]
fn real_model_qwen2_is_that_of_pytorch() {
    check_golden(&QWEN, "qwen2.json");
}

#[test]
fn real_model_gemma3_is_that_of_pytorch() {
    check_golden(&GEMMA, "gemma3.json");
}

/// Texts that whitening is measured on, and others that runtimes are compared on.
const WHITENING_PROMPTS: [&str; 4] = [
    "The history of the bridge begins in the year",
    "def median(values):\n    ordered = sorted(values)\n",
    "User: How do plants make sugar?\nAssistant:",
    "12 + 30 = 42\n15 + 9 = 24\n",
];
const PROMPTS: [&str; 8] = [
    "Question: Tom has 12 apples and gives away 5. How many are left?\nAnswer:",
    "The train left the station at seven and",
    "import math\n\ndef area(radius):\n",
    "User: What is the capital of France?\nAssistant:",
    "Once there was a fox who",
    "Step 1: multiply 7 by 8. Step 2:",
    "The results of the experiment show that",
    "Dear Anna,\n\nthank you for",
];

fn prompted(tokenizer: &Tokenizer, texts: &[&str], n: u32, tokens: u32) -> Vec<GenerateRequest> {
    let request = |(text, group): (&&str, u32)| GenerateRequest {
        prompt: tokenizer.encode(text, false).unwrap(),
        race_keys: (0..n).map(|rollout| race_key(group, rollout)).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens: tokens,
        whitening: None,
    };
    texts.iter().zip(0..).map(request).collect()
}

/// `name=value` of a distribution.
fn spread(name: &str, distances: impl Iterator<Item = u32>) -> String {
    let mut sorted: Vec<u32> = distances.collect();
    sorted.sort_unstable();
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let mean = f64::from(sorted.iter().sum::<u32>()) / sorted.len() as f64;
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    format!("{name}: mean {mean:.2}, p50 {p50}, p99 {p99}, max {max} of 64 signs")
}

/// Writes sequences and what a verifier computed of them, for `scripts/compare_bf16.py`.
fn write_scores(folder: &Path, name: &str, sequences: &[ScoreRequest], scores: &[Score]) {
    let listed = sequences.iter().zip(scores).map(|(sequence, score)| {
        serde_json::json!({
            "tokens": sequence.tokens, "prompt_len": sequence.prompt_len, "margins": score.margins,
        })
    });
    let json = Value::from_iter(listed).to_string();
    let rows = scores.iter().flat_map(|score| &score.rows).flat_map(|value| value.to_le_bytes());
    let name = name.replace(' ', "-");
    std::fs::write(folder.join(format!("{name}.json")), json).unwrap();
    std::fs::write(folder.join(format!("{name}.f32")), rows.collect::<Vec<u8>>()).unwrap();
}

/// Prints how far the bf16 runtime is from the exact one on text that it generated, and checks that
/// no margin is above `margin_max` nats.
fn compare_runtimes(dir: &Path, margin_max: f32) {
    let tokenizer = Tokenizer::load(dir).unwrap();
    let load =
        |runtime| engine(dir, Isa::detect(), 2, EngineConfig::default()).with_runtime(runtime);
    let (exact, rounded) = (load(Runtime::Exact), load(Runtime::Bf16));
    let hidden = exact.model_config().hidden_size;
    let requests = prompted(&tokenizer, &WHITENING_PROMPTS, 4, 96);
    let mut sequences = score_requests(&requests, &generate(&exact, &requests));
    sequences.iter_mut().for_each(|sequence| sequence.rows = true);
    let rows: Vec<f32> =
        score(&exact, &sequences).into_iter().flat_map(|score| score.rows).collect();
    let whitening = Arc::new(Whitening::measure(&rows, hidden).unwrap());

    let mut requests = prompted(&tokenizer, &PROMPTS, 8, 96);
    requests.iter_mut().for_each(|request| request.whitening = Some(whitening.clone()));
    let groups = generate(&rounded, &requests);
    let completions: Vec<&Completion> = groups.iter().flatten().collect();
    let mut sequences = score_requests(&requests, &groups);
    sequences.iter_mut().for_each(|sequence| sequence.rows = true);
    for (name, verifier) in [("exact prefill", &exact), ("bf16 prefill", &rounded)] {
        let scores = score(verifier, &sequences);
        if let Some(folder) = std::env::var_os("GRAIL_TEST_WRITE_SCORES") {
            write_scores(&PathBuf::from(folder), name, &sequences, &scores);
        }
        let margins: Vec<f32> = scores.iter().flat_map(|score| score.margins.clone()).collect();
        let share = |bound: f32| {
            margins.iter().filter(|&&margin| margin > bound).count() as f64 / margins.len() as f64
        };
        let largest = margins.iter().copied().fold(0.0, f32::max);
        let pairs = || completions.iter().zip(&scores);
        let distances = pairs().flat_map(|(completion, score)| {
            completion.sketches.iter().zip(&score.sketches).map(|(a, b)| a.distance(*b))
        });
        let equal = pairs().filter(|(a, b)| a.hidden_digest == b.hidden_digest).count();
        eprintln!(
            "bf16 decode against {name}: {} tokens, {:.3} % equal winners, {:.3} % above 0.5 nats, \
             largest margin {largest:.3} nats, {equal} of {} digests equal\n  {}",
            margins.len(),
            100.0 * (1.0 - share(0.0)),
            100.0 * share(0.5),
            scores.len(),
            spread("sketches", distances),
        );
        assert!(share(0.0) < 0.05 && share(0.5) < 0.002, "an honest engine is near");
        assert!(largest < margin_max, "{largest} nats");

        // The row of the token that comes four later, under the same projections.
        let other = pairs().zip(&sequences).flat_map(|((completion, score), sequence)| {
            let key = SketchKey::of(RaceKey(sequence.race.unwrap().key));
            let mut sketcher = Sketcher::new(key, whitening.clone());
            score.rows.chunks(hidden).skip(STRIDE).for_each(|row| sketcher.push(row));
            let moved = sketcher.finish();
            completion.sketches.clone().into_iter().zip(moved).map(|(a, b)| a.distance(b))
        });
        eprintln!("  {}", spread("rows four tokens later", other));
    }
}

#[test]
fn real_model_bf16_runtime_is_near_the_exact_one() {
    if let Some(dir) = model() {
        compare_runtimes(dir, 1.0);
    }
    // Rare tokens of an honest engine lose by far more here: 2.9 nats were seen in 5,406 tokens.
    if let Some(dir) = QWEN.folder() {
        compare_runtimes(dir, f32::INFINITY);
    }
}
