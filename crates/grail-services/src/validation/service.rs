//! The validator of our own profile: recomputes groups, weighs evidence, publishes verdicts.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::model::ModelError;
use grail_protocol::domain::DomainHash;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::randomness::{ValidationChallenge, validation_challenge, window_randomness};
use grail_protocol::verifier::ExpectedSeal;

use super::ValidationError;
use super::calibrations::CalibrationSource;
use super::closing::Closing;
use super::config::{JudgementMode, ValidationConfig};
use super::discovery::{Candidate, Download, Sighting, discover, download};
use super::examine::ProfileName;
use super::history::History;
use super::lifecycle::{Aim, Profile, Validator};
use super::pipeline::{self, Bench, Judgement};
use super::progress::{Finished, Settled};
use crate::blocking::blocking;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final, opener_of};

/// Validates the windows behind each head.
pub type ValidationService = Validator<NativeProfile>;

/// Our own profile.
pub struct NativeProfile {
    ctx: RunContext,
    config: ValidationConfig,
    calibrations: CalibrationSource,
    consumer: CheckpointConsumer,
}

/// A window with its bench and the deadline of its files.
pub struct Target {
    bench: Arc<Bench>,
    deadline_ms: u64,
}

impl ValidationService {
    /// Makes the service; nothing is read before the first tick. `calibrations` judge the engines
    /// that are not exact.
    pub fn new(ctx: RunContext, config: ValidationConfig, calibrations: CalibrationSource) -> Self {
        let consumer = CheckpointConsumer::new(ctx.clone(), Runtimes::Published);
        let profile = NativeProfile { ctx: ctx.clone(), config, calibrations, consumer };
        Self::with(ctx, config, profile)
    }
}

#[async_trait]
impl Profile for NativeProfile {
    type Target = Target;
    type Judged = Judgement;

    const FOLDER: &'static str = "validation";

    async fn target(&mut self, window: Window) -> Result<Aim<Target>, ValidationError> {
        let found = match self.consumer.for_window(window).await {
            Ok(found) => found,
            Err(error) => return Ok(Aim::Tell(error.other_protocol().ok_or(error)?)),
        };
        let Some(checkpoint) = found else {
            let reason = "no checkpoint was ready before this window";
            return Ok(Aim::PassOver(reason.to_owned()));
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        if !is_final(chain, window.end()).await? {
            return Ok(Aim::Wait(NOT_FINAL.to_owned()));
        }
        let start = block_with_beacon(chain, beacon, window.start()).await?;
        let end = block_with_beacon(chain, beacon, window.end()).await?;
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(Aim::Wait("a beacon round is not out yet".to_owned()));
        };
        // Blocks that came faster than the chain aims at end a window before its seal.
        let Some(opener) = opener_of(chain, beacon, window).await? else {
            let reason = "the round that opens the window's files is not out yet";
            return Ok(Aim::Wait(reason.to_owned()));
        };
        let source = self.calibrations.clone();
        let calibrations = Arc::new(blocking(move || source.read()).await);
        Ok(Aim::At(Target {
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
        }))
    }

    fn key(&self, hotkey: Hotkey, window: Window) -> String {
        keys::rollout_file(hotkey, window)
    }

    async fn discover(
        &self,
        target: &Target,
        candidates: Vec<Candidate>,
    ) -> Vec<(Hotkey, Sighting)> {
        discover(candidates, target.deadline_ms, self.config.lookups_at_once).await
    }

    fn select(&self, target: &Target, active: &[&Candidate], history: &History) -> Vec<Candidate> {
        let config = &self.config;
        let eligible =
            active.iter().filter(|it| is_judged(config, history, it.hotkey, target.bench.window));
        let choice = select(
            eligible.map(|it| it.hotkey),
            |hotkey| history.selections(hotkey, config.scoring.windows),
            target.bench.challenge,
            config.miners_checked_max,
        );
        let chosen = active.iter().filter(|it| choice.contains(&it.hotkey));
        chosen.map(|it| (*it).clone()).collect()
    }

    async fn judge(
        &self,
        target: &Target,
        candidate: &Candidate,
    ) -> Result<Settled<Judgement>, ValidationError> {
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

    async fn finish(
        &mut self,
        target: &Target,
        finished: Finished<'_, Judgement>,
        history: &mut History,
    ) -> Result<(), ValidationError> {
        let closing = Closing { ctx: &self.ctx, config: &self.config, bench: &target.bench };
        closing.close(finished, history).await
    }
}

impl NativeProfile {
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
    use std::collections::BTreeMap;

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
}
