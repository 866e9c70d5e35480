//! What all rows share: the published checkpoint, the engines, windows, wallets, honest rollouts.
//!
//! Windows depend on the seed and the number of the chunk alone, so that rows answer the same
//! problems and an attack is compared with what an honest miner made of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use grail_environments::split;
use grail_infrastructure::local::beacon::LocalBeacon;
use grail_infrastructure::wallet::Wallet;
use grail_kernels::Isa;
use grail_model::{EngineConfig, Provider, ProviderConfig, Runtime};
use grail_ports::beacon::{Beacon as _, BeaconSchedule};
use grail_ports::environment::Environment;
use grail_ports::model::{Completion, GenerateRequest, Model, ModelProvider, StopFlag};
use grail_ports::signer::Signer;
use grail_protocol::calibration::Calibration;
use grail_protocol::checkpoint::model_identity;
use grail_protocol::constants::{GROUPS_PER_FILE_MAX, WINDOW_BLOCKS};
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, Netuid, Window};
use grail_protocol::randomness::{ValidationChallenge, WindowRandomness, window_randomness};
use grail_protocol::rollout::{EnvironmentFingerprint, Group};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::timelock::{RoundOpener, SealTo};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::checkpoint::cache::manifest_of;
use grail_services::checkpoint::{LoadedCheckpoint, whitening};
use grail_services::mining::pipeline::{self, GroupTask, MiningJob};
use grail_services::validation::pipeline::Bench;

use super::rows::Profile;

/// Network and subnet in the headers.
const NETWORK: &str = "lab";
const NETUID: Netuid = Netuid(81);
/// Window number of chunk 0.
const FIRST_WINDOW: u64 = 1_000;

/// How an engine computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EngineKind {
    /// Whether it rounds to bf16 between operations.
    pub bf16: bool,
    /// Compute threads.
    pub threads: usize,
    /// Instruction set; the fastest where `None`.
    pub isa: Option<Isa>,
    /// Most sequences decoded at once.
    pub running: usize,
}

/// Honest rollouts of a chunk.
pub struct Mined {
    /// The problems.
    pub tasks: Vec<GroupTask>,
    /// One list per task.
    pub completions: Vec<Vec<Completion>>,
    /// Seconds that generation took.
    pub seconds: f64,
}

/// What a world is made of.
pub struct WorldParts {
    /// Folder of the published model.
    pub base: PathBuf,
    /// Folder for models that cheaters use.
    pub models: PathBuf,
    /// Model that counts as the smaller one; half of the layers where `None`.
    pub smaller: Option<PathBuf>,
    /// Poses the problems.
    pub environment: Arc<dyn Environment>,
    /// How tokens are chosen.
    pub sampler: SamplerParams,
    /// Decides windows, keys and cheats.
    pub seed: u64,
    /// Compute threads.
    pub threads: usize,
}

/// Everything that rows share.
pub struct World {
    parts: WorldParts,
    published: LoadedCheckpoint,
    verifier: Arc<Provider>,
    tolerant: Mutex<Option<Arc<dyn Model>>>,
    mined: Mutex<HashMap<(bool, u32), Arc<Mined>>>,
    miner: Arc<Wallet>,
    rival: Arc<Wallet>,
    beacon: LocalBeacon,
    calibrations: OnceLock<Arc<Vec<Calibration>>>,
    stop: StopFlag,
}

impl World {
    /// Loads the published model.
    pub fn new(parts: WorldParts, stop: StopFlag) -> Result<Self> {
        let kind = EngineKind { bf16: false, ..default_kind(parts.threads) };
        let verifier = Arc::new(provider(kind)?);
        let model = verifier.load(&parts.base)?;
        let record = whitening::measure(&*model, &stop).context("while measuring the whitening")?;
        let manifest = manifest_of(&parts.base).context("while reading the model's files")?;
        let environment = parts.environment.clone();
        let fingerprint = EnvironmentFingerprint::new(environment.id(), &environment.params_json());
        let published = LoadedCheckpoint {
            window: Window::containing(grail_protocol::ids::BlockNumber(0)),
            model,
            environment,
            fingerprint,
            sampler: parts.sampler,
            whitening: Some(Arc::new(record.read()?)),
            identity: model_identity(&manifest),
            dir: parts.base.clone(),
        };
        let wallet = |name: &str| {
            let seed = DomainHash::new("lab-wallet").u64(parts.seed).text(name).finish();
            Arc::new(Wallet::from_seed(&seed.0))
        };
        Ok(Self {
            published,
            verifier,
            tolerant: Mutex::default(),
            mined: Mutex::default(),
            miner: wallet("miner"),
            rival: wallet("rival"),
            beacon: beacon(parts.seed)?,
            calibrations: OnceLock::new(),
            stop,
            parts,
        })
    }

