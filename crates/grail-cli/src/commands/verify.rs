//! `grail verify`: the validator's own judgement of one file, offline.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::registry;
use grail_model::TrainerConfig;
use grail_ports::environment::Environment;
use grail_ports::model::{ModelProvider, StopFlag};
use grail_protocol::checkpoint::CheckpointMetadata;
use grail_protocol::constants::{
    CHECKPOINT_METADATA_BYTES_MAX, GROUPS_PER_FILE_MAX, ROLLOUT_FILE_BYTES_MAX,
};
use grail_protocol::ids::{Digest, Hotkey, Netuid, Window};
use grail_protocol::keys::METADATA_FILE;
use grail_protocol::randomness::{ValidationChallenge, WindowRandomness};
use grail_protocol::rollout::{EnvironmentFingerprint, FileHeader, RawRollouts};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::timelock::{BeaconPublicKey, RoundOpener, RoundSignature};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::checkpoint::cache::identity_of;
use grail_services::checkpoint::consumer::usable_whitening;
use grail_services::validation::examine::{examine_file, file_checks};
use grail_services::validation::pipeline::Bench;

use crate::cli::{FactsArgs, VerifyArgs};
use crate::config::{Config, EnvironmentConfig};
use crate::engine;
use crate::exit::Outcome;
use crate::explain::file::FileAnswer;
use crate::files::read_bounded;
use crate::window_context::{self, WindowContext};

use super::reference_file;

/// Does what the options ask for.
pub fn run(args: &VerifyArgs, config: &Config) -> Result<Outcome> {
    if reference_file::is_one(&args.file) {
        return reference_file::run(args);
    }
    let Some(checkpoint) = &args.checkpoint else {
        bail!("no --checkpoint: name the folder of the checkpoint that the file was made with");
    };
    let answer = match examine(args, checkpoint, config) {
        Ok(answer) => answer,
        // Whatever fails on our side is no verdict on the miner.
        Err(error) => FileAnswer::undecided(&args.file, crate::message(&error)),
    };
    answer.print(args.json)?;
    Ok(outcome(answer.verdict))
}

/// Returns the outcome of a command whose answer is this verdict.
pub fn outcome(verdict: &str) -> Outcome {
    match verdict {
        "accepted" => Outcome::Done,
        "rejected" => Outcome::Rejected,
        _ => Outcome::Undecided,
    }
}

fn examine(args: &VerifyArgs, checkpoint: &Path, config: &Config) -> Result<FileAnswer> {
    let groups = args.groups.unwrap_or(GROUPS_PER_FILE_MAX);
    let opened = match open(&args.file, checkpoint, &args.facts, config, groups)? {
        Reading::Opened(opened) => opened,
        Reading::Malformed(check, evidence) => {
            return Ok(FileAnswer::malformed(&args.file, check, evidence));
        }
    };
    let Opened { bytes, bench, hotkey, taken } = *opened;
    let mut report = examine_file(&bench, hotkey, &bytes);
    let chosen = report.chosen.clone();
    report.examine_groups(&bench, &chosen, &StopFlag::default())?;
    let mut answer = FileAnswer::of(&args.file, &report);
    answer.taken_from_file = taken;
    Ok(answer)
}

/// A file and everything that it is held against.
pub struct Opened {
    /// The file.
    pub bytes: Vec<u8>,
    /// What it is held against.
    pub bench: Bench,
    /// Owner of the bucket that it was found in.
    pub hotkey: Hotkey,
    /// What was believed from the file's own header.
    pub taken: Vec<&'static str>,
}

