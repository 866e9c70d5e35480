//! `grail mine`, `grail validate`, `grail train`: one role in a process of its own.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use grail_infrastructure::local::network::{NetworkFile, NetworkRole, Node};
use grail_infrastructure::lock::FolderLock;
use grail_monitoring::{Fanout, Metrics};
use grail_neurons::health::Health;
use grail_neurons::signals::cancel_on_signal;
use grail_ports::events::{Event, EventSink};
use grail_services::state::remove_leftovers;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, warn};

use super::localnet::crew::{Crew, ROLE_LOCK};
use super::localnet::roster::Duty;
use super::localnet::{contexts, layout, metering, runs, status, stores};
use super::{guest, remote, status_page};
use crate::base_model;
use crate::cli::RoleArgs;
use crate::config::{self, Config};
use crate::engine;
use crate::environment::variables;
use crate::exit::Outcome;
use crate::files::write_atomically;
use crate::globals::Globals;
use crate::human_duration::HumanDuration;
use crate::logs;
use crate::output;

/// Longest wait for blocking work after the role was stopped.
const RUNTIME_SHUTDOWN: Duration = Duration::from_millis(500);

/// Pause between two files of metrics, as often as collectors look.
const METRICS_EVERY: Duration = Duration::from_secs(15);

/// Longest wait for the context of the last window to be published after the role was stopped.
const LAST_CONTEXT: Duration = Duration::from_millis(500);

/// Runs the role until it is asked to stop.
pub fn run(role: NetworkRole, args: &RoleArgs, globals: &Globals) -> Result<Outcome> {
    let flags = |config: &mut Config| {
        globals.overlay(config);
        overlay(args, config);
    };
    let file = globals.config.as_deref();
    let first = config::resolve(file, variables(), flags)?;
    let is_local = first.network.is_local();
    let (local, config) = if is_local {
        let resolve_on = |saved: &Config| config::resolve_on(saved, file, variables(), flags);
        let (dir, config) = of_local_network(first, resolve_on)?;
        (Some(dir), config)
    } else {
        (None, first)
    };
    logs::init(config.log, None)?;
    let (dir, papers) = match local {
        Some(dir) => (dir, None),
        None => {
            let papers = remote::Papers::gather(&config)?;
            (remote::home(&config)?, Some(papers))
        }
    };

    let environment = config.environment.create_for(config.protocol.0)?;
    let base = match role {
        NetworkRole::Trainer if is_local => {
            base_model::of_network(&dir, config.localnet.model.as_deref())?
        }
        NetworkRole::Trainer => {
            base_model::of_subnet(&dir, config.training.model.as_deref(), config.protocol.0)?
        }
        NetworkRole::Validator | NetworkRole::Miner => dir.clone(),
    };
    let exact = engine::exact_provider(config.engine, config.training.trainer())?;
    let miners = engine::miners_provider(config.engine, &exact)?;
    let (duty, default_wallet) = match role {
        NetworkRole::Trainer => (Duty::Trainer, "trainer"),
        NetworkRole::Validator => (Duty::Validator, "validator"),
        NetworkRole::Miner => (Duty::Miner, "miner"),
    };
    let wallet = config.wallet.name.as_deref().unwrap_or(default_wallet);
    let metrics = Metrics::default();
    let join = async {
        match papers {
            Some(papers) => remote::join(papers, role, &config, &dir, &metrics).await,
            None => {
                let mut node = guest::join(&dir, wallet, role, &config.wallet).await?;
                stores::settle(&mut node, &config.store).await?;
                Ok(node)
            }
        }
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("while starting the runtime")?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        let signals = cancel_on_signal(stop.clone()).context("while installing signal handlers")?;
        let health = Health::default();
        if let Some(address) = config.status.listen {
            let served = status_page::serve(address, health.clone(), metrics.clone(), stop.clone());
            output::line(&format!("status    http://{}/health and /metrics", served.await?))?;
        }
        let node = tokio::select! {
            () = stop.cancelled() => return Ok(Outcome::Done),
            node = join => node?,
        };
        let mut config = config.clone();
        // The chain's own pace, whatever the settings of a local network say.
        config.localnet.block_time = HumanDuration::from_millis(node.chain.block_time_ms());
        let crew = Crew::new(config, exact, miners, environment, &base);
        let ended = live(&crew, &duty, &node, &metrics, health, stop).await;
        signals.abort();
        ended
    });
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    outcome
}

