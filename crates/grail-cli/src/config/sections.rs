//! The sections of the configuration with their defaults, which fit the embedded model.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use grail_model::{LoraConfig, LoraTargets, Runtime, TrainerConfig, UnknownRuntime};
use grail_protocol::checkpoint::Protocol;
use grail_protocol::ids::Hotkey;
use grail_services::training::advantages::Estimator;
use grail_services::training::config::TrainingConfig;
use grail_services::training::grpo::{Aggregation, ImportanceLevel};
use grail_services::validation::config::ValidationConfig;
use serde::{Deserialize, Serialize};

use crate::human_duration::HumanDuration;

/// What is told on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// 0 warnings, 1 what each role does, 2 every rollout.
    pub verbosity: u8,
    /// Whether log lines are JSON.
    pub json: bool,
}

/// Where a role that runs alone tells how it is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusConfig {
    /// Address of the pages `/health` and `/metrics`; nowhere without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

/// A [`Protocol`] by its name: which profile a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct ProtocolName(pub Protocol);

impl Default for ProtocolName {
    fn default() -> Self {
        Self(Protocol::V6)
    }
}

impl FromStr for ProtocolName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Protocol::V6, Protocol::V5].into_iter().find(|known| known.name() == name);
        known.map(Self).ok_or_else(|| format!("`{name}` is no protocol: v6 or v5"))
    }
}

impl TryFrom<String> for ProtocolName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<ProtocolName> for &'static str {
    fn from(name: ProtocolName) -> Self {
        name.0.name()
    }
}

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// A [`Runtime`] by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub struct RuntimeName(pub Runtime);

impl TryFrom<String> for RuntimeName {
    type Error = UnknownRuntime;

    fn try_from(name: String) -> Result<Self, UnknownRuntime> {
        name.parse()
    }
}

impl FromStr for RuntimeName {
    type Err = UnknownRuntime;

    fn from_str(name: &str) -> Result<Self, UnknownRuntime> {
        name.parse().map(Self)
    }
}

impl From<RuntimeName> for &'static str {
    fn from(name: RuntimeName) -> Self {
        name.0.name()
    }
}

/// How the model is computed. Results depend on the runtime alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Compute threads; 0 takes every core.
    pub threads: usize,
    /// What happens to values between operations.
    pub runtime: RuntimeName,
    /// Most sequences generated at once.
    pub max_running_sequences: usize,
    /// Most bytes of keys and values.
    pub kv_bytes_max: usize,
    /// Most bytes, of those, that are kept for prompts to come.
    pub prompt_cache_bytes_max: usize,
    /// Most prompt tokens in a step.
    pub prefill_rows_max: usize,
    /// Most prompt tokens in a step while somebody waits for each token of another sequence.
    pub prefill_rows_while_streaming_max: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let engine = grail_model::EngineConfig::default();
        Self {
            threads: 0,
            runtime: RuntimeName::default(),
            max_running_sequences: engine.max_running_sequences,
            kv_bytes_max: engine.kv_bytes_max,
            prompt_cache_bytes_max: engine.prompt_cache_bytes_max,
            prefill_rows_max: engine.prefill_rows_max,
            prefill_rows_while_streaming_max: engine.prefill_rows_while_streaming_max,
        }
    }
}

/// A role that a localnet can leave to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutsideRole {
    /// `grail validate --wallet validator` does it.
    Validator,
    /// `grail train --wallet trainer` does it.
    Trainer,
}

/// The embedded network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LocalnetConfig {
    /// Windows to mine, validate and train on.
    pub windows: u32,
    /// Honest miners.
    pub miners: u16,
    /// Miners that cheat.
    pub cheaters: u16,
    /// What they try, in turn; empty means everything.
    pub cheats: Vec<String>,
    /// Model folder or GGUF file to start from; without it, the embedded model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Time from block to block.
    pub block_time: HumanDuration,
    /// Seed of wallets, beacon and held-out problems.
    pub seed: u64,
    /// Port on 127.0.0.1; 0 takes a free one.
    pub listen: u16,
    /// Roles left to other processes.
    pub without: Vec<OutsideRole>,
}

impl Default for LocalnetConfig {
    fn default() -> Self {
        Self {
            windows: 10,
            miners: 2,
            cheaters: 1,
            cheats: Vec::new(),
            model: None,
            block_time: HumanDuration::from_millis(1_000),
            seed: 1,
            listen: 0,
            without: Vec::new(),
        }
    }
}

/// What the problems are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EnvironmentConfig {
    /// Id of the environment.
    pub id: String,
    /// Its parameters as JSON.
    pub params: String,
    /// Short for the parameter `difficulty`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difficulty: Option<u32>,
}

impl Default for EnvironmentConfig {
    fn default() -> Self {
        Self { id: "arithmetic".to_owned(), params: "{}".to_owned(), difficulty: None }
    }
}

/// How completions are drawn, as the trainer publishes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Divides the logits, above 0.
    pub temperature: f32,
    /// Most tokens of a completion.
    pub max_new_tokens: u32,
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { temperature: 1.0, max_new_tokens: 12 }
    }
}

/// The miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MiningSettings {
    /// Groups in a window, if time allows.
    pub groups_per_window: u32,
    /// Groups that the model makes at the same time.
    pub groups_at_once: u32,
    /// Blocks kept free before the deadline.
    pub safety_blocks: u32,
}

impl Default for MiningSettings {
    fn default() -> Self {
        Self { groups_per_window: 256, groups_at_once: 16, safety_blocks: 3 }
    }
}

/// How miners are judged over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Judgement {
    /// By evidence over a whole life, with a bound on false ejections.
    Sequential,
    /// As the reference does: one failure costs the scored windows.
    Reference,
}

