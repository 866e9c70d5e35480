//! Turns published `generation_params` into settings of a sampler, as the reference's miner does.
//!
//! Values are converted as Python converts them (`int("12")`, `float("0.5")`, `int(3.9)`), and the
//! complaints are the reference's, so that logs of both can be compared.

use super::GENERATION_KEYS;
use crate::v5::python::json::Value;
use crate::v5::python::print::{to_float, to_int, to_repr, to_str};

/// Most tokens of a completion, whatever is published.
pub const NEW_TOKENS_MAX: u32 = 8_192;

/// How a miner of v5 samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Most tokens of a completion, 1 to [`NEW_TOKENS_MAX`].
    pub max_new_tokens: u32,
    /// Divides the logits, 0.01 to 2.
    pub temperature: f64,
    /// Mass of the most likely tokens that is kept, 0 to 1.
    pub top_p: f64,
    /// Number of the most likely tokens that are kept, 1 to 1,000; nothing is cut without it.
    pub top_k: Option<u32>,
    /// Divides or multiplies the logits of tokens that are there already, 1 to 2.
    pub repetition_penalty: f64,
}

/// Why a miner cannot sample with what was published; the texts are the reference's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnusableParams {
    /// No dictionary, or one without `max_tokens`.
    #[error(
        "Checkpoint metadata is missing 'max_tokens' in generation_params; cannot drive miner \
         without it."
    )]
    NoMaxTokens,
    /// Another key is missing.
    #[error(
        "Checkpoint metadata generation_params is missing required field '{0}'; trainer publisher \
         must emit all of {{max_tokens, temperature, top_p, top_k, repetition_penalty}}."
    )]
    Missing(&'static str),
    /// A value that Python cannot convert.
    #[error("Checkpoint metadata generation_params.{key} must be {kind}; got {found}")]
    WrongType {
        /// The key.
        key: &'static str,
        /// `an int` or `a float`.
        kind: &'static str,
        /// The value, as Python shows it.
        found: String,
    },
    /// A value outside its range.
    #[error("Checkpoint metadata generation_params.{key} must be {range}; got {found}")]
    OutOfRange {
        /// The key.
        key: &'static str,
        /// What is allowed.
        range: &'static str,
        /// The value.
        found: String,
    },
}

impl SamplingParams {
    /// Reads `generation_params`.
    ///
    /// # Errors
    /// [`UnusableParams`], of several the one that the reference would find first.
    pub fn read(published: &Value) -> Result<Self, UnusableParams> {
        if published.get("max_tokens").is_none() {
            return Err(UnusableParams::NoMaxTokens);
        }
        let max_tokens = integer(published, "max_tokens")?;
        if max_tokens <= 0 {
            let (range, found) = ("> 0", max_tokens.to_string());
            return Err(UnusableParams::OutOfRange { key: "max_tokens", range, found });
        }
        let missing = GENERATION_KEYS.into_iter().find(|key| published.get(key).is_none());
        if let Some(key) = missing {
            return Err(UnusableParams::Missing(key));
        }
        let temperature = float(published, "temperature", 0.01..=2.0, "in [0.01, 2.0]")?;
        let top_p = float(published, "top_p", 0.0..=1.0, "in [0.0, 1.0]")?;
        let top_k = integer(published, "top_k")?;
        let Some(top_k) = u32::try_from(top_k).ok().filter(|top_k| *top_k <= 1_000) else {
            let (range, found) = ("in [0, 1000]", top_k.to_string());
            return Err(UnusableParams::OutOfRange { key: "top_k", range, found });
        };
        let penalty = float(published, "repetition_penalty", 1.0..=2.0, "in [1.0, 2.0]")?;
        Ok(Self {
            max_new_tokens: u32::try_from(max_tokens).unwrap_or(u32::MAX).min(NEW_TOKENS_MAX),
            temperature,
            top_p,
            top_k: (top_k > 0).then_some(top_k),
            repetition_penalty: penalty,
        })
    }
}

fn integer(published: &Value, key: &'static str) -> Result<i128, UnusableParams> {
    let value = published.get(key).unwrap_or(&Value::Null);
    to_int(value).ok_or_else(|| UnusableParams::WrongType {
        key,
        kind: "an int",
        found: to_repr(value),
    })
}

fn float(
    published: &Value,
    key: &'static str,
    allowed: std::ops::RangeInclusive<f64>,
    range: &'static str,
) -> Result<f64, UnusableParams> {
    let value = published.get(key).unwrap_or(&Value::Null);
    let float = to_float(value).ok_or_else(|| UnusableParams::WrongType {
        key,
        kind: "a float",
        found: to_repr(value),
    })?;
    if allowed.contains(&float) {
        return Ok(float);
    }
    let found = to_str(&Value::Float(float)).unwrap_or_default();
    Err(UnusableParams::OutOfRange { key, range, found })
}
