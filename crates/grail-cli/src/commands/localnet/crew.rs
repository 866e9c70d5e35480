//! Builds the roles from the settings and what each acts with: the composition root's core.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use grail_environments::{registry, split};
use grail_infrastructure::local::network::Node;
use grail_model::Provider;
use grail_neurons::health::Health;
use grail_neurons::lifecycle::{LifecycleConfig, NeuronExit, run_neuron};
use grail_neurons::roles::{
    CheaterNeuron, MinerNeuron, ReferenceCheaterNeuron, ReferenceMinerNeuron,
    ReferenceTrainerNeuron, ReferenceValidatorNeuron, TrainerNeuron, ValidatorNeuron,
};
use grail_ports::environment::Environment;
use grail_ports::events::EventSink;
use grail_ports::model::{ModelProvider, StopFlag};
use grail_protocol::checkpoint::Protocol;
use grail_services::context::{EnvironmentFactory, Heartbeat, RunContext};
use grail_services::mining::adversary::{Adversary, Perturb};
use grail_services::mining::service::MiningService;
use grail_services::training::evaluation::HeldOut;
use grail_services::training::service::TrainingService;
use grail_services::v5::mining::ReferenceMining;
use grail_services::v5::mining::adversary::{ReferenceAdversary, ReferenceCheat};
use grail_services::v5::training::ReferenceTraining;
use grail_services::v5::validation::ReferenceValidation;
use grail_services::validation::service::ValidationService;
use tokio_util::sync::CancellationToken;

use super::roster::Duty;
use crate::config::Config;
use crate::problems::reference_environments;

/// File in a role's folder whose lock keeps a second process from acting for the same hotkey.
pub const ROLE_LOCK: &str = "role.lock";
/// Shortest and longest pause between two looks at the head.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(2);
/// Looks at the head in each block time.
const POLLS_PER_BLOCK: u32 = 4;
/// Longest pause after failures, in blocks, so that a role misses no window because of one: shortest
/// and longest in time.
const BACKOFF_BLOCKS: u32 = 5;
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Time that running work gets to end; with what follows it stays below the promised 5 s.
const SHUTDOWN: Duration = Duration::from_secs(3);
/// Relative noise on the weights of a cheater that pretends to run the published ones.
const CHEATER_NOISE: f32 = 0.01;
/// Held-out problems that the model answers at the same time.
const EVALUATED_AT_ONCE: u32 = 64;

/// What all roles of a process share.
pub struct Crew {
    config: Config,
    /// Of those who judge and train.
    exact: Arc<Provider>,
    miners: Arc<Provider>,
    environment: Arc<dyn Environment>,
    base: PathBuf,
}

impl Crew {
    /// Takes the checked settings, the engine of those who judge and train and that of the miners,
    /// the environment, and the folder of the model that the network starts from.
    pub fn new(
        config: Config,
        exact: Arc<Provider>,
        miners: Arc<Provider>,
        environment: Arc<dyn Environment>,
        base: &Path,
    ) -> Self {
        Self { config, exact, miners, environment, base: base.to_owned() }
    }

    /// Runs a role until `cancel` is cancelled; `health` tells how it is doing.
    ///
    /// # Errors
    /// When the role ended by itself.
    pub async fn run(
        &self,
        duty: &Duty,
        node: &Node,
        events: Arc<dyn EventSink>,
        health: Health,
        cancel: CancellationToken,
    ) -> Result<(), NeuronExit> {
        if self.config.protocol.0 == Protocol::V5 {
            return self.run_reference(duty, node, events, health, cancel).await;
        }
        let ctx = self.context(duty, node, events);
        let lifecycle = self.lifecycle();
        match duty {
            Duty::Trainer => {
                let service = TrainingService::new(
                    ctx.clone(),
                    self.config.training_config(),
                    self.environment.clone(),
                    self.held_out(),
                    self.base.clone(),
                );
                run_neuron(TrainerNeuron::new(ctx, service), lifecycle, health, cancel).await
            }
            Duty::Validator => {
                let service = ValidationService::new(
                    ctx.clone(),
                    self.config.validation_config(),
                    self.config.calibration_source(),
                );
                run_neuron(ValidatorNeuron::new(ctx, service), lifecycle, health, cancel).await
            }
            Duty::Miner => {
                let service = MiningService::new(ctx.clone(), self.config.mining_config());
                run_neuron(MinerNeuron::new(ctx, service), lifecycle, health, cancel).await
            }
            Duty::Cheater(cheats) => {
                let config = self.config.mining_config();
                let service = Adversary::new(ctx.clone(), config, cheats.clone(), perturb());
                run_neuron(CheaterNeuron::new(ctx, service), lifecycle, health, cancel).await
            }
        }
    }

