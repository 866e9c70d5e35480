//! The options of the attack lab.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::EnvironmentArgs;

/// What to do in the lab.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Run honest miners and every known attack, and print what the validator says of each.
    Attacks(LabAttacksArgs),
    /// Measure honest work of the bf16 engine, and sign the thresholds that follow from it.
    Calibrate(LabCalibrateArgs),
    /// Simulate honest miners and cheaters under the judgement by evidence over time.
    Sequential(LabSequentialArgs),
}

/// Options of `grail lab sequential`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --report the exact profile is simulated alone. With it, cheaters of the tolerant profile \
reach the honest tails as often as the lab measured.")]
pub struct LabSequentialArgs {
    /// Honest miners.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub honest_miners: u32,
    /// Windows of an honest miner's life; 10,000 are 42 days.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub honest_windows: u32,
    /// Cheaters of each kind.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub cheaters: u32,
    /// Windows of cheating after which a cheater counts as never ejected.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    pub cheating_windows: u32,
    /// Groups of 16 rollouts that are checked in a window.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub groups: u32,
    /// Seed of everything that is drawn.
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub seed: u64,
    /// report.json of `grail lab attacks`, with how often each cheat is noticed.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Rows of the report to simulate; default: those of the tolerant profile that are not always
    /// rejected at once.
    #[arg(long, value_name = "IDS", value_delimiter = ',', requires = "report")]
    pub attack: Option<Vec<String>>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `grail lab calibrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
The problems are held out: no window poses them. A validator uses the file when it is found under \
calibration.paths and its signer is among calibration.signers.")]
pub struct LabCalibrateArgs {
    /// Model folder or GGUF file; default: the embedded model.
    #[arg(long, value_name = "DIR|GGUF")]
    pub model: Option<PathBuf>,
    /// The miner's runtime: bf16.
    #[arg(long, value_name = "NAME", default_value = "bf16")]
    pub runtime: String,
    /// Honest rollouts to measure, in whole groups of 16, at least 64.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub rollouts: u32,
    /// Most tokens of a completion (default 40, with the embedded model 12).
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,
    /// Seed of problems and races, and of the signing key without --wallet.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Wallet that signs, from the network's folder; default: a key that follows from --seed.
    #[arg(long, value_name = "NAME")]
    pub wallet: Option<String>,
    /// Folder of the network that has the wallet; default: the running or newest
    /// ./grail-localnet/run-NNN.
    #[arg(long, value_name = "DIR", requires = "wallet")]
    pub dir: Option<PathBuf>,
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// File to write; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Options of `grail lab attacks`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 when every row ended as claimed, 1 otherwise.

Results are kept in --out, chunk by chunk: report.json, report.html and what they are made of. After \
Ctrl-C or a crash, the same command with --resume goes on. Same options, same figures, on any \
machine; only times differ. docs/lab.md describes rows, statistics and JSON.

  grail lab attacks --attack greedy,stale-1 --profile exact
  grail lab attacks --model SmolLM2-135M/ --out lab-smollm2")]
pub struct LabAttacksArgs {
    /// Model folder or GGUF file; default: the embedded model, which is too small for figures that
    /// say much of larger ones.
    #[arg(long, value_name = "DIR|GGUF")]
    pub model: Option<PathBuf>,
    /// Profiles: exact, tolerant, v5.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "exact,tolerant,v5")]
    pub profile: Vec<String>,
    /// Rows to run (default all); --list shows their ids.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub attack: Option<Vec<String>>,
    /// Rollouts of each attack, in whole groups of 16.
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub rollouts: u32,
    /// Honest rollouts of each profile; half go to the plain row, an eighth to each variation.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub honest_rollouts: u32,
    /// Most tokens of a completion (default 40, with the embedded model 12).
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,
    /// Seed of windows, keys and cheats.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Folder for results and cheaters' models.
    #[arg(long, value_name = "DIR", default_value = "grail-lab")]
    pub out: PathBuf,
    /// Go on with the results in --out.
    #[arg(long)]
    pub resume: bool,
    /// Calibration for the tolerant profile, from `grail lab calibrate`; default: the lab fits its
    /// own to held-out problems first.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Honest rollouts that the lab's own calibration is fitted to.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub calibration_rollouts: u32,
    /// Model folder that counts as the smaller one; default: half of the layers.
    #[arg(long, value_name = "DIR")]
    pub smaller_model: Option<PathBuf>,
    #[command(flatten)]
    pub environment: EnvironmentArgs,
    /// Compute threads; 0 takes every core. No result depends on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Only list the rows.
    #[arg(long)]
    pub list: bool,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}
