//! A miner's life, whatever the profile: opens a window once, fills it with groups, and delivers the
//! file in time.
//!
//! Honest miners and the adversaries of the test networks share it; they differ in how groups are
//! made.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::chain::Block;
use grail_ports::events::Event;
use grail_ports::signer::Signer;
use grail_protocol::constants::ROLLOUT_FILE_BYTES_MAX;
use grail_protocol::ids::{Hotkey, Window};
use tokio::time::Instant;
use tracing::warn;

use super::ledger::{Ledger, Sealed};
use super::pace::{GroupMaker, MinedGroup, MiningConfig, Pace};
use super::pipeline::PipelineError;
use super::{MiningError, MiningOutcome};
use crate::blocking::blocking;
use crate::context::{BlockWithBeacon, NOT_FINAL, RunContext, block_with_beacon, is_final};

const REORGANISED: &str =
    "a re-organisation changed the window's first block; the window is mined again";

/// Whether a window can be mined, and by what.
pub enum Aim<T> {
    /// By this.
    At(T),
    /// Not yet, and a person should know why.
    Tell(String),
}

/// A window that is being mined.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// The window.
    pub window: Window,
    /// Its first block, which its problems follow from.
    pub first: BlockWithBeacon,
    /// Head of the chain when it was opened.
    pub head: Block,
}

/// How a profile mines.
#[async_trait]
pub trait Profile: Send + Sync + 'static {
    /// What a window is mined by.
    type Checkpoint: Send;
    /// Everything that the groups of a window depend on.
    type Job: Send + Sync + 'static;
    /// A group of rollouts.
    type Group: MinedGroup;

    /// Folder of the ledger, in the role's own.
    const FOLDER: &'static str;

    /// Why a window without trouble may bring nothing.
    const NO_GROUP: &'static str;

    /// Returns what `window` is mined by.
    async fn checkpoint(&mut self, window: Window) -> Result<Aim<Self::Checkpoint>, MiningError>;

    /// Returns the job of a window.
    fn job(ctx: &RunContext, open: &Open, checkpoint: Self::Checkpoint) -> Self::Job;

    /// Returns what makes honest groups of a job.
    fn maker(ctx: &RunContext, job: Arc<Self::Job>) -> GroupMaker<Self::Group>;

    /// Returns the bytes of the file of these groups. Blocks.
    fn seal(
        job: &Self::Job,
        groups: Vec<Self::Group>,
        signer: &dyn Signer,
    ) -> Result<Vec<u8>, PipelineError>;

    /// Returns the key of a miner's file.
    fn key(hotkey: Hotkey, window: Window) -> String;
}

/// What is to be done at a head.
pub enum Next<J> {
    /// Nothing more now.
    Done(MiningOutcome),
    /// Fill this window, deliver a file of it or skip it.
    Mine(Open, Arc<J>),
}

/// Mines the window of each head honestly.
pub struct Miner<P: Profile>(Session<P>);

impl<P: Profile> Miner<P> {
    /// Makes the service; nothing is read before the first tick.
    pub(crate) fn with(session: Session<P>) -> Self {
        Self(session)
    }

    /// Mines the window of `head` if that was not done yet.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window is mined twice.
    pub async fn tick(&mut self, head: Block) -> Result<MiningOutcome, MiningError> {
        match self.0.open(head).await? {
            Next::Done(outcome) => Ok(outcome),
            Next::Mine(open, job) => {
                let maker = P::maker(&self.0.ctx, job.clone());
                self.0.fill(&open, job, maker).await
            }
        }
    }
}

/// One miner's ports and memory.
pub struct Session<P: Profile> {
    /// The ports.
    pub ctx: RunContext,
    profile: P,
    pace: Pace,
    ledger: Option<Ledger>,
    /// Newest window whose waiting was told.
    announced: Option<Window>,
}