/// What came of reading a file.
pub enum Reading {
    /// It can be examined.
    Opened(Box<Opened>),
    /// It is no rollout file: the check that says so, and what was found.
    Malformed(&'static str, String),
}

/// Reads a file and finds out what it must agree with; at most `groups` of its groups are chosen.
pub fn open(
    file: &Path,
    checkpoint: &Path,
    facts: &FactsArgs,
    config: &Config,
    groups: u32,
) -> Result<Reading> {
    // One byte more than allowed is enough to see that a file is too large.
    let bytes = match read_bounded(file, ROLLOUT_FILE_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Reading::Malformed(file_checks::SIZE, error.to_string()));
        }
        read => read.with_context(|| format!("while reading {}", file.display()))?,
    };
    let decoded = match RawRollouts::new(&bytes).and_then(RawRollouts::decode) {
        Ok(decoded) => decoded,
        Err(error) => {
            let evidence = format!("not a rollout file: {error}");
            return Ok(Reading::Malformed(file_checks::FRAME, evidence));
        }
    };
    let (claimed, seal_round) = (decoded.header().clone(), decoded.seal_round());

    let mut sources = Sources::read(checkpoint, facts)?;
    let seal = sources.seal(facts, seal_round)?;
    let expected = sources.expected(facts, config, &claimed)?;
    let model =
        engine::exact_provider(config.engine, TrainerConfig::default())?
            .load(checkpoint)
            .with_context(|| format!("while loading the checkpoint {}", checkpoint.display()))?;
    let metadata = sources.metadata.as_ref();
    let hidden_size = model.info().hidden_size;
    let whitening = metadata.map(|metadata| usable_whitening(metadata, hidden_size)).transpose()?;
    let bench = Bench {
        network: expected.network,
        netuid: expected.netuid,
        window: expected.window,
        randomness: WindowRandomness(expected.randomness),
        challenge: ValidationChallenge(expected.challenge),
        seal,
        checkpoint: Arc::new(LoadedCheckpoint {
            window: expected.window,
            model,
            environment: expected.environment,
            fingerprint: expected.fingerprint,
            sampler: expected.sampler,
            whitening: whitening.flatten(),
            identity: identity_of(checkpoint)?,
            dir: checkpoint.to_owned(),
        }),
        groups_checked_max: groups,
        calibrations: Arc::new(config.calibration_source().read()),
        calibration_age_windows: config.calibration.age_windows,
    };
    let taken = sources.taken.into_iter().collect();
    Ok(Reading::Opened(Box::new(Opened { bytes, bench, hotkey: expected.hotkey, taken })))
}

/// Where expectations come from, best first: options, context file, the checkpoint's metadata.
struct Sources {
    context: Option<WindowContext>,
    metadata: Option<CheckpointMetadata>,
    taken: BTreeSet<&'static str>,
}

/// Everything that a file must agree with.
struct Expected {
    network: String,
    netuid: Netuid,
    window: Window,
    hotkey: Hotkey,
    randomness: Digest,
    challenge: Digest,
    environment: Arc<dyn Environment>,
    fingerprint: EnvironmentFingerprint,
    sampler: SamplerParams,
}

impl Sources {
    fn read(checkpoint: &Path, facts: &FactsArgs) -> Result<Self> {
        let context = facts.context.as_deref().map(read_context).transpose()?;
        let path = checkpoint.join(METADATA_FILE);
        let metadata = path.exists().then(|| read_metadata(&path)).transpose()?;
        Ok(Self { context, metadata, taken: BTreeSet::new() })
    }

    /// Returns the claim, and remembers that it was believed.
    fn believe<T>(&mut self, name: &'static str, claim: T) -> T {
        self.taken.insert(name);
        claim
    }