impl FromStr for Judgement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sequential" => Ok(Self::Sequential),
            "reference" => Ok(Self::Reference),
            _ => Err(format!("{text} is no way to judge: sequential or reference")),
        }
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sequential => "sequential",
            Self::Reference => "reference",
        })
    }
}

/// The validator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidationSettings {
    /// Most groups of a file that are recomputed.
    pub groups_checked: u32,
    /// Most miners judged in a window.
    pub miners_checked: u32,
    /// How miners are judged over time.
    pub judgement: Judgement,
    /// Largest probability that an honest miner is ever ejected.
    pub ejection_bound: f64,
    /// Windows that an ejection lasts.
    pub ejection_windows: u32,
    /// Whether files of ejected miners are checked and explained all the same.
    pub judge_ejected: bool,
    /// Windows for which a miner that broke a rule is not judged again, under
    /// [`Judgement::Reference`].
    pub failure_lookback_windows: u32,
    /// Blocks between two `set_weights`.
    pub weights_interval_blocks: u64,
    /// Windows that a fresh validator processes before it sets weights.
    pub warmup_windows: u64,
    /// Windows that count for a score.
    pub scoring_windows: u32,
    /// Rollouts a window that count at most; 0 means as many as a miner's groups hold.
    pub rollouts_cap: u32,
    /// Share of the weight that is burned at least, percent.
    pub burn_percent: f64,
}

impl Default for ValidationSettings {
    /// Shorter than on a public network: a local one lives for minutes.
    fn default() -> Self {
        Self {
            groups_checked: 256,
            miners_checked: 35,
            judgement: Judgement::Sequential,
            ejection_bound: 1e-6,
            ejection_windows: 12,
            // A local subnet is there to show what becomes of every cheat.
            judge_ejected: true,
            failure_lookback_windows: 0,
            weights_interval_blocks: 30,
            warmup_windows: 2,
            scoring_windows: 3,
            rollouts_cap: 0,
            burn_percent: 90.0,
        }
    }
}

/// Engines that are not exact, as the validator judges them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationSettings {
    /// Files with calibrations, or folders of such files.
    pub paths: Vec<PathBuf>,
    /// Hotkeys whose calibrations are used.
    pub signers: Vec<Hotkey>,
    /// Most windows between a checkpoint and the one that was measured on.
    pub age_windows: u32,
}

impl Default for CalibrationSettings {
    fn default() -> Self {
        let age_windows = ValidationConfig::default().calibration_age_windows;
        Self { paths: Vec::new(), signers: Vec::new(), age_windows }
    }
}

/// The trainer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSettings {
    /// Model that a real network starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest gradient norm.
    pub grad_clip: f32,
    /// Times that every group is used.
    pub epochs: u32,
    /// Groups in an optimiser step.
    pub groups_per_step: u32,
    /// Most groups of a window that are used.
    pub groups: u32,
    /// How rewards of a group are compared.
    pub advantage_estimator: Estimator,
    /// What a token's loss is divided by.
    pub loss_variant: Aggregation,
    /// What one importance ratio speaks of.
    pub importance_level: ImportanceLevel,
    /// The ratio is clipped below at 1 minus this.
    pub clip_low: f64,
    /// The ratio is clipped above at 1 plus this.
    pub clip_high: f64,
    /// Weight of the distance to the model that training began with.
    pub kl_coef: f64,
    /// Weight of the policy's entropy.
    pub entropy_coef: f64,
    /// Windows whose rollouts are used.
    pub replay_windows: usize,
    /// Held-out problems of an evaluation.
    pub evaluation_problems: u32,
    /// Checkpoints between two evaluations.
    pub evaluate_every: u32,
    /// Windows back from the head whose checkpoints stay in the bucket.
    pub retention_windows: u32,
    /// Memory for activations between forward and backward pass, bytes.
    pub activations_bytes_max: usize,
    /// Rank of LoRA pairs; 0 trains the whole model.
    pub lora_rank: usize,
    /// Divided by the rank, the factor of what a pair adds.
    pub lora_alpha: u32,
    /// Projections that get a pair.
    pub lora_targets: LoraTargets,
}

impl TrainingSettings {
    /// Returns how the model is trained.
    pub fn trainer(&self) -> TrainerConfig {
        let lora = LoraConfig {
            rank: self.lora_rank,
            alpha: self.lora_alpha,
            targets: self.lora_targets,
            ..LoraConfig::default()
        };
        TrainerConfig {
            activations_bytes_max: self.activations_bytes_max,
            lora: (self.lora_rank > 0).then_some(lora),
            ..TrainerConfig::default()
        }
    }
}

impl Default for TrainingSettings {
    fn default() -> Self {
        let defaults = TrainingConfig::default();
        let steps = defaults.steps;
        Self {
            model: None,
            learning_rate: 5e-5,
            weight_decay: 0.0,
            grad_clip: 1.0,
            epochs: 1,
            groups_per_step: 32,
            groups: 1024,
            advantage_estimator: steps.estimator,
            loss_variant: steps.loss.aggregation,
            importance_level: steps.loss.importance,
            clip_low: steps.loss.clip_low,
            clip_high: steps.loss.clip_high,
            kl_coef: steps.loss.kl_coef,
            entropy_coef: steps.loss.entropy_coef,
            replay_windows: defaults.replay.windows_max,
            evaluation_problems: 200,
            evaluate_every: 1,
            retention_windows: 8,
            activations_bytes_max: TrainerConfig::default().activations_bytes_max,
            lora_rank: 0,
            lora_alpha: LoraConfig::default().alpha,
            lora_targets: LoraTargets::ALL,
        }
    }
}
