//! Tiny models and requests that the tests share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_kernels::{Isa, Kernels};
use grail_model::{Engine, EngineConfig, ModelTrainer, Precision, TrainerConfig};
use grail_ports::model::{
    Completion, GenerateRequest, RaceCheck, Sampling, Score, ScoreRequest, StopFlag, Trainer,
};
use grail_protocol::ids::TokenId;
use grail_protocol::sketch::Whitening;
use tempfile::TempDir;

pub const NAMES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];

/// Smaller models with one or two features each: scaled RoPE, biases, windows, soft-caps.
pub const VARIANTS: [&str; 6] = [
    "llama-linear",
    "llama-llama3",
    "qwen2-yarn",
    "qwen2-window",
    "qwen3-yarn-window",
    "gemma3-capped",
];

/// End a completion in the tests: enough of them that completions of a group differ in length.
pub const EOS: [TokenId; 5] = [2, 17, 29, 43, 88];

/// The f32 model `name` that PyTorch made.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden").join(name)
}

pub fn kernels(threads: usize) -> Kernels {
    Kernels::new(threads).unwrap()
}

/// The model `name` rounded to bf16, as the trainer exports it.
pub fn bf16(name: &str) -> TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let config = TrainerConfig { precision: Precision::Bf16, ..TrainerConfig::default() };
    let trainer = ModelTrainer::load(&golden(name), kernels(1), config).unwrap();
    trainer.export(&model_in(&temporary)).unwrap();
    temporary
}

/// The folder of the model inside the temporary folder of [`bf16`].
pub fn model_in(temporary: &TempDir) -> PathBuf {
    temporary.path().join("model")
}

pub fn engine(dir: &Path, kernels: Kernels, config: EngineConfig) -> Engine {
    Engine::load(dir, EOS.to_vec(), kernels, config).unwrap()
}

pub fn plain_engine(dir: &Path) -> Engine {
    engine(dir, kernels(1), EngineConfig::default())
}

/// `len` tokens of the vocabulary of 96 that look random.
pub fn tokens(len: usize, seed: u32) -> Vec<TokenId> {
    (0..u32::try_from(len).unwrap())
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed * 97) >> 7) % 90 + 4)
        .collect()
}

pub fn race_key(group: u32, rollout: u32) -> [u32; 4] {
    [group * 31 + 7, rollout * 17 + 3, 0xdead_beef ^ rollout, group]
}

pub fn request(prompt: Vec<TokenId>, group: u32, n: u32, max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt,
        race_keys: (0..n).map(|rollout| race_key(group, rollout)).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens,
        whitening: None,
    }
}

/// Groups whose prompts end before, at and after the edges of cache blocks.
pub fn edge_requests() -> Vec<GenerateRequest> {
    [1, 15, 16, 17, 33, 48]
        .into_iter()
        .zip(0..)
        .map(|(len, group)| request(tokens(len, group), group, 4, 20 + 3 * group))
        .collect()
}

/// `requests` with their sketches, whitened by statistics that the model never had.
pub fn sketched(engine: &Engine, requests: Vec<GenerateRequest>) -> Vec<GenerateRequest> {
    let whitening = Some(whitening(engine.model_config().hidden_size));
    let sketched = |request| GenerateRequest { whitening: whitening.clone(), ..request };
    requests.into_iter().map(sketched).collect()
}

/// Statistics of `hidden` dimensions, no two alike.
pub fn whitening(hidden: usize) -> Arc<Whitening> {
    let mean = (0..hidden).map(|dim| (dim as f32).sin()).collect();
    let scale = (0..hidden).map(|dim| 0.5 + (dim as f32).cos().abs()).collect();
    Arc::new(Whitening::new(mean, scale).unwrap())
}

pub fn generate(engine: &Engine, requests: &[GenerateRequest]) -> Vec<Vec<Completion>> {
    let mut groups = vec![Vec::new(); requests.len()];
    engine
        .generate(requests, &StopFlag::default(), &mut |idx, completions| {
            assert!(groups[idx].is_empty(), "group {idx} was handed over twice");
            groups[idx] = completions;
        })
        .unwrap();
    groups
}

/// The sequences of `groups`, each with its race at temperature 1.
pub fn score_requests(
    requests: &[GenerateRequest],
    groups: &[Vec<Completion>],
) -> Vec<ScoreRequest> {
    let mut all = Vec::new();
    for (request, completions) in requests.iter().zip(groups) {
        for (completion, &key) in completions.iter().zip(&request.race_keys) {
            all.push(ScoreRequest {
                tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
                prompt_len: request.prompt.len(),
                race: Some(RaceCheck { key, temperature: 1.0 }),
                entropy: false,
                whitening: request.whitening.clone(),
                rows: false,
            });
        }
    }
    all
}

pub fn score(engine: &Engine, requests: &[ScoreRequest]) -> Vec<Score> {
    engine.score(requests, &StopFlag::default()).unwrap()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub fn isas() -> Vec<Isa> {
    Isa::available()
}
