//! Options of `grail verify` and `grail explain`.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::EnvironmentArgs;

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
