//! A validator's life, whatever the profile: each complete window is judged once, tried again while
//! something fails on our side, and left behind when newer ones must not wait; then the weights.

use std::collections::BTreeSet;

use async_trait::async_trait;
use grail_ports::chain::{Block, Neuron};
use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Window};
use tokio::time::Instant;
use tracing::warn;

use super::config::ValidationConfig;
use super::discovery::{Candidate, Sighting};
use super::history::{History, outstanding};
use super::progress::{Finished, Progress, Settled};
use super::weights::WeightSetter;
use super::{ValidationError, ValidationOutcome};
use crate::context::RunContext;
use crate::peers::PeerDirectory;

/// Whether a window can be judged, and by what.
pub enum Aim<T> {
    /// By this.
    At(T),
    /// Never: for this reason.
    PassOver(String),
    /// Not yet: for this reason.
    Wait(String),
    /// Not yet, and a person should know why.
    Tell(String),
}

/// How a profile judges.
#[async_trait]
pub trait Profile: Send + Sync {
    /// A window with what its files are judged by.
    type Target: Send + Sync;
    /// A judged file.
    type Judged: Send + Sync;

    /// Folder of the history, in the role's own.
    const FOLDER: &'static str;

    /// Returns what `window` is judged by.
    async fn target(&mut self, window: Window) -> Result<Aim<Self::Target>, ValidationError>;

    /// Returns the key of a miner's file.
    fn key(&self, hotkey: Hotkey, window: Window) -> String;

    /// Looks for files; results in the same order.
    async fn discover(
        &self,
        target: &Self::Target,
        candidates: Vec<Candidate>,
    ) -> Vec<(Hotkey, Sighting)>;

    /// Returns who of the `active` miners is judged.
    fn select(
        &self,
        target: &Self::Target,
        active: &[&Candidate],
        history: &History,
    ) -> Vec<Candidate>;

    /// Judges a miner's file.
    ///
    /// # Errors
    /// Only when we were asked to stop.
    async fn judge(
        &self,
        target: &Self::Target,
        candidate: &Candidate,
    ) -> Result<Settled<Self::Judged>, ValidationError>;

    /// Publishes the window, tells about it, then commits it to the history.
    async fn finish(
        &mut self,
        target: &Self::Target,
        finished: Finished<'_, Self::Judged>,
        history: &mut History,
    ) -> Result<(), ValidationError>;
}

/// Validates the windows behind each head.
pub struct Validator<P: Profile> {
    ctx: RunContext,
    config: ValidationConfig,
    profile: P,
    peers: PeerDirectory,
    weights: WeightSetter,
    history: Option<History>,
    progress: Option<Progress<P::Judged>>,
    /// Newest window whose waiting was told.
    announced: Option<Window>,
}

enum Step {
    Done,
    PassedOver,
    Waiting(String),
}

impl<P: Profile> Validator<P> {
    /// Makes the service; nothing is read before the first tick.
    pub(crate) fn with(ctx: RunContext, config: ValidationConfig, profile: P) -> Self {
        Self {
            weights: WeightSetter::new(config.schedule, config.scoring_rules(), config.version_key),
            peers: PeerDirectory::default(),
            history: None,
            progress: None,
            announced: None,
            ctx,
            config,
            profile,
        }
    }

    /// Returns why the newest weights are not on the chain, for a person; `None` if they are.
    pub fn alarm(&self) -> Option<&str> {
        self.weights.alarm()
    }

    /// Judges the windows that are complete at `head` and not done yet, then sees to the weights.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window is counted twice.
    pub async fn tick(&mut self, head: Block) -> Result<ValidationOutcome, ValidationError> {
        self.ctx.heartbeat.beat();
        let mut history = match self.history.take() {
            Some(history) => history,
            None => History::open(&self.ctx.state_dir.join(P::FOLDER))?,
        };
        let outcome = self.work(head, &mut history).await;
        self.history = Some(history);
        outcome
    }

    async fn work(
        &mut self,
        head: Block,
        history: &mut History,
    ) -> Result<ValidationOutcome, ValidationError> {
        let outcome = self.judge_windows(head, history).await;
        if matches!(outcome, Err(ValidationError::Model(_))) {
            return outcome;
        }
        // Also without a new window: weights on their way are looked for at every head.
        let is_judged =
            matches!(outcome, Ok(ValidationOutcome::Idle | ValidationOutcome::Validated(_)));
        self.weights.run(&self.ctx, history, head.number, is_judged).await?;
        outcome
    }

    async fn judge_windows(
        &mut self,
        head: Block,
        history: &mut History,
    ) -> Result<ValidationOutcome, ValidationError> {
        let current = Window::containing(head.number);
        let targets = outstanding(history.last(), current, self.config.catch_up_windows);
        let mut done = Vec::new();
        for &window in &targets {
            let is_newest = targets.last() == Some(&window);
            match self.process(window, !is_newest, history).await {
                Ok(Step::Done) => done.push(window),
                Ok(Step::PassedOver) => {}
                Ok(Step::Waiting(reason)) if is_newest => {
                    return Ok(ValidationOutcome::Waiting(reason));
                }
                Err(error) if is_newest => return Err(error),
                Err(ValidationError::Model(stopped)) => return Err(stopped.into()),
                // Newer windows must not wait for one that cannot be had.
                Ok(Step::Waiting(reason)) => self.pass_over(window, reason, history)?,
                Err(error) => self.pass_over(window, error.to_string(), history)?,
            }
        }
        if done.is_empty() {
            return Ok(ValidationOutcome::Idle);
        }
        Ok(ValidationOutcome::Validated(done))
    }

