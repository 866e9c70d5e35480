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
use grail_services::context::Heartbeat;
use grail_services::validation::pipeline::{Bench, Judgement, judge};
use serde::Serialize;

use crate::cli::VerifyArgs;
use crate::config::{Config, EnvironmentConfig};
use crate::engine;
use crate::exit::Outcome;
use crate::files::read_bounded;
use crate::output;
use crate::window_context::{self, WindowContext};

/// Version of the JSON answer.
const ANSWER_VERSION: u32 = 1;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Answer {
    version: u32,
    file: String,
    verdict: &'static str,
    /// Code of the rejection.
    reason: Option<String>,
    /// The rejection with its evidence, or why nothing could be decided.
    evidence: Option<String>,
    window: Option<Window>,
    hotkey: Option<Hotkey>,
    checkpoint: Option<Digest>,
    groups: u32,
    rollouts: u32,
    checked: u32,
    accepted: u32,
    unverified: u32,
    reward_mean: Option<f64>,
    /// What was taken from the file's own header because nothing else said it.
    taken_from_file: Vec<&'static str>,
}

/// Does what the options ask for.
pub fn run(args: &VerifyArgs, config: &Config) -> Result<Outcome> {
    let answer = match examine(args, config) {
        Ok(answer) => answer,
        // Whatever fails on our side is no verdict on the miner.
        Err(error) => Answer::undecided(&args.file, crate::message(&error)),
    };
    print(&answer, args.json)?;
    Ok(match answer.verdict {
        "accepted" => Outcome::Done,
        "rejected" => Outcome::Rejected,
        _ => Outcome::Undecided,
    })
}

fn examine(args: &VerifyArgs, config: &Config) -> Result<Answer> {
    // One byte more than allowed is enough to see that a file is too large.
    let bytes = match read_bounded(&args.file, ROLLOUT_FILE_BYTES_MAX) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            return Ok(Answer::rejected(&args.file, "malformed", error.to_string()));
        }
        read => read.with_context(|| format!("while reading {}", args.file.display()))?,
    };
    let decoded = match RawRollouts::new(&bytes).and_then(RawRollouts::decode) {
        Ok(decoded) => decoded,
        Err(error) => {
            let evidence = format!("not a rollout file: {error}");
            return Ok(Answer::rejected(&args.file, "malformed", evidence));
        }
    };
    let (claimed, seal_round) = (decoded.header().clone(), decoded.seal_round());

    let mut sources = Sources::read(args)?;
    let seal = sources.seal(args, seal_round)?;
    let expected = sources.expected(args, config, &claimed)?;
    let model = engine::exact_provider(config.engine, TrainerConfig::default())?
        .load(&args.checkpoint)
        .with_context(|| format!("while loading the checkpoint {}", args.checkpoint.display()))?;
    let metadata = sources.metadata.as_ref();
    let hidden_size = model.info().hidden_size;
    let whitening = metadata.map(|metadata| usable_whitening(metadata, hidden_size)).transpose()?;
    let calibrations = config.calibration_source();
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
            identity: identity_of(&args.checkpoint)?,
            dir: args.checkpoint.clone(),
        }),
        groups_checked_max: args.groups.unwrap_or(GROUPS_PER_FILE_MAX),
        calibrations: Arc::new(calibrations.read()),
        calibration_age_windows: config.calibration.age_windows,
    };
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    let judgement = judge(&bench, expected.hotkey, &bytes, &stop, &heartbeat)?;
    let mut answer = Answer::of(&args.file, &claimed, &judgement);
    answer.taken_from_file = sources.taken.into_iter().collect();
    Ok(answer)
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
    fn read(args: &VerifyArgs) -> Result<Self> {
        let context = args.context.as_deref().map(read_context).transpose()?;
        let path = args.checkpoint.join(METADATA_FILE);
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
        args: &VerifyArgs,
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
    fn seal(&mut self, args: &VerifyArgs, found: Option<u64>) -> Result<ExpectedSeal> {
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
        args: &VerifyArgs,
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

impl Answer {
    fn new(file: &Path, verdict: &'static str) -> Self {
        Self {
            version: ANSWER_VERSION,
            file: file.display().to_string(),
            verdict,
            reason: None,
            evidence: None,
            window: None,
            hotkey: None,
            checkpoint: None,
            groups: 0,
            rollouts: 0,
            checked: 0,
            accepted: 0,
            unverified: 0,
            reward_mean: None,
            taken_from_file: Vec::new(),
        }
    }

    fn undecided(file: &Path, why: String) -> Self {
        Self { evidence: Some(why), ..Self::new(file, "undecided") }
    }

    fn rejected(file: &Path, code: &str, evidence: String) -> Self {
        let reason = Some(code.to_owned());
        Self { reason, evidence: Some(evidence), ..Self::new(file, "rejected") }
    }

    fn of(file: &Path, header: &FileHeader, judgement: &Judgement) -> Self {
        let rejection = judgement.rejection.as_ref();
        let verdict = match rejection {
            Some(_) => "rejected",
            None if judgement.unverified > 0 => "undecided",
            None => "accepted",
        };
        let evidence = match verdict {
            "undecided" => Some(format!(
                "{} rollouts could not be recomputed on this machine; -v says why",
                judgement.unverified
            )),
            _ => rejection.map(ToString::to_string),
        };
        Self {
            reason: rejection.map(|found| found.code().to_owned()),
            evidence,
            window: Some(header.window),
            hotkey: Some(header.hotkey),
            checkpoint: Some(header.checkpoint),
            groups: judgement.groups,
            rollouts: judgement.rollouts,
            checked: judgement.checked,
            accepted: judgement.accepted,
            unverified: judgement.unverified,
            reward_mean: (judgement.accepted > 0).then(|| judgement.reward_mean()),
            ..Self::new(file, verdict)
        }
    }
}

fn print(answer: &Answer, json: bool) -> Result<()> {
    if json {
        output::line(&serde_json::to_string_pretty(answer)?)?;
        return Ok(());
    }
    let mut headline = match answer.verdict {
        "accepted" => format!("accepted: {}", answer.file),
        "rejected" => {
            format!("rejected ({}): {}", answer.reason.as_deref().unwrap_or_default(), answer.file)
        }
        _ => format!("could not verify {}", answer.file),
    };
    if let Some(evidence) = &answer.evidence {
        headline += &format!("\n  {evidence}");
    }
    output::line(&headline)?;
    let (Some(window), Some(hotkey)) = (answer.window, answer.hotkey) else { return Ok(()) };
    output::line(&format!("  window {window}, hotkey {hotkey}"))?;
    output::line(&format!(
        "  {} rollouts in {} groups: {} checked, {} accepted",
        answer.rollouts, answer.groups, answer.checked, answer.accepted
    ))?;
    if let Some(reward) = answer.reward_mean {
        output::line(&format!("  mean reward {reward:.4}, recomputed"))?;
    }
    if !answer.taken_from_file.is_empty() {
        output::line(&format!(
            "  taken from the file itself, not checked: {}",
            answer.taken_from_file.join(", ")
        ))?;
    }
    Ok(())
}
