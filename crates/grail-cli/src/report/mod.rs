//! The report of a network: what every window and every miner came to.
//!
//! `docs/report.md` documents the JSON; [`VERSION`] changes whenever a reader would have to.

mod completion;
mod curve;
mod files;
mod fold;
mod html;
mod journal;
mod plot;
mod summary;
pub mod table;
#[cfg(test)]
mod tests_support;

use std::collections::BTreeMap;

use grail_protocol::constants::PROTOCOL_NAME;
use grail_protocol::ids::Hotkey;
use serde::{Deserialize, Serialize};

pub use completion::Completion;
pub use curve::learning_curve;
pub use files::write_report;
pub use fold::{Roster, as_f64};
pub use html::{STYLE, escape};
pub use journal::{Entry, Journal, RoleTag};
pub use summary::{final_tables, window_line};

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// Everything that a network did, so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Program and its version, such as `grail 0.1.0`.
    pub program: String,
    /// Whether the network reached the number of windows that was asked for.
    pub complete: bool,
    /// Seconds that the network ran, resumed runs added up.
    pub elapsed_s: f64,
    /// Largest resident memory of the process, bytes; `null` where the system does not tell.
    pub peak_memory_bytes: Option<u64>,
    /// How the network was set up.
    pub setup: Setup,
    /// The model before any training.
    pub start: Option<Start>,
    /// One row a window, ascending.
    pub windows: Vec<WindowRow>,
    /// One row a miner, by uid.
    pub miners: Vec<MinerRow>,
    /// Every accepted `set_weights`, in order.
    pub weights_set: Vec<WeightsRow>,
    /// Every attempt to set weights that failed, and weights that the chain lost, in order; absent in
    /// reports of versions that did not look.
    #[serde(default)]
    pub weights_failed: Vec<WeightsFailure>,
    /// Windows that a role left out, and why.
    pub skipped: Vec<Skip>,
}

/// How the network was set up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Profile, `v6` or `v5`; absent in reports of versions that had only one.
    #[serde(default = "native")]
    pub protocol: String,
    /// Name of the network, such as `local`.
    pub network: String,
    /// Number of the subnet.
    pub netuid: u16,
    /// Milliseconds from block to block.
    pub block_time_ms: u64,
    /// Seed that the wallets, the beacon and the held-out problems come from.
    pub seed: u64,
    /// Where the model came from: `embedded` or the path that was given.
    pub model: String,
    /// Architecture, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Numeric contract, such as `exact-1`.
    pub numerics: String,
    /// Environment.
    pub environment: String,
    /// Parameters of the environment, canonical JSON.
    pub environment_params: String,
    /// Sampling temperature.
    pub temperature: f32,
    /// Most tokens of a completion.
    pub max_new_tokens: u32,
    /// Compute threads shared by all roles.
    pub threads: usize,
}

fn native() -> String {
    PROTOCOL_NAME.to_owned()
}

impl Setup {
    /// Returns what the network's profile does not prove, in one line; nothing for our own.
    pub fn caveat(&self) -> Option<&'static str> {
        (self.protocol == "v5").then_some(
            "protocol v5 proves neither that a miner ran this model nor how it sampled: a sketch of \
             zero passes everywhere, as the cheater here shows",
        )
    }
}

/// The first evaluation, before any training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Window of the first checkpoint.
    pub checkpoint: u64,
    /// Held-out problems tried.
    pub problems: u32,
    /// Share solved by one sampled answer, 0 to 1.
    pub pass_at_1: f64,
}

/// One window: its rollouts, and what training on them brought.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowRow {
    /// First block of the window.
    pub window: u64,
    /// Mean reward of the accepted rollouts, as the validator recomputed it.
    pub reward_mean: Option<f64>,
    /// Share of held-out problems solved after training on this window, 0 to 1.
    pub pass_at_1: Option<f64>,
    /// Mean loss of the optimiser steps on this window.
    pub loss: Option<f64>,
    /// Completion tokens per second, all honest miners together.
    pub tokens_per_s: Option<f64>,
    /// Completion tokens in all uploaded files.
    pub tokens: u64,
    /// Rollouts in all judged files.
    pub rollouts: u64,
    /// Rollouts checked.
    pub checked: u64,
    /// Rollouts accepted.
    pub accepted: u64,
    /// Rollouts rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Whether the validator finished the window.
    pub validated: bool,
    /// Whether the trainer finished the window.
    pub trained: bool,
    /// Optimiser steps on this window.
    pub steps: Option<u32>,
    /// Mean gradient norm before clipping.
    pub grad_norm: Option<f64>,
    /// Largest |log ratio| at the first step, nats; 0 when the weights drew the tokens themselves.
    pub first_log_ratio_max: Option<f64>,
    /// Window of the checkpoint that training on this window made.
    pub checkpoint: Option<u64>,
    /// Window of that checkpoint's READY marker.
    pub checkpoint_ready: Option<u64>,
    /// Seconds of verification, all miners together.
    pub validation_s: f64,
    /// Seconds of training.
    pub training_s: Option<f64>,
    /// Seconds of evaluation.
    pub evaluation_s: Option<f64>,
    /// What each miner came to, by uid.
    pub miners: Vec<WindowMiner>,
}

