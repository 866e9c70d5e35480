//! The validator of the reference's profile: judges each complete window, publishes whom it trusts,
//! sets weights.
//!
//! Source: spec `validation.md` and `scoring.md`. Histories are kept on disk and a pause is made up
//! for, as in the native profile; what peers agree on is the reference's.

mod copiers;
mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use grail_ports::chain::{Block, Neuron};
use grail_ports::events::Event;
use grail_protocol::checkpoint::CheckpointError as MetadataError;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::v5::file::{deadline, object_key};
use grail_protocol::v5::metrics::{WindowMetrics, gate_copiers};
use grail_protocol::v5::seeds::validator_randomness;
use grail_protocol::v5::selection::{copycat_interval, select_miners};
use grail_protocol::v5::trust::{TrustList, trust_list_key};
use tokio::time::Instant;
use tracing::warn;

use self::copiers::Copiers;
use self::progress::{Progress, Settled, judge_bytes};
use super::assignment::Assignment;
use super::checkpoints::{AssignmentSource, ReferenceEnvironments};
use super::examine::Fault;
use super::fetch::{Download, Sighting, discover, download};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final};
use crate::math::mean;
use crate::peers::PeerDirectory;
use crate::validation::config::{JudgementMode, ValidationConfig};
use crate::validation::discovery::Candidate;
use crate::validation::history::{History, WindowRecord, outstanding};
use crate::validation::scoring::Tally;
use crate::validation::weights::WeightSetter;
use crate::validation::{ValidationError, ValidationOutcome};

/// Windows whose selections decide who is checked next.
const SELECTION_WINDOWS: u32 = 12;

/// Windows for which a miner at fault is not checked.
const FAILURE_WINDOWS: u32 = 14;

/// Validates the windows behind each head by the reference's rules.
pub struct ReferenceValidation {
    ctx: RunContext,
    config: ValidationConfig,
    consumer: AssignmentSource,
    peers: PeerDirectory,
    weights: WeightSetter,
    history: Option<History>,
    progress: Option<Progress>,
    copycat: Copiers,
    announced: Option<Window>,
}

/// A window with what its files are judged by.
struct Target {
    window: Window,
    window_hash: String,
    randomness: String,
    deadline: Option<f64>,
    /// Time of the block after the window, Unix seconds.
    ended: f64,
    assignment: Arc<Assignment>,
}

enum Step {
    Done,
    PassedOver,
    Waiting(String),
}

impl ReferenceValidation {
    /// Makes the service; nothing is read before the first tick. Of `config` the bounds of work, the
    /// schedule and the scoring count; judgement is always the reference's.
    pub fn new(
        ctx: RunContext,
        config: ValidationConfig,
        environments: ReferenceEnvironments,
    ) -> Self {
        let config = ValidationConfig { judgement: JudgementMode::Reference, ..config };
        Self {
            consumer: AssignmentSource::new(ctx.clone(), environments),
            weights: WeightSetter::new(config.schedule, config.scoring_rules(), config.version_key),
            peers: PeerDirectory::default(),
            history: None,
            progress: None,
            copycat: Copiers::default(),
            announced: None,
            ctx,
            config,
        }
    }

    /// Judges the windows that are complete at `head` and not done yet, then sees to the weights.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window is counted twice.
    pub async fn tick(&mut self, head: Block) -> Result<ValidationOutcome, ValidationError> {
        self.ctx.heartbeat.beat();
        let outcome = self.judge_windows(head).await;
        if matches!(outcome, Err(ValidationError::Model(_))) {
            return outcome;
        }
        // Also without a new window: weights on their way are looked for at every head.
        let is_judged =
            matches!(outcome, Ok(ValidationOutcome::Idle | ValidationOutcome::Validated(_)));
        self.history()?;
        if let Some(history) = &mut self.history {
            self.weights.run(&self.ctx, history, head.number, is_judged).await?;
        }
        outcome
    }

    /// Returns why the newest weights are not on the chain, for a person; `None` if they are.
    pub fn alarm(&self) -> Option<&str> {
        self.weights.alarm()
    }

