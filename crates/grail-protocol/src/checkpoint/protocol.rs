//! Which protocol a checkpoint asks for: what it says decides, so it is looked at first.

use super::CheckpointError;
use super::reference::ReferenceMetadata;
use super::{CheckpointMetadata, SignedFiles, open_metadata};
use crate::constants::{CHECKPOINT_METADATA_BYTES_MAX, PROTOCOL_NAME};
use crate::ids::{Hotkey, Window};
use crate::v5::python::json::{self, Value};

/// A protocol that this program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The reference's, which says nothing of itself in its metadata.
    V5,
    /// This project's own.
    V6,
}

impl Protocol {
    /// Returns the name in settings and in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5",
            Self::V6 => PROTOCOL_NAME,
        }
    }

    /// Reads the field `protocol` of metadata; the reference has none.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownProtocol`] for any other text or type.
    pub fn of(metadata: &Value) -> Result<Self, CheckpointError> {
        let known = [Self::V5, Self::V6];
        match metadata.get("protocol") {
            None => Ok(Self::V5),
            Some(field) => {
                let found = known.into_iter().find(|known| field.as_str() == Some(known.name()));
                found.ok_or_else(|| {
                    let shown = crate::v5::python::print::to_repr(field);
                    CheckpointError::UnknownProtocol(shown.chars().take(64).collect())
                })
            }
        }
    }
}

/// What to do when a reference checkpoint has no `manifest.sig`. A wrong one is always refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsigned {
    /// Refuse: every publisher of the reference since 0.0.60 signs, and whoever may tolerate a
    /// missing signature tolerates that a thief of the bucket removed it.
    #[default]
    Refuse,
    /// Tolerate: for a trainer whose program does not sign.
    Tolerate,
}

/// Verified metadata of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Published {
    /// The reference's.
    V5(Box<ReferenceMetadata>),
    /// Ours.
    V6(Box<CheckpointMetadata>),
}

impl Published {
    /// Reads and verifies the metadata of the checkpoint `window`, signed by `trainer`, of whichever
    /// protocol it is.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownProtocol`] when a newer program is needed, others as
    /// [`open_metadata`] and [`ReferenceMetadata::open`].
    pub fn open(
        files: &SignedFiles<'_>,
        trainer: Hotkey,
        window: Window,
        unsigned: Unsigned,
    ) -> Result<Self, CheckpointError> {
        let size = files.metadata.len() as u64;
        if size > CHECKPOINT_METADATA_BYTES_MAX {
            return Err(CheckpointError::TooLarge(size));
        }
        let text = std::str::from_utf8(files.metadata)
            .map_err(|error| CheckpointError::Malformed(error.to_string()))?;
        let value =
            json::parse(text).map_err(|error| CheckpointError::Malformed(error.to_string()))?;
        match Protocol::of(&value)? {
            Protocol::V5 => {
                ReferenceMetadata::open(&value, files.signature, trainer, window, unsigned)
                    .map(|metadata| Self::V5(Box::new(metadata)))
            }
            Protocol::V6 => {
                let signature = files.signature.ok_or(CheckpointError::NotASignature)?;
                open_metadata(files.metadata, signature, trainer, window)
                    .map(|metadata| Self::V6(Box::new(metadata)))
            }
        }
    }

    /// Returns which protocol it is.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::V5(_) => Protocol::V5,
            Self::V6(_) => Protocol::V6,
        }
    }
}
