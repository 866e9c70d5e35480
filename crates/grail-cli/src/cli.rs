//! The command line: every command, option and help text, and nothing that acts on them.

mod inference;
mod lab;
mod wallet;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use grail_model::LoraTargets;

use crate::config::{OutsideRole, ProtocolName, StoreKind};
use crate::human_duration::HumanDuration;

pub use self::inference::{GenerateArgs, ServeArgs};
pub use self::lab::{LabAttacksArgs, LabCalibrateArgs, LabCommand, LabSequentialArgs};
pub use self::wallet::{
    EncryptionArgs, MessageArgs, PasswordArgs, WalletCommand, WalletImportArgs, WalletListArgs,
    WalletNewArgs, WalletShowArgs, WalletSignArgs, WalletVerifyArgs, WalletsArgs,
};

const AFTER_HELP: &str = "\
Try it:
  grail localnet                 a whole verified subnet on this machine, in minutes
  grail localnet --cheats copied-file --windows 4 --report run.json
  grail verify FILE --checkpoint DIR
  grail explain FILE --rollout 0/3 --checkpoint DIR
  grail generate --chat 'What is 12 + 7?'
  grail serve --port 8000        an OpenAI-compatible server

Options can also be set in a file (--config) and by GRAIL_* variables; flags win over variables, \
variables over the file. docs/configuration.md lists them all.";

/// Verifiable post-training for language models: miners prove their rollouts, validators check
/// them bit for bit, a trainer learns from what was accepted.
#[derive(Debug, Parser)]
#[command(
    name = "grail",
    version,
    about,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Tell more: -v what each role does, -vv every rollout.
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 900)]
    pub verbose: u8,
    /// Write log lines as JSON.
    #[arg(long, global = true, display_order = 901)]
    pub log_json: bool,
    /// Read settings from this TOML file; a key that is not known is an error.
    #[arg(long, global = true, value_name = "FILE", display_order = 902)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole subnet on this machine: chain, beacon, store, miners, validator and trainer.
    Localnet(LocalnetArgs),
    /// Mine: generate rollouts, prove them, upload them before the window's deadline.
    Mine(RoleArgs),
    /// Validate: fetch the miners' files, verify, score, publish verdicts and set weights.
    Validate(RoleArgs),
    /// Train on validated rollouts and publish checkpoints.
    Train(RoleArgs),
    /// Check a rollout file offline with the validator's own code.
    Verify(VerifyArgs),
    /// Tell why a rollout passes or fails, or what a published verdict means.
    Explain(Box<ExplainArgs>),
    /// Import a model, or show what a folder holds.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Make, import and show wallets; sign and verify with their keys.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Check everything that a role needs, and say what to do about what is not well.
    Doctor(DoctorArgs),
    /// Generate text: from a prompt, or as an answer to a message.
    Generate(GenerateArgs),
    /// Serve a model: OpenAI's API, and token ids in and out.
    Serve(ServeArgs),
    /// Make a starting model: supervised training on an environment's own solutions.
    Sft(SftArgs),
    /// Measure the engine on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Attack the proof: honest and cheating miners on a real model, and what validators see.
    #[command(subcommand)]
    Lab(LabCommand),
}

/// Options that choose the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct EnvironmentArgs {
    /// Environment that poses the problems: `arithmetic` (default) or `sat`.
    #[arg(long, value_name = "ID")]
    pub environment: Option<String>,
    /// Its parameters as JSON, such as '{"difficulty":2}'.
    #[arg(long, value_name = "JSON")]
    pub environment_params: Option<String>,
    /// Its difficulty, 1 to 5 for `arithmetic`; short for the parameter `difficulty`.
    #[arg(long, value_name = "N")]
    pub difficulty: Option<u32>,
}

/// Options of `grail localnet`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each run gets a folder of its own, ./grail-localnet/run-NNN, unless --dir names one. It holds the \
chain, the beacon, the store, the wallets, each role's memory, report.json and report.html. \
Ctrl-C stops within 5 seconds and still prints the tables; --resume goes on where it stopped.

While it runs, other processes may join it:
  grail wallet new guest && grail mine --wallet guest")]
