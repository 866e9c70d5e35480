//! Training: from validated rollouts to the next checkpoint.

pub mod advantages;
pub mod batching;
pub mod config;
pub mod diloco;
pub mod evaluation;
pub mod evaluation_plan;
pub mod groups;
pub mod grpo;
pub mod native;
mod outbox;
pub mod passk;
pub mod pipeline;
pub mod profile;
pub mod publisher;
pub mod replay;
pub mod rollouts;
pub mod schedule;
pub mod service;
pub mod sft;
pub mod sft_state;
pub mod trust;
pub mod workshop;

use grail_ports::chain::ChainError;
use grail_ports::model::{ModelError, OptimizerConfig};
use grail_ports::object_store::StoreError;
use grail_protocol::checkpoint as protocol;
use grail_protocol::ids::{Hotkey, Uid, Window};

use crate::checkpoint::CheckpointError;
use crate::checkpoint::weights::WeightsError;
use crate::state::StateError;

/// What a tick of a trainer did.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainingOutcome {
    /// The window's checkpoint is published; the next one comes.
    Idle,
    /// Something is not there yet; the next tick looks again.
    Waiting(String),
    /// A checkpoint was published.
    Published(Window),
}

/// Why a tick of a trainer failed; the next tick goes on from the last saved state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TrainingError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The role's folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The model failed or was stopped.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The checkpoint to go on from could not be loaded.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoint's metadata would be refused by peers.
    #[error(transparent)]
    Metadata(#[from] protocol::CheckpointError),
    /// The weights of a built checkpoint cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The environment cannot be published.
    #[error("the environment's parameters are not JSON: {0}; report this")]
    Environment(String),
    /// Peers take checkpoints from one uid alone.
    #[error("hotkey {ours} does not have uid {uid}; only its owner can publish checkpoints")]
    NotTheTrainer {
        /// Our hotkey.
        ours: Hotkey,
        /// The trainer's uid.
        uid: Uid,
    },
    /// What was uploaded does not read back.
    #[error("{key} reads back changed after its upload; it is uploaded again")]
    UploadDamaged {
        /// Key of the object.
        key: String,
    },
    /// A file of a built checkpoint is gone from the disk.
    #[error("{file} of checkpoint {checkpoint} is gone; restore the trainer's folder or empty it")]
    BuildGone {
        /// The checkpoint.
        checkpoint: Window,
        /// The file.
        file: String,
    },
}

/// Returns AdamW as the reference sets it, with a learning rate for small models.
///
/// Source: `spec/trainer.md`, optimiser.
pub fn default_optimizer() -> OptimizerConfig {
    OptimizerConfig {
        lr: 1e-5,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_clip: 0.5,
    }
}
