//! What a commit's signature covers: tokens, randomness, model and sketches, and nothing else.
//!
//! Log-probabilities, reward, advantage, success, group and window are not signed; tokens are hashed
//! modulo 2^32.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::constants::ACCEPTED_PROOF_VERSIONS;
use super::indices::token_hash;
use super::python::json::Value;
use super::python::print::{Keys, to_json};
use super::randomness::{BadRandomness, from_hex, randomness_bytes};
use super::wallet;
use crate::ids::{Hotkey, Signature, TokenId};

const DOMAIN: &[u8] = b"grail-commit-v1";

/// Returns SHA-256 of the commitments as Python prints them, all their keys included.
pub fn commitments_hash(commitments: &Value) -> [u8; 32] {
    Sha256::digest(to_json(commitments, Keys::Sorted)).into()
}

/// Returns [`commitments_hash`] of an honest miner's list: one object with a sketch per token.
pub fn sketches_hash(sketches: &[i64]) -> [u8; 32] {
    let mut json = String::with_capacity(2 + 22 * sketches.len());
    json.push('[');
    for (position, sketch) in sketches.iter().enumerate() {
        let comma = if position > 0 { "," } else { "" };
        write!(json, "{comma}{{\"sketch\":{sketch}}}").expect("writing to a string cannot fail");
    }
    json.push(']');
    Sha256::digest(json).into()
}

/// Returns the 32 bytes that the miner signs.
///
/// - `randomness`: the commit's own, hexadecimal, may be empty.
/// - `model_name`: a missing name counts as an empty one.
/// - `layer_index`: see [`super::python::print::to_int`] for what JSON may hold instead.
///
/// # Errors
/// When the randomness is not hexadecimal.
pub fn commit_binding(
    tokens: &[TokenId],
    randomness: &str,
    model_name: &str,
    layer_index: i32,
    commitments_hash: &[u8; 32],
) -> Result<[u8; 32], BadRandomness> {
    let randomness = randomness_bytes(randomness)?;
    let mut hash = Sha256::new_with_prefix(DOMAIN);
    let parts: [&[u8]; 5] = [
        &token_hash(tokens),
        &randomness,
        model_name.as_bytes(),
        &layer_index.to_be_bytes(),
        commitments_hash,
    ];
    for part in parts {
        let length = u32::try_from(part.len()).expect("no part of a commit has 4 GiB");
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    Ok(hash.finalize().into())
}

/// Whether `signature_hex` is the file owner's over the binding, under a version that is accepted.
pub fn verify_commit(
    owner: Hotkey,
    proof_version: &str,
    binding: &[u8; 32],
    signature_hex: &str,
) -> bool {
    ACCEPTED_PROOF_VERSIONS.contains(&proof_version)
        && signature_from_hex(signature_hex)
            .is_some_and(|signature| wallet::verify(owner, binding, &signature))
}

/// Reads a signature by CPython's hexadecimal rules: any case, no prefix, 64 bytes.
pub(super) fn signature_from_hex(text: &str) -> Option<Signature> {
    from_hex(text).ok()?.try_into().ok().map(Signature)
}
