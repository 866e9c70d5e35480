//! Miners that cheat, for test networks: what this profile catches, and what it does not.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use grail_parquet::{Limits, RowReader};
use grail_ports::chain::Block;
use grail_protocol::ids::{TokenId, Window};
use grail_protocol::v5::file::{ROLLOUTS_PER_GROUP, Row};

use super::pipeline::{self, Job, Proof, ProvedGroup};
use super::{ReferenceProfile, maker};
use crate::context::RunContext;
use crate::mining::adversary::{first_of_peers, nothing_to_copy};
use crate::mining::lifecycle::{Next, Session};
use crate::mining::pace::{GroupMaker, MiningConfig};
use crate::mining::{MiningError, MiningOutcome};
use crate::peers::PeerDirectory;
use crate::v5::checkpoints::ReferenceEnvironments;

/// A way to cheat in this profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceCheat {
    /// Sends zeros for sketches. **Every validator of the profile accepts them.**
    ZeroSketches,
    /// Sends the completions of another miner's file of this window, which anybody can read, under
    /// its own prompts with honest proofs. Gated as the later upload.
    CopiedCompletions,
}

/// A miner that cheats in every window.
pub struct ReferenceAdversary {
    session: Session<ReferenceProfile>,
    cheat: ReferenceCheat,
    peers: PeerDirectory,
}

impl ReferenceAdversary {
    /// Makes a cheater; nothing is read before the first tick.
    pub fn new(
        ctx: RunContext,
        config: MiningConfig,
        environments: ReferenceEnvironments,
        cheat: ReferenceCheat,
    ) -> Self {
        let session = Session::reference(ctx, config, environments);
        Self { session, cheat, peers: PeerDirectory::default() }
    }

    /// Mines the window of `head` dishonestly if that was not done yet.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended.
    pub async fn tick(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        let (open, job) = match self.session.open(head).await? {
            Next::Done(outcome) => return Ok(outcome),
            Next::Mine(open, job) => (open, job),
        };
        let ctx = self.session.ctx.clone();
        let make = match self.cheat {
            ReferenceCheat::ZeroSketches => maker(&ctx, &job, Proof::Zero),
            ReferenceCheat::CopiedCompletions => match self.foreign(job.window).await? {
                Some(completions) => copier(&ctx, &job, completions),
                None => return Ok(nothing_to_copy()),
            },
        };
        self.session.fill(&open, job, make).await
    }

    /// Returns the completions of the first peer that has uploaded in `window`.
    async fn foreign(&mut self, window: Window) -> Result<Option<Vec<Completion>>, MiningError> {
        let read = |bytes| Some(completions(bytes)).filter(|it| it.len() >= ROLLOUTS_PER_GROUP);
        first_of_peers(&self.session, &mut self.peers, window, read).await
    }
}

type Completion = Vec<TokenId>;

fn completions(bytes: Bytes) -> Vec<Completion> {
    let Ok(reader) = RowReader::open(bytes, &Limits::default()) else { return Vec::new() };
    let completion = |row: Row| {
        let start = usize::try_from(row.commit.rollout.prompt_length.as_integer()?).ok()?;
        let tokens = row.commit.tokens.get(start..)?.iter();
        tokens.map(|&token| TokenId::try_from(token).ok()).collect::<Option<Vec<_>>>()
    };
    reader.filter_map(Result::ok).filter_map(completion).collect()
}

/// Makes groups of foreign completions, 16 at a time, as long as there are some.
fn copier(
    ctx: &RunContext,
    job: &Arc<Job>,
    completions: Vec<Completion>,
) -> GroupMaker<ProvedGroup> {
    let (job, signer, stop) = (job.clone(), ctx.signer.clone(), ctx.stop.clone());
    let left = Mutex::new(completions);
    Arc::new(move |first, count| {
        let mut groups = Vec::new();
        for index in first..first.saturating_add(count) {
            let taken: Vec<Completion> = {
                let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                if left.len() < ROLLOUTS_PER_GROUP {
                    break;
                }
                left.drain(..ROLLOUTS_PER_GROUP).collect()
            };
            let problem = pipeline::problem(&job, index)?;
            let proof = Proof::Computed;
            groups.extend(pipeline::prove(&job, &problem, &taken, proof, &*signer, &stop)?);
        }
        Ok(groups)
    })
}
