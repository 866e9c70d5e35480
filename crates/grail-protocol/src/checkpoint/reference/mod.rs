//! The `metadata.json` of a reference checkpoint: read as Python reads it, written byte for byte.
//!
//! Source: reference 0.0.60, `spec/checkpoints.md`. Stricter, because whoever holds the bucket holds
//! the subnet: the signature is verified, metadata of another window is refused, and so are file
//! names that would leave the checkpoint's folder.

pub mod defaults;
pub mod delta_metadata;
pub mod generation;

use super::{CheckpointError, CheckpointType, SignedMetadata, Unsigned, WeightsHash};
use crate::constants::CHECKPOINT_METADATA_BYTES_MAX;
use crate::ids::{Digest, Hotkey, Signature, Window};
use crate::prover::Sign;
use crate::signature;
use crate::v5::python::json::{Text, Value};
use crate::v5::python::print::{
    Keys, to_float, to_json, to_json_indented, to_repr, to_sorted_spaced_json,
};

/// Most files of one checkpoint; a large model has a few hundred shards.
pub const FILES_MAX: usize = 1_024;

/// Keys that `generation_params` must have, in the order in which they are missed.
pub const GENERATION_KEYS: [&str; 5] =
    ["max_tokens", "temperature", "top_p", "top_k", "repetition_penalty"];

/// Metadata of a checkpoint of the reference.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceMetadata {
    /// Window in which the snapshot was taken; names the checkpoint.
    pub window: Window,
    /// SHA-256 of each file, in the publisher's order; paths are relative and stay in the folder.
    pub file_manifest: Vec<(String, Digest)>,
    /// Settings of the training, for people.
    pub training_config: Value,
    /// Commit of the trainer's program, or `unknown`.
    pub git_commit: String,
    /// Time of the snapshot, seconds since the Unix epoch.
    pub created_at: f64,
    /// Name of the model, for people.
    pub model_name: String,
    /// Window of the checkpoint before; nobody reads it.
    pub parent_window: Option<u64>,
    /// Whether the checkpoint stands alone; nothing where the field is missing.
    pub checkpoint_type: Option<CheckpointType>,
    /// Base of a delta.
    pub prev_window: Option<Window>,
    /// Nearest full checkpoint of a delta.
    pub anchor_window: Option<Window>,
    /// Hash of all tensors, of a delta's *result*.
    pub weights_hash: Option<WeightsHash>,
    /// Environment of the next rollouts; empty where it is missing.
    pub env_id: String,
    /// Its parameters.
    pub env_params: Value,
    /// How rollouts are sampled, as published: values of any type, see [`generation`].
    pub generation_params: Value,
    /// `native` or `instructed`; empty where it is missing.
    pub thinking_mode: String,
    /// SHA-256 of `training_config`, hex; nobody reads it.
    pub config_hash: Option<String>,
}

impl ReferenceMetadata {
    /// Returns the hash of a training's settings that [`ReferenceMetadata::config_hash`] holds.
    pub fn hash_config(training_config: &Value) -> String {
        // Default separators of `json.dumps`, which no other hash has.
        Digest::of(to_sorted_spaced_json(training_config).as_bytes()).to_hex()
    }

