//! The roles of the reference's profile in a world.

use std::path::PathBuf;
use std::sync::Arc;

use grail_neurons::roles::{
    ReferenceCheaterNeuron, ReferenceMinerNeuron, ReferenceTrainerNeuron, ReferenceValidatorNeuron,
};
use grail_ports::chain::Block;
use grail_ports::environment::Environment;
use grail_protocol::ids::{BlockNumber, Window};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::v5::trust::{TrustList, trust_list_key};
use grail_services::context::RunContext;
use grail_services::mining::pace::MiningConfig;
use grail_services::training::config::TrainingConfig;
use grail_services::training::evaluation::HeldOut;
use grail_services::v5::checkpoints::ReferenceEnvironments;
use grail_services::v5::mining::ReferenceMining;
use grail_services::v5::mining::adversary::{ReferenceAdversary, ReferenceCheat};
use grail_services::v5::training::ReferenceTraining;
use grail_services::v5::validation::ReferenceValidation;
use grail_testkit::FakeModel;

use super::{CHEATER, TRAINER, VALIDATOR, World, hotkey, training_config, validation_config};

/// Tokens that the profile challenges, and the longest completion here.
const TOKENS: u32 = 32;
/// The roles of the profile in a world.
pub struct Subnet {
    pub world: World,
    /// Settings of the trainer.
    pub training: TrainingConfig,
    base: PathBuf,
}

impl Subnet {
    /// Makes a subnet whose miners make two groups in a window.
    pub fn new() -> Self {
        Self::of(World { groups: 2, problems: 4, ..World::new() })
    }

    pub fn of(world: World) -> Self {
        let base = world.folder.path().join("talkative");
        FakeModel::talkative(7).write(&base).unwrap();
        let training = TrainingConfig {
            sampler: SamplerParams { temperature: 1.0, max_new_tokens: TOKENS },
            ..training_config()
        };
        Self { world, training, base }
    }

    pub fn environments(&self) -> ReferenceEnvironments {
        let environment = self.world.environment.clone();
        Arc::new(move |id, params, mode| {
            assert_eq!((id, params, mode), ("fake", "{}", "instructed"));
            Ok(environment.clone() as Arc<dyn Environment>)
        })
    }

    pub fn mining(&self) -> MiningConfig {
        self.world.mining_config()
    }

    pub fn trainer(&self) -> ReferenceTrainerNeuron {
        self.trainer_in(self.world.context(TRAINER))
    }

    /// Returns a trainer with these ports.
    pub fn trainer_in(&self, ctx: RunContext) -> ReferenceTrainerNeuron {
        let config = self.training.clone();
        let problems = self.world.problems;
        let held_out = HeldOut { problems, seeds: Arc::new(u64::from), at_once: 4 };
        let environment = self.world.environment.clone();
        let base = self.base.clone();
        let service = ReferenceTraining::new(ctx.clone(), config, environment, held_out, base);
        ReferenceTrainerNeuron::new(ctx, service)
    }

    pub fn validator(&self) -> ReferenceValidatorNeuron {
        let ctx = self.world.context(VALIDATOR);
        let service =
            ReferenceValidation::new(ctx.clone(), validation_config(), self.environments());
        ReferenceValidatorNeuron::new(ctx, service)
    }

    pub fn miner(&self, seed: u64) -> ReferenceMinerNeuron {
        let ctx = self.world.context(seed);
        let service = ReferenceMining::new(ctx.clone(), self.mining(), self.environments());
        ReferenceMinerNeuron::new(ctx, service)
    }

    pub fn cheater(&self, cheat: ReferenceCheat) -> ReferenceCheaterNeuron {
        let ctx = self.world.context(CHEATER);
        let service =
            ReferenceAdversary::new(ctx.clone(), self.mining(), self.environments(), cheat);
        ReferenceCheaterNeuron::new(ctx, service)
    }

    /// Moves on by one block, so that what is uploaded then is later.
    pub fn next_block(&self) -> Block {
        let head = self.world.chain.head().number;
        self.world.chain.advance_to(BlockNumber(head.0 + 1))
    }

    pub fn trust_list(&self, window: Window) -> TrustList {
        let key = trust_list_key(window.start().0);
        let bytes = self.world.storage.peek(hotkey(VALIDATOR), &key).expect("a list is published");
        TrustList::parse(std::str::from_utf8(&bytes).unwrap()).unwrap()
    }
}