    /// Judges one window as far as that is possible now.
    async fn process(
        &mut self,
        window: Window,
        last_chance: bool,
        history: &mut History,
    ) -> Result<Step, ValidationError> {
        let target = match self.profile.target(window).await? {
            Aim::At(target) => target,
            Aim::PassOver(reason) => {
                self.pass_over(window, reason, history)?;
                return Ok(Step::PassedOver);
            }
            Aim::Wait(reason) => return Ok(Step::Waiting(reason)),
            Aim::Tell(reason) => {
                self.announce(window, &reason);
                return Ok(Step::Waiting(reason));
            }
        };
        let (candidates, registered) = self.candidates(window).await?;
        let mut progress = match self.progress.take() {
            Some(progress) if progress.window == window => progress,
            _ => Progress::new(window),
        };
        progress.registered = registered;
        self.look(&target, &candidates, &mut progress).await;
        let active: Vec<&Candidate> =
            candidates.iter().filter(|it| progress.is_active(it.hotkey)).collect();
        let selected = self.profile.select(&target, &active, history);
        let settled = self.judge_all(&target, &selected, &mut progress).await;
        let unsettled = progress.unsettled(&candidates, &selected);
        let may_retry = !last_chance && progress.attempts + 1 < self.config.attempts_max;
        if settled.is_ok() && (unsettled == 0 || !may_retry) {
            let (candidates, selected) = (&candidates[..], &selected[..]);
            let finished = Finished { candidates, selected, progress: &progress };
            let finished = self.profile.finish(&target, finished, history).await;
            if finished.is_err() {
                self.progress = Some(progress);
            }
            return finished.map(|()| Step::Done);
        }
        progress.attempts += 1;
        self.progress = Some(progress);
        settled?;
        Ok(Step::Waiting(format!("{unsettled} miners could not be judged yet; trying again")))
    }

    /// Returns where the miners' files of `window` would be, in metagraph order, and who is
    /// registered at all.
    async fn candidates(
        &mut self,
        window: Window,
    ) -> Result<(Vec<Candidate>, BTreeSet<Hotkey>), ValidationError> {
        if let Err(error) = self.peers.refresh(&*self.ctx.chain).await {
            if self.peers.is_empty() {
                return Err(error.into());
            }
            warn!(%error, "the buckets of peers are those of an earlier window");
        }
        let metagraph = self.ctx.chain.metagraph().await?;
        let candidate = |neuron: &Neuron| {
            let bucket = self.peers.bucket(&*self.ctx.buckets, neuron.hotkey)?;
            let key = self.profile.key(neuron.hotkey, window);
            Some(Candidate { uid: neuron.uid, hotkey: neuron.hotkey, bucket, key })
        };
        let registered = metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
        Ok((metagraph.neurons.iter().filter_map(candidate).collect(), registered))
    }

    /// Finds out who has a file.
    async fn look(
        &self,
        target: &P::Target,
        candidates: &[Candidate],
        progress: &mut Progress<P::Judged>,
    ) {
        let is_unseen = |it: &&Candidate| !progress.in_time.contains_key(&it.hotkey);
        let unseen: Vec<Candidate> = candidates.iter().filter(is_unseen).cloned().collect();
        let sightings = self.profile.discover(target, unseen).await;
        self.ctx.heartbeat.beat();
        for (hotkey, sighting) in sightings {
            match sighting {
                Sighting::InTime => progress.in_time.insert(hotkey, true),
                Sighting::Absent => progress.in_time.insert(hotkey, false),
                Sighting::Unknown(reason) => {
                    warn!(%hotkey, reason, "cannot see whether there is a file");
                    None
                }
            };
        }
    }

    /// Judges those who are not judged yet.
    ///
    /// # Errors
    /// Only when we were asked to stop.
    async fn judge_all(
        &self,
        target: &P::Target,
        selected: &[Candidate],
        progress: &mut Progress<P::Judged>,
    ) -> Result<(), ValidationError> {
        for candidate in selected {
            let hotkey = candidate.hotkey;
            if progress.judged.contains_key(&hotkey) {
                continue;
            }
            let before = Instant::now();
            match self.profile.judge(target, candidate).await? {
                Settled::Judged(judged) => {
                    let seconds = before.elapsed().as_secs_f64();
                    progress.judged.insert(hotkey, (*judged, seconds));
                }
                Settled::Gone => {
                    progress.in_time.insert(hotkey, false);
                }
                Settled::Unread => {
                    progress.unread.insert(hotkey);
                }
                Settled::Unknown(reason) => {
                    warn!(%hotkey, reason, "could not judge this miner");
                }
            }
            self.ctx.heartbeat.beat();
        }
        Ok(())
    }

    /// Says once a window why it waits.
    fn announce(&mut self, window: Window, reason: &str) {
        if self.announced != Some(window) {
            self.announced = Some(window);
            warn!(%window, reason, "waiting");
            self.ctx.emit(Event::WindowSkipped { window, reason: reason.to_owned() });
        }
    }

    fn pass_over(
        &self,
        window: Window,
        reason: String,
        history: &mut History,
    ) -> Result<(), ValidationError> {
        history.pass_over(window)?;
        self.ctx.emit(Event::WindowSkipped { window, reason });
        Ok(())
    }
}