/// A window that a role left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skip {
    /// First block of the window.
    pub window: u64,
    /// Name of the role, such as `miner-1`.
    pub role: String,
    /// Why, for a person.
    pub reason: String,
}

/// One miner in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowMiner {
    /// Its uid.
    pub uid: u16,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// The cheat it was told to try; `null` for an honest miner.
    pub cheat: Option<String>,
    /// Completion tokens generated.
    pub tokens: u64,
    /// Seconds of generation.
    pub generation_s: f64,
    /// Whether the validator judged it.
    pub judged: bool,
    /// Rollouts in the file.
    pub rollouts: u64,
    /// Rollouts checked.
    pub checked: u64,
    /// Rollouts accepted.
    pub accepted: u64,
    /// Code of the rejection; `null` when nothing was wrong.
    pub rejection: Option<String>,
    /// Mean reward of the accepted rollouts, as recomputed.
    pub reward_mean: f64,
    /// Seconds of verification.
    pub validation_s: f64,
}

/// Whether a miner follows the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MinerRole {
    /// It does.
    Honest,
    /// It was told to cheat.
    Cheater,
    /// It joined from another process; nobody here knows what it does.
    Guest,
}

/// Rollouts counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Windows with a judged file.
    pub windows: u64,
    /// Rollouts in the files.
    pub rollouts: u64,
    /// Rollouts checked.
    pub checked: u64,
    /// Rollouts accepted.
    pub accepted: u64,
    /// Rollouts rejected, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// One miner over all windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MinerRow {
    /// Its uid.
    pub uid: u16,
    /// Name of its wallet.
    pub name: String,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// Whether it follows the rules.
    pub role: MinerRole,
    /// Its cheats, comma separated; `null` for an honest miner.
    pub cheat: Option<String>,
    /// Counts over all windows.
    #[serde(flatten)]
    pub counts: Counts,
    /// The same per cheat; empty for an honest miner.
    pub by_cheat: BTreeMap<String, Counts>,
    /// Weight that the last `set_weights` gave it, 0 to 1; `null` before the first one.
    pub weight: Option<f64>,
}

/// One accepted `set_weights`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightsRow {
    /// Name of the validator.
    pub validator: String,
    /// Block that includes it.
    pub block: u64,
    /// Whether the validator saw that the chain counts it; absent in older reports.
    #[serde(default)]
    pub landed: bool,
    /// Weight of each uid.
    pub weights: Vec<UidWeight>,
}

/// Weights that did not get onto the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightsFailure {
    /// Name of the validator.
    pub validator: String,
    /// Head when that was noticed.
    pub block: u64,
    /// Why, and what to do, for a person.
    pub reason: String,
}

/// The weight of one uid.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UidWeight {
    /// The uid.
    pub uid: u16,
    /// Its weight, 0 to 1.
    pub weight: f64,
}

impl Report {
    /// Returns a report of nothing yet.
    pub fn new(setup: Setup) -> Self {
        Self {
            version: VERSION,
            program: format!("grail {}", env!("CARGO_PKG_VERSION")),
            complete: false,
            elapsed_s: 0.0,
            peak_memory_bytes: None,
            setup,
            start: None,
            windows: Vec::new(),
            miners: Vec::new(),
            weights_set: Vec::new(),
            weights_failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Returns the newest share of held-out problems solved, if any was measured.
    pub fn last_pass_at_1(&self) -> Option<f64> {
        self.windows
            .iter()
            .rev()
            .find_map(|row| row.pass_at_1)
            .or_else(|| self.start.map(|start| start.pass_at_1))
    }
}
