//! `grail lab`: attacks on the proof, and the numbers that its thresholds come from.

mod calibrate;
mod sequential;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_kernels::Isa;
use grail_model::folder_digest;
use grail_ports::environment::Environment;
use grail_ports::model::ModelError;
use grail_protocol::calibration::Calibration;
use grail_protocol::checkpoint::Protocol;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::sampler::SamplerParams;
use grail_services::checkpoint::LoadedCheckpoint;
use indicatif::ProgressBar;
use serde::Serialize;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::base_model::BaseModel;
use crate::cli::{EnvironmentArgs, LabAttacksArgs, LabCommand};
use crate::commands::sft::stop_on_signal;
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::files::write_atomically;
use crate::globals::Globals;
use crate::lab::calibration;
use crate::lab::cost;
use crate::lab::problems::Worked;
use crate::lab::report::{self, MachineFacts, ModelFacts, Report};
use crate::lab::rows::{self, Profile, Row};
use crate::lab::runner::{RowResults, Runner, Sizes, progress};
use crate::lab::settings::{self, SCHEMA_VERSION, Settings};
use crate::lab::world::{World, WorldParts};
use crate::output;

/// Most tokens of a completion of a model of the user's own: more than v5's 32 challenges.
const MAX_NEW_TOKENS: u32 = 40;

/// Does what the options ask for.
pub fn run(command: &LabCommand, globals: &Globals) -> Result<Outcome> {
    match command {
        LabCommand::Attacks(args) if args.list => list(args.json),
        LabCommand::Attacks(args) => attacks(args, &crate::simple(globals, args.threads)?),
        LabCommand::Calibrate(args) => calibrate::run(args, &crate::simple(globals, args.threads)?),
        LabCommand::Sequential(args) => {
            crate::simple(globals, None)?;
            sequential::run(args)
        }
    }
}

/// What `--list --json` prints of a row.
#[derive(Serialize)]
struct Listed {
    id: &'static str,
    what: &'static str,
    honest: bool,
    profiles: Vec<Profile>,
}

fn list(json: bool) -> Result<Outcome> {
    let rows: Vec<Listed> = rows::ALL
        .iter()
        .map(|row| Listed {
            id: row.id,
            what: row.what,
            honest: row.is_honest(),
            profiles: Profile::ALL.into_iter().filter(|profile| row.runs(*profile)).collect(),
        })
        .collect();
    if json {
        output::line(&serde_json::to_string_pretty(&rows)?)?;
        return Ok(Outcome::Done);
    }
    for row in rows {
        let profiles: Vec<&str> = row.profiles.iter().map(|profile| profile.name()).collect();
        output::line(&format!("{:<24} {:<18} {}", row.id, profiles.join(","), row.what))?;
    }
    Ok(Outcome::Done)
}

/// The rows and profiles that the options choose.
struct Choice {
    rows: Vec<&'static Row>,
    profiles: Vec<Profile>,
}

impl Choice {
    fn of(args: &LabAttacksArgs) -> Result<Self> {
        let profiles: Result<Vec<Profile>, String> =
            args.profile.iter().map(|name| name.parse()).collect();
        let mut profiles = profiles.map_err(anyhow::Error::msg).context("--profile")?;
        profiles.sort_unstable();
        profiles.dedup();
        let rows = match &args.attack {
            None => rows::ALL.iter().collect(),
            Some(ids) => {
                let unknown = ids.iter().find(|id| rows::find(id).is_none());
                if let Some(id) = unknown {
                    bail!("--attack {id} is no row; `grail lab attacks --list` shows them");
                }
                rows::ALL.iter().filter(|row| ids.iter().any(|id| id == row.id)).collect()
            }
        };
        if args.rollouts == 0 || args.honest_rollouts == 0 {
            bail!("--rollouts and --honest-rollouts must be at least 1");
        }
        Ok(Self { rows, profiles })
    }
}

fn attacks(args: &LabAttacksArgs, config: &Config) -> Result<Outcome> {
    let choice = Choice::of(args)?;
    let start = Start {
        model: args.model.as_deref(),
        max_new_tokens: args.max_new_tokens,
        environment: &args.environment,
        seed: args.seed,
    };
    let given = args.calibration.as_deref().map(calibrate::read).transpose()?;
    let (world, _base, signals) =
        start.world(config, &args.out.join("models"), args.smaller_model.clone())?;
    let settings = settings_of(args, &world, given.as_ref())?;
    settings::claim(&args.out, &settings, args.resume)?;
    if choice.profiles.contains(&Profile::Tolerant) {
        judge_by(&world, args, given)?;
    }
    let threads = world.parts().threads;
    let sizes = Sizes { rollouts: args.rollouts, honest_rollouts: args.honest_rollouts };
    let runner = Runner::new(&world, &args.out, sizes);
    if !args.json {
        output::line(&report::head())?;
    }
    let thresholds = world.calibration().map(|calibration| &calibration.thresholds);
    let mut told = |result: &RowResults, before: &[RowResults]| {
        if !args.json && result.row.runs(result.profile) {
            let honest = report::honest_of(before, result.profile);
            output::line(&report::line(&report::summary(result, honest, thresholds)))?;
        }
        Ok(())
    };
    let results = match runner.run(&choice.rows, &choice.profiles, &mut told) {
        Err(error) if error.downcast_ref() == Some(&ModelError::Stopped) => {
            output::error_line("stopped; the same command with --resume goes on");
            return Ok(Outcome::Interrupted);
        }
        results => results?,
    };
    drop(signals);

    let info = world.published().model.info();
    let model = ModelFacts {
        source: args
            .model
            .as_ref()
            .map_or("embedded".to_owned(), |path| path.display().to_string()),
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        hidden_size: info.hidden_size,
    };
    let machine = MachineFacts { isa: Isa::detect().name().to_owned(), threads };
    let rows = report::summarise(&results, thresholds);
    let calibration = world.calibration().map(serde_json::to_value).transpose()?;
    let mut report = Report::new(settings, model, machine, calibration, rows);
    for profile in choice.profiles.iter().filter(|profile| **profile != Profile::V5) {
        report.timing.insert(profile.name(), cost::measure(&world, *profile)?);
    }
    write(&args.out, &report)?;
    tell(&report, args)?;
    Ok(if report.failures.is_empty() { Outcome::Done } else { Outcome::Rejected })
}

