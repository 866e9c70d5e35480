//! Options of the commands that take over, make and measure models.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use grail_model::LoraTargets;

use super::EnvironmentArgs;

/// What to do with a model.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Turn a GGUF file or a Hugging Face folder into a bf16 model folder.
    Import(ModelImportArgs),
    /// Show architecture, size, digests and tokenizer of a model folder.
    Show(ModelShowArgs),
}

/// Options of `grail model import`.
#[derive(Debug, Args)]
pub struct ModelImportArgs {
    /// GGUF file, or folder with config.json, safetensors and tokenizer.json.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Folder to make; it must not exist.
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
}

/// Options of `grail model show`.
#[derive(Debug, Args)]
pub struct ModelShowArgs {
    /// Model folder.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `grail sft`.
#[derive(Debug, Args)]
#[command(after_help = "\
Same options, same bytes: on any machine and with any number of threads.

While it runs, its state is kept in a folder beside --out, named as it with `.state` behind. Ctrl-C \
stops at the step just taken; after that, or after a crash, --resume goes on as if nothing had \
happened.")]
pub struct SftArgs {
    /// Start from a new model of the embedded model's architecture, weights drawn from --seed.
    #[arg(long, conflicts_with = "model", required_unless_present = "model")]
    pub new_model: bool,
    /// Start from this model folder.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Seed of the new weights and of the problems.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Optimiser steps.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub steps: u32,
    /// Problems in one step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub batch: u32,
    /// Largest learning rate; it rises over the first steps and falls to a fiftieth at the end.
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    pub lr: f32,
    /// Share of the problems that are taught with another problem's answer, 0 to 1: it makes a
    /// model that is not sure of what it knows, a start for reinforcement learning.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub wrong_answers: f32,
    /// Held-out problems to measure the model on at the end; 0 skips it.
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub evaluate: u32,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Train LoRA pairs of this rank, 1 to 256, and leave the model itself alone. The new model is
    /// their sum, so that nobody who uses it need know.
    #[arg(long, value_name = "N")]
    pub lora_rank: Option<usize>,
    /// Divided by the rank, the factor of what a pair adds.
    #[arg(long, value_name = "N", default_value_t = 32, requires = "lora_rank")]
    pub lora_alpha: u32,
    /// Projections that get a pair.
    #[arg(long, value_name = "LIST", default_value_t = LoraTargets::ALL, requires = "lora_rank")]
    pub lora_targets: LoraTargets,
    /// Also write the pairs alone, for PEFT, into this new folder.
    #[arg(long, value_name = "DIR", requires = "lora_rank")]
    pub adapter: Option<PathBuf>,
    /// Steps between two states kept on the disk; 0 keeps none but on Ctrl-C. A state takes 12 bytes
    /// a trained parameter.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub save_every: u32,
    /// Go on with the interrupted run that had the same options.
    #[arg(long)]
    pub resume: bool,
    /// Folder to make; it must not exist.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Kernels, generation, verification and training, against what the machine can do.
    Engine(BenchEngineArgs),
}

/// Options of `grail bench engine`.
#[derive(Debug, Args)]
#[command(after_help = "\
Close other programs first. docs/bench.md explains the rows and the JSON; benches/peers/ runs \
PyTorch, llama.cpp and candle on the same work.")]
pub struct BenchEngineArgs {
    /// Model folder or GGUF file; default: the embedded model, which is too small for figures that
    /// say much of larger ones.
    #[arg(long, value_name = "DIR|GGUF")]
    pub model: Option<PathBuf>,
    /// Compute threads; 0 takes every core.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Instruction set: portable, avx2, avx512 or neon; default: the fastest of this machine.
    #[arg(long, value_name = "ISA")]
    pub isa: Option<String>,
    /// Rows to measure, by id or the start of one up to a dot, such as gemm.o or decode.16
    /// (default all).
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub only: Option<Vec<String>>,
    /// Repeat less: faster and noisier.
    #[arg(long)]
    pub quick: bool,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}
