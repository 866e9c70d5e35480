//! What every role is given: its ports, its folder, and the ways to stop it and to watch it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grail_ports::beacon::{Beacon, BeaconError};
use grail_ports::chain::{Block, Chain, ChainError};
use grail_ports::environment::Environment;
use grail_ports::events::{Event, EventSink};
use grail_ports::model::{ModelProvider, StopFlag};
use grail_ports::object_store::Buckets;
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Digest, Hotkey, Window};
use grail_protocol::timelock::{NoOpener, RoundOpener, SealTo};

/// Makes the environment that a checkpoint names by id and canonical parameters, or says why not.
pub type EnvironmentFactory =
    Arc<dyn Fn(&str, &str) -> Result<Arc<dyn Environment>, String> + Send + Sync>;

/// The ports of a role and where it keeps its memory; cheap to clone.
#[derive(Clone)]
pub struct RunContext {
    /// The subnet's chain, acting for this role's hotkey.
    pub chain: Arc<dyn Chain>,
    /// Public randomness.
    pub beacon: Arc<dyn Beacon>,
    /// Our bucket and those of others.
    pub buckets: Arc<dyn Buckets>,
    /// This role's hotkey.
    pub signer: Arc<dyn Signer>,
    /// Loads models.
    pub models: Arc<dyn ModelProvider>,
    /// Makes environments.
    pub environments: EnvironmentFactory,
    /// Where events go.
    pub events: Arc<dyn EventSink>,
    /// Folder that this role alone writes: state and checkpoint cache.
    pub state_dir: PathBuf,
    /// Raised when the role must end; long work looks at it.
    pub stop: StopFlag,
    /// Beaten whenever work makes progress; the watchdog looks at it.
    pub heartbeat: Heartbeat,
}

impl RunContext {
    /// Returns this role's hotkey.
    pub fn hotkey(&self) -> Hotkey {
        self.signer.hotkey()
    }

    /// Reports an event.
    pub fn emit(&self, event: Event) {
        self.events.emit(event);
    }
}

/// Counts signs of life; clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Shows that work makes progress.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often it has beaten.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why public randomness of a block cannot be had now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RandomnessError {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The beacon failed.
    #[error(transparent)]
    Beacon(#[from] BeaconError),
    /// The beacon's key and the signature of a round do not belong together.
    #[error(transparent)]
    Opener(#[from] NoOpener),
}

/// A block with the beacon round that comes out strictly after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockWithBeacon {
    /// The block.
    pub block: Block,
    /// Randomness of the round.
    pub beacon: Digest,
}

/// Returns the block at `number` with its beacon round, or `None` if either is not out yet.
///
/// Everybody gets the same values; a missing round is waited for and never replaced.
pub async fn block_with_beacon(
    chain: &dyn Chain,
    beacon: &dyn Beacon,
    number: BlockNumber,
) -> Result<Option<BlockWithBeacon>, RandomnessError> {
    let Some(block) = chain.block(number).await? else {
        return Ok(None);
    };
    let round = beacon.schedule().first_round_after(block.timestamp_ms);
    let found = beacon.round(round).await?;
    Ok(found.map(|round| BlockWithBeacon { block, beacon: round.randomness }))
}

/// Why a role waits when [`is_final`] says no.
pub(crate) const NOT_FINAL: &str = "the window's blocks can still change";

/// Returns whether no re-organisation can take block `number` away any more.
///
/// What follows from a block's hash must neither be published nor judged before: a miner would be
/// blamed for a fork.
pub async fn is_final(chain: &dyn Chain, number: BlockNumber) -> Result<bool, ChainError> {
    Ok(chain.finalized().await? >= number)
}

/// Returns where the files of `window` are sealed to, or `None` if its first block is not there.
///
/// Miners seal to it, and validators, trainers and everybody else open with its signature.
pub async fn seal_of(
    chain: &dyn Chain,
    beacon: &dyn Beacon,
    window: Window,
) -> Result<Option<SealTo>, RandomnessError> {
    let first = chain.block(window.start()).await?;
    Ok(first.map(|first| seal_after(chain, beacon, &first)))
}

/// Returns where the files of the window that begins with the block `first` are sealed to.
pub fn seal_after(chain: &dyn Chain, beacon: &dyn Beacon, first: &Block) -> SealTo {
    SealTo {
        key: beacon.public_key(),
        round: beacon.schedule().seal_round(first.timestamp_ms, chain.block_time_ms()),
    }
}

/// Returns what opens the files of `window`, or `None` while its round is not out: then nobody can
/// read them, and nobody is to blame.
pub async fn opener_of(
    chain: &dyn Chain,
    beacon: &dyn Beacon,
    window: Window,
) -> Result<Option<RoundOpener>, RandomnessError> {
    let Some(SealTo { key, round }) = seal_of(chain, beacon, window).await? else {
        return Ok(None);
    };
    let found = beacon.round(round).await?;
    Ok(found.map(|found| RoundOpener::new(key, round, found.signature)).transpose()?)
}
