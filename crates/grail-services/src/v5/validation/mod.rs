//! The validator of the reference's profile: judges each complete window, publishes whom it trusts,
//! sets weights.
//!
//! Source: spec `validation.md` and `scoring.md`. Histories are kept on disk and a pause is made up
//! for, as in the native profile; what peers agree on is the reference's.

mod closing;
mod copiers;
mod judging;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_protocol::checkpoint::CheckpointError as MetadataError;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_protocol::v5::file::{deadline, object_key};
use grail_protocol::v5::seeds::validator_randomness;
use grail_protocol::v5::selection::select_miners;

use self::copiers::Copiers;
use self::judging::{Judged, judge_bytes};
use super::assignment::Assignment;
use super::checkpoints::{AssignmentSource, ReferenceEnvironments};
use super::examine::{Bench, Fault};
use super::fetch::{Download, discover, download};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final};
use crate::validation::ValidationError;
use crate::validation::config::{JudgementMode, ValidationConfig};
use crate::validation::discovery::{Candidate, Sighting};
use crate::validation::history::History;
use crate::validation::lifecycle::{Aim, Profile, Validator};
use crate::validation::progress::{Finished, Settled};

/// Windows whose selections decide who is checked next.
const SELECTION_WINDOWS: u32 = 12;

/// Windows for which a miner at fault is not checked.
const FAILURE_WINDOWS: u32 = 14;

/// Validates the windows behind each head by the reference's rules.
pub type ReferenceValidation = Validator<ReferenceProfile>;

/// The reference's profile.
pub struct ReferenceProfile {
    ctx: RunContext,
    lookups_at_once: usize,
    consumer: AssignmentSource,
    copycat: Copiers,
}

/// A window with what its files are judged by.
pub struct Target {
    window: Window,
    window_hash: String,
    randomness: String,
    deadline: Option<f64>,
    /// Time of the block after the window, Unix seconds.
    ended: f64,
    assignment: Arc<Assignment>,
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
        let profile = ReferenceProfile {
            consumer: AssignmentSource::new(ctx.clone(), environments),
            lookups_at_once: config.lookups_at_once,
            copycat: Copiers::default(),
            ctx: ctx.clone(),
        };
        Self::with(ctx, config, profile)
    }
}

#[async_trait]
impl Profile for ReferenceProfile {
    type Target = Target;
    type Judged = Judged;

    const FOLDER: &'static str = "validation-v5";

    async fn target(&mut self, window: Window) -> Result<Aim<Target>, ValidationError> {
        let assignment = match self.consumer.for_window(window).await {
            Ok(Some(assignment)) => assignment,
            Ok(None) => {
                let reason = "no checkpoint was ready before this window";
                return Ok(Aim::PassOver(reason.to_owned()));
            }
            Err(error) => {
                if let Some(reason) = error.other_protocol() {
                    return Ok(Aim::Tell(reason));
                }
                return match error {
                    // What peers must publish and did not: the window is aborted.
                    CheckpointError::Environment { .. }
                    | CheckpointError::Metadata(MetadataError::Invalid(_)) => {
                        Ok(Aim::PassOver(error.to_string()))
                    }
                    error => Err(error.into()),
                };
            }
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        if !is_final(chain, window.end()).await? {
            return Ok(Aim::Wait(NOT_FINAL.to_owned()));
        }
        let start = chain.block(window.start()).await?;
        // The first round after the window: every validator of ours draws the same challenges.
        let end = block_with_beacon(chain, beacon, window.end()).await?;
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(Aim::Wait("a beacon round is not out yet".to_owned()));
        };
        let ended = end.block.timestamp_ms as f64 / 1000.0;
        Ok(Aim::At(Target {
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

    fn key(&self, hotkey: Hotkey, window: Window) -> String {
        let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
        object_key(&hotkey.to_ss58(), start)
    }

    async fn discover(
        &self,
        target: &Target,
        candidates: Vec<Candidate>,
    ) -> Vec<(Hotkey, Sighting)> {
        discover(candidates, target.deadline, self.lookups_at_once).await
    }

    /// In the order of the reference's selection.
    fn select(&self, target: &Target, active: &[&Candidate], history: &History) -> Vec<Candidate> {
        let has_failed = |it: &&Candidate| history.failed_lately(it.hotkey, FAILURE_WINDOWS);
        let eligible: Vec<&Candidate> =
            active.iter().copied().filter(|it| !has_failed(it)).collect();
        let counts: BTreeMap<String, u64> = eligible
            .iter()
            .map(|it| {
                (it.hotkey.to_ss58(), history.selections(it.hotkey, SELECTION_WINDOWS) as u64)
            })
            .collect();
        let names: Vec<String> = eligible.iter().map(|it| it.hotkey.to_ss58()).collect();
        let chosen = select_miners(&names, &target.window_hash, &counts);
        let find = |name: &String| eligible.iter().find(|it| it.hotkey.to_ss58() == *name);
        chosen.iter().filter_map(find).map(|it| (*it).clone()).collect()
    }

    async fn judge(
        &self,
        target: &Target,
        candidate: &Candidate,
    ) -> Result<Settled<Judged>, ValidationError> {
        let (bytes, uploaded) = match download(candidate, target.deadline).await {
            Download::File(bytes, uploaded) => (bytes, uploaded),
            Download::Absent => return Ok(Settled::Gone),
            Download::Unknown(reason) => return Ok(Settled::Unknown(reason)),
        };
        let (settled, bytes) = self.settle(target, candidate.hotkey, bytes, uploaded).await?;
        Ok(match settled {
            // Bytes that are not signed as a whole blame nobody before they came twice.
            Settled::Judged(judged) if matches!(judged.examined.fault, Some(Fault::File(_))) => {
                match download(candidate, target.deadline).await {
                    Download::File(again, _) if again == bytes => Settled::Judged(judged),
                    _ => Settled::Unknown("the bytes changed on the way".to_owned()),
                }
            }
            other => other,
        })
    }

    async fn finish(
        &mut self,
        target: &Target,
        finished: Finished<'_, Judged>,
        history: &mut History,
    ) -> Result<(), ValidationError> {
        self.close(target, finished, history).await
    }
}

impl ReferenceProfile {
    async fn settle(
        &self,
        target: &Target,
        hotkey: Hotkey,
        bytes: Bytes,
        uploaded: f64,
    ) -> Result<(Settled<Judged>, Bytes), ValidationError> {
        let bench = Bench {
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
}

/// Returns a block's hash as the reference's chain client gives it.
pub fn hash_text(hash: Digest) -> String {
    format!("0x{}", hash.to_hex())
}
