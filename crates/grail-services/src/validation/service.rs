//! The validator: judges each complete window once, publishes what it found, sets weights.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_ports::model::ModelError;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::randomness::{ValidationChallenge, validation_challenge, window_randomness};
use grail_protocol::verifier::ExpectedSeal;
use tokio::time::Instant;
use tracing::warn;

use super::calibrations::CalibrationSource;
use super::config::{JudgementMode, ValidationConfig};
use super::discovery::{Candidate, Download, Sighting, discover, download};
use super::evidence::{EvidenceSummary, Ledger};
use super::examine::ProfileName;
use super::history::{History, WindowRecord, outstanding};
use super::pipeline::{self, Bench, Judgement};
use super::publishing::{publish_verdict, seal_validated, verdict};
use super::scoring::Tally;
use super::weights::WeightSetter;
use super::{ValidationError, ValidationOutcome};
use crate::blocking::blocking;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final, opener_of};
use crate::math::mean;
use crate::peers::PeerDirectory;

/// Validates the windows behind each head.
pub struct ValidationService {
    ctx: RunContext,
    config: ValidationConfig,
    calibrations: CalibrationSource,
    consumer: CheckpointConsumer,
    peers: PeerDirectory,
    weights: WeightSetter,
    history: Option<History>,
    progress: Option<Progress>,
    /// Newest window whose waiting was told.
    announced: Option<Window>,
}

/// What is settled of a window that is not finished.
struct Progress {
    window: Window,
    attempts: u32,
    /// Everybody in the metagraph.
    registered: BTreeSet<Hotkey>,
    /// Whether a miner's file was there in time; those we could not see have no entry.
    in_time: BTreeMap<Hotkey, bool>,
    /// Judgement and seconds.
    judged: BTreeMap<Hotkey, (Judgement, f64)>,
}

/// A window with its bench and the deadline of its files.
struct Target {
    bench: Arc<Bench>,
    deadline_ms: u64,
}

enum Step {
    Done,
    PassedOver,
    Waiting(String),
}