/// Takes the calibration that was given, kept or fitted now, and makes sure that it is another
/// test's.
fn judge_by(world: &World, args: &LabAttacksArgs, given: Option<Calibration>) -> Result<()> {
    let calibration = match given {
        Some(given) => given,
        None => {
            let rollouts = args.calibration_rollouts;
            let bar = rollouts_bar(rollouts);
            let path = args.out.join("calibration.json");
            let fitted = calibrate::keep_or_fit(world, &path, rollouts, &bar)?;
            bar.finish_and_clear();
            // The problems of a few windows show whether the splits are apart.
            calibration::refuse_overlap(world, rollouts, 4, 4)?;
            fitted
        }
    };
    world.calibrate(calibration);
    Ok(())
}

/// A bar over groups, on a terminal.
fn rollouts_bar(rollouts: u32) -> ProgressBar {
    progress(u64::from(rollouts.div_ceil(ROLLOUTS_PER_GROUP)))
}

/// What a lab starts from.
struct Start<'a> {
    model: Option<&'a Path>,
    max_new_tokens: Option<u32>,
    environment: &'a EnvironmentArgs,
    seed: u64,
}

impl Start<'_> {
    /// Loads the model; keep what is returned beside the world until the end: an unpacked or
    /// imported model lies in a temporary folder.
    fn world(
        &self,
        config: &Config,
        models: &Path,
        smaller: Option<PathBuf>,
    ) -> Result<(World, (BaseModel, TempDir), Runtime)> {
        let sampler = self.sampler(config)?;
        let environment = self.environment(config)?;
        let staging = tempfile::tempdir().context("while making a temporary folder")?;
        let base = BaseModel::prepare(self.model, staging.path(), Protocol::V6)?;
        let parts = WorldParts {
            base: base.dir().to_owned(),
            models: models.to_owned(),
            smaller,
            environment,
            sampler,
            seed: self.seed,
            threads: engine::threads(config.engine),
        };
        let (signals, stop) = stop_on_signal()?;
        Ok((World::new(parts, stop)?, (base, staging), signals))
    }

    fn environment(&self, config: &Config) -> Result<Arc<dyn Environment>> {
        let mut problems = config.environment.clone();
        problems.overlay(self.environment);
        let environment = problems.create()?;
        // The embedded model knows no other prompt than the plain one.
        let is_plain = self.model.is_none() || self.environment.environment.is_some();
        Ok(if is_plain { environment } else { Arc::new(Worked::new(environment)) })
    }

    fn sampler(&self, config: &Config) -> Result<SamplerParams> {
        let usual = match self.model {
            None => config.sampling.max_new_tokens,
            Some(_) => MAX_NEW_TOKENS,
        };
        let max_new_tokens = self.max_new_tokens.unwrap_or(usual);
        let sampler = SamplerParams { max_new_tokens, temperature: config.sampling.temperature };
        sampler.validate().context("--max-new-tokens")?;
        Ok(sampler)
    }
}

fn settings_of(
    args: &LabAttacksArgs,
    world: &World,
    calibration: Option<&Calibration>,
) -> Result<Settings> {
    let LoadedCheckpoint { environment, sampler, .. } = world.published();
    Ok(Settings {
        schema_version: SCHEMA_VERSION,
        grail_version: env!("CARGO_PKG_VERSION").to_owned(),
        checkpoint: world.published().digest(),
        environment: environment.id().to_owned(),
        environment_params: environment.params_json(),
        temperature: sampler.temperature,
        max_new_tokens: sampler.max_new_tokens,
        seed: args.seed,
        rollouts: args.rollouts,
        honest_rollouts: args.honest_rollouts,
        calibration: calibration.map(Calibration::digest),
        calibration_rollouts: args.calibration_rollouts,
        smaller_model: args.smaller_model.as_deref().map(folder_digest).transpose()?,
    })
}

fn write(out: &Path, report: &Report) -> Result<()> {
    let json = serde_json::to_vec_pretty(report)?;
    for (name, bytes) in [("report.json", json), ("report.html", report::page(report).into_bytes())]
    {
        let path = out.join(name);
        write_atomically(&path, &bytes)
            .with_context(|| format!("while writing {}", path.display()))?;
    }
    Ok(())
}

fn tell(report: &Report, args: &LabAttacksArgs) -> Result<()> {
    if args.json {
        output::line(&serde_json::to_string_pretty(report)?)?;
    } else {
        let out = args.out.display();
        output::line(&format!("\nwrote {out}/report.json and {out}/report.html"))?;
    }
    if !report.failures.is_empty() {
        output::error_line(&format!("against the claims: {}", report.failures.join(", ")));
    }
    Ok(())
}
