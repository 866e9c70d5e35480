//! What a reference publisher says of environment and sampling, given its operator's settings.

use super::GENERATION_KEYS;
use crate::v5::python::json::Value;
use crate::v5::python::print::{to_float, to_int, to_repr};

/// Environment that is published where no other is set.
pub const ENV_ID: &str = "triton_kernel";

/// Settings that cannot be published; the texts are the reference's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// The environment's name is set to nothing.
    #[error("GRAIL_ENV_ID cannot be empty")]
    NoEnvironment,
    /// Nobody thinks that way.
    #[error("GRAIL_THINKING_MODE={0} is invalid; must be 'native' or 'instructed'")]
    ThinkingMode(String),
}

/// Looks up a setting by the name of its environment variable.
pub type Setting<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns `env_id` and `env_params`.
///
/// # Errors
/// [`BadSetting::NoEnvironment`].
pub fn environment(setting: Setting<'_>) -> Result<(String, Value), BadSetting> {
    let env_id = setting("GRAIL_ENV_ID").unwrap_or_else(|| ENV_ID.to_owned());
    if env_id.is_empty() {
        return Err(BadSetting::NoEnvironment);
    }
    let split = setting("GRAIL_ENV_SPLIT")
        .filter(|split| ["train", "test", "validation", "val"].contains(&split.as_str()))
        .unwrap_or_else(|| "train".to_owned());
    let word = setting("GRAIL_GPU_EVAL").unwrap_or_default().to_lowercase();
    let gpu_eval = Value::Bool(matches!(word.as_str(), "1" | "true" | "yes"));
    Ok((env_id, Value::object([("split", split.as_str().into()), ("gpu_eval", gpu_eval)])))
}

/// Returns `generation_params`: what cannot be read or is out of range takes its default.
pub fn generation_params(setting: Setting<'_>) -> Value {
    let integer = |name: &str, range: std::ops::RangeInclusive<i128>, default: i64| {
        let set = setting(name).and_then(|text| to_int(&text.as_str().into()));
        let set = set.filter(|value| range.contains(value));
        Value::Integer(set.and_then(|value| i64::try_from(value).ok()).unwrap_or(default))
    };
    let float = |name: &str, range: std::ops::RangeInclusive<f64>, default: f64| {
        let set = setting(name).and_then(|text| to_float(&text.as_str().into()));
        // NaN is neither below nor above, so the reference publishes it; no peer could sample.
        Value::Float(set.filter(|value| range.contains(value)).unwrap_or(default))
    };
    let values = [
        integer("GRAIL_GEN_MAX_TOKENS", 1..=16_384, 2_048),
        float("GRAIL_GEN_TEMPERATURE", 0.01..=2.0, 0.7),
        float("GRAIL_GEN_TOP_P", 0.0..=1.0, 0.9),
        integer("GRAIL_GEN_TOP_K", 0..=1_000, 50),
        float("GRAIL_GEN_REPETITION_PENALTY", 1.0..=2.0, 1.0),
    ];
    Value::object(GENERATION_KEYS.into_iter().zip(values))
}

/// Returns `thinking_mode`.
///
/// # Errors
/// [`BadSetting::ThinkingMode`].
pub fn thinking_mode(setting: Setting<'_>) -> Result<String, BadSetting> {
    let set = setting("GRAIL_THINKING_MODE").unwrap_or_else(|| "instructed".to_owned());
    match set.trim().to_lowercase().as_str() {
        mode @ ("native" | "instructed") => Ok(mode.to_owned()),
        _ => Err(BadSetting::ThinkingMode(to_repr(&set.as_str().into()))),
    }
}
