//! The digest by which copied completions are found.

use sha2::{Digest as _, Sha256};

use super::python::json::Value;
use super::python::print::{Keys, to_int, to_json};

/// Returns the digest of a completion, or `None` for rows that the copycat check ignores.
///
/// - `tokens`: the whole sequence as the row has it. No list, or an empty one, has no digest.
/// - `prompt_length`: as the row has it; missing, or no integer after `int()`, counts as 0. A negative
///   one counts from the end, as in Python.
pub fn completion_digest(tokens: &Value, prompt_length: Option<&Value>) -> Option<[u8; 32]> {
    let tokens = tokens.as_list().filter(|tokens| !tokens.is_empty())?;
    let start = slice_start(tokens.len(), prompt_length.and_then(to_int).unwrap_or(0));
    let completion = Value::List(tokens[start..].to_vec());
    Some(Sha256::digest(to_json(&completion, Keys::AsInserted)).into())
}

/// Where Python's `tokens[start:]` starts.
pub(super) fn slice_start(length: usize, start: i128) -> usize {
    let signed = i128::try_from(length).expect("a length fits 128 bits");
    let start = if start < 0 { (start + signed).max(0) } else { start.min(signed) };
    usize::try_from(start).expect("cut to the length")
}