    /// Returns what keeps peers from mining and validating with this checkpoint, in the words of the
    /// reference; empty if nothing does.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.env_id.is_empty() {
            missing.push("env_id".to_owned());
        }
        match self.thinking_mode.as_str() {
            "" => missing.push("thinking_mode".to_owned()),
            "native" | "instructed" => {}
            other => {
                missing.push(format!("thinking_mode (invalid value {})", to_repr(&other.into())));
            }
        }
        if self.generation_params.as_object().is_none_or(<[_]>::is_empty) {
            missing.push("generation_params".to_owned());
        } else {
            let absent = |key: &&str| self.generation_params.get(key).is_none();
            let absent = GENERATION_KEYS.into_iter().filter(absent);
            missing.extend(absent.map(|key| format!("generation_params.{key}")));
        }
        missing
    }

    /// Returns `metadata.json`.
    pub fn to_json(&self) -> String {
        to_json_indented(&self.to_value())
    }

    /// Returns the text that `manifest.sig` signs.
    pub fn canonical(&self) -> String {
        to_json(&self.to_value(), Keys::Sorted)
    }

    /// Returns the two files to publish; `sign` must use the trainer's secret key.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] when peers would refuse the checkpoint, or
    /// [`CheckpointError::TooLarge`].
    pub fn sign(&self, sign: &Sign<'_>) -> Result<SignedMetadata, CheckpointError> {
        let missing = self.missing();
        if !missing.is_empty() {
            return Err(CheckpointError::Invalid(missing));
        }
        let metadata_json = self.to_json();
        let size = metadata_json.len() as u64;
        if size > CHECKPOINT_METADATA_BYTES_MAX {
            return Err(CheckpointError::TooLarge(size));
        }
        let manifest_sig = sign(self.canonical().as_bytes()).into();
        Ok(SignedMetadata { metadata_json, manifest_sig })
    }

    /// Verifies the signature over parsed metadata and reads its fields. Whether rollouts can be
    /// made with it is another question: [`ReferenceMetadata::missing`].
    ///
    /// # Errors
    /// [`CheckpointError`] when it is not the trainer's own, of another window, or malformed.
    pub fn open(
        value: &Value,
        manifest_sig: Option<&[u8]>,
        trainer: Hotkey,
        window: Window,
        unsigned: Unsigned,
    ) -> Result<Self, CheckpointError> {
        match manifest_sig {
            Some(bytes) => {
                let text =
                    std::str::from_utf8(bytes).map_err(|_| CheckpointError::NotASignature)?;
                let signature = Signature::try_from(text.trim_ascii().to_owned())
                    .map_err(|_| CheckpointError::NotASignature)?;
                // Fields that this version does not know are covered too.
                signature::verify(trainer, to_json(value, Keys::Sorted).as_bytes(), &signature)?;
            }
            None if unsigned == Unsigned::Refuse => return Err(CheckpointError::Unsigned),
            None => {}
        }
        Self::from_value(value, window)
    }

    /// Reads parsed metadata that was asked for as that of `window`. Fields of the wrong type are as
    /// good as missing where nobody needs them.
    ///
    /// # Errors
    /// [`CheckpointError::WrongWindow`], and [`CheckpointError::Malformed`] for manifests, windows
    /// and hashes that make no sense.
    pub fn from_value(value: &Value, window: Window) -> Result<Self, CheckpointError> {
        if value.as_object().is_none() {
            return Err(CheckpointError::Malformed("it is no JSON object".to_owned()));
        }
        let found = read_window(value, "window")?.unwrap_or(window);
        if found != window {
            return Err(CheckpointError::WrongWindow { expected: window, found });
        }
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let object = |key: &str| {
            let found = value.get(key).filter(|found| found.as_object().is_some());
            found.cloned().unwrap_or(Value::Object(Vec::new()))
        };
        let checkpoint_type = match text("checkpoint_type").as_deref() {
            Some("FULL") => Some(CheckpointType::Full),
            Some("DELTA") => Some(CheckpointType::Delta),
            _ => None,
        };
        let weights_hash = match value.get("weights_hash") {
            None | Some(Value::Null) => None,
            Some(field) => {
                Some(field.as_str().and_then(|digits| digits.parse().ok()).ok_or_else(|| {
                    CheckpointError::Malformed("weights_hash is not 32 hexadecimal digits".into())
                })?)
            }
        };
        Ok(Self {
            window,
            file_manifest: read_manifest(value.get("file_manifest"))?,
            training_config: object("training_config"),
            git_commit: text("git_commit").unwrap_or_else(|| "unknown".to_owned()),
            created_at: match value.get("created_at") {
                Some(Value::Float(seconds)) => *seconds,
                Some(integer @ Value::Integer(_)) => to_float(integer).unwrap_or_default(),
                _ => 0.0,
            },
            model_name: text("model_name").unwrap_or_else(|| "no_name".to_owned()),
            parent_window: match value.get("parent_window") {
                Some(Value::Integer(window)) => u64::try_from(*window).ok(),
                _ => None,
            },
            checkpoint_type,
            prev_window: read_window(value, "prev_window")?,
            anchor_window: read_window(value, "anchor_window")?,
            weights_hash,
            env_id: text("env_id").unwrap_or_default(),
            env_params: object("env_params"),
            generation_params: object("generation_params"),
            thinking_mode: text("thinking_mode").unwrap_or_default(),
            config_hash: text("config_hash"),
        })
    }

    /// Returns the fields in the reference's order.
    fn to_value(&self) -> Value {
        let window = |window: Option<Window>| {
            window.map_or(Value::Null, |window| Value::from(window.start().0))
        };
        let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
        let files = self.file_manifest.iter();
        let files =
            files.map(|(name, digest)| (name.as_str().into(), digest.to_hex().as_str().into()));
        let manifest: Vec<(Text, Value)> = files.collect();
        let checkpoint_type = match self.checkpoint_type {
            Some(CheckpointType::Delta) => "DELTA",
            Some(CheckpointType::Full) | None => "FULL",
        };
        let weights_hash = self.weights_hash.map(|hash| hash.to_string());
        Value::object([
            ("window", self.window.start().0.into()),
            ("file_manifest", Value::Object(manifest)),
            ("training_config", self.training_config.clone()),
            ("git_commit", self.git_commit.as_str().into()),
            ("created_at", self.created_at.into()),
            ("model_name", self.model_name.as_str().into()),
            ("parent_window", self.parent_window.map_or(Value::Null, Value::from)),
            ("checkpoint_type", checkpoint_type.into()),
            ("prev_window", window(self.prev_window)),
            ("anchor_window", window(self.anchor_window)),
            ("weights_hash", weights_hash.as_deref().map_or(Value::Null, Value::from)),
            ("env_id", text(&self.env_id)),
            ("env_params", self.env_params.clone()),
            ("generation_params", self.generation_params.clone()),
            ("thinking_mode", text(&self.thinking_mode)),
            ("config_hash", self.config_hash.as_deref().map_or(Value::Null, Value::from)),
        ])
    }
}

