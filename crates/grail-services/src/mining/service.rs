//! The honest miner: as many groups as fit into a window, uploaded once.

use std::sync::Arc;

use grail_ports::chain::Block;
use tokio::time::Instant;

use super::pace::{self, MiningConfig, Pace};
use super::pipeline;
use super::session::{MiningSession, Next};
use super::{MiningError, MiningOutcome};
use crate::context::RunContext;

/// Mines the window of each head.
pub struct MiningService {
    session: MiningSession,
    pace: Pace,
}

impl MiningService {
    /// Makes the service; nothing is read before the first tick.
    pub fn new(ctx: RunContext, config: MiningConfig) -> Self {
        Self { session: MiningSession::new(ctx), pace: Pace::new(config) }
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
        let maker = pace::maker(job.clone(), ctx.stop.clone(), pipeline::mine);
        let mined = self.pace.fill(&ctx, job.window, head, maker).await?;
        if mined.groups.is_empty() {
            let reason = mined.trouble.unwrap_or_else(|| "too late for a group".to_owned());
            return self.session.skip(job.window, reason);
        }
        let before = Instant::now();
        let outcome = self.session.deliver(&job, mined.groups, mined.seconds).await?;
        self.pace.uploaded(before.elapsed());
        Ok(outcome)
    }
}
