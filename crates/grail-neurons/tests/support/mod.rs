//! A whole subnet in one process: fakes for all ports, blocks moved by hand, no time passing.

#![allow(dead_code, reason = "each test binary uses another part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod crash;
pub mod reference;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::crash::{CrashPlan, DoomedModels};
use grail_neurons::neuron::Neuron;
use grail_neurons::roles::{CheaterNeuron, MinerNeuron, TrainerNeuron, ValidatorNeuron};
use grail_ports::beacon::{Beacon, BeaconSchedule};
use grail_ports::chain::{Block, Chain};
use grail_ports::environment::{ChatMessage, Environment, EnvironmentError, Evaluation};
use grail_ports::events::{Event, EventSink};
use grail_ports::layer::Layered;
use grail_ports::model::{ModelProvider, OptimizerConfig, StopFlag};
use grail_ports::object_store::Buckets;
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Hotkey, Uid, Window};
use grail_protocol::keys;
use grail_protocol::sampler::SamplerParams;
use grail_services::context::{EnvironmentFactory, Heartbeat, RunContext};
use grail_services::mining::adversary::{Adversary, Cheat, Perturb};
use grail_services::mining::pace::MiningConfig;
use grail_services::mining::service::MiningService;
use grail_services::training::config::TrainingConfig;
use grail_services::training::evaluation::HeldOut;
use grail_services::training::pipeline::StepsConfig;
use grail_services::training::service::TrainingService;
use grail_services::validation::calibrations::CalibrationSource;
use grail_services::validation::config::ValidationConfig;
use grail_services::validation::evidence::EvidenceRules;
use grail_services::validation::service::ValidationService;
use grail_services::validation::weights::WeightSchedule;
use grail_testkit::{
    FakeBeacon, FakeChain, FakeChainConfig, FakeEnvironment, FakeModel, FakeProvider, FakeSigner,
    Faults, MemoryStorage, RecordingEvents,
};

/// Groups that every miner makes in a window.
pub const GROUPS: u32 = 4;
/// Rollouts of those.
pub const ROLLOUTS: u32 = 16 * GROUPS;

/// Seeds of the hotkeys: the trainer has uid 0, the validator uid 1, then come the miners.
pub const TRAINER: u64 = 0;
pub const VALIDATOR: u64 = 1;
pub const MINER: u64 = 2;
pub const OTHER_MINER: u64 = 3;
pub const CHEATER: u64 = 4;
/// Not registered.
pub const STRANGER: u64 = 99;

/// Everything outside the roles.
pub struct World {
    pub chain: FakeChain,
    pub storage: MemoryStorage,
    pub beacon: Arc<FakeBeacon>,
    pub models: Arc<FakeProvider>,
    pub environment: Arc<Sandbox>,
    pub events: BTreeMap<u64, Arc<RecordingEvents>>,
    pub faults: Option<Faults>,
    /// A role that will be killed.
    pub doomed: Option<(u64, Arc<CrashPlan>)>,
    /// Groups that every miner makes in a window.
    pub groups: u32,
    /// Held-out problems.
    pub problems: u32,
    /// Calibrations of the validator.
    pub calibrations: CalibrationSource,
    pub folder: tempfile::TempDir,
}

impl World {
    /// Makes a subnet with the five hotkeys above.
    pub fn new() -> Self {
        Self::on(FakeChainConfig::default())
    }

    /// Makes a subnet on another chain.
    pub fn on(mut config: FakeChainConfig) -> Self {
        let genesis_ms = config.genesis_ms;
        config.hyperparameters.weights_rate_limit = 1;
        let chain = FakeChain::new(config);
        for seed in [TRAINER, VALIDATOR, MINER, OTHER_MINER, CHEATER] {
            let is_validator = seed == VALIDATOR;
            chain.register(hotkey(seed), if is_validator { 1000 } else { 0 }, is_validator);
        }
        let schedule = BeaconSchedule { genesis_ms, period_ms: 3000 };
        let folder = scratch();
        FakeModel::new(7).write(&folder.path().join("base")).unwrap();
        Self {
            storage: MemoryStorage::new(chain.clock()),
            beacon: Arc::new(FakeBeacon::new(schedule, chain.clock(), 7)),
            chain,
            models: Arc::default(),
            environment: Arc::default(),
            events: [TRAINER, VALIDATOR, MINER, OTHER_MINER, CHEATER, STRANGER]
                .map(|seed| (seed, Arc::default()))
                .into(),
            faults: None,
            doomed: None,
            groups: GROUPS,
            problems: 64,
            calibrations: CalibrationSource::default(),
            folder,
        }
    }

