//! The life of a local network: starts everything, watches, stops everything, tells the result.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use grail_infrastructure::local::network::{LocalNetwork, Node};
use grail_infrastructure::local::rpc::DEVELOPMENT_NOTICE;
use grail_infrastructure::lock::FolderLock;
use grail_monitoring::{Fanout, Metrics};
use grail_neurons::health::Health;
use grail_neurons::lifecycle::NeuronExit;
use grail_neurons::signals::cancel_on_signal;
use grail_ports::events::EventSink;
use grail_protocol::keys::VERDICTS_PREFIX;
use grail_services::state::remove_leftovers;
use indicatif::MultiProgress;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, warn};

use super::crew::{Crew, ROLE_LOCK};
use super::metering;
use super::recorder::Recorder;
use super::roster::{Duty, LocalRoster, Member, members};
use super::screen::Screen;
use super::setup::Prepared;
use super::{contexts, layout, stores, verdicts};
use crate::config::{Config, OutsideRole, StoreKind};
use crate::engine;
use crate::exit::Outcome;
use crate::files::write_atomically;
use crate::memory;
use crate::report::{
    Completion, Journal, Report, RoleTag, final_tables, window_line, write_report,
};

/// Pause between two looks at what a validator in another process published.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the roles after they were asked to stop.
const ROLES_SHUTDOWN: Duration = Duration::from_secs(4);

/// Runs the network until it has its windows, is asked to stop, or a part of it fails.
pub async fn run(
    prepared: Prepared,
    bars: Option<MultiProgress>,
    report_path: Option<&Path>,
) -> Result<Outcome> {
    let stop = CancellationToken::new();
    let signals = cancel_on_signal(stop.clone()).context("while installing signal handlers")?;
    let mut session = Session::start(prepared, bars, report_path, stop.clone()).await?;
    let watched = session.watch(&stop).await;
    session.end(&stop).await;
    signals.abort();
    session.finish(watched)
}

struct Session {
    network: LocalNetwork,
    config: Config,
    recorder: Arc<Recorder>,
    /// Whose published verdicts are read, whoever runs that validator.
    validator: Option<Arc<Node>>,
    metrics: Metrics,
    roles: JoinSet<(String, Result<(), NeuronExit>)>,
    chain: JoinHandle<Result<(), grail_infrastructure::local::chain::LocalChainError>>,
    /// Stops what the roles stand on: the chain and the server.
    ground: CancellationToken,
    screen: Screen,
    completion: Completion,
    /// Windows whose line was shown.
    shown: BTreeSet<u64>,
    started: Instant,
    elapsed_before_s: f64,
    outputs: Vec<PathBuf>,
}