impl ValidationService {
    /// Makes the service; nothing is read before the first tick. `calibrations` judge the engines
    /// that are not exact.
    pub fn new(ctx: RunContext, config: ValidationConfig, calibrations: CalibrationSource) -> Self {
        Self {
            consumer: CheckpointConsumer::new(ctx.clone(), Runtimes::Published),
            weights: WeightSetter::new(config.schedule, config.scoring_rules(), config.version_key),
            peers: PeerDirectory::default(),
            history: None,
            progress: None,
            announced: None,
            ctx,
            config,
            calibrations,
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
        let found = match self.consumer.for_window(window).await {
            Ok(found) => found,
            Err(error) => {
                let reason = error.other_protocol().ok_or(error)?;
                self.announce(window, &reason);
                return Ok(Step::Waiting(reason));
            }
        };
        let Some(checkpoint) = found else {
            self.pass_over(window, "no checkpoint was ready before this window".to_owned())?;
            return Ok(Step::PassedOver);
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        if !is_final(chain, window.end()).await? {
            return Ok(Step::Waiting(NOT_FINAL.to_owned()));
        }
        let start = block_with_beacon(chain, beacon, window.start()).await?;
        let end = block_with_beacon(chain, beacon, window.end()).await?;
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(Step::Waiting("a beacon round is not out yet".to_owned()));
        };
        // Blocks that came faster than the chain aims at end a window before its seal.
        let Some(opener) = opener_of(chain, beacon, window).await? else {
            let reason = "the round that opens the window's files is not out yet".to_owned();
            return Ok(Step::Waiting(reason));
        };
        let source = self.calibrations.clone();
        let calibrations = Arc::new(blocking(move || source.read()).await);
        let target = Target {
            bench: Arc::new(Bench {
                network: chain.network().to_owned(),
                netuid: chain.netuid(),
                window,
                randomness: window_randomness(&start.block.hash, &start.beacon),
                challenge: validation_challenge(&end.block.hash, &end.beacon),
                seal: ExpectedSeal::Round(opener),
                checkpoint,
                groups_checked_max: self.config.groups_checked_max,
                calibrations,
                calibration_age_windows: self.config.calibration_age_windows,
            }),
            deadline_ms: end.block.timestamp_ms,
        };
        let (candidates, registered) = self.candidates(window).await?;
        let mut progress = match self.progress.take() {
            Some(progress) if progress.window == window => progress,
            _ => Progress::new(window),
        };
        progress.registered = registered;
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
        let candidate = |neuron: &grail_ports::chain::Neuron| {
            let bucket = self.peers.bucket(&*self.ctx.buckets, neuron.hotkey)?;
            let key = keys::rollout_file(neuron.hotkey, window);
            Some(Candidate { uid: neuron.uid, hotkey: neuron.hotkey, bucket, key })
        };
        let registered = metagraph.neurons.iter().map(|neuron| neuron.hotkey).collect();
        Ok((metagraph.neurons.iter().filter_map(candidate).collect(), registered))
    }

    /// Finds out who has a file, and returns who is to be judged, in metagraph order.
    async fn look(
        &mut self,
        target: &Target,
        candidates: &[Candidate],
        progress: &mut Progress,
    ) -> Result<Vec<Candidate>, ValidationError> {
        let unseen: Vec<Candidate> = candidates
            .iter()
            .filter(|candidate| !progress.in_time.contains_key(&candidate.hotkey))
            .cloned()
            .collect();
        let sightings = discover(unseen, target.deadline_ms, self.config.lookups_at_once).await;
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
        let config = self.config;
        let history = self.history()?;
        let eligible = candidates
            .iter()
            .filter(|it| progress.in_time.get(&it.hotkey) == Some(&true))
            .filter(|it| is_judged(&config, history, it.hotkey, target.bench.window));
        let choice = select(
            eligible.map(|it| it.hotkey),
            |hotkey| history.selections(hotkey, config.scoring.windows),
            target.bench.challenge,
            config.miners_checked_max,
        );
        Ok(candidates.iter().filter(|it| choice.contains(&it.hotkey)).cloned().collect())
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
            let before = Instant::now();
            match self.judge(target, candidate).await? {
                Settled::Judged(judgement) => {
                    let seconds = before.elapsed().as_secs_f64();
                    progress.judged.insert(candidate.hotkey, (*judgement, seconds));
                }
                Settled::Gone => {
                    progress.in_time.insert(candidate.hotkey, false);
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
        let bytes = match download(candidate, target.deadline_ms).await {
            Download::File(bytes) => bytes,
            Download::Absent => return Ok(Settled::Gone),
            Download::Unknown(reason) => return Ok(Settled::Unknown(reason)),
        };
        let judgement = self.compute(target, candidate.hotkey, bytes.clone()).await?;
        if judgement.rests_on_transfer {
            // Unsigned bytes blame nobody before they came twice.
            match download(candidate, target.deadline_ms).await {
                Download::File(again) if again == bytes => {}
                _ => return Ok(Settled::Unknown("the bytes changed on the way".to_owned())),
            }
        }
        let is_undecided = judgement.rejection.is_none() && judgement.accepted == 0;
        // Trying again would not find rules for an engine that nobody calibrated.
        let is_shadow = judgement.profile == ProfileName::Shadow;
        if judgement.unverified > 0 && is_undecided && !is_shadow {
            return Ok(Settled::Unknown("no group could be recomputed".to_owned()));
        }
        Ok(Settled::Judged(Box::new(judgement)))
    }

    async fn compute(
        &self,
        target: &Target,
        hotkey: Hotkey,
        bytes: Bytes,
    ) -> Result<Judgement, ModelError> {
        let bench = target.bench.clone();
        let (stop, heartbeat) = (self.ctx.stop.clone(), self.ctx.heartbeat.clone());
        blocking(move || pipeline::judge(&bench, hotkey, &bytes, &stop, &heartbeat)).await
    }

    /// Publishes the window, tells about it, then commits it to the history.
    async fn finish(
        &mut self,
        target: &Target,
        candidates: &[Candidate],
        selected: &[Candidate],
        progress: &Progress,
    ) -> Result<(), ValidationError> {
        let bucket = self.ctx.buckets.own();
        let validator = self.ctx.hotkey();
        let window = target.bench.window;
        let (ledger, ejected) = self.weigh(window, progress)?;
        for (hotkey, (judgement, _)) in &progress.judged {
            let standing =
                ledger.knows(*hotkey).then(|| ledger.summary(&self.config.evidence, *hotkey));
            let verdict = verdict(&target.bench, validator, *hotkey, judgement, standing);
            publish_verdict(&*bucket, &verdict).await?;
        }
        // What an ejected miner sends is not trained on either.
        let usable = progress.judged.iter().filter(|(it, _)| !ledger.is_ejected(**it, window));
        let groups = usable.flat_map(|(_, (judged, _))| judged.validated.clone());
        let (bench, groups, signer) =
            (target.bench.clone(), groups.collect(), self.ctx.signer.clone());
        let sealed = blocking(move || seal_validated(&bench, groups, &*signer)).await?;
        bucket.put(&keys::validated_file(window), Bytes::from(sealed)).await?;

        let active = |it: &&Candidate| progress.in_time.get(&it.hotkey) == Some(&true);
        let judged = progress.judged.iter();
        let record = WindowRecord {
            window,
            active: candidates.iter().filter(active).map(|it| it.hotkey).collect(),
            selected: selected.iter().map(|it| it.hotkey).collect(),
            tallies: judged.filter_map(|(hotkey, (it, _))| Some((*hotkey, tally(it)?))).collect(),
        };
        let active = u32::try_from(record.active.len()).unwrap_or(u32::MAX);
        // Told before it is committed: a crash in between tells it twice, never not at all.
        self.tell(window, active, candidates, progress);
        if self.config.judgement == JudgementMode::Sequential {
            self.tell_evidence(window, candidates, &ledger, &ejected);
        }
        self.history()?.add(record, ledger)?;
        Ok(())
    }

    /// Returns where the miners stand after this window, and who was ejected in it.
    fn weigh(
        &mut self,
        window: Window,
        progress: &Progress,
    ) -> Result<(Ledger, Vec<Hotkey>), ValidationError> {
        let config = self.config;
        let before = self.history()?.evidence();
        if config.judgement == JudgementMode::Reference {
            // Evidence that nobody adds to would only grow old.
            return Ok((Ledger::default(), Vec::new()));
        }
        let judged = progress.judged.iter();
        let evidence =
            judged.filter_map(|(hotkey, (judged, _))| Some((*hotkey, judged.evidence(window)?)));
        Ok(before.after(&config.evidence, window, &evidence.collect(), &progress.registered))
    }

    /// Tells where those stand who are judged or out.
    fn tell_evidence(
        &self,
        window: Window,
        candidates: &[Candidate],
        ledger: &Ledger,
        ejected: &[Hotkey],
    ) {
        for &Candidate { uid, hotkey, .. } in candidates.iter().filter(|it| ledger.knows(it.hotkey))
        {
            let summary = ledger.summary(&self.config.evidence, hotkey);
            let EvidenceSummary { wealth_log10, bound_log10, ejected_until, life } = summary;
            if let Some(until) = ejected_until.filter(|_| ejected.contains(&hotkey)) {
                warn!(%window, %hotkey, %uid, %until, wealth_log10, bound_log10, life, "ejected a miner");
            }
            self.ctx.emit(Event::MinerEvidence {
                window,
                hotkey,
                uid,
                wealth_log10,
                bound_log10,
                ejected_until,
                life,
            });
        }
    }

    fn tell(&self, window: Window, active: u32, candidates: &[Candidate], progress: &Progress) {
        for candidate in candidates {
            let Some((judgement, seconds)) = progress.judged.get(&candidate.hotkey) else {
                continue;
            };
            self.ctx.emit(Event::MinerJudged {
                window,
                hotkey: candidate.hotkey,
                uid: candidate.uid,
                rollouts: judgement.rollouts,
                checked: judgement.checked,
                accepted: judgement.accepted,
                rejection: judgement.rejection.as_ref().map(|found| found.code().to_owned()),
                reward_mean: judgement.reward_mean(),
                seconds: *seconds,
            });
        }
        let judgements = || progress.judged.values().map(|(judgement, _)| judgement);
        let groups = judgements().flat_map(|judgement| &judgement.validated);
        let rewards = groups.flat_map(|group| &group.rollouts).map(|it| f64::from(it.reward));
        self.ctx.emit(Event::WindowValidated {
            window,
            active,
            judged: u32::try_from(progress.judged.len()).unwrap_or(u32::MAX),
            accepted: judgements().map(|judgement| judgement.accepted).sum(),
            reward_mean: mean(rewards),
        });
    }

    /// Says once a window why it waits for the trainer.
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
            empty => Ok(empty.insert(History::open(&self.ctx.state_dir.join("validation"))?)),
        }
    }
}

/// What came of one miner's file.
enum Settled {
    Judged(Box<Judgement>),
    /// The file does not count after all.
    Gone,
    /// Our own failure; the reason is for a person.
    Unknown(String),
}

impl Progress {
    fn new(window: Window) -> Self {
        Self {
            window,
            attempts: 0,
            registered: BTreeSet::new(),
            in_time: BTreeMap::new(),
            judged: BTreeMap::new(),
        }
    }

