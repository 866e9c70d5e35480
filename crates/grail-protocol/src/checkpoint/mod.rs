//! What a checkpoint is: its files, their digest, and the metadata that the trainer signs.

pub mod delta;
mod manifest;
mod metadata;
mod protocol;
pub mod reference;
pub mod retention;
pub mod tensors;
mod weights_hash;
mod whitening;

use std::collections::BTreeMap;

pub use manifest::{CheckpointError, SignedFiles, SignedMetadata, open_metadata, sign_metadata};
pub use metadata::{CheckpointMetadata, CheckpointType, DeltaRecord, GenerationParams};
pub use protocol::{Protocol, Published, Unsigned};
pub use reference::ReferenceMetadata;
pub use weights_hash::{NotAWeightsHash, WeightsHash, WeightsHasher};

pub use whitening::{UnusableRecord, WhiteningRecord};

use crate::domain::DomainHash;
use crate::ids::Digest;

/// The file that training changes.
pub const WEIGHTS_FILE: &str = "model.safetensors";

/// The file of a native delta.
pub const DELTA_FILE: &str = "delta.grail";

/// The files that make a checkpoint, sorted. Nothing else changes what a model computes.
pub const CHECKPOINT_FILES: [&str; 4] =
    ["config.json", WEIGHTS_FILE, "tokenizer.json", "tokenizer_config.json"];

/// Returns the digest that names a checkpoint, from the SHA-256 of each file by name.
///
/// Only [`CHECKPOINT_FILES`] count, in their order, those that are present; other files in the map
/// (metadata, a README) change nothing.
pub fn checkpoint_digest(files: &BTreeMap<String, Digest>) -> Digest {
    CHECKPOINT_FILES
        .into_iter()
        .filter_map(|name| files.get(name).map(|digest| (name, digest)))
        .fold(DomainHash::new("checkpoint"), |hash, (name, digest)| hash.text(name).digest(digest))
        .finish()
}

/// Returns the digest of what all checkpoints of a training share: every file but the weights.
///
/// [Calibrations](crate::calibration) name it. Files as in [`checkpoint_digest`].
pub fn model_identity(files: &BTreeMap<String, Digest>) -> Digest {
    CHECKPOINT_FILES
        .into_iter()
        .filter(|name| *name != WEIGHTS_FILE)
        .filter_map(|name| files.get(name).map(|digest| (name, digest)))
        .fold(DomainHash::new("model"), |hash, (name, digest)| hash.text(name).digest(digest))
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> BTreeMap<String, Digest> {
        names.iter().map(|name| ((*name).to_owned(), Digest::of(name.as_bytes()))).collect()
    }

    #[test]
    fn the_digest_is_the_documented_hash() {
        let mut bytes = b"grail/v6/checkpoint\0".to_vec();
        for name in CHECKPOINT_FILES {
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&Digest::of(name.as_bytes()).0);
        }
        assert_eq!(checkpoint_digest(&files(&CHECKPOINT_FILES)), Digest::of(&bytes));
    }

    #[test]
    fn only_the_files_of_a_checkpoint_count() {
        let plain = checkpoint_digest(&files(&CHECKPOINT_FILES));
        let mut more = files(&CHECKPOINT_FILES);
        more.insert("metadata.json".to_owned(), Digest([0; 32]));
        assert_eq!(checkpoint_digest(&more), plain);
        more.insert("config.json".to_owned(), Digest([0; 32]));
        assert_ne!(checkpoint_digest(&more), plain);
        assert_ne!(checkpoint_digest(&files(&CHECKPOINT_FILES[..3])), plain);
    }

    #[test]
    fn a_model_is_the_same_whatever_its_weights() {
        let before = model_identity(&files(&CHECKPOINT_FILES));
        let with = |name: &str| {
            let mut files = files(&CHECKPOINT_FILES);
            files.insert(name.to_owned(), Digest([0; 32]));
            model_identity(&files)
        };
        assert_eq!(with(WEIGHTS_FILE), before);
        assert_eq!(with("README.md"), before);
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            assert_ne!(with(name), before, "{name}");
        }
    }

    #[test]
    fn the_names_are_sorted() {
        assert!(CHECKPOINT_FILES.is_sorted());
    }
}