fn read_window(value: &Value, key: &str) -> Result<Option<Window>, CheckpointError> {
    match value.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(field) => {
            let start = match field {
                Value::Integer(start) => u64::try_from(*start).ok(),
                _ => None,
            };
            let window = start.and_then(|start| Window::from_start(start).ok());
            let window = window.ok_or_else(|| {
                let shown: String = to_repr(field).chars().take(64).collect();
                CheckpointError::Malformed(format!("{key} is {shown}, which is no window"))
            });
            window.map(Some)
        }
    }
}

fn read_manifest(field: Option<&Value>) -> Result<Vec<(String, Digest)>, CheckpointError> {
    let bad = |what: String| CheckpointError::Malformed(format!("file_manifest {what}"));
    let files = match field {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(field) => field.as_object().ok_or_else(|| bad("is no JSON object".to_owned()))?,
    };
    if files.len() > FILES_MAX {
        return Err(bad(format!("lists {} files, at most {FILES_MAX} are read", files.len())));
    }
    let read = |(name, digest): &(Text, Value)| {
        let name = name.as_str().filter(|name| stays_inside(name)).ok_or_else(|| {
            let shown: String = name.as_str().unwrap_or_default().chars().take(64).collect();
            bad(format!("lists {shown:?}, which is no path inside a folder"))
        })?;
        let digest = digest.as_str().and_then(|digits| Digest::try_from(digits.to_owned()).ok());
        let digest = digest.ok_or_else(|| bad(format!("has no SHA-256 of {name:?}")))?;
        Ok((name.to_owned(), digest))
    };
    files.iter().map(read).collect()
}

/// Returns whether a path of a manifest names a file below the folder that it is joined to, on
/// every system.
fn stays_inside(name: &str) -> bool {
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.len() <= 255
            && !matches!(part, "." | "..")
            && part.chars().all(|c| !c.is_control() && !matches!(c, '\\' | ':'))
    };
    name.len() <= 512 && name.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for name in ["model.safetensors", "a/b.json", "délta", ".hidden", "..."] {
            assert!(stays_inside(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "C:x", "a\\b", ".", "a\nb"]
        {
            assert!(!stays_inside(name), "{name:?}");
        }
        assert!(!stays_inside(&"a/".repeat(300)) && !stays_inside(&"a".repeat(256)));
    }
}