    /// Returns how many miners we owe an answer.
    fn unsettled(&self, candidates: &[Candidate], selected: &[Candidate]) -> usize {
        let unseen = candidates.iter().filter(|it| !self.in_time.contains_key(&it.hotkey));
        let unjudged = selected.iter().filter(|it| {
            self.in_time.get(&it.hotkey) == Some(&true) && !self.judged.contains_key(&it.hotkey)
        });
        unseen.count() + unjudged.count()
    }
}

/// Returns whether a miner's file of `window` may be judged at all.
fn is_judged(config: &ValidationConfig, history: &History, hotkey: Hotkey, window: Window) -> bool {
    match config.judgement {
        JudgementMode::Sequential => {
            config.evidence.judge_ejected || !history.evidence().is_ejected(hotkey, window)
        }
        JudgementMode::Reference => !history.failed_lately(hotkey, config.failure_lookback_windows),
    }
}

/// Returns what a judgement counts for, or nothing if we could decide on none of the rollouts.
///
/// The rollouts of one group of one hotkey are different races, so each accepted one counts; what
/// was not checked counts as what was.
fn tally(judgement: &Judgement) -> Option<Tally> {
    if judgement.rejection.is_some() {
        return Some(Tally { rollouts: 0, had_failure: true });
    }
    let decided = judgement.checked > 0 || judgement.unverified == 0;
    decided.then(|| Tally { rollouts: judgement.rollouts.into(), had_failure: false })
}

/// Returns the `at_most` miners that were judged least often; public randomness breaks ties.
fn select(
    eligible: impl Iterator<Item = Hotkey>,
    selections: impl Fn(Hotkey) -> usize,
    challenge: ValidationChallenge,
    at_most: u32,
) -> BTreeSet<Hotkey> {
    let tie_break = |hotkey: Hotkey| {
        DomainHash::new("choose-miners").digest(&challenge.0).hotkey(&hotkey).finish()
    };
    let mut order: Vec<_> =
        eligible.map(|hotkey| (selections(hotkey), tie_break(hotkey), hotkey)).collect();
    order.sort_unstable();
    let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
    order.into_iter().take(at_most).map(|(_, _, hotkey)| hotkey).collect()
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::Digest;

    use super::*;

    fn hotkeys(n: u8) -> impl Iterator<Item = Hotkey> {
        (0..n).map(|byte| Hotkey([byte; 32]))
    }

    #[test]
    fn everybody_gets_a_turn_before_anybody_gets_two() {
        let mut counts: BTreeMap<Hotkey, usize> = BTreeMap::new();
        for round in 0..6u8 {
            let challenge = ValidationChallenge(Digest([round; 32]));
            let chosen =
                select(hotkeys(9), |it| counts.get(&it).copied().unwrap_or(0), challenge, 3);
            assert_eq!(chosen.len(), 3);
            for hotkey in chosen {
                *counts.entry(hotkey).or_default() += 1;
            }
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2; 9]);
        let all = select(hotkeys(9), |_| 0, ValidationChallenge(Digest([0; 32])), 35);
        assert_eq!(all.len(), 9);
    }

    #[test]
    fn our_own_failure_leaves_no_tally() {
        let judgement = Judgement { groups: 1, rollouts: 16, ..Judgement::default() };
        assert_eq!(tally(&Judgement { unverified: 16, ..judgement.clone() }), None);
        let half = Judgement { groups: 2, rollouts: 32, checked: 16, unverified: 16, ..judgement };
        assert_eq!(tally(&half), Some(Tally { rollouts: 32, had_failure: false }));
        let empty = Judgement::default();
        assert_eq!(tally(&empty), Some(Tally { rollouts: 0, had_failure: false }));
    }
}
