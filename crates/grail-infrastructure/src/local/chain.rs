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
pub mod header;
mod ledger;
pub mod params;
pub mod recent;
pub mod refusal;
pub mod rules;
pub mod state;
pub mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use grail_ports::chain::{Block, Hyperparameters, Metagraph};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Uid};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::builder::Draft;
use self::call::Pulse;
use self::extrinsic::{Call, SignedExtrinsic, Transaction, VALIDITY_BLOCKS};
pub use self::ledger::BlockRow;
use self::ledger::{Ledger, Loaded, Submission};
use self::recent::{RECENT_BLOCKS_MAX, Recent, SealedBlock};
use self::refusal::Refusal;
use self::state::{ChainRules, Origin, PoolRefusal, State};
use crate::clock::Clock;
pub use crate::local::database::DatabaseFault;

/// Most blocks that one [`LocalChain::advance`] makes, all in one transaction.
pub const ADVANCE_BLOCKS_MAX: u64 = 100_000;

/// Most calls in one block.
const BLOCK_EXTRINSICS_MAX: usize = 1024;

/// Most extrinsics that wait for an earlier one of their signer.
const FUTURE_EXTRINSICS_MAX: usize = 1024;

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

/// How time passes; under one lock, so that head and time always fit.
struct Pace {
    /// Timestamp of the head.
    head_ms: u64,
    /// When the head came out, while a ticker runs.
    head_since: Option<Instant>,
    /// Time that was already told.
    told_ms: u64,
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
        for submission in &pending {
            draft.apply(&rules, genesis, submission)?;
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
        let pace = Pace { head_ms: head.timestamp_ms, head_since: None, told_ms: 0 };
        Ok(Arc::new(Self {
            ledger,
            rules,
            genesis,
            writer: Mutex::new(writer),
            view,
            recent: RwLock::new(recent),
            pace: Mutex::new(pace),
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

    /// Returns the nonce that is due from `hotkey`, and the last block that a call signed now may
    /// name.
    pub fn signing_terms(&self, hotkey: Hotkey) -> (u64, BlockNumber) {
        let writer = self.writer();
        (writer.draft.state().nonce(hotkey), valid_until(writer.head))
    }

    /// Returns the nonce after all that the pool has of `account` without a gap.
    pub fn next_nonce(&self, account: Hotkey) -> u64 {
        let writer = self.writer();
        let mut nonce = writer.draft.state().nonce(account);
        while writer.future.contains_key(&(account, nonce)) {
            nonce = nonce.saturating_add(1);
        }
        nonce
    }

    /// Returns the extrinsics of the block being built, in order.
    pub fn pending(&self) -> Vec<Vec<u8>> {
        self.writer().draft.transactions().map(|transaction| transaction.bytes.clone()).collect()
    }

    /// Makes `blocks` blocks (0 makes none) in one transaction and returns the new head.
    ///
    /// # Errors
    /// When the file fails, or `blocks` is above [`ADVANCE_BLOCKS_MAX`]; the chain then stays as it
    /// was.
    pub fn advance(&self, blocks: u64) -> Result<Block, LocalChainError> {
        if blocks > ADVANCE_BLOCKS_MAX {
            return Err(LocalChainError::TooFar(blocks));
        }
        let mut writer = self.writer();
        if blocks == 0 {
            return Ok(writer.head);
        }
        let draft = writer.draft.clone();
        self.extend(&mut writer, draft, blocks)
    }

    /// Finishes `draft` and makes empty blocks after it, `blocks` in total.
    fn extend(
        &self,
        writer: &mut Writer,
        mut draft: Draft,
        blocks: u64,
    ) -> Result<Block, LocalChainError> {
        let (mut head, mut state_root) = (writer.head, writer.state_root);
        let mut settled = Arc::clone(&writer.settled);
        let mut rows = Vec::new();
        let mut sealed = Vec::new();
        for left in (0..blocks).rev() {
            let number = next(head);
            let row =
                draft.row(head.hash, state_root, self.rules.timestamp_ms(number), writer.forks);
            (head, state_root) = (block(number, &row), row.state_root);
            let (state, events) = draft.finish();
            settled = Arc::new(state);
            if left < u64::try_from(RECENT_BLOCKS_MAX).unwrap_or(u64::MAX) {
                let state = Arc::clone(&settled);
                let extrinsics = builder::hashes(&row);
                let row = row.clone();
                sealed.push(Arc::new(SealedBlock { number, row, events, state, extrinsics }));
            }
            rows.push((number, row));
            // Time has come to the head before the beacon is asked.
            let pulses = self.pulses_due(&settled, left == 0, head.timestamp_ms);
            draft = Draft::begin(&self.rules, &settled, next(head), &pulses);
        }
        self.ledger.append_blocks(&rows, Some(&settled))?;
        let (forks, future) = (writer.forks, std::mem::take(&mut writer.future));
        *writer = Writer { head, state_root, settled, draft, future, forks };
        {
            let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
            sealed.into_iter().for_each(|block| recent.push(block));
        }
        self.step_to(head.timestamp_ms);
        self.publish(writer);
        self.tell_heads(|heads| Heads { best: head.number, forks, ..heads });
        Ok(head)
    }

    /// Gives the chain's pallet its beacon; the first one stays.
    pub fn follow(&self, pulses: &Arc<dyn Pulses>) {
        // Weak, because the beacon goes by the chain's clock and so holds the chain. Whoever comes
        // second follows the same network's beacon.
        drop(self.pulses.set(Arc::downgrade(pulses)));
    }

    /// Returns the rounds that the next block stores: those that something waits for, and the
    /// newest one for the last of a batch.
    fn pulses_due(&self, settled: &State, is_last: bool, head_ms: u64) -> Vec<(u64, Pulse)> {
        let Some(pulses) = self.pulses.get().and_then(Weak::upgrade) else { return Vec::new() };
        let waited_for = settled.rounds_waited_for();
        if waited_for.is_empty() && !is_last {
            return Vec::new();
        }
        self.step_to(head_ms);
        let newest = pulses.newest();
        let mut rounds: Vec<u64> =
            waited_for.into_iter().filter(|round| *round <= newest).collect();
        if is_last && newest > 0 {
            rounds.push(newest);
        }
        rounds.into_iter().filter_map(|round| Some((round, pulses.pulse(round)?))).collect()
    }

    /// Registers `hotkey` with `stake`, as only the network's owner may, and returns the block that
    /// will include it.
    ///
    /// # Errors
    /// When the hotkey is registered or no uid is free, or the file fails.
    pub fn register(&self, hotkey: Hotkey, stake: u64) -> Result<BlockNumber, LocalChainError> {
        self.control(Call::Register { hotkey, stake })
    }

    /// Makes a call as the network's owner, which only the process that holds the network can, and
    /// returns the block that will include it.
    ///
    /// # Errors
    /// When a rule is broken, or the file fails.
    pub fn control(&self, call: Call) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        self.accept(&mut writer, &Submission::Root(call))
    }

    /// Takes a call signed by a role of ours and returns the block that includes it.
    ///
    /// # Errors
    /// When a rule is broken, or the file fails.
    pub fn submit(&self, extrinsic: SignedExtrinsic) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        self.accept(&mut writer, &Submission::Signed(extrinsic))
    }

    /// Signs `call` with the nonce that is due and takes it.
    ///
    /// # Errors
    /// As [`LocalChain::submit`].
    pub fn submit_as(
        &self,
        signer: &dyn Signer,
        call: Call,
    ) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        let nonce = writer.draft.state().nonce(signer.hotkey());
        let valid_until = valid_until(writer.head);
        let extrinsic = SignedExtrinsic::sign(signer, self.genesis, nonce, valid_until, call);
        self.accept(&mut writer, &Submission::Signed(extrinsic))
    }

    /// Takes an extrinsic into the pool, as a node does: the next block includes it, whether its
    /// call then succeeds or not. One whose nonce is too high waits silently.
    ///
    /// # Errors
    /// When the pool turns it down, or the file fails.
    pub fn submit_transaction(&self, transaction: Transaction) -> Result<(), LocalChainError> {
        let mut writer = self.writer();
        let known = |other: &Transaction| other.hash == transaction.hash;
        if writer.draft.transactions().any(known) || writer.future.values().any(known) {
            return Err(LocalChainError::Pool(PoolRefusal::AlreadyImported));
        }
        let due = writer.draft.state().nonce(transaction.signer);
        if transaction.nonce < due {
            return Err(LocalChainError::Pool(PoolRefusal::Stale));
        }
        let (signer, bytes) = (transaction.signer, transaction.bytes.len());
        let refusal =
            writer.settled.pool_refusal(writer.draft.number(), signer, &transaction.call, bytes);
        if let Some(refusal) = refusal {
            return Err(LocalChainError::Pool(refusal));
        }
        if transaction.nonce > due {
            if writer.future.len() >= FUTURE_EXTRINSICS_MAX {
                return Err(LocalChainError::Pool(PoolRefusal::Full));
            }
            writer.future.insert((signer, transaction.nonce), transaction);
            return Ok(());
        }
        let mut next = due.saturating_add(1);
        self.accept(&mut writer, &Submission::Transaction(transaction))?;
        while let Some(waiting) = writer.future.remove(&(signer, next)) {
            self.accept(&mut writer, &Submission::Transaction(waiting))?;
            next = next.saturating_add(1);
        }
        Ok(())
    }

    /// Leaves the newest `depth` blocks for a fork that is one block longer. The extrinsics in
    /// them come again in the fork's first block if `keeps_extrinsics`, and never otherwise.
    ///
    /// # Errors
    /// When a left block is final or the one below is no longer kept, or the file fails.
    pub fn fork(&self, depth: u64, keeps_extrinsics: bool) -> Result<Block, LocalChainError> {
        let mut writer = self.writer();
        let refused = LocalChainError::Final(depth);
        let base = writer.head.number.0.checked_sub(depth).map(BlockNumber);
        let heads = *self.heads.borrow();
        let base = base.filter(|base| depth > 0 && *base >= heads.finalised);
        let Some(base) = base.and_then(|base| self.sealed_at(base)) else { return Err(refused) };
        let depth = usize::try_from(depth).map_err(|_| LocalChainError::Final(depth))?;
        let left = {
            let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
            recent.leave(depth).ok_or(refused)?
        };
        let head = block(base.number, &base.row);
        let mut draft = Draft::begin(&self.rules, &base.state, next(head), &[]);
        if keeps_extrinsics {
            for row in left.iter().rev().map(|block| &block.row) {
                for included in &row.extrinsics {
                    // What no longer fits after the fork is gone, as on the real chain.
                    drop(draft.repeat(&self.rules, included));
                }
            }
        }
        writer.forks += 1;
        writer.head = head;
        writer.state_root = base.row.state_root;
        writer.settled = Arc::clone(&base.state);
        let blocks = u64::try_from(depth).unwrap_or(u64::MAX).saturating_add(1);
        self.extend(&mut writer, draft, blocks)
    }

    /// Keeps the finalised head `blocks` behind the newest; it never goes back.
    pub fn set_finality_lag(&self, blocks: u64) {
        self.tell_heads(|heads| Heads { lag: blocks, ..heads });
    }

    /// Forgets the state of all but the newest `blocks`, at least one.
    pub fn prune(&self, blocks: usize) {
        self.recent.write().unwrap_or_else(PoisonError::into_inner).prune(blocks);
    }

    fn tell_heads(&self, change: impl FnOnce(Heads) -> Heads) {
        self.heads.send_if_modified(|heads| {
            let before = *heads;
            *heads = change(before).settled();
            *heads != before
        });
    }

    /// Makes a block each block time until `stop`.
    ///
    /// A late tick moves the later ones: time on this chain is counted in blocks, so a machine that
    /// slept or stalled never has to catch up.
    ///
    /// # Errors
    /// When the file fails; no more blocks are made then.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), LocalChainError> {
        let period = Duration::from_millis(self.rules.block_time_ms);
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let _running = Running::start(&self);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let chain = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || chain.advance(1)).await {
                Ok(advanced) => drop(advanced?),
                // The runtime is going down.
                Err(error) if error.is_cancelled() => return Ok(()),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Returns the time on this chain, milliseconds since the Unix epoch: that of the head, plus,
    /// while a ticker runs, what has passed since the head came out, ending just before the next
    /// block. It never goes back while the chain is open.
    pub fn now_ms(&self) -> u64 {
        let mut pace = self.pace();
        let since_head_ms = pace.head_since.map_or(0, |since| {
            let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            elapsed.min(self.rules.block_time_ms - 1)
        });
        pace.told_ms = pace.told_ms.max(pace.head_ms.saturating_add(since_head_ms));
        pace.told_ms
    }

    /// Returns [`LocalChain::now_ms`] as a clock.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let chain = Arc::clone(self);
        Arc::new(move || chain.now_ms())
    }

