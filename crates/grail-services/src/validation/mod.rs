//! Validation: from uploaded files to verdicts, validated rollouts and weights.

pub mod calibrations;
mod closing;
pub mod config;
pub mod discovery;
pub mod evidence;
pub mod examine;
pub mod history;
pub mod lifecycle;
pub mod pipeline;
pub mod progress;
pub mod publishing;
pub mod scoring;
pub mod service;
pub mod weights;

use grail_ports::chain::ChainError;
use grail_ports::model::ModelError;
use grail_ports::object_store::StoreError;
use grail_protocol::codec::EncodeError;
use grail_protocol::ids::Window;

use crate::checkpoint::CheckpointError;
use crate::context::RandomnessError;
use crate::state::StateError;

/// What a tick of a validator did.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidationOutcome {
    /// All windows are done; the next one comes.
    Idle,
    /// Something is not there yet, or a part failed on our side; the next tick goes on.
    Waiting(String),
    /// These windows were finished.
    Validated(Vec<Window>),
}

/// Why a tick of a validator failed; the next tick tries again. Never a miner's fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ValidationError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Public randomness failed.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// Our own bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The role's folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The window's checkpoint could not be loaded.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model was asked to stop.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The validated rollouts cannot be written.
    #[error("the validated rollouts cannot be written: {0}; check fewer groups or miners")]
    Encode(#[from] EncodeError),
}
