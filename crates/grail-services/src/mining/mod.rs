//! Mining: from a window to an uploaded file of proved rollouts.

pub mod adversary;
pub mod ledger;
pub mod lifecycle;
pub mod pace;
pub mod pipeline;
pub mod service;
pub mod time_budget;

use grail_ports::chain::ChainError;
use grail_ports::object_store::StoreError;
use grail_protocol::ids::Window;

use crate::checkpoint::CheckpointError;
use crate::context::RandomnessError;
use crate::mining::pipeline::PipelineError;
use crate::state::StateError;

/// What a tick of a miner did.
#[derive(Clone, Debug, PartialEq)]
pub enum MiningOutcome {
    /// The window is over for this miner; the next one comes.
    Idle,
    /// Something that mining needs is not there yet; the next tick looks again.
    Waiting(String),
    /// The window was given up.
    Skipped {
        /// The window.
        window: Window,
        /// Why, for a person.
        reason: String,
    },
    /// The file is in our bucket.
    Uploaded {
        /// The window.
        window: Window,
        /// Groups in the file.
        groups: u32,
    },
}

/// Why a tick of a miner failed; the next tick tries again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MiningError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// Public randomness failed.
    #[error(transparent)]
    Randomness(#[from] RandomnessError),
    /// A bucket failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The role's folder failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The window's checkpoint could not be loaded.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Generation failed or was stopped.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}
