//! Mining for the reference's profile: from a window to a Parquet file in our bucket.

pub mod adversary;
pub mod pipeline;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use grail_ports::model::Sampling;
use grail_ports::signer::Signer;
use grail_protocol::checkpoint::CheckpointError as MetadataError;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::v5::file::{DEADLINE_MARGIN_SECONDS, object_key};
use grail_protocol::v5::seeds::miner_randomness;

use self::pipeline::{Job, Problem, Proof, ProvedGroup};
use super::assignment::Assignment;
use super::checkpoints::{AssignmentSource, ReferenceEnvironments};
use super::validation::hash_text;
use crate::checkpoint::CheckpointError;
use crate::context::RunContext;
use crate::mining::MiningError;
use crate::mining::lifecycle::{Aim, Miner, Open, Profile, Session};
use crate::mining::pace::{GroupMaker, MiningConfig};
use crate::mining::pipeline::PipelineError;

/// Mines the window of each head by the reference's rules.
pub type ReferenceMining = Miner<ReferenceProfile>;

/// The reference's profile.
pub struct ReferenceProfile {
    source: AssignmentSource,
}

impl ReferenceMining {
    /// Makes the service; nothing is read before the first tick.
    pub fn new(ctx: RunContext, config: MiningConfig, environments: ReferenceEnvironments) -> Self {
        Self::with(Session::reference(ctx, config, environments))
    }
}

impl Session<ReferenceProfile> {
    /// Makes a session of the reference's profile; nothing is read before the first tick.
    pub fn reference(
        ctx: RunContext,
        config: MiningConfig,
        environments: ReferenceEnvironments,
    ) -> Self {
        let source = AssignmentSource::new(ctx.clone(), environments);
        Self::new(ctx, within_deadline(config), ReferenceProfile { source })
    }
}

#[async_trait]
impl Profile for ReferenceProfile {
    type Checkpoint = (Arc<Assignment>, Sampling);
    type Job = Job;
    type Group = ProvedGroup;

    const FOLDER: &'static str = "v5/mining";
    const NO_GROUP: &'static str = "too late for a group, or every group had a completion below 32 \
                                    tokens or one that ended badly";

    async fn checkpoint(&mut self, window: Window) -> Result<Aim<Self::Checkpoint>, MiningError> {
        let assignment = match self.source.for_window(window).await {
            Ok(Some(assignment)) => assignment,
            Ok(None) => {
                return Ok(Aim::Tell("no checkpoint was ready before this window".to_owned()));
            }
            Err(error) => {
                let waits = error.other_protocol().or_else(|| unusable(&error));
                return Ok(Aim::Tell(waits.ok_or(error)?));
            }
        };
        Ok(match assignment.sampling() {
            Ok(sampling) => Aim::At((assignment, sampling)),
            Err(reason) => Aim::Tell(reason),
        })
    }

    fn job(ctx: &RunContext, open: &Open, (assignment, sampling): Self::Checkpoint) -> Job {
        let Open { window, first, head } = *open;
        let window_hash = hash_text(first.block.hash);
        Job {
            window,
            randomness: miner_randomness(&window_hash, Some(&first.beacon.to_hex())),
            window_hash,
            hotkey: ctx.hotkey(),
            assignment,
            sampling,
            head: i64::try_from(head.number.0).unwrap_or(i64::MAX),
            now: head.timestamp_ms as f64 / 1000.0,
        }
    }

    fn maker(ctx: &RunContext, job: Arc<Job>) -> GroupMaker<ProvedGroup> {
        maker(ctx, &job, Proof::Computed)
    }

    fn seal(
        job: &Job,
        groups: Vec<ProvedGroup>,
        _signer: &dyn Signer,
    ) -> Result<Vec<u8>, PipelineError> {
        pipeline::seal(job, groups)
    }

    fn key(hotkey: Hotkey, window: Window) -> String {
        let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
        object_key(&hotkey.to_ss58(), start)
    }
}

/// Returns why nobody can mine by a checkpoint whose metadata is not whole.
fn unusable(error: &CheckpointError) -> Option<String> {
    match error {
        CheckpointError::Metadata(MetadataError::Invalid(_))
        | CheckpointError::Environment { .. } => Some(error.to_string()),
        _ => None,
    }
}

/// Returns the settings with at least as many blocks of safety as the deadline lies before the next
/// window.
fn within_deadline(config: MiningConfig) -> MiningConfig {
    let block_s = config.block_time.max(Duration::from_millis(1)).as_secs_f64();
    // One more, since a block is seen late.
    let blocks = (DEADLINE_MARGIN_SECONDS / block_s).ceil() as u32 + 1;
    MiningConfig { safety_blocks: config.safety_blocks.max(blocks), ..config }
}

/// Makes groups of a job with sketches as `proof` says.
fn maker(ctx: &RunContext, job: &Arc<Job>, proof: Proof) -> GroupMaker<ProvedGroup> {
    let (job, signer, stop) = (job.clone(), ctx.signer.clone(), ctx.stop.clone());
    Arc::new(move |first, count| {
        let problems: Vec<Problem> = (first..first.saturating_add(count))
            .map(|index| pipeline::problem(&job, index))
            .collect::<Result<_, PipelineError>>()?;
        let completed = pipeline::complete(&job, &problems, &stop)?;
        let groups = problems.iter().zip(completed).map(|(problem, completions)| {
            pipeline::prove(&job, problem, &completions, proof, &*signer, &stop)
        });
        groups.filter_map(Result::transpose).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_of_the_deadline_is_kept_free() {
        let blocks = |ms| {
            let block_time = Duration::from_millis(ms);
            within_deadline(MiningConfig { block_time, ..MiningConfig::default() }).safety_blocks
        };
        assert_eq!((blocks(12_000), blocks(1_000), blocks(500)), (3, 5, 9));
    }
}
