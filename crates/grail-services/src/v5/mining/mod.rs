//! Mining for the reference's profile: from a window to a Parquet file in our bucket.

pub mod adversary;
pub mod pipeline;
mod session;

use std::sync::Arc;
use std::time::Duration;

use grail_ports::chain::Block;
use grail_protocol::v5::file::DEADLINE_MARGIN_SECONDS;
use tokio::time::Instant;

use self::pipeline::{Job, Problem, Proof, ProvedGroup};
use self::session::{Next, ReferenceSession};
use super::checkpoints::ReferenceEnvironments;
use crate::context::RunContext;
use crate::mining::pace::{GroupMaker, MiningConfig, Pace};
use crate::mining::pipeline::PipelineError;
use crate::mining::{MiningError, MiningOutcome};

/// Mines the window of each head by the reference's rules.
pub struct ReferenceMining {
    session: ReferenceSession,
    pace: Pace,
}

impl ReferenceMining {
    /// Makes the service; nothing is read before the first tick.
    pub fn new(ctx: RunContext, config: MiningConfig, environments: ReferenceEnvironments) -> Self {
        let pace = Pace::new(within_deadline(config));
        Self { session: ReferenceSession::new(ctx, environments), pace }
    }

    /// Mines the window of `head` if that was not done yet.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window is mined twice.
    pub async fn tick(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        self.pace.saw_block(head.number);
        let job = match self.session.open(head).await? {
            Next::Done(outcome) => return Ok(outcome),
            Next::Mine(job) => Arc::new(*job),
        };
        let ctx = self.session.ctx.clone();
        let mined =
            self.pace.fill(&ctx, job.window, head, maker(&ctx, &job, Proof::Computed)).await?;
        if mined.groups.is_empty() {
            let reason = mined.trouble.unwrap_or_else(|| NO_GROUP.to_owned());
            return self.session.skip(job.window, reason);
        }
        let before = Instant::now();
        let outcome = self.session.deliver(&job, mined.groups, mined.seconds).await?;
        self.pace.uploaded(before.elapsed());
        Ok(outcome)
    }
}

/// Why a window without trouble may bring nothing.
const NO_GROUP: &str =
    "too late for a group, or every group had a completion below 32 tokens or one that ended badly";

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
