//! The trainer's signature over a checkpoint's metadata: made by one, verified by everybody.

use serde_json::Value;

use super::metadata::CheckpointMetadata;
use crate::canonical_json::canonical_json;
use crate::constants::CHECKPOINT_METADATA_BYTES_MAX;
use crate::ids::{Hotkey, Signature, Window};
use crate::prover::Sign;
use crate::signature::{self, BadSignature};

/// The two small files that the trainer publishes with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedMetadata {
    /// Content of `metadata.json`.
    pub metadata_json: String,
    /// Content of `manifest.sig`.
    pub manifest_sig: String,
}

/// The same two files as a reader finds them.
#[derive(Clone, Copy, Debug)]
pub struct SignedFiles<'a> {
    /// Content of `metadata.json`.
    pub metadata: &'a [u8],
    /// Content of `manifest.sig`, if there is one.
    pub signature: Option<&'a [u8]>,
}

/// Why a checkpoint's metadata cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckpointError {
    /// More bytes than metadata ever has.
    #[error("metadata.json has {0} bytes, more than the {CHECKPOINT_METADATA_BYTES_MAX} allowed")]
    TooLarge(u64),
    /// The bytes are no such JSON.
    #[error("metadata.json cannot be read: {0}; the trainer must publish the checkpoint again")]
    Malformed(String),
    /// `manifest.sig` holds no signature.
    #[error("manifest.sig is not 128 hexadecimal digits; the trainer must publish it again")]
    NotASignature,
    /// There is no `manifest.sig`.
    #[error(
        "the checkpoint has no manifest.sig, so anybody may have made it; wait for it, or allow \
         unsigned checkpoints if the trainer's program does not sign"
    )]
    Unsigned,
    /// The metadata asks for a protocol of another program.
    #[error(
        "the checkpoint asks for protocol {0}, which this program does not speak; it waits: update \
         it, or wait for another checkpoint"
    )]
    UnknownProtocol(String),
    /// The metadata asks for a protocol that this node is not set up for.
    #[error(
        "the checkpoint asks for protocol {found}, this node is set up for {expected}; it waits: set \
         protocol to {found}, or wait for another checkpoint"
    )]
    OtherProtocol {
        /// What the node speaks.
        expected: &'static str,
        /// What the checkpoint asks for.
        found: &'static str,
    },
    /// Somebody else made or changed the metadata.
    #[error("the checkpoint is not the trainer's: {0}")]
    BadSignature(#[from] BadSignature),
    /// Valid metadata of another checkpoint stands in this one's place.
    #[error("the metadata is that of checkpoint {found}, expected {expected}; it was moved")]
    WrongWindow {
        /// Window that was asked for.
        expected: Window,
        /// Window in the metadata.
        found: Window,
    },
    /// The trainer published something that cannot be used.
    #[error("the checkpoint cannot be used: {}; the trainer must publish another", .0.join("; "))]
    Invalid(Vec<String>),
}

/// Returns the two files for `metadata`; `sign` must use the trainer's secret key.
///
/// # Errors
/// [`CheckpointError::Invalid`] when peers would refuse the checkpoint, or
/// [`CheckpointError::TooLarge`].
pub fn sign_metadata(
    metadata: &CheckpointMetadata,
    sign: &Sign<'_>,
) -> Result<SignedMetadata, CheckpointError> {
    refuse_invalid(metadata)?;
    let malformed = |error: serde_json::Error| CheckpointError::Malformed(error.to_string());
    let value = serde_json::to_value(metadata).map_err(malformed)?;
    let metadata_json = serde_json::to_string_pretty(&value).map_err(malformed)?;
    refuse_large(metadata_json.as_bytes())?;
    let signature = sign(canonical_json(&value).as_bytes());
    Ok(SignedMetadata { metadata_json, manifest_sig: signature.into() })
}

/// Reads and verifies the metadata of the checkpoint `window`, signed by `trainer`.
///
/// # Errors
/// When it is not the trainer's own, whole, and usable.
pub fn open_metadata(
    metadata_json: &[u8],
    manifest_sig: &[u8],
    trainer: Hotkey,
    window: Window,
) -> Result<CheckpointMetadata, CheckpointError> {
    refuse_large(metadata_json)?;
    let malformed = |error: serde_json::Error| CheckpointError::Malformed(error.to_string());
    let value: Value = serde_json::from_slice(metadata_json).map_err(malformed)?;
    let signature = parse_signature(manifest_sig)?;
    // Fields that this version does not know are covered too.
    signature::verify(trainer, canonical_json(&value).as_bytes(), &signature)?;
    let metadata: CheckpointMetadata = serde_json::from_value(value).map_err(malformed)?;
    if metadata.window != window {
        return Err(CheckpointError::WrongWindow { expected: window, found: metadata.window });
    }
    refuse_invalid(&metadata)?;
    Ok(metadata)
}

fn parse_signature(bytes: &[u8]) -> Result<Signature, CheckpointError> {
    let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::NotASignature)?;
    Signature::try_from(text.trim_ascii().to_owned()).map_err(|_| CheckpointError::NotASignature)
}

fn refuse_large(bytes: &[u8]) -> Result<(), CheckpointError> {
    match bytes.len() as u64 {
        size if size > CHECKPOINT_METADATA_BYTES_MAX => Err(CheckpointError::TooLarge(size)),
        _ => Ok(()),
    }
}

fn refuse_invalid(metadata: &CheckpointMetadata) -> Result<(), CheckpointError> {
    match metadata.validate() {
        complaints if complaints.is_empty() => Ok(()),
        complaints => Err(CheckpointError::Invalid(complaints)),
    }
}
