//! The roles: each a service with a name.

use async_trait::async_trait;
use grail_ports::chain::Block;
use grail_services::context::RunContext;
use grail_services::mining::MiningOutcome;
use grail_services::mining::adversary::Adversary;
use grail_services::mining::service::MiningService;
use grail_services::peers::announce;
use grail_services::training::TrainingOutcome;
use grail_services::training::service::TrainingService;
use grail_services::v5::mining::ReferenceMining;
use grail_services::v5::mining::adversary::ReferenceAdversary;
use grail_services::v5::training::ReferenceTraining;
use grail_services::v5::validation::ReferenceValidation;
use grail_services::validation::ValidationOutcome;
use grail_services::validation::service::ValidationService;

use crate::neuron::{Neuron, NeuronError, Tick};

/// Mines honestly.
pub struct MinerNeuron {
    ctx: RunContext,
    service: MiningService,
}

/// Mines dishonestly; for test networks.
pub struct CheaterNeuron {
    ctx: RunContext,
    service: Adversary,
}

/// Validates and sets weights.
pub struct ValidatorNeuron {
    ctx: RunContext,
    service: ValidationService,
}

/// Trains and publishes checkpoints.
pub struct TrainerNeuron {
    ctx: RunContext,
    service: TrainingService,
}

/// Mines honestly in the reference's profile.
pub struct ReferenceMinerNeuron {
    ctx: RunContext,
    service: ReferenceMining,
}

/// Mines dishonestly in the reference's profile; for test networks.
pub struct ReferenceCheaterNeuron {
    ctx: RunContext,
    service: ReferenceAdversary,
}

/// Validates and sets weights in the reference's profile.
pub struct ReferenceValidatorNeuron {
    ctx: RunContext,
    service: ReferenceValidation,
}

/// Trains and publishes checkpoints in the reference's profile.
pub struct ReferenceTrainerNeuron {
    ctx: RunContext,
    service: ReferenceTraining,
}

macro_rules! role {
    ($neuron:ident, $service:ty, $role:literal $(, $alarm:ident)?) => {
        impl $neuron {
            /// Wraps the service; `ctx` is the one that the service was made with.
            pub fn new(ctx: RunContext, service: $service) -> Self {
                Self { ctx, service }
            }
        }

        #[async_trait]
        impl Neuron for $neuron {
            fn role(&self) -> &'static str {
                $role
            }

            fn context(&self) -> &RunContext {
                &self.ctx
            }

            $(
                fn alarm(&self) -> Option<&str> {
                    self.service.$alarm()
                }
            )?

            async fn start(&mut self) -> Result<(), NeuronError> {
                Ok(announce(&self.ctx).await?)
            }

            async fn tick(&mut self, head: Block) -> Result<Tick, NeuronError> {
                Ok(self.service.tick(head).await?.into())
            }
        }
    };
}

role!(MinerNeuron, MiningService, "miner");
role!(CheaterNeuron, Adversary, "cheater");
role!(ValidatorNeuron, ValidationService, "validator", alarm);
role!(TrainerNeuron, TrainingService, "trainer");
role!(ReferenceMinerNeuron, ReferenceMining, "miner");
role!(ReferenceCheaterNeuron, ReferenceAdversary, "cheater");
role!(ReferenceValidatorNeuron, ReferenceValidation, "validator", alarm);
role!(ReferenceTrainerNeuron, ReferenceTraining, "trainer");

impl From<MiningOutcome> for Tick {
    fn from(outcome: MiningOutcome) -> Self {
        match outcome {
            MiningOutcome::Idle => Self::Idle,
            MiningOutcome::Waiting(reason) => Self::Waiting(reason),
            MiningOutcome::Skipped { window, reason } => {
                Self::Done(format!("skipped window {window}: {reason}"))
            }
            MiningOutcome::Uploaded { window, groups } => {
                Self::Done(format!("uploaded {groups} groups of window {window}"))
            }
        }
    }
}

impl From<ValidationOutcome> for Tick {
    fn from(outcome: ValidationOutcome) -> Self {
        match outcome {
            ValidationOutcome::Idle => Self::Idle,
            ValidationOutcome::Waiting(reason) => Self::Waiting(reason),
            ValidationOutcome::Validated(windows) => {
                let names: Vec<String> = windows.iter().map(ToString::to_string).collect();
                Self::Done(format!("validated window {}", names.join(", ")))
            }
        }
    }
}

impl From<TrainingOutcome> for Tick {
    fn from(outcome: TrainingOutcome) -> Self {
        match outcome {
            TrainingOutcome::Idle => Self::Idle,
            TrainingOutcome::Waiting(reason) => Self::Waiting(reason),
            TrainingOutcome::Published(checkpoint) => {
                Self::Done(format!("published checkpoint {checkpoint}"))
            }
        }
    }
}