/// Returns the folder of a local network and the settings of a role there.
fn of_local_network(
    first: Config,
    resolve_on: impl Fn(&Config) -> Result<Config, config::ConfigError>,
) -> Result<(PathBuf, Config)> {
    let dir = runs::chosen(first.network.dir.as_deref())?;
    NetworkFile::load(&dir)?;
    // The settings that the network was made with, so that all roles agree.
    let kept = layout::config(&dir);
    let config = match kept.exists() {
        true => resolve_on(&config::read(&Config::default(), &kept)?)?,
        false => first,
    };
    Ok((dir, config))
}

async fn live(
    crew: &Crew,
    duty: &Duty,
    node: &Node,
    metrics: &Metrics,
    health: Health,
    stop: CancellationToken,
) -> Result<Outcome> {
    let _lock = FolderLock::acquire(&node.dir, ROLE_LOCK)?;
    remove_leftovers(&node.dir)?;
    let done = tokio::select! {
        done = act(crew, duty, node, metrics, health, stop) => done,
        never = keep_metrics(node, metrics) => match never {},
    };
    write_metrics(node, metrics);
    done
}

/// Writes the metrics again and again; what is lost with the process is a few seconds old.
async fn keep_metrics(node: &Node, metrics: &Metrics) -> Infallible {
    let mut ticks = interval(METRICS_EVERY);
    loop {
        ticks.tick().await;
        write_metrics(node, metrics);
    }
}

fn write_metrics(node: &Node, metrics: &Metrics) {
    let path = layout::metrics(&node.dir);
    if let Err(error) = write_atomically(&path, metrics.render().as_bytes()) {
        // A role goes on working while nobody can see how.
        warn!(path = %path.display(), %error, "the metrics were not written");
    }
}

async fn act(
    crew: &Crew,
    duty: &Duty,
    node: &Node,
    metrics: &Metrics,
    health: Health,
    stop: CancellationToken,
) -> Result<Outcome> {
    let entry = &node.entry;
    output::line(&format!(
        "{} with hotkey {} (uid {}) on network {} {}",
        entry.name,
        entry.hotkey,
        entry.uid,
        node.chain.network(),
        node.chain.netuid()
    ))?;
    let span = tracing::info_span!("role", role = entry.name, uid = %entry.uid);
    let sinks =
        vec![Arc::new(Printer) as Arc<dyn EventSink>, metrics.sink(metering::of_role(node))];
    let events: Arc<dyn EventSink> = Arc::new(Fanout(sinks));
    let ended = if *duty == Duty::Validator {
        let (events, publisher) = contexts::publish_after(events);
        let mut role = pin!(crew.run(duty, node, events, health, stop).instrument(span));
        let mut publishing = pin!(publisher.run(node));
        tokio::select! {
            ended = &mut role => {
                // Only the newest context is at stake, and the network may be gone already.
                let _ = timeout(LAST_CONTEXT, publishing).await;
                ended
            }
            // The validator has told its last event and is about to end.
            () = &mut publishing => role.await,
        }
    } else {
        crew.run(duty, node, events, health, stop).instrument(span).await
    };
    ended.with_context(|| format!("{} ended", entry.name))?;
    output::line(&format!("{} stopped", entry.name))?;
    Ok(Outcome::Done)
}

/// Prints what a role does, one line each.
struct Printer;

impl EventSink for Printer {
    fn emit(&self, event: Event) {
        if matches!(event, Event::GroupMined { .. }) {
            return;
        }
        if let Some(text) = status::describe(&event) {
            // A role goes on working when nobody reads what it prints.
            let _ = output::line(&text);
        }
    }
}

fn overlay(args: &RoleArgs, config: &mut Config) {
    config.overlay_place(&args.place);
    if args.dir.is_some() {
        config.network.dir.clone_from(&args.dir);
    }
    if args.wallet.is_some() {
        config.wallet.name.clone_from(&args.wallet);
    }
    if args.model.is_some() {
        config.training.model.clone_from(&args.model);
    }
    if let Some(threads) = args.threads {
        config.engine.threads = threads;
    }
    if let Some(groups) = args.groups_per_window {
        config.mining.groups_per_window = groups;
    }
    if args.status.is_some() {
        config.status.listen = args.status;
    }
}
