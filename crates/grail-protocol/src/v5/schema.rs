//! Whether a commit has the fields and types that a validator wants, before anything is computed.
//!
//! The reference checks with pydantic 2 in its lax mode: numeric text and whole floats are integers,
//! and `"yes"` is true. The converted values are thrown away there, and so here: later checks see
//! the originals.

use super::constants::{CHALLENGE_K, MAX_NEW_TOKENS_PROTOCOL_CAP};
use super::python::json::Value;
use super::python::print::to_int;

/// A field that a commit must have, and its faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} of the commit must be {expected}; send what a miner sends")]
pub struct SchemaFault {
    /// Path of the field.
    pub field: &'static str,
    /// What it must be.
    pub expected: &'static str,
}

/// Checks a commit. Unknown keys are ignored.
///
/// # Errors
/// The first field at fault.
pub fn check_commit(commit: &Value) -> Result<(), SchemaFault> {
    let fault = |field, expected| Err(SchemaFault { field, expected });
    let tokens = commit.get("tokens").and_then(Value::as_list).unwrap_or_default();
    if tokens.len() < CHALLENGE_K || tokens.iter().any(|token| lax_int(token).is_none()) {
        return fault("tokens", "a list of at least 32 integers");
    }
    let commitments = commit.get("commitments").and_then(Value::as_list);
    let is_object = |value: &Value| matches!(value, Value::Object(_));
    if !commitments.is_some_and(|all| all.len() == tokens.len() && all.iter().all(is_object)) {
        return fault("commitments", "a list of objects, one per token");
    }
    for field in ["proof_version", "signature"] {
        if !is_text(commit.get(field)) {
            return fault(field, "text");
        }
    }
    let model = commit.get("model");
    if !is_text(model.and_then(|model| model.get("name"))) {
        return fault("model.name", "text");
    }
    if model.and_then(|model| model.get("layer_index")).and_then(lax_int).is_none() {
        return fault("model.layer_index", "an integer");
    }
    let randomness = commit.get("beacon").and_then(|beacon| beacon.get("randomness"));
    if !randomness.and_then(Value::as_str).is_some_and(is_hexadecimal) {
        return fault("beacon.randomness", "hexadecimal digits without a prefix");
    }
    if !is_environment(commit.get("env")) {
        return fault("env", "absent, null, or an id and a seed");
    }
    check_rollout(commit.get("rollout").unwrap_or(&Value::Null), tokens.len())
}

fn check_rollout(rollout: &Value, n_tokens: usize) -> Result<(), SchemaFault> {
    let fault = |field, expected| Err(SchemaFault { field, expected });
    let length = |field| rollout.get(field).and_then(lax_int);
    let Some(prompt @ 0..) = length("prompt_length") else {
        return fault("rollout.prompt_length", "an integer of at least 0");
    };
    let completion = length("completion_length");
    let Some(completion) =
        completion.filter(|length| (1..=i128::from(MAX_NEW_TOKENS_PROTOCOL_CAP)).contains(length))
    else {
        return fault("rollout.completion_length", "an integer of 1 to 8192");
    };
    if usize::try_from(prompt.saturating_add(completion)) != Ok(n_tokens) {
        return fault("rollout", "as long as the tokens: prompt and completion together");
    }
    if !rollout.get("success").is_some_and(is_lax_bool) {
        return fault("rollout.success", "a boolean");
    }
    for field in ["total_reward", "advantage"] {
        if !rollout.get(field).is_some_and(is_lax_float) {
            return fault("rollout", "a number in total_reward and in advantage");
        }
    }
    match rollout.get("token_logprobs") {
        None => Ok(()),
        Some(Value::List(all)) if all.iter().all(is_lax_float) => Ok(()),
        Some(_) => fault("rollout.token_logprobs", "a list of numbers"),
    }
}

/// Names under which a model's config may have the size of its vocabulary.
const VOCAB_NAMES: [&str; 3] = ["vocab_size", "n_vocab", "vocabulary_size"];

/// Names under which it may have its longest sequence, in the order of the search.
const LENGTH_NAMES: [&str; 6] = [
    "max_position_embeddings",
    "max_seq_len",
    "n_positions",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
];

