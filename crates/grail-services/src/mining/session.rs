//! What every miner does around its groups: opens a window once, and delivers the file in time.
//!
//! Honest miners and the adversaries of the test networks share it; they differ in how groups are
//! made.

use bytes::Bytes;
use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_protocol::constants::ROLLOUT_FILE_BYTES_MAX;
use grail_protocol::ids::Window;
use grail_protocol::keys;
use grail_protocol::randomness::{WindowRandomness, window_randomness};
use grail_protocol::rollout::Group;
use tracing::warn;

use super::ledger::{Ledger, Sealed};
use super::pipeline::{self, MiningJob};
use super::{MiningError, MiningOutcome, REORGANISED};
use crate::blocking::blocking;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final, seal_of};

const NO_CHECKPOINT: &str = "no checkpoint was ready before this window";

/// One miner's ports and memory.
pub struct MiningSession {
    /// The ports.
    pub ctx: RunContext,
    consumer: CheckpointConsumer,
    ledger: Option<Ledger>,
    announced_skip: Option<Window>,
}

/// What is to be done at a head.
pub enum Next {
    /// Nothing more now.
    Done(MiningOutcome),
    /// Make groups for this job, then [`MiningSession::deliver`] or [`MiningSession::skip`].
    Mine(Box<MiningJob>),
}

impl MiningSession {
    /// Makes a session; nothing is read before the first tick.
    pub fn new(ctx: RunContext) -> Self {
        let consumer = CheckpointConsumer::new(ctx.clone(), Runtimes::Any);
        Self { ctx, consumer, ledger: None, announced_skip: None }
    }

