//! The options that both routes of OpenAI's API have.

use grail_ports::model::Sampling;
use serde_json::Value;

use super::app::App;
use super::error::{Answer, ApiError};
use super::fields::Fields;
use super::job::Races;
use super::limits::CHOICES_MAX;
use super::params::{self, is_empty, is_number};
use crate::inference::seed;

/// What both routes read alike.
pub struct Common {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// From the request's seed, or from a random one.
    pub races: Races,
    /// Choices of each prompt.
    pub n: usize,
    /// Texts that end a choice.
    pub stops: Vec<String>,
    /// Whether to answer as it comes.
    pub stream: bool,
    /// Whether a stream ends with what was used.
    pub include_usage: bool,
}

/// Takes them, and what only may say what happens anyway.
pub fn common(app: &App, fields: &mut Fields) -> Answer<Common> {
    params::model(fields, app)?;
    let sampling = params::sampling(fields)?;
    let races = Races::Seed(seed_or_random(params::seed(fields, "seed")?)?);
    let n = fields.integer("n", 1, CHOICES_MAX as u64)?.unwrap_or(1);
    let n = usize::try_from(n).unwrap_or(CHOICES_MAX);
    let stops = params::stops(fields)?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(_) if !stream => {
            let message = "`stream_options` is for streams; set `stream` to true or leave it out";
            return Err(ApiError::field("stream_options", message));
        }
        Some(value) => stream_options(value)?,
    };
    for name in ["frequency_penalty", "presence_penalty"] {
        fields.neutral(name, is_number(0.0))?;
    }
    // What OpenAI does with these is nothing that changes an answer.
    for name in ["user", "metadata", "safety_identifier", "prompt_cache_key"] {
        fields.take(name);
    }
    fields.neutral("store", |value| value == &Value::Bool(false))?;
    Ok(Common { sampling, races, n, stops, stream, include_usage })
}

/// Returns the seed, or one that nobody can guess.
pub fn seed_or_random(seed: Option<u64>) -> Answer<u64> {
    match seed {
        Some(seed) => Ok(seed),
        None => seed::random().map_err(|error| ApiError::internal(error.to_string())),
    }
}

fn stream_options(value: Value) -> Answer<bool> {
    let mut fields = Fields::within("stream_options.", value)?;
    let include_usage = fields.flag("include_usage")?.unwrap_or(false);
    fields.neutral("include_obfuscation", |value| value == &Value::Bool(false))?;
    fields.end()?;
    Ok(include_usage)
}

/// Refuses what a chat or completion may ask of other servers only.
pub fn refuse_tools(fields: &mut Fields) -> Answer<()> {
    for name in ["tools", "functions", "logit_bias"] {
        fields.neutral(name, is_empty)?;
    }
    for name in ["tool_choice", "function_call"] {
        fields.neutral(name, |value| matches!(value.as_str(), Some("none" | "auto")))?;
    }
    fields.neutral("parallel_tool_calls", Value::is_boolean)?;
    fields.neutral("response_format", |value| value["type"] == "text")?;
    fields.neutral("modalities", |value| value == &serde_json::json!(["text"]))?;
    fields.neutral("service_tier", |value| matches!(value.as_str(), Some("auto" | "default")))?;
    Ok(())
}