    /// As [`Crew::run`], for the reference's profile.
    async fn run_reference(
        &self,
        duty: &Duty,
        node: &Node,
        events: Arc<dyn EventSink>,
        health: Health,
        cancel: CancellationToken,
    ) -> Result<(), NeuronExit> {
        let ctx = self.context(duty, node, events);
        let lifecycle = self.lifecycle();
        let (mining, environments) = (self.config.mining_config(), reference_environments());
        match duty {
            Duty::Trainer => {
                let service = ReferenceTraining::new(
                    ctx.clone(),
                    self.config.training_config(),
                    self.environment.clone(),
                    self.held_out(),
                    self.base.clone(),
                );
                let neuron = ReferenceTrainerNeuron::new(ctx, service);
                run_neuron(neuron, lifecycle, health, cancel).await
            }
            Duty::Validator => {
                let config = self.config.validation_config();
                let service = ReferenceValidation::new(ctx.clone(), config, environments);
                let neuron = ReferenceValidatorNeuron::new(ctx, service);
                run_neuron(neuron, lifecycle, health, cancel).await
            }
            Duty::Miner => {
                let service = ReferenceMining::new(ctx.clone(), mining, environments);
                let neuron = ReferenceMinerNeuron::new(ctx, service);
                run_neuron(neuron, lifecycle, health, cancel).await
            }
            Duty::Cheater(_) => {
                let cheat = ReferenceCheat::ZeroSketches;
                let service = ReferenceAdversary::new(ctx.clone(), mining, environments, cheat);
                let neuron = ReferenceCheaterNeuron::new(ctx, service);
                run_neuron(neuron, lifecycle, health, cancel).await
            }
        }
    }

    fn context(&self, duty: &Duty, node: &Node, events: Arc<dyn EventSink>) -> RunContext {
        let models = match duty {
            Duty::Trainer | Duty::Validator => &self.exact,
            Duty::Miner | Duty::Cheater(_) => &self.miners,
        };
        RunContext {
            chain: node.chain.clone(),
            beacon: node.beacon.clone(),
            buckets: node.buckets.clone(),
            signer: node.wallet.clone(),
            models: models.clone() as Arc<dyn ModelProvider>,
            environments: environments(),
            events,
            state_dir: node.dir.clone(),
            stop: StopFlag::default(),
            heartbeat: Heartbeat::default(),
        }
    }

    fn lifecycle(&self) -> LifecycleConfig {
        let block_time = Duration::from(self.config.localnet.block_time);
        let poll_interval = (block_time / POLLS_PER_BLOCK).clamp(POLL_MIN, POLL_MAX);
        let backoff_max = (block_time * BACKOFF_BLOCKS).clamp(BACKOFF_MIN, BACKOFF_MAX);
        let usual = LifecycleConfig::default();
        LifecycleConfig { poll_interval, backoff_max, shutdown: SHUTDOWN, ..usual }
    }

    fn held_out(&self) -> HeldOut {
        let seed = self.config.localnet.seed;
        held_out(seed, self.config.training.evaluation_problems)
    }
}

/// Returns the held-out problems that `seed` names.
pub fn held_out(seed: u64, problems: u32) -> HeldOut {
    HeldOut {
        problems,
        seeds: Arc::new(move |number| split::held_out_seed(seed, number)),
        at_once: EVALUATED_AT_ONCE,
    }
}

fn environments() -> EnvironmentFactory {
    Arc::new(|id, params| registry::create(id, params).map_err(|error| error.to_string()))
}

fn perturb() -> Perturb {
    Arc::new(|source: &Path, out: &Path| {
        grail_model::perturb::noise(source, out, CHEATER_NOISE, 0)
            .map_err(|error| error.to_string())
    })
}