    /// Finishes what an earlier tick or process left, then opens the window of `head`.
    pub async fn open(&mut self, head: Block) -> Result<Next, MiningError> {
        self.ctx.heartbeat.beat();
        if self.ledger()?.pending().is_some() {
            return Ok(Next::Done(self.upload(head).await?));
        }
        let window = Window::containing(head.number);
        if !self.ledger()?.is_open(window) {
            return Ok(Next::Done(MiningOutcome::Idle));
        }
        let found = match self.consumer.for_window(window).await {
            Ok(found) => found.ok_or_else(|| NO_CHECKPOINT.to_owned()),
            Err(error) => Err(error.other_protocol().ok_or(error)?),
        };
        let checkpoint = match found {
            Ok(checkpoint) => checkpoint,
            Err(reason) => {
                self.announce_skip(window, &reason);
                return Ok(Next::Done(MiningOutcome::Waiting(reason)));
            }
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        let Some(first) = block_with_beacon(chain, beacon, window.start()).await? else {
            let reason = "the beacon round of this window is not out yet".to_owned();
            return Ok(Next::Done(MiningOutcome::Waiting(reason)));
        };
        let Some(seal) = seal_of(chain, beacon, window).await? else {
            return Ok(Next::Done(MiningOutcome::Waiting(
                "the window has no block yet".to_owned(),
            )));
        };
        let header = checkpoint.header(chain.network(), chain.netuid(), window, self.ctx.hotkey());
        let randomness = window_randomness(&first.block.hash, &first.beacon);
        Ok(Next::Mine(Box::new(MiningJob { window, randomness, checkpoint, header, seal })))
    }

    /// Seals the groups, and goes on as [`MiningSession::deliver_file`] does.
    pub async fn deliver(
        &mut self,
        job: &MiningJob,
        groups: Vec<Group>,
        seconds: f64,
    ) -> Result<MiningOutcome, MiningError> {
        let rollouts = groups.iter().map(|group| group.rollouts.len()).sum::<usize>();
        let sealed = Sealed {
            window: job.window,
            groups: u32::try_from(groups.len()).unwrap_or(u32::MAX),
            rollouts: u32::try_from(rollouts).unwrap_or(u32::MAX),
            tokens: pipeline::count_tokens(&groups),
            seconds,
            drawn_from: Some(text_of(job.randomness)),
        };
        let (header, seal, signer) = (job.header.clone(), job.seal, self.ctx.signer.clone());
        let bytes = blocking(move || pipeline::seal(header, groups, seal, &*signer)).await?;
        self.deliver_file(sealed, &bytes).await
    }

    /// Keeps a sealed file, and uploads it if its window is not over.
    pub async fn deliver_file(
        &mut self,
        sealed: Sealed,
        bytes: &[u8],
    ) -> Result<MiningOutcome, MiningError> {
        self.ledger()?.keep(sealed, bytes)?;
        let head = self.ctx.chain.head().await?;
        self.upload(head).await
    }

    /// Gives the window up.
    pub fn skip(&mut self, window: Window, reason: String) -> Result<MiningOutcome, MiningError> {
        self.ledger()?.close(window)?;
        self.announce_skip(window, &reason);
        Ok(MiningOutcome::Skipped { window, reason })
    }

    /// Uploads the pending file unless it is there already or `head` left its window.
    async fn upload(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        let Some(sealed) = self.ledger()?.pending().cloned() else {
            return Ok(MiningOutcome::Idle);
        };
        let Some(bytes) = self.ledger()?.pending_bytes()? else {
            return self.skip(sealed.window, "the sealed file is gone from the disk".to_owned());
        };
        let bytes = Bytes::from(bytes);
        let key = keys::rollout_file(self.ctx.hotkey(), sealed.window);
        let bucket = self.ctx.buckets.own();
        // An earlier attempt may have arrived although its answer was lost; writing again would only
        // make the file look late.
        let stored = bucket.get(&key, ROLLOUT_FILE_BYTES_MAX).await?;
        if stored.as_ref() != Some(&bytes) {
            if Window::containing(head.number) != sealed.window {
                return self.skip(sealed.window, "the window ended before the upload".to_owned());
            }
            if let Some(reason) = self.forked(&sealed).await? {
                return Ok(MiningOutcome::Waiting(reason.to_owned()));
            }
            bucket.put(&key, bytes.clone()).await?;
        }
        // Told before it is closed: a crash in between tells it twice, never not at all.
        self.ctx.emit(Event::RolloutsUploaded {
            window: sealed.window,
            groups: sealed.groups,
            rollouts: sealed.rollouts,
            tokens: sealed.tokens,
            seconds: sealed.seconds,
            bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        });
        self.ledger()?.close(sealed.window)?;
        Ok(MiningOutcome::Uploaded { window: sealed.window, groups: sealed.groups })
    }

    /// Returns why the sealed file cannot be uploaded now, if it cannot: the block that its problems
    /// follow from may still go, or went away, and then the file goes too.
    async fn forked(&mut self, sealed: &Sealed) -> Result<Option<&'static str>, MiningError> {
        let Some(drawn_from) = &sealed.drawn_from else { return Ok(None) };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        let start = sealed.window.start();
        if !is_final(chain, start).await? {
            return Ok(Some(NOT_FINAL));
        }
        let Some(first) = block_with_beacon(chain, beacon, start).await? else {
            return Ok(Some(NOT_FINAL));
        };
        if text_of(window_randomness(&first.block.hash, &first.beacon)) == *drawn_from {
            return Ok(None);
        }
        warn!(window = %sealed.window, REORGANISED);
        self.ledger()?.discard()?;
        Ok(Some(REORGANISED))
    }

    fn announce_skip(&mut self, window: Window, reason: &str) {
        if self.announced_skip != Some(window) {
            self.announced_skip = Some(window);
            self.ctx.emit(Event::WindowSkipped { window, reason: reason.to_owned() });
        }
    }

    fn ledger(&mut self) -> Result<&mut Ledger, MiningError> {
        match &mut self.ledger {
            Some(ledger) => Ok(ledger),
            empty => Ok(empty.insert(Ledger::open(&self.ctx.state_dir)?)),
        }
    }
}

fn text_of(randomness: WindowRandomness) -> String {
    randomness.0.to_hex()
}
