//! Checkpoints as miners and validators use them: chosen, verified, cached, loaded.

pub mod cache;
pub mod consumer;
pub(crate) mod download;
mod fetch;
pub mod reference;
mod sources;
mod sparse;
pub mod weights;
pub mod whitening;

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::chain::ChainError;
use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelError};
use grail_ports::object_store::StoreError;
use grail_protocol::checkpoint as protocol;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::ids::{Digest, Hotkey, Netuid, Uid, Window};
use grail_protocol::rollout::{EnvironmentFingerprint, FileHeader};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::sketch::Whitening;

use crate::state::StateError;

/// A verified checkpoint in memory, with the environment and sampling that it asks for.
#[derive(Clone)]
pub struct LoadedCheckpoint {
    /// Window that names the checkpoint.
    pub window: Window,
    /// The model.
    pub model: Arc<dyn Model>,
    /// The environment.
    pub environment: Arc<dyn Environment>,
    /// What files must say of the environment.
    pub fingerprint: EnvironmentFingerprint,
    /// How tokens are chosen.
    pub sampler: SamplerParams,
    /// What sketches are whitened with; without it only exact engines can mine.
    pub whitening: Option<Arc<Whitening>>,
    /// [`model_identity`](grail_protocol::checkpoint::model_identity) of the files.
    pub identity: Digest,
    /// Folder with the files.
    pub dir: PathBuf,
}

impl LoadedCheckpoint {
    /// Returns the digest that names the content.
    pub fn digest(&self) -> Digest {
        self.model.info().checkpoint_digest
    }

    /// Returns the header that an honest file of `hotkey` has.
    pub fn header(
        &self,
        network: &str,
        netuid: Netuid,
        window: Window,
        hotkey: Hotkey,
    ) -> FileHeader {
        let info = self.model.info();
        FileHeader {
            network: network.to_owned(),
            netuid,
            window,
            hotkey,
            checkpoint: info.checkpoint_digest,
            environment: self.fingerprint.clone(),
            sampler: self.sampler,
            tokenizer: info.tokenizer_digest,
            numerics: info.numerics.clone(),
            rollouts_per_group: ROLLOUTS_PER_GROUP,
        }
    }
}

impl CheckpointError {
    /// Returns what to say while the checkpoint to use is of another profile than this node's: then
    /// the node waits.
    pub fn other_protocol(&self) -> Option<String> {
        match self {
            Self::Metadata(
                protocol::CheckpointError::OtherProtocol { .. }
                | protocol::CheckpointError::UnknownProtocol(_),
            ) => Some(self.to_string()),
            _ => None,
        }
    }
}

/// Why the checkpoint for a window cannot be used now. What was loaded before stays.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckpointError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The trainer's bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody has the trainer's uid, or it has committed no bucket.
    #[error("uid {0} has no readable bucket; the trainer must register and commit credentials")]
    NoTrainer(Uid),
    /// A file of a checkpoint that is marked ready is not there.
    #[error("checkpoint {checkpoint} has no {file} though it is marked ready; it is asked again")]
    Missing {
        /// The checkpoint.
        checkpoint: Window,
        /// The file.
        file: String,
    },
    /// A file is not the one that the trainer signed.
    #[error(
        "{file} of checkpoint {checkpoint} has SHA-256 {found}, the trainer signed {expected}; it \
         is asked again"
    )]
    Damaged {
        /// The checkpoint.
        checkpoint: Window,
        /// The file.
        file: String,
        /// Digest that the trainer signed.
        expected: Digest,
        /// Digest of what came.
        found: Digest,
    },
    /// A delta cannot be applied.
    #[error("checkpoint {checkpoint} cannot be made of its base: {error}")]
    Delta {
        /// The checkpoint.
        checkpoint: Window,
        /// Why.
        error: weights::WeightsError,
    },
    /// The metadata is not the trainer's, or asks for what cannot be done.
    #[error(transparent)]
    Metadata(#[from] protocol::CheckpointError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment cannot be made.
    #[error("checkpoint {checkpoint} asks for an environment that cannot be made: {reason}")]
    Environment {
        /// The checkpoint.
        checkpoint: Window,
        /// Why.
        reason: String,
    },
    /// The loaded model disagrees with the signed metadata.
    #[error(
        "checkpoint {checkpoint} was published for {what} {expected}, this program has {found}"
    )]
    Disagrees {
        /// The checkpoint.
        checkpoint: Window,
        /// What differs.
        what: &'static str,
        /// What the metadata says.
        expected: String,
        /// What the model says.
        found: String,
    },
}