    fn expected(
        &mut self,
        args: &FactsArgs,
        config: &Config,
        claimed: &FileHeader,
    ) -> Result<Expected> {
        let context = self.context.clone();
        let context = context.as_ref();
        let randomness = match (&args.randomness, context) {
            (Some(text), _) => text.parse().context("--randomness")?,
            (None, Some(context)) => context.randomness,
            (None, None) => bail!(
                "the window's randomness is not known; give --randomness, or --context with the \
                 facts that a validator publishes for window {}",
                claimed.window
            ),
        };
        let network = args.network.clone().or(context.map(|it| it.network.clone()));
        let netuid = args.netuid.map(Netuid).or(context.map(|it| it.netuid));
        let window = args.window.map(Window::from_start).transpose().context("--window")?;
        let window = window.or(context.map(|it| it.window));
        let hotkey: Option<Hotkey> =
            args.hotkey.as_deref().map(str::parse).transpose().context("--hotkey")?;
        let (environment, fingerprint) = self.environment(args, config, claimed)?;
        Ok(Expected {
            network: network.unwrap_or_else(|| self.believe("network", claimed.network.clone())),
            netuid: netuid.unwrap_or_else(|| self.believe("netuid", claimed.netuid)),
            window: window.unwrap_or_else(|| self.believe("window", claimed.window)),
            hotkey: hotkey.unwrap_or_else(|| self.believe("hotkey", claimed.hotkey)),
            randomness,
            // Only says which groups are checked when not all are.
            challenge: context.map_or(randomness, |context| context.challenge),
            environment,
            fingerprint,
            sampler: match &self.metadata {
                Some(metadata) => metadata.generation_params.sampler(),
                None => self.believe("sampler", claimed.sampler),
            },
        })
    }

    /// Returns how the file must be sealed. A signature that is not the beacon's own is our mistake,
    /// and none of the miner's.
    fn seal(&mut self, args: &FactsArgs, found: Option<u64>) -> Result<ExpectedSeal> {
        let (key, signature) = (args.beacon_key.as_deref(), args.seal_signature.as_deref());
        let key = key.map(str::parse::<BeaconPublicKey>).transpose().context("--beacon-key")?;
        let signature = signature.map(str::parse::<RoundSignature>).transpose();
        let signature = signature.context("--seal-signature")?;
        let known = self.context.as_ref().map(|context| context.seal.clone());
        let round = match (&known, found) {
            (Some(known), _) => known.round,
            (None, Some(found)) => self.believe("seal round", found),
            (None, None) => return Ok(self.believe("seal", ExpectedSeal::Open)),
        };
        let key = key.or(known.as_ref().map(|known| known.beacon_key));
        let signature = signature.or(known.map(|known| known.signature));
        let (Some(key), Some(signature)) = (key, signature) else {
            bail!(
                "the file is sealed to beacon round {round}: nobody can read it before that round \
                 is out; when it is, give --seal-signature and --beacon-key, or --context with the \
                 facts that a validator publishes for the window"
            );
        };
        Ok(ExpectedSeal::Round(RoundOpener::new(key, round, signature)?))
    }

    fn environment(
        &mut self,
        args: &FactsArgs,
        config: &Config,
        claimed: &FileHeader,
    ) -> Result<(Arc<dyn Environment>, EnvironmentFingerprint)> {
        let flags = &args.environment;
        let asked = flags.environment.is_some()
            || flags.environment_params.is_some()
            || flags.difficulty.is_some();
        let environment = match &self.metadata {
            Some(metadata) if !asked => {
                registry::create(&metadata.env_id, &metadata.env_params_json())
                    .context("while making the checkpoint's environment")?
            }
            _ => {
                // A header names the environment but only hashes its parameters.
                let mut settings = match asked {
                    true => config.environment.clone(),
                    false => EnvironmentConfig {
                        id: self.believe("environment", claimed.environment.id.clone()),
                        ..EnvironmentConfig::default()
                    },
                };
                settings.overlay(flags);
                settings.create()?
            }
        };
        let fingerprint = EnvironmentFingerprint::new(environment.id(), &environment.params_json());
        Ok((environment, fingerprint))
    }
}

fn read_context(path: &Path) -> Result<WindowContext> {
    let bytes = read_bounded(path, window_context::BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    WindowContext::from_json(&bytes)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} does not hold the facts of a window", path.display()))
}

fn read_metadata(path: &Path) -> Result<CheckpointMetadata> {
    let bytes = read_bounded(path, CHECKPOINT_METADATA_BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let metadata: CheckpointMetadata = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no checkpoint metadata", path.display()))?;
    let complaints = metadata.validate();
    if !complaints.is_empty() {
        bail!("{} cannot be used: {}", path.display(), complaints.join("; "));
    }
    Ok(metadata)
}
