//! `grail localnet`: a whole subnet in one process, with everything it needs.

pub mod contexts;
pub mod crew;
pub mod layout;
pub mod metering;
pub mod recorder;
pub mod roster;
pub mod runs;
mod screen;
mod session;
mod setup;
pub mod status;
pub mod stores;
mod verdicts;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::setup::{Founding, Prepared};
use crate::cli::LocalnetArgs;
use crate::config::{self, Config};
use crate::environment::variables;
use crate::exit::Outcome;
use crate::globals::Globals;
use crate::logs;

/// Longest wait for blocking work after everything was stopped.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);

/// Does what the options ask for.
pub fn run(args: &LocalnetArgs, globals: &Globals) -> Result<Outcome> {
    let flags = |config: &mut Config| {
        globals.overlay(config);
        overlay(args, config);
    };
    let file = globals.config.as_deref();
    let config = config::resolve(file, variables(), flags)?;
    let bars = screen::bars();
    logs::init(config.log, bars.as_ref())?;
    if let Some(report) = &args.report {
        check_report_path(report)?;
    }

    let prepared = if args.resume {
        let dir = runs::chosen(config.network.dir.as_deref())?;
        let config = resumed_config(&dir, config, |base| {
            config::resolve_on(base, file, variables(), flags)
        })?;
        Prepared::resume(&dir, config)?
    } else {
        Founding::new(config.network.dir.as_deref()).found(config)?
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("while starting the runtime")?;
    let outcome = runtime.block_on(session::run(prepared, bars, args.report.as_deref()));
    // Work that ignores its stop flag must not keep the process alive.
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}

/// Returns the settings of the network in `dir` with today's file, variables and flags over them.
fn resumed_config(
    dir: &Path,
    fresh: Config,
    resolve_on: impl Fn(&Config) -> Result<Config, config::ConfigError>,
) -> Result<Config> {
    let path = layout::config(dir);
    if !path.exists() {
        // The process died between making the network and keeping its settings.
        return Ok(fresh);
    }
    let saved = config::read(&Config::default(), &path)?;
    let config = resolve_on(&saved)?;
    if let Some((key, asked, made)) = config.differs_in_kind(&saved) {
        bail!(
            "{key} is `{asked}`, but the network was made with `{made}`; leave it out, or start a \
             new network"
        );
    }
    Ok(config)
}

/// Makes the folder of the report, so that a bad path is known now and not after the last window.
fn check_report_path(path: &Path) -> Result<()> {
    if path.extension().is_none_or(|extension| extension != "json") {
        bail!("--report {} must end in .json; the page beside it gets .html", path.display());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_owned);
    std::fs::create_dir_all(&parent).with_context(|| format!("while making {}", parent.display()))
}

fn overlay(args: &LocalnetArgs, config: &mut Config) {
    take(&mut config.protocol, args.protocol);
    take(&mut config.store.kind, args.store);
    let localnet = &mut config.localnet;
    take(&mut localnet.windows, args.windows);
    take(&mut localnet.miners, args.miners);
    take(&mut localnet.cheaters, args.cheaters);
    take(&mut localnet.cheats, args.cheats.clone());
    take(&mut localnet.block_time, args.block_time);
    take(&mut localnet.seed, args.seed);
    take(&mut localnet.listen, args.listen);
    take(&mut localnet.without, args.without.clone());
    take(&mut config.mining.groups_per_window, args.groups_per_window);
    take(&mut config.engine.threads, args.threads);
    if args.model.is_some() {
        localnet.model.clone_from(&args.model);
    }
    if args.dir.is_some() {
        config.network.dir.clone_from(&args.dir);
    }
    config.environment.overlay(&args.environment);
}

fn take<T>(setting: &mut T, flag: Option<T>) {
    if let Some(value) = flag {
        *setting = value;
    }
}