/// Longest sequence of a model that does not say.
const LENGTH_DEFAULT: i128 = 16_384;

/// Whether tokens are in a model's vocabulary and not too many for it, by its `config.json`. A config
/// without a vocabulary size lets any integer pass.
pub fn are_tokens_valid(tokens: &Value, config: &Value) -> bool {
    let positive = |value: Option<&Value>| value.and_then(integer).filter(|&size| size > 0);
    let find = |names: &[&str]| names.iter().find_map(|name| positive(config.get(name)));
    let in_text = || positive(config.get("text_config").and_then(|text| text.get("vocab_size")));
    let vocab_size = find(&VOCAB_NAMES).or_else(in_text);
    let length_max = find(&LENGTH_NAMES).unwrap_or(LENGTH_DEFAULT);

    let tokens = tokens.as_list().unwrap_or_default();
    let in_vocabulary = |token: &Value| {
        integer(token).is_some_and(|token| vocab_size.is_none_or(|size| (0..size).contains(&token)))
    };
    !tokens.is_empty() && tokens.len() as i128 <= length_max && tokens.iter().all(in_vocabulary)
}

/// Integers proper; Python counts booleans among them.
fn integer(value: &Value) -> Option<i128> {
    matches!(value, Value::Bool(_) | Value::Integer(_) | Value::Big(_))
        .then(|| to_int(value).unwrap_or(i128::MAX))
}

fn is_text(value: Option<&Value>) -> bool {
    matches!(value, Some(Value::Text(_)))
}

fn is_hexadecimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_environment(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(env) => is_text(env.get("id")) && env.get("seed").and_then(lax_int).is_some(),
    }
}

/// An integer, a boolean, a whole float of less than 64 bits, or text of an integer, with zeros after a
/// point at most. What is beyond 128 bits counts as the greatest or least.
fn lax_int(value: &Value) -> Option<i128> {
    match value {
        Value::Float(float) if float.fract() == 0.0 && float.abs() < TWO_TO_63 => {
            Some(*float as i128)
        }
        Value::Text(text) => {
            let text = text.as_str()?.trim();
            let whole = match text.split_once('.') {
                Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|b| b == b'0') => {
                    whole
                }
                Some(_) => return None,
                None => text,
            };
            int_of_digits(whole)
        }
        _ => integer(value),
    }
}

const TWO_TO_63: f64 = (1u64 << 63) as f64;

/// Reads digits with single underscores between them. Unlike Python, pydantic knows ASCII digits only.
fn int_of_digits(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = digits.split('_').all(|group| !group.is_empty() && is_digits(group));
    let beyond = if text.starts_with('-') { i128::MIN } else { i128::MAX };
    (is_number && digits.len() <= DIGITS_MAX)
        .then(|| to_int(&Value::Text(text.into())).unwrap_or(beyond))
}

/// Most digits of an integer in text.
const DIGITS_MAX: usize = 4_300;

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Any number, NaN included, or text of one.
fn is_lax_float(value: &Value) -> bool {
    match value {
        Value::Bool(_) | Value::Integer(_) | Value::Big(_) | Value::Float(_) => true,
        Value::Text(text) => text.as_str().is_some_and(|text| {
            let text = text.trim();
            // Pydantic, unlike Python, lets single underscores stand anywhere but at the ends.
            let is_grouped = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
            is_grouped && text.replace('_', "").parse::<f64>().is_ok()
        }),
        _ => false,
    }
}

/// A boolean, 0 or 1, or one of the words for them.
fn is_lax_bool(value: &Value) -> bool {
    match value {
        Value::Bool(_) | Value::Integer(0 | 1) => true,
        Value::Float(float) => *float == 0.0 || *float == 1.0,
        Value::Text(text) => text.as_str().is_some_and(|text| {
            let words = ["0", "1", "f", "t", "n", "y", "no", "yes", "off", "on", "false", "true"];
            words.iter().any(|word| text.eq_ignore_ascii_case(word))
        }),
        _ => false,
    }
}
