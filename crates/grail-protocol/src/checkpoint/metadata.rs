//! The fields of a checkpoint's `metadata.json`, and what is wrong with them.
//!
//! Fields and order are the reference's; `protocol`, `numerics`, `checkpoint_digest`, `whitening` and
//! `delta` are new in v6. `file_manifest` names the content of a checkpoint whether it is published
//! whole or as a delta, so a delta leads to exactly the files that the full checkpoint has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CHECKPOINT_FILES, WhiteningRecord, checkpoint_digest};
use crate::canonical_json::canonical_json;
use crate::constants::{NAME_BYTES_MAX, PROTOCOL_NAME};
use crate::ids::{Digest, Window};
use crate::rollout::EnvironmentFingerprint;
use crate::sampler::SamplerParams;

/// Whether a checkpoint stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CheckpointType {
    /// It does: all weights are there.
    #[serde(rename = "FULL")]
    Full,
    /// It changes an earlier one.
    #[serde(rename = "DELTA")]
    Delta,
}

/// How miners must sample, as published.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationParams {
    /// Tokens of a completion without an end token, 1 to [`COMPLETION_TOKENS_MAX`](crate::constants::COMPLETION_TOKENS_MAX).
    pub max_tokens: u32,
    /// Divides the logits; above 0. Rounded to f32 for the race.
    pub temperature: f64,
    /// Always 1: the exact profile has no masks.
    pub top_p: f64,
    /// Always 0 (off).
    pub top_k: u32,
    /// Always 1.
    pub repetition_penalty: f64,
}

impl GenerationParams {
    /// Returns parameters without masks and penalties.
    pub fn new(sampler: SamplerParams) -> Self {
        Self {
            max_tokens: sampler.max_new_tokens,
            temperature: sampler.temperature.into(),
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
        }
    }

    /// Returns what race keys and file headers carry.
    pub fn sampler(&self) -> SamplerParams {
        // The conversion rounds to nearest; both sides do it on the same signed number.
        SamplerParams { temperature: self.temperature as f32, max_new_tokens: self.max_tokens }
    }
}

/// What a delta needs and is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRecord {
    /// SHA-256 of [`DELTA_FILE`](super::DELTA_FILE).
    pub file: Digest,
    /// Checkpoint digest of the base, whose window is [`CheckpointMetadata::prev_window`].
    pub base: Digest,
}

/// `metadata.json` of a checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMetadata {
    /// Window in which the snapshot was taken; names the checkpoint.
    pub window: Window,
    /// SHA-256 of each file, by name; exactly [`CHECKPOINT_FILES`].
    pub file_manifest: BTreeMap<String, Digest>,
    /// Settings of the training, for people.
    pub training_config: Value,
    /// Commit of the trainer's program, or `unknown`.
    pub git_commit: String,
    /// Time of the snapshot, seconds since the Unix epoch.
    pub created_at: f64,
    /// Name of the model, for people.
    pub model_name: String,
    /// Window of the checkpoint that training went on from.
    pub parent_window: Window,
    /// Whether the checkpoint stands alone.
    pub checkpoint_type: CheckpointType,
    /// Base of a delta.
    pub prev_window: Option<Window>,
    /// Nearest full checkpoint of a delta.
    pub anchor_window: Option<Window>,
    /// xxh3-128 of all tensors, as the reference's deltas use it; peers of v6 verify the manifest.
    #[serde(default)]
    pub weights_hash: Option<String>,
    /// Environment of the next rollouts.
    pub env_id: String,
    /// Its parameters.
    pub env_params: Value,
    /// How the next rollouts are sampled.
    pub generation_params: GenerationParams,
    /// `native` or `instructed`: who asks the model to think, its chat template or the prompt.
    pub thinking_mode: String,
    /// SHA-256 of `training_config` as canonical JSON, hex.
    pub config_hash: String,
    /// Protocol that the checkpoint is for.
    pub protocol: String,
    /// Numeric contract that rollouts must be computed under.
    pub numerics: String,
    /// Digest that names the checkpoint's content.
    pub checkpoint_digest: Digest,
    /// How it is made from another checkpoint; there exactly for a delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<DeltaRecord>,
    /// What sketches of its hidden states are whitened with; without it only exact engines can mine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whitening: Option<WhiteningRecord>,
}

impl CheckpointMetadata {
    /// Returns the hash that [`CheckpointMetadata::config_hash`] must hold.
    pub fn hash_config(training_config: &Value) -> String {
        Digest::of(canonical_json(training_config).as_bytes()).to_hex()
    }

    /// Returns the environment that rollout files must name.
    pub fn environment(&self) -> EnvironmentFingerprint {
        EnvironmentFingerprint::new(&self.env_id, &self.env_params_json())
    }

    /// Returns the environment's parameters as canonical JSON.
    pub fn env_params_json(&self) -> String {
        canonical_json(&self.env_params)
    }

    /// A delta has a base before it and an anchor at or before that; a full checkpoint has neither.
    fn links_fit(&self) -> bool {
        match (self.checkpoint_type, self.prev_window, self.anchor_window) {
            (CheckpointType::Full, None, None) => self.delta.is_none(),
            (CheckpointType::Delta, Some(prev), Some(anchor)) => {
                self.delta.is_some() && prev < self.window && anchor <= prev
            }
            _ => false,
        }
    }

    /// Returns everything that keeps the checkpoint from being used, for a person; empty if nothing.
    pub fn validate(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut demand = |holds: bool, complaint: String| {
            if !holds {
                complaints.push(complaint);
            }
        };
        demand(
            self.protocol == PROTOCOL_NAME,
            format!("protocol is `{}`, this program speaks `{PROTOCOL_NAME}`", self.protocol),
        );
        demand(is_name(&self.env_id), "env_id must be 1 to 64 printable characters".to_owned());
        demand(is_name(&self.numerics), "numerics must be 1 to 64 printable characters".to_owned());
        demand(
            matches!(self.thinking_mode.as_str(), "native" | "instructed"),
            format!("thinking_mode `{}` is neither native nor instructed", self.thinking_mode),
        );
        demand(
            self.links_fit(),
            "checkpoint_type, delta, prev_window and anchor_window do not fit each other"
                .to_owned(),
        );
        demand(
            self.file_manifest.keys().map(String::as_str).eq(CHECKPOINT_FILES),
            format!("file_manifest must list exactly {}", CHECKPOINT_FILES.join(", ")),
        );
        demand(
            self.checkpoint_digest == checkpoint_digest(&self.file_manifest),
            "checkpoint_digest is not that of file_manifest".to_owned(),
        );
        if let Some(Err(unusable)) = self.whitening.as_ref().map(WhiteningRecord::read) {
            complaints.push(format!("whitening: {unusable}"));
        }
        complaints.extend(self.generation_params.complaints());
        complaints
    }
}

impl GenerationParams {
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if let Err(unusable) = self.sampler().validate() {
            complaints.push(format!("generation_params: {unusable}"));
        }
        if (self.top_p, self.top_k, self.repetition_penalty) != (1.0, 0, 1.0) {
            complaints.push(
                "generation_params: the exact profile needs top_p 1, top_k 0 and \
                 repetition_penalty 1"
                    .to_owned(),
            );
        }
        complaints
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
