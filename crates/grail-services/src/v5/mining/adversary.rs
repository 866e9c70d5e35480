//! Miners that cheat, for test networks: what this profile catches, and what it does not.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use grail_parquet::{Limits, RowReader};
use grail_ports::chain::Block;
use grail_protocol::ids::{TokenId, Window};
use grail_protocol::v5::file::{BYTES_MAX, ROLLOUTS_PER_GROUP, Row, object_key};
use tokio::time::Instant;

use super::pipeline::{self, Job, Proof, ProvedGroup};
use super::session::{Next, ReferenceSession};
use super::{NO_GROUP, maker, within_deadline};
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::mining::pace::{GroupMaker, MiningConfig, Pace};
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
    session: ReferenceSession,
    pace: Pace,
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
        let pace = Pace::new(within_deadline(config));
        let session = ReferenceSession::new(ctx, environments);
        Self { session, pace, cheat, peers: PeerDirectory::default() }
    }

    /// Mines the window of `head` dishonestly if that was not done yet.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended.
    pub async fn tick(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        self.pace.saw_block(head.number);
        let job = match self.session.open(head).await? {
            Next::Done(outcome) => return Ok(outcome),
            Next::Mine(job) => Arc::new(*job),
        };
        let ctx = self.session.ctx.clone();
        let make = match self.cheat {
            ReferenceCheat::ZeroSketches => maker(&ctx, &job, Proof::Zero),
            ReferenceCheat::CopiedCompletions => match self.foreign(job.window).await? {
                Some(completions) => copier(&ctx, &job, completions),
                None => {
                    let reason = "nobody uploaded a file to copy yet".to_owned();
                    return Ok(MiningOutcome::Waiting(reason));
                }
            },
        };
        let mined = self.pace.fill(&ctx, job.window, head, make).await?;
        if mined.groups.is_empty() {
            let reason = mined.trouble.unwrap_or_else(|| NO_GROUP.to_owned());
            return self.session.skip(job.window, reason);
        }
        let before = Instant::now();
        let outcome = self.session.deliver(&job, mined.groups, mined.seconds).await?;
        self.pace.uploaded(before.elapsed());
        Ok(outcome)
    }

    /// Returns the completions of the first peer that has uploaded in `window`.
    async fn foreign(&mut self, window: Window) -> Result<Option<Vec<Completion>>, MiningError> {
        let ctx = &self.session.ctx;
        self.peers.refresh(&*ctx.chain).await?;
        let metagraph = ctx.chain.metagraph().await?;
        for neuron in metagraph.neurons.iter().filter(|neuron| neuron.hotkey != ctx.hotkey()) {
            let Some(bucket) = self.peers.bucket(&*ctx.buckets, neuron.hotkey) else { continue };
            let start = i64::try_from(window.start().0).unwrap_or(i64::MAX);
            let key = object_key(&neuron.hotkey.to_ss58(), start);
            let Ok(Some(bytes)) = bucket.get(&key, BYTES_MAX).await else { continue };
            let completions = blocking(move || completions(bytes)).await;
            if completions.len() >= ROLLOUTS_PER_GROUP {
                return Ok(Some(completions));
            }
        }
        Ok(None)
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
