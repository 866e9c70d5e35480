//! What the lifecycle needs of a role, and how a role fails.

use async_trait::async_trait;
use grail_ports::chain::{Block, ChainError};
use grail_ports::model::ModelError;
use grail_services::context::RunContext;
use grail_services::mining::MiningError;
use grail_services::mining::pipeline::PipelineError;
use grail_services::peers::AnnounceError;
use grail_services::training::TrainingError;
use grail_services::validation::ValidationError;

/// What a tick did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing was left to do.
    Idle,
    /// Something is not there yet, for a person; the next tick looks again.
    Waiting(String),
    /// Something was done, for a person.
    Done(String),
}

/// A role with its service.
#[async_trait]
pub trait Neuron: Send + 'static {
    /// Returns the role, such as `miner`.
    fn role(&self) -> &'static str;

    /// Returns the ports, the stop flag and the heartbeat of the role.
    fn context(&self) -> &RunContext;

    /// Prepares the role: registration, credentials. Called until it succeeds.
    ///
    /// # Errors
    /// [`NeuronError::is_final`] tells whether calling again can help.
    async fn start(&mut self) -> Result<(), NeuronError>;

    /// Returns what a person should look at although the role goes on, if there is anything.
    fn alarm(&self) -> Option<&str> {
        None
    }

    /// Does what is to be done at `head`. Called again with the same head after an error.
    async fn tick(&mut self, head: Block) -> Result<Tick, NeuronError>;
}

/// Why a start or a tick failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NeuronError {
    /// The role cannot take part.
    #[error(transparent)]
    Announce(#[from] AnnounceError),
    /// Mining failed.
    #[error(transparent)]
    Mining(#[from] MiningError),
    /// Validation failed.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// Training failed.
    #[error(transparent)]
    Training(#[from] TrainingError),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

impl NeuronError {
    /// Returns whether trying again cannot help: a person must act.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Announce(error) => !matches!(error, AnnounceError::Chain(_)),
            Self::Mining(MiningError::State(_))
            | Self::Validation(ValidationError::State(_))
            | Self::Training(TrainingError::State(_)) => true,
            Self::Training(error) => matches!(
                error,
                TrainingError::NotTheTrainer { .. } | TrainingError::BuildGone { .. }
            ),
            _ => false,
        }
    }

    /// Returns whether the work ended because it was asked to.
    pub fn is_stop(&self) -> bool {
        matches!(
            self,
            Self::Mining(MiningError::Pipeline(PipelineError::Model(ModelError::Stopped)))
                | Self::Validation(ValidationError::Model(ModelError::Stopped))
                | Self::Training(TrainingError::Model(ModelError::Stopped))
        )
    }
}