    /// Returns the flag that ends all work.
    pub fn stop(&self) -> &StopFlag {
        &self.stop
    }

    /// Returns what the world is made of.
    pub fn parts(&self) -> &WorldParts {
        &self.parts
    }

    /// Returns the verifier's checkpoint: the published weights on the exact engine.
    pub fn published(&self) -> &LoadedCheckpoint {
        &self.published
    }

    /// Returns the provider of the verifier, which also trains.
    pub fn verifier(&self) -> &Provider {
        &self.verifier
    }

    /// Returns the signer of the miner, and of the other miner that some cheats need.
    pub fn wallets(&self) -> (&Arc<Wallet>, &Arc<Wallet>) {
        (&self.miner, &self.rival)
    }

    /// Returns the engine that miners of a profile run.
    pub fn kind(&self, profile: Profile) -> EngineKind {
        EngineKind { bf16: profile != Profile::Exact, ..default_kind(self.parts.threads) }
    }

    /// Returns the published model as the miners of a profile run it.
    pub fn engine(&self, profile: Profile) -> Result<Arc<dyn Model>> {
        if profile == Profile::Exact {
            return Ok(self.published.model.clone());
        }
        let mut tolerant = self.tolerant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = &*tolerant {
            return Ok(model.clone());
        }
        let model = load(self.kind(profile), &self.parts.base)?;
        Ok(tolerant.insert(model).clone())
    }

    /// Returns the window of a chunk.
    pub fn window(chunk: u32) -> Window {
        let block = (FIRST_WINDOW + u64::from(chunk)) * WINDOW_BLOCKS;
        Window::containing(grail_protocol::ids::BlockNumber(block))
    }

    /// Returns the randomness of a window.
    pub fn randomness(&self, window: Window) -> WindowRandomness {
        let of =
            |what: &str| DomainHash::new(what).u64(self.parts.seed).u64(window.start().0).finish();
        window_randomness(&of("lab-block"), &of("lab-beacon"))
    }

    /// Returns the job of `hotkey` in `window`, with `model` behind the published digest.
    pub fn job(&self, window: Window, hotkey: Hotkey, model: Arc<dyn Model>) -> MiningJob {
        let numerics = model.info().numerics.clone();
        let mut header = self.published.header(NETWORK, NETUID, window, hotkey);
        header.numerics = numerics;
        let checkpoint = Arc::new(LoadedCheckpoint { model, ..self.published.clone() });
        let (randomness, seal) = (self.randomness(window), self.seal_to(window));
        MiningJob { window, randomness, checkpoint, header, seal }
    }

    /// Returns the job of the lab's miner in a chunk.
    pub fn own_job(&self, chunk: u32, model: Arc<dyn Model>) -> MiningJob {
        self.job(Self::window(chunk), self.miner.hotkey(), model)
    }

    /// Returns `job` for the problems of another chunk.
    pub fn window_job(&self, job: &MiningJob, chunk: u32) -> MiningJob {
        self.job(Self::window(chunk), job.header.hotkey, job.checkpoint.model.clone())
    }

    /// Returns what a validator judges the files of a window against.
    pub fn bench(&self, window: Window) -> Result<Bench> {
        let challenge = DomainHash::new("lab-challenge").u64(window.start().0).finish();
        Ok(Bench {
            seal: self.opener(window)?,
            calibrations: self.calibrations.get().cloned().unwrap_or_default(),
            // The calibration is of the very checkpoint.
            calibration_age_windows: 0,
            network: NETWORK.to_owned(),
            netuid: NETUID,
            window,
            randomness: self.randomness(window),
            challenge: ValidationChallenge(challenge),
            checkpoint: Arc::new(self.published.clone()),
            groups_checked_max: GROUPS_PER_FILE_MAX,
        })
    }

    /// Returns where the files of a window are sealed to.
    fn seal_to(&self, window: Window) -> SealTo {
        SealTo { key: self.beacon.public_key(), round: round_of(window) }
    }

    /// Returns what opens the files of a window: in the lab, every round is out.
    fn opener(&self, window: Window) -> Result<ExpectedSeal> {
        let SealTo { key, round } = self.seal_to(window);
        let signed = self.beacon.sign(round).context("the lab's beacon has every round")?;
        let signature = signed.signature.parse().context("while reading a signature")?;
        Ok(ExpectedSeal::Round(RoundOpener::new(key, round, signature)?))
    }

