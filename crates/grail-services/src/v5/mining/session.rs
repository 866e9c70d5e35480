//! What every miner of the profile does around its groups: opens a window once, and delivers the
//! file before the deadline.

use bytes::Bytes;
use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_protocol::checkpoint::CheckpointError as MetadataError;
use grail_protocol::ids::Window;
use grail_protocol::v5::file::{BYTES_MAX, object_key};
use grail_protocol::v5::seeds::miner_randomness;
use tracing::warn;

use super::pipeline::{self, Job, ProvedGroup};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::context::{NOT_FINAL, RunContext, block_with_beacon, is_final};
use crate::mining::ledger::{Ledger, Sealed};
use crate::mining::pace::MinedGroup as _;
use crate::mining::{MiningError, MiningOutcome, REORGANISED};
use crate::v5::checkpoints::{AssignmentSource, ReferenceEnvironments};
use crate::v5::validation::hash_text;

/// One miner's ports and memory.
pub struct ReferenceSession {
    /// The ports.
    pub ctx: RunContext,
    consumer: AssignmentSource,
    ledger: Option<Ledger>,
    announced: Option<Window>,
}

/// What is to be done at a head.
pub enum Next {
    /// Nothing more now.
    Done(MiningOutcome),
    /// Make groups for this job, then deliver or skip.
    Mine(Box<Job>),
}

impl ReferenceSession {
    /// Makes a session; nothing is read before the first tick.
    pub fn new(ctx: RunContext, environments: ReferenceEnvironments) -> Self {
        let consumer = AssignmentSource::new(ctx.clone(), environments);
        Self { ctx, consumer, ledger: None, announced: None }
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
        let assignment = match self.consumer.for_window(window).await {
            Ok(Some(assignment)) => assignment,
            Ok(None) => {
                return Ok(self.wait(window, "no checkpoint was ready before this window"));
            }
            Err(error) => {
                let waits = error.other_protocol().or_else(|| unusable(&error));
                return match waits {
                    Some(reason) => Ok(self.wait(window, &reason)),
                    None => Err(error.into()),
                };
            }
        };
        let sampling = match assignment.sampling() {
            Ok(sampling) => sampling,
            Err(reason) => return Ok(self.wait(window, &reason)),
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        let Some(first) = block_with_beacon(chain, beacon, window.start()).await? else {
            let reason = "the beacon round of this window is not out yet".to_owned();
            return Ok(Next::Done(MiningOutcome::Waiting(reason)));
        };
        let window_hash = hash_text(first.block.hash);
        Ok(Next::Mine(Box::new(Job {
            window,
            randomness: miner_randomness(&window_hash, Some(&first.beacon.to_hex())),
            window_hash,
            hotkey: self.ctx.hotkey(),
            assignment,
            sampling,
            head: i64::try_from(head.number.0).unwrap_or(i64::MAX),
            now: head.timestamp_ms as f64 / 1000.0,
        })))
    }

    /// Writes the file, keeps it, and uploads it if its window is not over.
    pub async fn deliver(
        &mut self,
        job: &Job,
        groups: Vec<ProvedGroup>,
        seconds: f64,
    ) -> Result<MiningOutcome, MiningError> {
        let rollouts: usize = groups.iter().map(|group| group.rows.len()).sum();
        let sealed = Sealed {
            window: job.window,
            groups: u32::try_from(groups.len()).unwrap_or(u32::MAX),
            rollouts: u32::try_from(rollouts).unwrap_or(u32::MAX),
            tokens: groups.iter().map(ProvedGroup::tokens).sum(),
            seconds,
            drawn_from: Some(job.window_hash.clone()),
        };
        let writing = job.clone();
        let bytes = blocking(move || pipeline::seal(&writing, groups)).await?;
        self.ledger()?.keep(sealed, &bytes)?;
        let head = self.ctx.chain.head().await?;
        self.upload(head).await
    }

    /// Gives the window up.
    pub fn skip(&mut self, window: Window, reason: String) -> Result<MiningOutcome, MiningError> {
        self.ledger()?.close(window)?;
        self.announce(window, &reason);
        Ok(MiningOutcome::Skipped { window, reason })
    }

    /// Uploads the pending file unless it is there already or `head` left its window.
    async fn upload(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        let Some(sealed) = self.ledger()?.pending().cloned() else {
            return Ok(MiningOutcome::Idle);
        };
        let Some(bytes) = self.ledger()?.pending_bytes()? else {
            return self.skip(sealed.window, "the written file is gone from the disk".to_owned());
        };
        let bytes = Bytes::from(bytes);
        let start = i64::try_from(sealed.window.start().0).unwrap_or(i64::MAX);
        let key = object_key(&self.ctx.hotkey().to_ss58(), start);
        let bucket = self.ctx.buckets.own();
        // An earlier attempt may have arrived although its answer was lost; writing again would only
        // make the file look late.
        let stored = bucket.get(&key, BYTES_MAX).await?;
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

    /// Returns why the file cannot be uploaded now, if it cannot: the block that its problems follow
    /// from may still go, or went away, and then the file goes too.
    async fn forked(&mut self, sealed: &Sealed) -> Result<Option<&'static str>, MiningError> {
        let start = sealed.window.start();
        if !is_final(&*self.ctx.chain, start).await? {
            return Ok(Some(NOT_FINAL));
        }
        let Some(first) = self.ctx.chain.block(start).await? else { return Ok(Some(NOT_FINAL)) };
        if sealed.drawn_from.as_ref().is_none_or(|hash| *hash == hash_text(first.hash)) {
            return Ok(None);
        }
        warn!(window = %sealed.window, REORGANISED);
        self.ledger()?.discard()?;
        Ok(Some(REORGANISED))
    }

    fn wait(&mut self, window: Window, reason: &str) -> Next {
        self.announce(window, reason);
        Next::Done(MiningOutcome::Waiting(reason.to_owned()))
    }

    fn announce(&mut self, window: Window, reason: &str) {
        if self.announced != Some(window) {
            self.announced = Some(window);
            warn!(%window, reason, "not mining this window");
            self.ctx.emit(Event::WindowSkipped { window, reason: reason.to_owned() });
        }
    }

    fn ledger(&mut self) -> Result<&mut Ledger, MiningError> {
        match &mut self.ledger {
            Some(ledger) => Ok(ledger),
            empty => Ok(empty.insert(Ledger::open(&self.ctx.state_dir.join("v5"))?)),
        }
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
