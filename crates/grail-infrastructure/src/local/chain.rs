//! The embedded chain: blocks, a subnet with its metagraph, commitments and weights.
//!
//! A call is checked, done and kept at once, and belongs to the block being built; the next
//! [`LocalChain::advance`] finishes that block. Every advance and every call is one durable
//! transaction, so the chain goes on where it stood after a `kill -9`.

mod builder;
pub mod call;
pub mod data;
pub mod event;
pub mod extrinsic;
mod genesis;
pub mod header;
mod ledger;
mod pace;
pub mod params;
mod pool;
mod produce;
pub mod recent;
pub mod refusal;
pub mod rules;
pub mod state;
pub mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use grail_ports::chain::{Block, Hyperparameters, Metagraph};
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Uid};
use tokio::sync::watch;

use self::builder::Draft;
use self::call::Pulse;
use self::extrinsic::Transaction;
use self::genesis::{first, genesis};
pub use self::ledger::BlockRow;
use self::ledger::{Ledger, Loaded};
use self::pace::Pace;
use self::recent::{Recent, SealedBlock};
use self::refusal::Refusal;
use self::state::{ChainRules, PoolRefusal, State};
pub use crate::local::database::DatabaseFault;

/// Most blocks that one [`LocalChain::advance`] makes, all in one transaction.
pub const ADVANCE_BLOCKS_MAX: u64 = 100_000;

/// A chain that this process produces.
pub struct LocalChain {
    ledger: Ledger,
    rules: ChainRules,
    genesis: BlockHash,
    writer: Mutex<Writer>,
    view: RwLock<Arc<View>>,
    recent: RwLock<Recent>,
    pace: Mutex<Pace>,
    heads: watch::Sender<Heads>,
    pulses: OnceLock<Weak<dyn Pulses>>,
}

/// Where the chain's own pallet gets rounds of the beacon from.
pub trait Pulses: Send + Sync {
    /// Returns `round`, if it is out.
    fn pulse(&self, round: u64) -> Option<Pulse>;

    /// Returns the number of the newest round, 0 before the first.
    fn newest(&self) -> u64;
}

/// The two heads of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// The newest block.
    pub best: BlockNumber,
    /// The newest block that a fork never leaves.
    pub finalised: BlockNumber,
    /// How many forks there were.
    pub forks: u64,
    /// Blocks that the finalised head is behind.
    lag: u64,
}

/// Why the chain did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LocalChainError {
    /// The file failed.
    #[error("the local chain: {0}")]
    Database(#[from] DatabaseFault),
    /// Rules that no chain can have.
    #[error("the local chain's rules are invalid: {0}")]
    Rules(String),
    /// More blocks than one transaction may hold.
    #[error("cannot advance {0} blocks at once; at most {ADVANCE_BLOCKS_MAX}, call it repeatedly")]
    TooFar(u64),
    /// A fork below what is final or below what is kept.
    #[error("cannot fork {0} blocks below the head: that is final, or no longer kept")]
    Final(u64),
    /// A call broke a rule.
    #[error("the local chain refused the call: {} ({})", .0.name(), .0.advice())]
    Refused(Refusal),
    /// The pool turned an extrinsic down.
    #[error("the local chain's pool refused the extrinsic: {0:?}")]
    Pool(PoolRefusal),
}

impl From<Refusal> for LocalChainError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the next block starts from; changed only after the transaction that keeps the change.
struct Writer {
    head: Block,
    state_root: Digest,
    /// As of the head.
    settled: Arc<State>,
    /// The block being built.
    draft: Draft,
    /// Extrinsics that wait for an earlier one of their signer; lost when the process ends.
    future: BTreeMap<(Hotkey, u64), Transaction>,
    forks: u64,
}

/// What readers see.
struct View {
    head: Block,
    metagraph: Arc<Metagraph>,
    hyperparameters: Hyperparameters,
    commitments: Arc<BTreeMap<Hotkey, Vec<u8>>>,
}

impl LocalChain {
    /// Creates a chain in the new file at `path`; `neurons` (hotkey, stake) get uids 0, 1, …
    ///
    /// # Errors
    /// When the file exists or cannot be written, or rules or neurons are invalid.
    pub fn create(
        path: &Path,
        rules: ChainRules,
        seed: &[u8; 32],
        neurons: &[(Hotkey, u64)],
    ) -> Result<Arc<Self>, LocalChainError> {
        let (genesis, state) = genesis(&rules, seed, neurons)?;
        let ledger = Ledger::create(path, &rules, &genesis, &state)?;
        Self::start(ledger, first(rules, genesis, state))
    }

    /// Creates a chain that lives in memory only; otherwise as [`LocalChain::create`].
    ///
    /// # Errors
    /// When rules or neurons are invalid.
    pub fn in_memory(
        rules: ChainRules,
        seed: &[u8; 32],
        neurons: &[(Hotkey, u64)],
    ) -> Result<Arc<Self>, LocalChainError> {
        let (genesis, state) = genesis(&rules, seed, neurons)?;
        let ledger = Ledger::in_memory(&rules, &genesis, &state)?;
        Self::start(ledger, first(rules, genesis, state))
    }

    /// Creates a chain in memory that answers for another one's block 0, so that what was signed for
    /// that chain is valid here; `prepare` may change its state.
    #[cfg(test)]
    pub(crate) fn standing_in(
        rules: ChainRules,
        genesis_hash: BlockHash,
        neurons: &[(Hotkey, u64)],
        prepare: impl FnOnce(&mut State),
    ) -> Result<Arc<Self>, LocalChainError> {
        let (mut genesis, mut state) = genesis(&rules, &[0; 32], neurons)?;
        genesis.hash = genesis_hash;
        prepare(&mut state);
        let ledger = Ledger::in_memory(&rules, &genesis, &state)?;
        Self::start(ledger, first(rules, genesis, state))
    }