pub struct LocalnetArgs {
    /// What keeps the buckets: the network's folder, or an S3 server, whose address is a setting
    /// (store.endpoint) and whose keys come from R2_* variables or files (default folder).
    #[arg(long, value_name = "folder|s3")]
    pub store: Option<StoreKind>,
    /// Windows to mine, validate and train on before the network ends (default 10).
    #[arg(long, value_name = "N")]
    pub windows: Option<u32>,
    /// Honest miners (default 2).
    #[arg(long, value_name = "N")]
    pub miners: Option<u16>,
    /// Miners that cheat (default 1).
    #[arg(long, value_name = "N")]
    pub cheaters: Option<u16>,
    /// Profile of the whole network: v6, or v5, the Python reference's. Under v5 a cheater sends zero
    /// sketches, and is accepted (default v6).
    #[arg(long, value_name = "v5|v6")]
    pub protocol: Option<ProtocolName>,
    /// What cheaters try, in turn, another one each window: free-sampling, noisy-weights,
    /// edited-answer, copied-file, copied-seal, forged-reward (default all).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cheats: Option<Vec<String>>,
    /// Start from this model folder or GGUF file instead of the small embedded model.
    #[arg(long, value_name = "DIR|GGUF")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Groups of 16 rollouts that a miner makes in a window, if time allows.
    #[arg(long, value_name = "N")]
    pub groups_per_window: Option<u32>,
    /// Time from block to block, such as 500ms or 2s; a window has 30 blocks.
    /// The default is 1s for the embedded model and 12s with --model.
    #[arg(long, value_name = "TIME")]
    pub block_time: Option<HumanDuration>,
    /// Folder of the network; default: the next ./grail-localnet/run-NNN.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Seed of wallets, beacon and held-out problems (default 1).
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Go on with the network in --dir, or with the newest run.
    #[arg(long)]
    pub resume: bool,
    /// Compute threads, shared by all roles; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Port on 127.0.0.1 where other processes may join; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    pub listen: Option<u16>,
    /// Roles left to other processes: validator, trainer.
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    pub without: Option<Vec<OutsideRole>>,
    /// Also write the report to this file, and a page with plots beside it (.html).
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
}

/// Options of `grail mine`, `grail validate` and `grail train`.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// Network to join: `local`, one that `grail localnet` runs on this machine; `finney`, `test` or
    /// `archive`; or the address of a node, such as wss://HOST:PORT.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Subnet of a real network; default: 81 on finney.
    #[arg(long, value_name = "N")]
    pub netuid: Option<u16>,
    /// Folder of a local network, default: the running or newest ./grail-localnet/run-NNN; on a real
    /// one of what the role keeps, default: grail/NETWORK-NETUID in the user's folder of data.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Wallet to act with: on a local network from its folder, where one that is not registered is
    /// registered; on a real one from ~/.bittensor/wallets or wallet.path.
    #[arg(long, value_name = "NAME")]
    pub wallet: Option<String>,
    /// Hotkey of the wallet.
    #[arg(long, value_name = "NAME")]
    pub hotkey: Option<String>,
    /// Folder or GGUF file of the model that a subnet starts from (trainer of a real network only).
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Groups of 16 rollouts in a window, if time allows (miners only).
    #[arg(long, value_name = "N")]
    pub groups_per_window: Option<u32>,
    /// Serve the pages /health and /metrics there, such as 127.0.0.1:9200.
    #[arg(long, value_name = "IP:PORT")]
    pub status: Option<SocketAddr>,
}

/// Options of `grail verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 accepted, 1 rejected, 2 could not verify (which says nothing about the miner).

What the file must agree with comes from --context, from the single options, and for the \
environment and the sampler from metadata.json of the checkpoint. What none of them gives is \
taken from the file's own header, and the answer says so.