    /// Returns the ports of a role; equal calls give the same folder, as after a restart.
    pub fn context(&self, seed: u64) -> RunContext {
        let environment = self.environment.clone();
        let environments: EnvironmentFactory = Arc::new(move |id, params| {
            assert_eq!((id, params), ("fake", "{}"));
            Ok(environment.clone() as Arc<dyn Environment>)
        });
        let mut chain: Arc<dyn Chain> = self.chain.handle(hotkey(seed));
        let mut beacon: Arc<dyn Beacon> = self.beacon.clone();
        let mut buckets: Arc<dyn Buckets> = self.storage.buckets(hotkey(seed));
        if let Some(faults) = &self.faults {
            chain = faults.chain(&format!("role {seed}"), chain);
            beacon = faults.beacon(&format!("role {seed}"), beacon);
            buckets = faults.buckets(buckets);
        }
        let mut models: Arc<dyn ModelProvider> = self.models.clone();
        if let Some((victim, plan)) = &self.doomed
            && *victim == seed
        {
            chain = Arc::new(Layered::new(chain, plan.clone()));
            beacon = Arc::new(Layered::new(beacon, plan.clone()));
            buckets = Arc::new(Layered::new(buckets, plan.clone()));
            models = Arc::new(DoomedModels { plan: plan.clone(), inner: models });
        }
        RunContext {
            chain,
            beacon,
            buckets,
            signer: Arc::new(FakeSigner::new(seed)),
            models,
            environments,
            events: self.events[&seed].clone() as Arc<dyn EventSink>,
            state_dir: self.folder.path().join(format!("role-{seed}")),
            stop: StopFlag::default(),
            heartbeat: Heartbeat::default(),
        }
    }

    pub fn trainer(&self) -> TrainerNeuron {
        self.trainer_as(TRAINER)
    }

    /// Returns a trainer with another hotkey.
    pub fn trainer_as(&self, seed: u64) -> TrainerNeuron {
        let ctx = self.context(seed);
        let held_out = HeldOut {
            problems: self.problems,
            // Far from every task seed, which are hashes.
            seeds: Arc::new(u64::from),
            at_once: 32,
        };
        let base = self.folder.path().join("base");
        let environment = self.environment.clone();
        let service =
            TrainingService::new(ctx.clone(), training_config(), environment, held_out, base);
        TrainerNeuron::new(ctx, service)
    }

    pub fn validator(&self) -> ValidatorNeuron {
        let ctx = self.context(VALIDATOR);
        ValidatorNeuron::new(
            ctx.clone(),
            ValidationService::new(ctx, validation_config(), self.calibrations.clone()),
        )
    }

    pub fn miner(&self, seed: u64) -> MinerNeuron {
        let ctx = self.context(seed);
        MinerNeuron::new(ctx.clone(), MiningService::new(ctx, self.mining_config()))
    }

    pub fn cheater(&self, cheats: &[Cheat]) -> CheaterNeuron {
        let ctx = self.context(CHEATER);
        let service = Adversary::new(ctx.clone(), self.mining_config(), cheats.to_vec(), perturb());
        CheaterNeuron::new(ctx, service)
    }

    pub fn mining_config(&self) -> MiningConfig {
        let groups_per_window = self.groups;
        MiningConfig { groups_per_window, groups_at_once: 2, ..MiningConfig::default() }
    }

    /// Moves to the second block of the next window, when its beacon rounds are out.
    pub fn next_window(&self) -> Block {
        let window = Window::containing(self.chain.head().number).next();
        self.chain.advance_to(BlockNumber(window.start().0 + 1))
    }

    /// Returns the events of a role and forgets them.
    pub fn take_events(&self, seed: u64) -> Vec<Event> {
        self.events[&seed].take()
    }

    /// Returns the READY markers in the trainer's bucket.
    pub fn ready_markers(&self) -> Vec<keys::ReadyMarker> {
        let keys = self.storage.keys(hotkey(TRAINER));
        keys.iter().filter_map(|key| keys::ReadyMarker::parse(key)).collect()
    }