    /// Opens the chain in the file at `path`; it goes on at the height where it stood.
    ///
    /// # Errors
    /// When the file is absent, in use or damaged.
    pub fn open(path: &Path) -> Result<Arc<Self>, LocalChainError> {
        let (ledger, loaded) = Ledger::open(path)?;
        loaded.rules.validate().map_err(LocalChainError::Rules)?;
        Self::start(ledger, loaded)
    }

    fn start(ledger: Ledger, loaded: Loaded) -> Result<Arc<Self>, LocalChainError> {
        let Loaded { rules, genesis, head: number, head_row, state, pending } = loaded;
        let head = block(number, &head_row);
        let settled = Arc::new(state);
        let mut draft = Draft::begin(&rules, &settled, next(head), &[]);
        for submission in pending {
            draft.apply(&rules, submission)?;
        }
        let mut recent = Recent::default();
        let state_root = head_row.state_root;
        recent.push(Arc::new(SealedBlock {
            number,
            extrinsics: builder::hashes(&head_row),
            row: head_row,
            // Events are not kept beyond the process that made them.
            events: Vec::new(),
            state: Arc::clone(&settled),
        }));
        let writer = Writer { head, state_root, settled, draft, future: BTreeMap::new(), forks: 0 };
        let heads = Heads { best: number, finalised: number, forks: 0, lag: rules.finality_lag };
        let view = RwLock::new(Arc::new(View::of(&rules, &writer)));
        Ok(Arc::new(Self {
            ledger,
            rules,
            genesis,
            writer: Mutex::new(writer),
            view,
            recent: RwLock::new(recent),
            pace: Mutex::new(Pace::at(head.timestamp_ms)),
            heads: watch::Sender::new(heads.settled()),
            pulses: OnceLock::new(),
        }))
    }

    /// Returns the rules of the chain.
    pub fn rules(&self) -> &ChainRules {
        &self.rules
    }

    /// Returns the hash of block 0.
    pub fn genesis(&self) -> BlockHash {
        self.genesis
    }

    /// Returns the newest block.
    pub fn head(&self) -> Block {
        self.view().head
    }

    /// Returns both heads, and tells of their changes.
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.heads.subscribe()
    }

    /// Returns the metagraph as of the head.
    pub fn metagraph(&self) -> Arc<Metagraph> {
        Arc::clone(&self.view().metagraph)
    }

    /// Returns the rules that bind validators, as of the head.
    pub fn hyperparameters(&self) -> Hyperparameters {
        self.view().hyperparameters
    }

    /// Returns what hotkeys have committed, up to the newest accepted call.
    pub fn commitments(&self) -> Arc<BTreeMap<Hotkey, Vec<u8>>> {
        Arc::clone(&self.view().commitments)
    }

    /// Returns the uid of `hotkey`, also one that the block being built gives it.
    pub fn uid(&self, hotkey: Hotkey) -> Option<Uid> {
        self.writer().draft.state().uid(hotkey)
    }

    /// Returns the block `number` with its calls, or `None` if the chain is not there yet.
    ///
    /// # Errors
    /// When the file fails.
    pub fn block(&self, number: BlockNumber) -> Result<Option<BlockRow>, DatabaseFault> {
        self.ledger.block(number)
    }

    /// Returns the number of the block with `hash`, be it on the chain or on a fork that was left.
    ///
    /// # Errors
    /// When the file fails.
    pub fn number_of(&self, hash: BlockHash) -> Result<Option<BlockNumber>, DatabaseFault> {
        self.ledger.number_of(hash)
    }

    /// Returns the block with `hash`, its state and its events, if they are still kept.
    pub fn sealed(&self, hash: BlockHash) -> Option<Arc<SealedBlock>> {
        self.recent().by_hash(hash).cloned()
    }

    /// Returns the block `number` of the chain, its state and its events, if they are still kept.
    pub fn sealed_at(&self, number: BlockNumber) -> Option<Arc<SealedBlock>> {
        self.recent().by_number(number).cloned()
    }

    /// Returns the block on the chain that includes the extrinsic `hash`, if it is still kept.
    pub fn including(&self, hash: Digest) -> Option<Arc<SealedBlock>> {
        self.recent().including(hash).cloned()
    }

    fn publish(&self, writer: &Writer) {
        let view = Arc::new(View::of(&self.rules, writer));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn recent(&self) -> std::sync::RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic cannot leave a half-made change: the writer is replaced in one assignment.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heads {
    /// Moves the finalised head up as the lag allows, never back.
    fn settled(self) -> Self {
        let finalised = BlockNumber(self.best.0.saturating_sub(self.lag)).max(self.finalised);
        Self { finalised, ..self }
    }
}

impl View {
    fn of(rules: &ChainRules, writer: &Writer) -> Self {
        Self {
            head: writer.head,
            // As of the head, so that no neuron was updated after the metagraph's own block.
            metagraph: Arc::new(writer.settled.metagraph(rules, writer.head.number)),
            hyperparameters: writer.settled.hyperparameters(),
            // With pending calls: who committed reads it at once, as after inclusion.
            commitments: Arc::new(writer.draft.state().commitments()),
        }
    }
}

fn next(head: Block) -> BlockNumber {
    BlockNumber(head.number.0.saturating_add(1))
}

fn block(number: BlockNumber, row: &BlockRow) -> Block {
    Block { number, hash: row.hash, timestamp_ms: row.timestamp_ms }
}