impl Session {
    async fn start(
        prepared: Prepared,
        bars: Option<MultiProgress>,
        report_path: Option<&Path>,
        stop: CancellationToken,
    ) -> Result<Self> {
        let Prepared { config, mut network, provider, environment, base, setup } = prepared;
        let cheats = config.cheats()?;
        let miners = engine::miners_provider(config.engine, &provider)?;
        let crew = Arc::new(Crew::new(config.clone(), provider, miners, environment, &base));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.localnet.listen));
        let ground = CancellationToken::new();
        let server = network.serve(address, ground.clone()).await?;
        let metrics = Metrics::default();
        network.observe(metrics.observer(metering::of_process(&network.file())));
        let mut nodes: Vec<(Member, Arc<Node>)> = Vec::new();
        for member in members(&config, &cheats) {
            let mut node = network.node(&member.name).await?;
            stores::settle(&mut node, &config.store).await?;
            let node = metering::metered(node, &metrics, network.clock());
            nodes.push((member, Arc::new(node)));
        }
        let roster = LocalRoster::new(
            nodes.iter().map(|(member, node)| (node.entry.hotkey, member.clone())),
        );
        let (recorder, elapsed_before_s) = open_recorder(network.dir(), setup, roster)?;

        let chain = tokio::spawn(network.chain().clone().run(ground.clone()));

        let names: Vec<String> = nodes.iter().map(|(member, _)| member.name.clone()).collect();
        let screen = Screen::new(bars, &names, config.localnet.windows);
        screen.line(&format!("network   {}", network.dir().display()))?;
        screen.line(&format!("endpoint  {}", server.endpoint()))?;
        screen.line(&format!("chain     {DEVELOPMENT_NOTICE}"))?;
        screen.line(&format!("members   {}", names.join(", ")))?;
        let is_validator = |(member, _): &&(Member, _)| member.duty == Duty::Validator;
        let validator = nodes.iter().find(is_validator).map(|(_, node)| node.clone());
        if let Some(validator) = &validator {
            // Where a miner reads what it got and why; `grail explain --verdict` says it in words.
            let verdicts = match config.store.kind {
                StoreKind::Folder => {
                    layout::verdicts(network.dir(), validator.entry.hotkey).display().to_string()
                }
                StoreKind::S3 => {
                    let bucket = stores::name(&config.store, validator);
                    format!("s3://{bucket}/{}", VERDICTS_PREFIX.trim_end_matches('/'))
                }
            };
            screen.line(&format!("verdicts  {verdicts}/WINDOW/HOTKEY.json"))?;
        }

        let completion = Completion {
            with_trainer: !config.localnet.without.contains(&OutsideRole::Trainer),
            every_window_is_evaluated: config.training.evaluate_every == 1,
        };
        let mut session = Self {
            validator,
            metrics,
            roles: JoinSet::new(),
            shown: BTreeSet::new(),
            started: Instant::now(),
            outputs: [layout::report(network.dir())]
                .into_iter()
                .chain(report_path.map(Path::to_owned))
                .collect(),
            network,
            config,
            recorder,
            chain,
            ground,
            screen,
            completion,
            elapsed_before_s,
        };
        session.catch_up().await;
        let report = session.recorder.report();
        session.shown.extend(session.completion.finished(&report).map(|row| row.window));
        for (member, node) in nodes {
            if !session.is_left_out(&member.duty) {
                session.spawn(&crew, member, node, &stop)?;
            }
        }
        Ok(session)
    }

    /// Folds in what was published and not told: by another process, or before a kill.
    async fn catch_up(&self) {
        if let Some(node) = &self.validator {
            verdicts::catch_up(&self.recorder, node).await;
        }
    }

    fn is_left_out(&self, duty: &Duty) -> bool {
        match duty {
            Duty::Trainer => !self.completion.with_trainer,
            Duty::Validator => self.has_outside_validator(),
            Duty::Miner | Duty::Cheater(_) => false,
        }
    }

    fn has_outside_validator(&self) -> bool {
        self.config.localnet.without.contains(&OutsideRole::Validator)
    }

    fn spawn(
        &mut self,
        crew: &Arc<Crew>,
        member: Member,
        node: Arc<Node>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let lock = FolderLock::acquire(&node.dir, ROLE_LOCK)?;
        remove_leftovers(&node.dir)?;
        let entry = &node.entry;
        let tag = RoleTag { name: member.name.clone(), uid: entry.uid, hotkey: entry.hotkey };
        let context = metering::of_role(&node);
        let span = context.span();
        let both = vec![self.recorder.sink(tag), self.metrics.sink(context)];
        let mut events: Arc<dyn EventSink> = Arc::new(Fanout(both));
        let mut publisher = None;
        if member.duty == Duty::Validator {
            let (sink, behind) = contexts::publish_after(events);
            events = sink;
            publisher = Some(behind);
        }
        let (crew, stop) = (crew.clone(), stop.clone());
        let life = async move {
            let role = crew.run(&member.duty, &node, events, Health::default(), stop);
            let ended = match publisher {
                // The sink goes with the role, and the publisher ends with its sink.
                Some(publisher) => tokio::join!(role, publisher.run(&node)).0,
                None => role.await,
            };
            drop(lock);
            (member.name, ended)
        };
        self.roles.spawn(life.instrument(span));
        Ok(())
    }

    /// Shows progress until the network is complete, stopped or broken; says which.
    async fn watch(&mut self, stop: &CancellationToken) -> Result<bool> {
        let mut looks = interval(LOOK_EVERY);
        loop {
            self.show_progress()?;
            if let Some(error) = self.recorder.take_trouble() {
                return Err(error).context("while writing the journal");
            }
            let wanted = usize::try_from(self.config.localnet.windows).unwrap_or(usize::MAX);
            if self.shown.len() >= wanted {
                return Ok(true);
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = self.recorder.changed() => {}
                // A validator in another process tells nothing; what it publishes does.
                _ = looks.tick(), if self.has_outside_validator() => self.catch_up().await,
                Some(ended) = self.roles.join_next() => {
                    if stop.is_cancelled() {
                        return Ok(false);
                    }
                    let (name, exit) = ended.context("a role panicked")?;
                    return Err(exit.err().map_or_else(
                        || anyhow!("{name} ended before the network did; report this"),
                        |exit| anyhow!(exit).context(format!("{name} ended")),
                    ));
                }
                ended = &mut self.chain => {
                    ended.context("the chain panicked")?.context("the chain stopped")?;
                    return Err(anyhow!("the chain stopped before the network did; report this"));
                }
            }
        }
    }

    /// Shows the state, a line for each newly finished window, and writes the report with it.
    fn show_progress(&mut self) -> Result<()> {
        let report = self.recorder.report();
        let (head, status) = self.recorder.progress();
        let finished: Vec<_> = self
            .completion
            .finished(&report)
            .filter(|row| !self.shown.contains(&row.window))
            .cloned()
            .collect();
        for row in &finished {
            self.screen.line(&window_line(row))?;
            self.shown.insert(row.window);
        }
        self.screen.show(head, self.shown.len(), &status);
        if !finished.is_empty() {
            self.write(report, false)?;
        }
        Ok(())
    }

    fn write(&self, mut report: Report, complete: bool) -> Result<Report> {
        report.complete = complete;
        report.elapsed_s = self.elapsed_before_s + self.started.elapsed().as_secs_f64();
        report.peak_memory_bytes = memory::peak_bytes();
        for path in &self.outputs {
            write_report(&report, path)
                .with_context(|| format!("while writing {}", path.display()))?;
        }
        let path = layout::metrics(self.network.dir());
        write_atomically(&path, self.metrics.render().as_bytes())
            .with_context(|| format!("while writing {}", path.display()))?;
        Ok(report)
    }

    /// Stops the roles, then what they stand on.
    async fn end(&mut self, stop: &CancellationToken) {
        stop.cancel();
        let ended =
            timeout(ROLES_SHUTDOWN, async { while self.roles.join_next().await.is_some() {} });
        if ended.await.is_err() {
            warn!("some roles did not stop in time and were abandoned");
            self.roles.abort_all();
        }
        // Asks the chain, which must still answer.
        self.catch_up().await;
        self.network.disconnect().await;
        self.ground.cancel();
    }

    /// Writes the last report and shows the tables.
    fn finish(self, watched: Result<bool>) -> Result<Outcome> {
        self.screen.clear();
        let complete = matches!(watched, Ok(true));
        let report = self.write(self.recorder.report(), complete)?;
        crate::output::line(&format!("\n{}", final_tables(&report)))?;
        for path in &self.outputs {
            let page = path.with_extension("html");
            crate::output::line(&format!("report    {} and {}", path.display(), page.display()))?;
        }
        watched.map(|_| Outcome::Done)
    }
}

/// Opens the journal of the network in `dir` and folds it into a report.
fn open_recorder(
    dir: &Path,
    setup: crate::report::Setup,
    roster: LocalRoster,
) -> Result<(Arc<Recorder>, f64)> {
    let path = layout::journal(dir);
    let (journal, entries) =
        Journal::open(&path).with_context(|| format!("while opening {}", path.display()))?;
    // Only the time of earlier runs is not in the journal; a report that is gone or damaged costs
    // nothing else.
    let before = std::fs::read(layout::report(dir)).ok();
    let before = before.and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
    let elapsed_s = before.map_or(0.0, |report| report.elapsed_s);
    Ok((Recorder::new(Report::new(setup), journal, &entries, roster), elapsed_s))
}
