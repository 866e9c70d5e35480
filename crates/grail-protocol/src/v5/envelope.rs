//! The row's own signature, over a challenge that binds nothing: kept because peers check it.
//!
//! A validator verifies the row's text with the row's hotkey, and compares neither with the file's
//! owner, the window or the nonce.

use super::binding::signature_from_hex;
use super::python::json::Value;
use super::python::print::to_str;
use super::wallet;
use crate::ids::Hotkey;

/// A payload that nobody can sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} of the payload must be {expected}; send what a miner sends")]
pub struct BadPayload {
    /// Name of the field.
    pub field: &'static str,
    /// Types that it may have.
    pub expected: &'static str,
}

/// Returns the text that a miner signs: `{seed}|{block_hash}|{nonce}`.
///
/// The seed is `episode_seed` if that key exists, even as null, else `sat_seed`. No miner sets either,
/// so real challenges start with `|`.
///
/// # Errors
/// When `block_hash` is no text, `nonce` neither text nor integer, or the seed a list or object.
pub fn challenge(payload: &Value) -> Result<String, BadPayload> {
    let text = Value::Text("".into());
    let field = |key| payload.get(key).unwrap_or(&text);
    let seed = payload.get("episode_seed").unwrap_or_else(|| field("sat_seed"));
    let bad = |field, expected| BadPayload { field, expected };
    let block_hash = field("block_hash");
    let nonce = field("nonce");
    if !matches!(block_hash, Value::Text(_)) {
        return Err(bad("block_hash", "text"));
    }
    if !matches!(nonce, Value::Text(_) | Value::Integer(_) | Value::Big(_) | Value::Bool(_)) {
        return Err(bad("nonce", "text or an integer"));
    }
    let print = |name, value| to_str(value).ok_or(bad(name, "text or a number"));
    Ok(format!(
        "{}|{}|{}",
        print("seed", seed)?,
        print("block_hash", block_hash)?,
        print("nonce", nonce)?
    ))
}

/// Whether a row's `challenge` is signed by the row's own `hotkey`; missing or empty fields are not.
pub fn is_signed(row: &Value) -> bool {
    let field = |key| row.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (Some(challenge), Some(hotkey), Some(signature)) =
        (field("challenge"), field("hotkey"), field("signature"))
    else {
        return false;
    };
    match (hotkey.parse::<Hotkey>(), signature_from_hex(signature)) {
        (Ok(hotkey), Some(signature)) => wallet::verify_text(hotkey, challenge, &signature),
        _ => false,
    }
}

/// What a row says in its own name.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The text that was signed.
    pub challenge: &'a str,
    /// SS58 address of the signer.
    pub hotkey: &'a str,
    /// Hexadecimal signature.
    pub signature: &'a str,
}

/// Returns the text that an honest miner signs for a row of the window that begins with `block_hash`.
pub fn honest_challenge(block_hash: &str, nonce: i64) -> String {
    format!("|{block_hash}|{nonce}")
}

/// Whether the file's owner signed this very row: its window and nonce, with its own key.
///
/// Stricter than [`is_signed`], which a stranger's key over any text satisfies. Honest miners sign
/// [`honest_challenge`], since none sets a seed.
pub fn is_signed_by_owner(
    envelope: Envelope<'_>,
    owner: Hotkey,
    block_hash: &str,
    nonce: i64,
) -> bool {
    let Envelope { challenge, hotkey, signature } = envelope;
    challenge == honest_challenge(block_hash, nonce)
        && hotkey.parse() == Ok(owner)
        && signature_from_hex(signature)
            .is_some_and(|signature| wallet::verify_text(owner, challenge, &signature))
}