impl<P: Profile> Session<P> {
    /// Makes a session; nothing is read before the first tick.
    pub fn new(ctx: RunContext, config: MiningConfig, profile: P) -> Self {
        Self { ctx, profile, pace: Pace::new(config), ledger: None, announced: None }
    }

    /// Finishes what an earlier tick or process left, then opens the window of `head`.
    pub async fn open(&mut self, head: Block) -> Result<Next<P::Job>, MiningError> {
        self.pace.saw_block(head.number);
        self.ctx.heartbeat.beat();
        if self.ledger()?.pending().is_some() {
            return Ok(Next::Done(self.upload(head).await?));
        }
        let window = Window::containing(head.number);
        if !self.ledger()?.is_open(window) {
            return Ok(Next::Done(MiningOutcome::Idle));
        }
        let checkpoint = match self.profile.checkpoint(window).await? {
            Aim::At(checkpoint) => checkpoint,
            Aim::Tell(reason) => {
                self.announce(window, &reason);
                return Ok(Next::Done(MiningOutcome::Waiting(reason)));
            }
        };
        let (chain, beacon) = (&*self.ctx.chain, &*self.ctx.beacon);
        let Some(first) = block_with_beacon(chain, beacon, window.start()).await? else {
            let reason = "the beacon round of this window is not out yet".to_owned();
            return Ok(Next::Done(MiningOutcome::Waiting(reason)));
        };
        let open = Open { window, first, head };
        let job = P::job(&self.ctx, &open, checkpoint);
        Ok(Next::Mine(open, Arc::new(job)))
    }

    /// Makes groups until the time or the wanted number is up, and delivers them; without any, gives
    /// the window up.
    pub async fn fill(
        &mut self,
        open: &Open,
        job: Arc<P::Job>,
        maker: GroupMaker<P::Group>,
    ) -> Result<MiningOutcome, MiningError> {
        let mined = self.pace.fill(&self.ctx, open.window, open.head, maker).await?;
        if mined.groups.is_empty() {
            let reason = mined.trouble.unwrap_or_else(|| P::NO_GROUP.to_owned());
            return self.skip(open.window, reason);
        }
        let before = Instant::now();
        let outcome = self.deliver(open, job, mined.groups, mined.seconds).await?;
        self.pace.uploaded(before.elapsed());
        Ok(outcome)
    }

    /// Seals the groups, and goes on as [`Session::deliver_file`] does.
    pub async fn deliver(
        &mut self,
        open: &Open,
        job: Arc<P::Job>,
        groups: Vec<P::Group>,
        seconds: f64,
    ) -> Result<MiningOutcome, MiningError> {
        let rollouts = groups.iter().map(MinedGroup::rollouts).sum::<usize>();
        let sealed = Sealed {
            window: open.window,
            groups: u32::try_from(groups.len()).unwrap_or(u32::MAX),
            rollouts: u32::try_from(rollouts).unwrap_or(u32::MAX),
            tokens: groups.iter().map(MinedGroup::tokens).fold(0, u64::saturating_add),
            seconds,
            drawn_from: Some(open.first.block.hash.to_hex()),
        };
        let signer = self.ctx.signer.clone();
        let bytes = blocking(move || P::seal(&job, groups, &*signer)).await?;
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
        self.announce(window, &reason);
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
        let key = P::key(self.ctx.hotkey(), sealed.window);
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
        let (chain, start) = (&*self.ctx.chain, sealed.window.start());
        if !is_final(chain, start).await? {
            return Ok(Some(NOT_FINAL));
        }
        let Some(first) = chain.block(start).await? else { return Ok(Some(NOT_FINAL)) };
        if first.hash.to_hex() == *drawn_from {
            return Ok(None);
        }
        warn!(window = %sealed.window, REORGANISED);
        self.ledger()?.discard()?;
        Ok(Some(REORGANISED))
    }

    /// Says once a window why it is not mined.
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
            empty => Ok(empty.insert(Ledger::open(&self.ctx.state_dir.join(P::FOLDER))?)),
        }
    }
}
