//! Options of the commands that run a network, join one, or look at one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::EnvironmentArgs;
use crate::config::{OutsideRole, ProtocolName, StoreKind};
use crate::human_duration::HumanDuration;

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

/// Where a hotkey acts.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceArgs {
    /// Network: `local` (default), one that `grail localnet` runs on this machine; `finney`, `test` or
    /// `archive`; or the address of a node, such as wss://HOST:PORT.
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// Subnet of a real network; default: 81 on finney.
    #[arg(long, value_name = "N")]
    pub netuid: Option<u16>,
    /// Hotkey of the wallet.
    #[arg(long, value_name = "NAME")]
    pub hotkey: Option<String>,
}

/// Options of `grail mine`, `grail validate` and `grail train`.
#[derive(Debug, Args)]
pub struct RoleArgs {
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of a local network, default: the running or newest ./grail-localnet/run-NNN; on a real
    /// one of what the role keeps, default: grail/NETWORK-NETUID in the user's folder of data.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Wallet to act with: on a local network from its folder, where one that is not registered is
    /// registered; on a real one from ~/.bittensor/wallets or wallet.path.
    #[arg(long, value_name = "NAME")]
    pub wallet: Option<String>,
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
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Folder of the local network; default: the running or newest ./grail-localnet/run-NNN.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Wallet to look at; default: validator on a local network, default on a real one.
    #[arg(long, value_name = "NAME")]
    pub wallet: Option<String>,
    /// Role that is meant; default: miner, and on a local network the wallet's own.
    #[arg(long, value_name = "ROLE")]
    pub role: Option<DoctorRole>,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}