    /// Returns the weight of a hotkey in the newest submission.
    pub fn weight(&self, seed: u64) -> f64 {
        let uid = Uid(u16::try_from(seed).unwrap());
        let submissions = self.chain.submissions();
        let newest = &submissions.last().expect("weights were set").submission;
        newest.weights.iter().find(|(of, _)| *of == uid).expect("every uid has a weight").1
    }

    /// Returns whether the validated rollouts of a window are published.
    pub fn is_validated(&self, window: Window) -> bool {
        self.storage.peek(hotkey(VALIDATOR), &keys::validated_file(window)).is_some()
    }
}

/// Returns a new folder, in memory where the system offers that: tests flush files by the thousand.
pub fn scratch() -> tempfile::TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

pub fn hotkey(seed: u64) -> Hotkey {
    FakeSigner::new(seed).hotkey()
}

pub fn window(start: u64) -> Window {
    Window::from_start(start).unwrap()
}

pub fn validation_config() -> ValidationConfig {
    ValidationConfig {
        evidence: EvidenceRules { judge_ejected: true, ..EvidenceRules::default() },
        failure_lookback_windows: 0,
        schedule: WeightSchedule { interval_blocks: 30, warmup_windows: 2, uncertain_blocks: 0 },
        version_key: 0,
        ..ValidationConfig::default()
    }
}

pub fn training_config() -> TrainingConfig {
    let config = TrainingConfig::default();
    let optimizer = OptimizerConfig { lr: 0.05, ..config.steps.optimizer };
    TrainingConfig {
        steps: StepsConfig { optimizer, groups_per_step: 3, epochs: 2, ..config.steps },
        sampler: SamplerParams { temperature: 1.0, max_new_tokens: 4 },
        retention_windows: 4,
        ..config
    }
}

/// Copies a fake checkpoint and moves every weight by some percent.
fn perturb() -> Perturb {
    Arc::new(|from: &Path, to: &Path| {
        let copy = || -> std::io::Result<()> {
            std::fs::create_dir_all(to)?;
            for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
                std::fs::copy(from.join(name), to.join(name))?;
            }
            let mut bytes = std::fs::read(from.join("model.safetensors"))?;
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            for weight in bytes[header..].chunks_exact_mut(4) {
                weight[2] ^= 0x08;
            }
            std::fs::write(to.join("model.safetensors"), bytes)
        };
        copy().map_err(|error| error.to_string())
    })
}

/// Starts a role and lets it tick at `head` until it has nothing more to do.
pub async fn settle(neuron: &mut impl Neuron, head: Block) -> String {
    let mut log = String::new();
    for _ in 0..10 {
        let ticked = neuron.tick(head).await;
        log.push_str(&format!("{} at {}: {ticked:?}\n", neuron.role(), head.number));
        if let Ok(grail_neurons::neuron::Tick::Idle | grail_neurons::neuron::Tick::Waiting(_)) =
            ticked
        {
            break;
        }
    }
    log
}

/// A fake environment that can be switched off, as a sandbox that does not start.
#[derive(Default)]
pub struct Sandbox {
    inner: FakeEnvironment,
    is_broken: AtomicBool,
}

impl Sandbox {
    pub fn break_everything(&self, is_broken: bool) {
        self.is_broken.store(is_broken, Ordering::SeqCst);
    }
}

impl Environment for Sandbox {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn params_json(&self) -> String {
        self.inner.params_json()
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        self.inner.prompt(seed)
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        if self.is_broken.load(Ordering::SeqCst) {
            let reason = "the test switched it off".to_owned();
            return Err(EnvironmentError { id: self.id().to_owned(), reason });
        }
        self.inner.evaluate(seed, completion)
    }

    fn solve(&self, seed: u64) -> Option<String> {
        self.inner.solve(seed)
    }
}

/// What a validator said of a miner in a window.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    pub checked: u32,
    pub accepted: u32,
    pub rejection: Option<String>,
}

/// Returns the judgements among `events` by window and hotkey; a second one is a failure.
pub fn judgements(events: &[Event]) -> BTreeMap<(Window, Hotkey), Judged> {
    let mut found = BTreeMap::new();
    for event in events {
        if let Event::MinerJudged { window, hotkey, checked, accepted, rejection, .. } = event {
            let judged =
                Judged { checked: *checked, accepted: *accepted, rejection: rejection.clone() };
            let earlier = found.insert((*window, *hotkey), judged);
            assert_eq!(earlier, None, "{hotkey} was judged twice in window {window}");
        }
    }
    found
}