    fn accept(
        &self,
        writer: &mut Writer,
        submission: &Submission,
    ) -> Result<BlockNumber, LocalChainError> {
        let mut draft = writer.draft.clone();
        let number = draft.apply(&self.rules, self.genesis, submission)?;
        // A call that was included before leaves the draft as it was.
        if draft.len() == writer.draft.len() {
            return Ok(number);
        }
        if draft.len() > BLOCK_EXTRINSICS_MAX {
            return Err(Refusal::ExhaustsResources.into());
        }
        self.ledger.append_pending(writer.draft.len(), submission)?;
        writer.draft = draft;
        self.publish(writer);
        Ok(number)
    }

    /// Moves time to a new head; before anybody sees it, so that no head is ever in the future.
    fn step_to(&self, head_ms: u64) {
        let mut pace = self.pace();
        pace.head_ms = head_ms;
        pace.head_since = pace.head_since.map(|_| Instant::now());
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

/// Lets time pass between blocks for as long as it lives.
struct Running<'a>(&'a LocalChain);

impl<'a> Running<'a> {
    fn start(chain: &'a LocalChain) -> Self {
        chain.pace().head_since = Some(Instant::now());
        Self(chain)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.pace().head_since = None;
    }
}

fn next(head: Block) -> BlockNumber {
    BlockNumber(head.number.0.saturating_add(1))
}

fn valid_until(head: Block) -> BlockNumber {
    BlockNumber(head.number.0.saturating_add(VALIDITY_BLOCKS))
}

fn block(number: BlockNumber, row: &BlockRow) -> Block {
    Block { number, hash: row.hash, timestamp_ms: row.timestamp_ms }
}

fn genesis(
    rules: &ChainRules,
    seed: &[u8; 32],
    neurons: &[(Hotkey, u64)],
) -> Result<(BlockRow, State), LocalChainError> {
    rules.validate().map_err(LocalChainError::Rules)?;
    let mut state = State::new(rules);
    for (hotkey, stake) in neurons {
        let call = Call::Register { hotkey: *hotkey, stake: *stake };
        state.dispatch(rules, BlockNumber(0), Origin::Root, &call)?;
    }
    state.take_events();
    let state_root = Sha256::new()
        .chain_update(b"grail/v6/local-genesis\0")
        .chain_update(seed)
        .chain_update(rules.netuid.0.to_le_bytes())
        .chain_update(rules.genesis_ms.to_le_bytes())
        .finalize();
    let mut row = BlockRow {
        hash: Digest([0; 32]),
        parent: Digest([0; 32]),
        timestamp_ms: rules.genesis_ms,
        state_root: Digest(state_root.into()),
        fork: 0,
        extrinsics: Vec::new(),
    };
    row.hash = row.header(BlockNumber(0), rules.block_time_ms).hash();
    Ok((row, state))
}

fn first(rules: ChainRules, genesis: BlockRow, state: State) -> Loaded {
    Loaded {
        rules,
        genesis: genesis.hash,
        head: BlockNumber(0),
        head_row: genesis,
        state,
        pending: Vec::new(),
    }
}
