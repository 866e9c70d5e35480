//! Measures tokens per second of generation, scoring and training, and the peak memory.
//!
//!     cargo run --release -p grail-model --example throughput -- [FOLDER|small] [GROUPS] [NEW_TOKENS]
//!
//! `small` (the default) is a random model of one million parameters. No end token is set, so every
//! completion has exactly `NEW_TOKENS` tokens.

#![expect(clippy::print_stdout, reason = "a table is what the example is for")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use grail_kernels::Kernels;
use grail_model::formats::config::ModelConfig;
use grail_model::{Engine, EngineConfig, ModelTrainer, TrainerConfig, initialise};
use grail_ports::model::{
    GenerateRequest, OptimizerConfig, RaceCheck, Sampling, ScoreRequest, StopFlag, Trainer,
    TrainingSequence,
};

/// About one million parameters.
const SMALL: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 384,
    "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "tie_word_embeddings": true
}"#;

const PROMPT_TOKENS: u32 = 48;
const ROLLOUTS: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |idx: usize, default: u32| match arguments.get(idx) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    let temporary = tempfile::tempdir()?;
    let dir = match arguments.first().map(String::as_str) {
        None | Some("small") => {
            initialise(&ModelConfig::from_json(SMALL.as_bytes())?, 1, temporary.path())?;
            temporary.path().to_owned()
        }
        Some(folder) => PathBuf::from(folder),
    };
    let (groups, new_tokens) = (number(1, 4)?, number(2, 64)?);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = Kernels::new(threads)?;
    println!("{kernels:?}, {groups} groups of {ROLLOUTS}, {new_tokens} new tokens each");

    let engine = Engine::load(&dir, Vec::new(), kernels.clone(), EngineConfig::default())?;
    println!("{} parameters", engine.model_config().n_parameters());
    let requests: Vec<GenerateRequest> =
        (0..groups).map(|group| request(group, new_tokens)).collect();
    let mut sequences = Vec::new();
    let stop = StopFlag::default();
    let start = Instant::now();
    engine.generate(&requests, &stop, &mut |group_idx, completions| {
        let request = &requests[group_idx];
        for (completion, &key) in completions.into_iter().zip(&request.race_keys) {
            sequences.push(ScoreRequest {
                tokens: [request.prompt.as_slice(), &completion.tokens].concat(),
                prompt_len: request.prompt.len(),
                race: Some(RaceCheck { key, temperature: 1.0 }),
            });
        }
    })?;
    let new = u64::from(groups) * u64::from(ROLLOUTS) * u64::from(new_tokens);
    report("generate", new, start.elapsed());

    let start = Instant::now();
    engine.score(&sequences, &stop)?;
    report("score", new, start.elapsed());
    drop(engine);

    let mut trainer = ModelTrainer::load(&dir, kernels, TrainerConfig::default())?;
    let all: u64 = sequences.iter().map(|sequence| sequence.tokens.len() as u64).sum();
    let sequences: Vec<TrainingSequence> = sequences
        .into_iter()
        .map(|s| TrainingSequence { tokens: s.tokens, prompt_len: s.prompt_len })
        .collect();
    let start = Instant::now();
    trainer.accumulate(&sequences, &mut |_, logprobs| vec![-1.0; logprobs.len()], &stop)?;
    report("train (prompts too)", all, start.elapsed());
    let start = Instant::now();
    trainer.step(
        &OptimizerConfig {
            lr: 1e-6,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            grad_clip: 1.0,
        },
        &stop,
    )?;
    println!("{:<20} {:>10.1} ms", "optimiser step", start.elapsed().as_secs_f64() * 1e3);
    if let Some(peak) = peak_memory() {
        println!("{:<20} {peak:>10}", "peak memory");
    }
    Ok(())
}

fn request(group: u32, max_new_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: (0..PROMPT_TOKENS).map(|i| (i * 31 + group * 17) % 300).collect(),
        race_keys: (0..ROLLOUTS).map(|rollout| [1, 2, group, rollout]).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens,
    }
}

fn report(what: &str, tokens: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let rate = tokens as f64 / seconds;
    println!("{what:<20} {rate:>10.0} tokens/s   ({tokens} in {seconds:.3} s)");
}

/// The largest resident size so far, where the system tells.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.trim_start_matches("VmHWM:").trim().to_owned())
}
