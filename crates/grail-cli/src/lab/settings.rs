//! What the figures of a run depend on; a folder holds the results of one such choice.

use std::path::Path;

use anyhow::{Context, Result, bail};
use grail_protocol::ids::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::files::{read_bounded, write_atomically};

/// Version of everything that is kept in the folder and of the report.
pub const SCHEMA_VERSION: u32 = 1;
/// Name of the file that says what a folder's results depend on.
const FILE: &str = "settings.json";
/// Largest such file that is read.
const BYTES_MAX: u64 = 64 * 1024;

/// What the figures depend on. Threads and the machine are not among it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the command.
    pub grail_version: String,
    /// Digest of the model.
    pub checkpoint: Digest,
    /// Environment.
    pub environment: String,
    /// Its parameters, canonical JSON.
    pub environment_params: String,
    /// Sampling temperature.
    pub temperature: f32,
    /// Most tokens of a completion.
    pub max_new_tokens: u32,
    /// Seed of windows, keys and cheats.
    pub seed: u64,
    /// Rollouts of an attack.
    pub rollouts: u32,
    /// Honest rollouts of a profile, all honest rows together.
    pub honest_rollouts: u32,
    /// Digest of the calibration file that was given; `null` where the lab fits its own.
    pub calibration: Option<Digest>,
    /// Rollouts that the lab's own calibration is fitted to.
    pub calibration_rollouts: u32,
    /// Digest of the smaller model that was given; `null` where half of the layers are taken.
    pub smaller_model: Option<Digest>,
}

/// Takes the folder `out` for results under `settings`.
///
/// # Errors
/// When it holds results of other settings, or any results and `resume` was not asked for.
pub fn claim(out: &Path, settings: &Settings, resume: bool) -> Result<()> {
    let path = out.join(FILE);
    if !path.exists() {
        std::fs::create_dir_all(out).with_context(|| format!("while making {}", out.display()))?;
        let json = serde_json::to_vec_pretty(settings)?;
        return write_atomically(&path, &json)
            .with_context(|| format!("while writing {}", path.display()));
    }
    if !resume {
        bail!("{} holds results; go on with --resume, or name another --out", out.display());
    }
    let bytes = read_bounded(&path, BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let kept: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} holds no settings", path.display()))?;
    // Through text, as the kept ones came: a float reads differently otherwise.
    let now: Value = serde_json::from_slice(&serde_json::to_vec(settings)?)?;
    match difference(&kept, &now) {
        None => Ok(()),
        Some((key, kept, now)) => bail!(
            "{} holds results for {key} {kept}, now it is {now}; give the same options, or name \
             another --out",
            out.display()
        ),
    }
}

/// Returns the first key whose values differ, with both values.
fn difference(kept: &Value, now: &Value) -> Option<(String, Value, Value)> {
    let keys = [kept, now].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    let differs = |key: &&String| kept.get(key.as_str()) != now.get(key.as_str());
    let key = keys.into_iter().find(differs)?;
    let of = |value: &Value| value.get(key).cloned().unwrap_or_default();
    Some((key.clone(), of(kept), of(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            schema_version: SCHEMA_VERSION,
            grail_version: "0.1.0".to_owned(),
            checkpoint: Digest([1; 32]),
            environment: "arithmetic".to_owned(),
            environment_params: "{}".to_owned(),
            temperature: 0.7,
            max_new_tokens: 32,
            seed: 1,
            rollouts: 64,
            honest_rollouts: 128,
            calibration: None,
            calibration_rollouts: 64,
            smaller_model: None,
        }
    }

    #[test]
    fn a_folder_is_for_one_choice_of_settings() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("lab");
        claim(&out, &settings(), false).unwrap();
        claim(&out, &settings(), true).unwrap();
        let error = claim(&out, &settings(), false).unwrap_err().to_string();
        assert!(error.contains("--resume"), "{error}");
        let other = Settings { rollouts: 16, ..settings() };
        let error = claim(&out, &other, true).unwrap_err().to_string();
        assert!(error.contains("rollouts 64, now it is 16"), "{error}");
        let other = Settings { calibration: Some(Digest([2; 32])), ..settings() };
        let error = claim(&out, &other, true).unwrap_err().to_string();
        assert!(error.contains("calibration null"), "{error}");
    }

    #[test]
    fn a_damaged_settings_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(claim(dir.path(), &settings(), true).is_err());
    }
}
