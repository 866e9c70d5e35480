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

macro_rules! role {
    ($(#[$doc:meta])+ $neuron:ident, $service:ty, $role:literal $(, $alarm:ident)?) => {
        $(#[$doc])+
        pub struct $neuron {
            ctx: RunContext,
            service: $service,
        }

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

role!(
    /// Mines honestly.
    MinerNeuron, MiningService, "miner"
);
role!(
    /// Mines dishonestly; for test networks.
    CheaterNeuron, Adversary, "cheater"
);
role!(
    /// Validates and sets weights.
    ValidatorNeuron, ValidationService, "validator", alarm
);
role!(
    /// Trains and publishes checkpoints.
    TrainerNeuron, TrainingService, "trainer"
);
role!(
    /// Mines honestly in the reference's profile.
    ReferenceMinerNeuron, ReferenceMining, "miner"
);
role!(
    /// Mines dishonestly in the reference's profile; for test networks.
    ReferenceCheaterNeuron, ReferenceAdversary, "cheater"
);
role!(
    /// Validates and sets weights in the reference's profile.
    ReferenceValidatorNeuron, ReferenceValidation, "validator", alarm
);
role!(
    /// Trains and publishes checkpoints in the reference's profile.
    ReferenceTrainerNeuron, ReferenceTraining, "trainer"
);

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