    /// Returns the calibration that the tolerant profile is judged by.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibrations.get().and_then(|calibrations| calibrations.first())
    }

    /// Judges the tolerant profile by `calibration` from now on; the first one stays.
    pub fn calibrate(&self, calibration: Calibration) {
        let _ = self.calibrations.set(Arc::new(vec![calibration]));
    }

    /// Returns the tasks of the first groups of a job.
    ///
    /// # Errors
    /// When a problem is one that calibration may use, which never happens: see [`split`].
    pub fn plans(&self, job: &MiningJob, groups: u32) -> Result<Vec<GroupTask>> {
        (0..groups)
            .map(|group| {
                let task = pipeline::plan(job, group)?;
                ensure!(
                    !split::is_held_out(task.seed),
                    "problem {} is held out for calibration; choose another --seed",
                    task.seed
                );
                Ok(task)
            })
            .collect()
    }

    /// Returns the honest rollouts of a chunk, generated once.
    pub fn mined(&self, profile: Profile, chunk: u32, groups: u32) -> Result<Arc<Mined>> {
        let key = (profile != Profile::Exact, chunk);
        let kept = self.mined.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(mined) = kept.filter(|mined| mined.tasks.len() >= groups as usize) {
            return Ok(mined);
        }
        let mined = Arc::new(self.mine(&self.own_job(chunk, self.engine(profile)?), groups)?);
        self.mined.lock().unwrap_or_else(PoisonError::into_inner).insert(key, mined.clone());
        Ok(mined)
    }

    /// Mines honestly.
    pub fn mine(&self, job: &MiningJob, groups: u32) -> Result<Mined> {
        let tasks = self.plans(job, groups)?;
        let started = Instant::now();
        let completions = pipeline::complete(job, &tasks, &self.stop)?;
        Ok(Mined { tasks, completions, seconds: started.elapsed().as_secs_f64() })
    }

    /// Answers any requests, one list per request.
    pub fn generate(
        &self,
        model: &dyn Model,
        requests: &[GenerateRequest],
    ) -> Result<Vec<Vec<Completion>>> {
        let mut groups: Vec<Vec<Completion>> = vec![Vec::new(); requests.len()];
        model.generate(requests, &self.stop, &mut |idx, completions| {
            if let Some(slot) = groups.get_mut(idx) {
                *slot = completions;
            }
        })?;
        Ok(groups)
    }

    /// Makes groups of completions, as a miner claims them.
    pub fn claim(
        &self,
        job: &MiningJob,
        tasks: &[GroupTask],
        completions: Vec<Vec<Completion>>,
    ) -> Result<Vec<Group>> {
        let pairs = tasks.iter().zip(completions);
        pairs.map(|(task, answers)| Ok(pipeline::claim(job, task, answers)?)).collect()
    }
}

/// Returns a beacon all of whose rounds are out.
fn beacon(seed: u64) -> Result<LocalBeacon> {
    const SCHEDULE: BeaconSchedule = BeaconSchedule { genesis_ms: 0, period_ms: 3_000 };
    let secret = DomainHash::new("lab-beacon-key").u64(seed).finish();
    Ok(LocalBeacon::from_seed(&secret.0, SCHEDULE, Arc::new(|| u64::MAX / 2))?)
}

/// Returns the round that the files of a window are sealed to.
fn round_of(window: Window) -> u64 {
    window.start().0 + 1
}

/// Returns the exact engine with all defaults.
fn default_kind(threads: usize) -> EngineKind {
    let running = EngineConfig::default().max_running_sequences;
    EngineKind { bf16: false, threads, isa: None, running }
}

/// Starts an engine.
pub fn provider(kind: EngineKind) -> Result<Provider> {
    let engine = EngineConfig { max_running_sequences: kind.running, ..EngineConfig::default() };
    let config = ProviderConfig {
        runtime: if kind.bf16 { Runtime::Bf16 } else { Runtime::Exact },
        threads: kind.threads,
        isa: kind.isa,
        engine,
        ..ProviderConfig::default()
    };
    Provider::new(config).context("while starting an engine")
}

/// Loads the model in `dir` on an engine of its own.
pub fn load(kind: EngineKind, dir: &Path) -> Result<Arc<dyn Model>> {
    provider(kind)?.load(dir).with_context(|| format!("while loading {}", dir.display()))
}