A Parquet file of the reference (protocol v5) is checked as far as that needs no model: form, \
signatures, tokens, groups, digests. --checkpoint is then optional and gives the vocabulary.")]
pub struct VerifyArgs {
    /// Rollout file, as a miner uploads it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Folder of the checkpoint that the file says it was made with; optional for a Parquet file.
    #[arg(long, value_name = "DIR")]
    pub checkpoint: Option<PathBuf>,
    /// Hash of the window's first block, with 0x (Parquet files only).
    #[arg(long, value_name = "0xHEX")]
    pub block_hash: Option<String>,
    #[command(flatten)]
    pub facts: FactsArgs,
    /// Groups to check, evenly spread; default: all.
    #[arg(long, value_name = "N")]
    pub groups: Option<u32>,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options that say what a rollout file must agree with.
#[derive(Clone, Debug, Args)]
pub struct FactsArgs {
    /// Facts that a validator publishes for a window (JSON), instead of the single options.
    #[arg(long, value_name = "FILE")]
    pub context: Option<PathBuf>,
    /// Window randomness, 64 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub randomness: Option<String>,
    /// Signature of the beacon round that the file is sealed to, 96 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub seal_signature: Option<String>,
    /// Public key of that beacon, 192 hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub beacon_key: Option<String>,
    /// Hotkey (SS58) of the bucket that the file was found in.
    #[arg(long, value_name = "SS58")]
    pub hotkey: Option<String>,
    /// Window that the file is for.
    #[arg(long, value_name = "N")]
    pub window: Option<u64>,
    /// Network that the file is for.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Subnet that the file is for.
    #[arg(long, value_name = "N")]
    pub netuid: Option<u16>,
    #[command(flatten)]
    pub environment: EnvironmentArgs,
}

/// Options of `grail explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 accepted, 1 rejected, 2 could not verify (which says nothing about the miner).

  grail explain FILE --rollout 0/3 --checkpoint DIR --context CONTEXT.json
  grail explain --verdict VERDICT.json

Groups and rollouts are counted from 0. What the file must agree with is found as `grail verify` \
finds it; docs/verify.md says where a miner finds its verdicts.")]
pub struct ExplainArgs {
    /// Rollout file, as a miner uploads it.
    #[arg(value_name = "FILE", required_unless_present = "verdict")]
    pub file: Option<PathBuf>,
    /// Group and rollout in it, such as 0/3.
    #[arg(long, value_name = "G/I", required_unless_present = "verdict")]
    pub rollout: Option<RolloutPlace>,
    /// Folder of the checkpoint that the file says it was made with.
    #[arg(long, value_name = "DIR", required_unless_present = "verdict")]
    pub checkpoint: Option<PathBuf>,
    /// Tell every token of the completion with its margin and log-probability.
    #[arg(long)]
    pub tokens: bool,
    /// Explain a verdict as a validator published it, instead of a file.
    #[arg(
        long,
        value_name = "FILE.json",
        conflicts_with_all = ["file", "rollout", "checkpoint", "tokens"]
    )]
    pub verdict: Option<PathBuf>,
    #[command(flatten)]
    pub facts: FactsArgs,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A rollout in a file: group and rollout, both 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RolloutPlace {
    /// The group.
    pub group: u32,
    /// The rollout in its group.
    pub rollout: u32,
}

impl FromStr for RolloutPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(group, rollout)| {
            Some(Self { group: group.parse().ok()?, rollout: rollout.parse().ok()? })
        });
        numbers.ok_or_else(|| format!("`{text}` is no group and rollout; write them as 0/3"))
    }
}

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

/// The role that `grail doctor` looks at a hotkey for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DoctorRole {
    /// Needs a registration.
    Miner,
    /// Needs a permit and stake too.
    Validator,
    /// Needs uid 0.
    Trainer,
}

/// Options of `grail doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks at configuration, wallet, chain, registration, permit, stake, beacon, bucket, memory, processor \
and disk; on a real network also at the read key on chain and at the trainer's bucket. Each line is \
pass, warn, FAIL or skip; exit code 1 if one failed, else 0. Each check takes 15 seconds at most. The \
check of the bucket writes a small object and removes it.

  grail doctor --network finney --wallet cold --hotkey hot --role validator")]
pub struct DoctorArgs {
    /// Network to look at, as of the roles (default local).
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Subnet of a real network; default: 81 on finney.
    #[arg(long, value_name = "N")]
    pub netuid: Option<u16>,
    /// Folder of the local network; default: the running or newest ./grail-localnet/run-NNN.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Wallet to look at; default: validator on a local network, default on a real one.
    #[arg(long, value_name = "NAME")]
    pub wallet: Option<String>,
    /// Hotkey of the wallet.
    #[arg(long, value_name = "NAME")]
    pub hotkey: Option<String>,
    /// Role that is meant; default: miner, and on a local network the wallet's own.
    #[arg(long, value_name = "ROLE")]
    pub role: Option<DoctorRole>,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