    async fn judge_windows(&mut self, head: Block) -> Result<ValidationOutcome, ValidationError> {
        let last = self.history()?.last();
        let current = Window::containing(head.number);
        let targets = outstanding(last, current, self.config.catch_up_windows);
        let mut done = Vec::new();
        for &target in &targets {
            let is_newest = targets.last() == Some(&target);
            match self.process(target, !is_newest).await {
                Ok(Step::Done) => done.push(target),
                Ok(Step::PassedOver) => {}
                Ok(Step::Waiting(reason)) if is_newest => {
                    return Ok(ValidationOutcome::Waiting(reason));
                }
                Err(error) if is_newest => return Err(error),
                Err(ValidationError::Model(stopped)) => return Err(stopped.into()),
                // Newer windows must not wait for one that cannot be had.
                Ok(Step::Waiting(reason)) => self.pass_over(target, reason)?,
                Err(error) => self.pass_over(target, error.to_string())?,
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
    ) -> Result<Step, ValidationError> {
        let target = match self.target(window).await? {
            Ok(target) => target,
            Err(step) => return Ok(step),
        };
        let candidates = self.candidates(window).await?;
        let mut progress = match self.progress.take() {
            Some(progress) if progress.window == window => progress,
            _ => Progress::new(window),
        };
        let selected = self.look(&target, &candidates, &mut progress).await?;
        let settled = self.judge_all(&target, &selected, &mut progress).await;
        let unsettled = progress.unsettled(&candidates, &selected);
        let may_retry = !last_chance && progress.attempts + 1 < self.config.attempts_max;
        if settled.is_ok() && (unsettled == 0 || !may_retry) {
            let finished = self.finish(&target, &candidates, &selected, &progress).await;
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

    /// Returns what the window is judged by, or why it is not judged now.
    async fn target(&mut self, window: Window) -> Result<Result<Target, Step>, ValidationError> {
        let assignment = match self.consumer.for_window(window).await {
            Ok(Some(assignment)) => assignment,
            Ok(None) => {
                self.pass_over(window, "no checkpoint was ready before this window".to_owned())?;
                return Ok(Err(Step::PassedOver));
            }
            Err(error) => {
                if let Some(reason) = error.other_protocol() {
                    self.announce(window, &reason);
                    return Ok(Err(Step::Waiting(reason)));
                }
                return match error {
                    // What peers must publish and did not: the window is aborted.
                    CheckpointError::Environment { .. }
                    | CheckpointError::Metadata(MetadataError::Invalid(_)) => {
                        self.pass_over(window, error.to_string())?;
                        Ok(Err(Step::PassedOver))
                    }
                    error => Err(error.into()),
                };
            }
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        if !is_final(chain, window.end()).await? {
            return Ok(Err(Step::Waiting(NOT_FINAL.to_owned())));
        }
        let start = chain.block(window.start()).await?;
        // The first round after the window: every validator of ours draws the same challenges.
        let end = block_with_beacon(chain, beacon, window.end()).await?;
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(Err(Step::Waiting("a beacon round is not out yet".to_owned())));
        };
        let ended = end.block.timestamp_ms as f64 / 1000.0;
        Ok(Ok(Target {
            window,
            window_hash: hash_text(start.hash),
            randomness: validator_randomness(
                &hash_text(end.block.hash),
                Some(&end.beacon.to_hex()),
            ),
            deadline: deadline(Some(ended)),
            ended,
            assignment,
        }))
    }

    /// Returns where the miners' files of `window` would be, in metagraph order.
    async fn candidates(&mut self, window: Window) -> Result<Vec<Candidate>, ValidationError> {
        if let Err(error) = self.peers.refresh(&*self.ctx.chain).await {
            if self.peers.is_empty() {
                return Err(error.into());
            }
            warn!(%error, "the buckets of peers are those of an earlier window");
        }
        let metagraph = self.ctx.chain.metagraph().await?;
        let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
        let candidate = |neuron: &Neuron| {
            let bucket = self.peers.bucket(&*self.ctx.buckets, neuron.hotkey)?;
            let key = object_key(&neuron.hotkey.to_ss58(), start);
            Some(Candidate { uid: neuron.uid, hotkey: neuron.hotkey, bucket, key })
        };
        Ok(metagraph.neurons.iter().filter_map(candidate).collect())
    }

    /// Finds out who is active, and returns who is checked, in the order of the selection.
    async fn look(
        &mut self,
        target: &Target,
        candidates: &[Candidate],
        progress: &mut Progress,
    ) -> Result<Vec<Candidate>, ValidationError> {
        let is_unseen = |it: &&Candidate| !progress.in_time.contains_key(&it.hotkey);
        let unseen: Vec<Candidate> = candidates.iter().filter(is_unseen).cloned().collect();
        let sightings = discover(unseen, target.deadline, self.config.lookups_at_once).await;
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
        let history = self.history()?;
        let eligible: Vec<&Candidate> = candidates
            .iter()
            .filter(|it| progress.is_active(it.hotkey))
            .filter(|it| !history.failed_lately(it.hotkey, FAILURE_WINDOWS))
            .collect();
        let counts: BTreeMap<String, u64> = eligible
            .iter()
            .map(|it| {
                (it.hotkey.to_ss58(), history.selections(it.hotkey, SELECTION_WINDOWS) as u64)
            })
            .collect();
        let names: Vec<String> = eligible.iter().map(|it| it.hotkey.to_ss58()).collect();
        let chosen = select_miners(&names, &target.window_hash, &counts);
        let find = |name: &String| eligible.iter().find(|it| it.hotkey.to_ss58() == *name);
        Ok(chosen.iter().filter_map(find).map(|it| (*it).clone()).collect())
    }

    /// Judges those who are not judged yet.
    ///
    /// # Errors
    /// Only when we were asked to stop.
    async fn judge_all(
        &self,
        target: &Target,
        selected: &[Candidate],
        progress: &mut Progress,
    ) -> Result<(), ValidationError> {
        for candidate in selected {
            if progress.judged.contains_key(&candidate.hotkey) {
                continue;
            }
            match self.judge(target, candidate).await? {
                Settled::Judged(judged) => {
                    progress.judged.insert(candidate.hotkey, *judged);
                }
                Settled::Gone => {
                    progress.in_time.insert(candidate.hotkey, false);
                }
                Settled::Unread => {
                    progress.unread.insert(candidate.hotkey);
                }
                Settled::Unknown(reason) => {
                    warn!(hotkey = %candidate.hotkey, reason, "could not judge this miner");
                }
            }
            self.ctx.heartbeat.beat();
        }
        Ok(())
    }

    async fn judge(
        &self,
        target: &Target,
        candidate: &Candidate,
    ) -> Result<Settled, ValidationError> {
        let before = Instant::now();
        let (bytes, uploaded) = match download(candidate, target.deadline).await {
            Download::File(bytes, uploaded) => (bytes, uploaded),
            Download::Absent => return Ok(Settled::Gone),
            Download::Unknown(reason) => return Ok(Settled::Unknown(reason)),
        };
        let (settled, bytes) = self.settle(target, candidate.hotkey, bytes, uploaded).await?;
        let settled = match settled {
            // Bytes that are not signed as a whole blame nobody before they came twice.
            Settled::Judged(judged) if matches!(judged.examined.fault, Some(Fault::File(_))) => {
                match download(candidate, target.deadline).await {
                    Download::File(again, _) if again == bytes => Settled::Judged(judged),
                    _ => Settled::Unknown("the bytes changed on the way".to_owned()),
                }
            }
            other => other,
        };
        Ok(match settled {
            Settled::Judged(mut judged) => {
                judged.seconds = before.elapsed().as_secs_f64();
                Settled::Judged(judged)
            }
            other => other,
        })
    }

    async fn settle(
        &self,
        target: &Target,
        hotkey: Hotkey,
        bytes: Bytes,
        uploaded: f64,
    ) -> Result<(Settled, Bytes), ValidationError> {
        let bench = super::examine::Bench {
            owner: hotkey,
            window_hash: target.window_hash.clone(),
            randomness: target.randomness.clone(),
            assignment: target.assignment.clone(),
        };
        let window = target.window;
        let (stop, heartbeat) = (self.ctx.stop.clone(), self.ctx.heartbeat.clone());
        let kept = bytes.clone();
        let settled =
            blocking(move || judge_bytes(&bench, window, &bytes, uploaded, &stop, &heartbeat));
        Ok((settled.await?, kept))
    }

    /// Gates copiers, publishes whom we trust, tells about the window, then commits it.
    async fn finish(
        &mut self,
        target: &Target,
        candidates: &[Candidate],
        selected: &[Candidate],
        progress: &Progress,
    ) -> Result<(), ValidationError> {
        let mut copycat = self.copycat.clone();
        let interval = copycat_interval(i64::try_from(target.window.start().0).unwrap_or(i64::MAX));
        let copiers = copycat.ingest(interval, &progress.submissions());
        let mut metrics: BTreeMap<String, WindowMetrics> = progress
            .judged
            .iter()
            .map(|(hotkey, judged)| (hotkey.to_ss58(), judged.examined.metrics))
            .collect();
        gate_copiers(&mut metrics, &copiers);
        let tallies: BTreeMap<Hotkey, Tally> = metrics
            .iter()
            .filter_map(|(name, metrics)| Some((name.parse().ok()?, tally(metrics))))
            .collect();

        let active: Vec<Hotkey> = candidates
            .iter()
            .map(|it| it.hotkey)
            .filter(|hotkey| progress.is_active(*hotkey))
            .collect();
        self.publish_trust(target, &active, &tallies).await?;
        self.tell(target.window, candidates, progress, &metrics, &copiers, active.len());
        let record = WindowRecord {
            window: target.window,
            active: active.into_iter().collect(),
            selected: selected.iter().map(|it| it.hotkey).collect(),
            tallies,
        };
        // Nobody adds evidence in this profile.
        self.history()?.add(record, crate::validation::evidence::Ledger::default())?;
        self.copycat = copycat;
        Ok(())
    }

    /// Publishes the active miners without a failure, this window's included. Trouble is reported and
    /// ignored: trainers take an older list.
    async fn publish_trust(
        &mut self,
        target: &Target,
        active: &[Hotkey],
        tallies: &BTreeMap<Hotkey, Tally>,
    ) -> Result<(), ValidationError> {
        let history = self.history()?;
        let has_failed = |hotkey: &Hotkey| {
            tallies.get(hotkey).is_some_and(|tally| tally.had_failure)
                || history.failed_lately(*hotkey, FAILURE_WINDOWS - 1)
        };
        let eligible = active.iter().filter(|hotkey| !has_failed(hotkey));
        let eligible_hotkeys: Vec<String> = eligible.map(|hotkey| hotkey.to_ss58()).collect();
        let list = TrustList {
            window: target.window.start().0,
            timestamp: target.ended,
            validator_hotkey: self.ctx.hotkey().to_ss58(),
            active_count: active.len() as u64,
            excluded_failure_count: (active.len() - eligible_hotkeys.len()) as u64,
            eligible_hotkeys,
        };
        let key = trust_list_key(list.window);
        let bucket = self.ctx.buckets.own();
        if let Err(error) = bucket.put(&key, Bytes::from(list.to_json())).await {
            warn!(%error, key, "could not publish the trust list");
        }
        Ok(())
    }

    fn tell(
        &self,
        window: Window,
        candidates: &[Candidate],
        progress: &Progress,
        metrics: &BTreeMap<String, WindowMetrics>,
        copiers: &BTreeSet<String>,
        active: usize,
    ) {
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        for candidate in candidates {
            let Some(judged) = progress.judged.get(&candidate.hotkey) else { continue };
            let name = candidate.hotkey.to_ss58();
            let metrics = metrics.get(&name).copied().unwrap_or_default();
            let fault = match copiers.contains(&name) {
                true => Some(Fault::Copied),
                false => judged.examined.fault.clone(),
            };
            self.ctx.emit(Event::MinerJudged {
                window,
                hotkey: candidate.hotkey,
                uid: candidate.uid,
                rollouts: count(metrics.total),
                checked: count(metrics.checked),
                accepted: count(metrics.valid),
                rejection: fault.map(|fault| fault.code()),
                reward_mean: mean(judged.examined.rewards.iter().copied()),
                seconds: judged.seconds,
            });
        }
        let rewards = progress.judged.values().flat_map(|judged| judged.examined.rewards.clone());
        self.ctx.emit(Event::WindowValidated {
            window,
            active: u32::try_from(active).unwrap_or(u32::MAX),
            judged: u32::try_from(progress.judged.len()).unwrap_or(u32::MAX),
            accepted: count(metrics.values().map(|metrics| metrics.valid).sum()),
            reward_mean: mean(rewards),
        });
    }

    fn announce(&mut self, window: Window, reason: &str) {
        if self.announced != Some(window) {
            self.announced = Some(window);
            warn!(%window, reason, "waiting");
            self.ctx.emit(Event::WindowSkipped { window, reason: reason.to_owned() });
        }
    }

    fn pass_over(&mut self, window: Window, reason: String) -> Result<(), ValidationError> {
        self.history()?.pass_over(window)?;
        self.ctx.emit(Event::WindowSkipped { window, reason });
        Ok(())
    }

    fn history(&mut self) -> Result<&mut History, ValidationError> {
        match &mut self.history {
            Some(history) => Ok(history),
            empty => Ok(empty.insert(History::open(&self.ctx.state_dir.join("validation-v5"))?)),
        }
    }
}

/// Returns a block's hash as the reference's chain client gives it.
pub fn hash_text(hash: Digest) -> String {
    format!("0x{}", hash.to_hex())
}

/// What a window counts for in the weights: the different completions, as estimated.
fn tally(metrics: &WindowMetrics) -> Tally {
    Tally { rollouts: metrics.estimated_unique, had_failure: metrics.had_failure }
}
