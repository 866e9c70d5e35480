//! The embedded chain: blocks, a subnet with its metagraph, commitments and weights.
//!
//! A call is checked and kept at once, and belongs to the block being built; the next
//! [`LocalChain::advance`] finishes that block. Every advance and every call is one durable
//! transaction, so the chain goes on where it stood after a `kill -9`.

mod adapter;
pub mod extrinsic;
mod ledger;
pub mod refusal;
pub mod state;
pub mod weights;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use grail_ports::chain::{Block, Chain, Metagraph};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Uid};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use self::extrinsic::{Call, Included, SignedExtrinsic, VALIDITY_BLOCKS};
pub use self::ledger::BlockRow;
use self::ledger::{Ledger, Loaded, Submission};
use self::refusal::Refusal;
use self::state::{ChainRules, Origin, State};
use crate::clock::Clock;
pub use crate::local::database::DatabaseFault;

/// Most blocks that one [`LocalChain::advance`] makes, all in one transaction.
pub const ADVANCE_BLOCKS_MAX: u64 = 100_000;

/// Most calls in one block.
const BLOCK_EXTRINSICS_MAX: usize = 1024;

/// A chain that this process produces.
pub struct LocalChain {
    ledger: Ledger,
    rules: ChainRules,
    genesis: BlockHash,
    writer: Mutex<Writer>,
    view: RwLock<Arc<View>>,
    pace: Mutex<Pace>,
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
    /// A call broke a rule.
    #[error("the local chain refused the call: {} ({})", .0.name(), .0.advice())]
    Refused(Refusal),
}

impl From<Refusal> for LocalChainError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What the next block starts from; changed only after the transaction that keeps the change.
struct Writer {
    head: Block,
    /// As of the head.
    settled: State,
    /// With the calls of the block being built.
    working: State,
    pending: Vec<Submission>,
}

/// What readers see.
struct View {
    head: Block,
    metagraph: Arc<Metagraph>,
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
        let Loaded { rules, genesis, head, head_row, state: settled, pending } = loaded;
        let head = block(head, &head_row);
        let mut working = settled.clone();
        for submission in &pending {
            apply(&mut working, &rules, genesis, next(head), submission)?;
        }
        let writer = Writer { head, settled, working, pending };
        let view = RwLock::new(Arc::new(View::of(&rules, &writer)));
        let pace = Pace { head_ms: head.timestamp_ms, head_since: None, told_ms: 0 };
        let pace = Mutex::new(pace);
        Ok(Arc::new(Self { ledger, rules, genesis, writer: Mutex::new(writer), view, pace }))
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

    /// Returns the metagraph as of the head.
    pub fn metagraph(&self) -> Arc<Metagraph> {
        Arc::clone(&self.view().metagraph)
    }

    /// Returns what hotkeys have committed, up to the newest accepted call.
    pub fn commitments(&self) -> Arc<BTreeMap<Hotkey, Vec<u8>>> {
        Arc::clone(&self.view().commitments)
    }

    /// Returns the uid of `hotkey`, also one that the block being built gives it.
    pub fn uid(&self, hotkey: Hotkey) -> Option<Uid> {
        self.writer().working.uid(hotkey)
    }

    /// Returns the block `number` with its calls, or `None` if the chain is not there yet.
    ///
    /// # Errors
    /// When the file fails.
    pub fn block(&self, number: BlockNumber) -> Result<Option<BlockRow>, DatabaseFault> {
        self.ledger.block(number)
    }

    /// Returns the nonce that is due from `hotkey`, and the last block that a call signed now may
    /// name.
    pub fn signing_terms(&self, hotkey: Hotkey) -> (u64, BlockNumber) {
        let writer = self.writer();
        (writer.working.nonce(hotkey), valid_until(writer.head))
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
        let mut head = writer.head;
        let mut state = writer.working.clone();
        let mut rows = Vec::new();
        for _ in 0..blocks {
            let number = next(head);
            let extrinsics = if rows.is_empty() { included(&writer.pending) } else { Vec::new() };
            let timestamp_ms = self.rules.timestamp_ms(number);
            let hash = block_hash(head.hash, number, timestamp_ms, &extrinsics);
            state.end_block(&self.rules, number);
            rows.push((number, BlockRow { hash, parent: head.hash, timestamp_ms, extrinsics }));
            head = Block { number, hash, timestamp_ms };
        }
        if rows.is_empty() {
            return Ok(head);
        }
        let changed = (state != writer.settled).then_some(&state);
        self.ledger.append_blocks(&rows, changed)?;
        *writer = Writer { head, settled: state.clone(), working: state, pending: Vec::new() };
        self.step_to(head.timestamp_ms);
        self.publish(&writer);
        Ok(head)
    }

    /// Registers `hotkey` with `stake`, as only the network's owner may, and returns the block that
    /// will include it.
    ///
    /// # Errors
    /// When the hotkey is registered or no uid is free, or the file fails.
    pub fn register(&self, hotkey: Hotkey, stake: u64) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        self.accept(&mut writer, Submission::Root(Call::Register { hotkey, stake }))
    }

    /// Takes a signed call and returns the block that includes it.
    ///
    /// # Errors
    /// When a rule is broken, or the file fails.
    pub fn submit(&self, extrinsic: SignedExtrinsic) -> Result<BlockNumber, LocalChainError> {
        let mut writer = self.writer();
        self.accept(&mut writer, Submission::Signed(extrinsic))
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
        let nonce = writer.working.nonce(signer.hotkey());
        let valid_until = valid_until(writer.head);
        let extrinsic = SignedExtrinsic::sign(signer, self.genesis, nonce, valid_until, call);
        self.accept(&mut writer, Submission::Signed(extrinsic))
    }

    /// Returns the port for the holder of `signer`'s hotkey.
    pub fn chain_for(self: &Arc<Self>, signer: Arc<dyn Signer>) -> Arc<dyn Chain> {
        Arc::new(adapter::InProcessChain::new(Arc::clone(self), signer))
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
        submission: Submission,
    ) -> Result<BlockNumber, LocalChainError> {
        let mut working = writer.working.clone();
        let number =
            apply(&mut working, &self.rules, self.genesis, next(writer.head), &submission)?;
        // Only a call that was included before leaves the state as it was.
        if working == writer.working {
            return Ok(number);
        }
        if writer.pending.len() >= BLOCK_EXTRINSICS_MAX {
            return Err(Refusal::ExhaustsResources.into());
        }
        self.ledger.append_pending(writer.pending.len(), &submission)?;
        writer.working = working;
        writer.pending.push(submission);
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

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic cannot leave a half-made change: the writer is replaced in one assignment.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn of(rules: &ChainRules, writer: &Writer) -> Self {
        Self {
            head: writer.head,
            // As of the head, so that no neuron was updated after the metagraph's own block.
            metagraph: Arc::new(writer.settled.metagraph(rules, writer.head.number)),
            // With pending calls: who committed reads it at once, as after inclusion.
            commitments: Arc::new(writer.working.commitments()),
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

fn apply(
    state: &mut State,
    rules: &ChainRules,
    genesis: BlockHash,
    block: BlockNumber,
    submission: &Submission,
) -> Result<BlockNumber, Refusal> {
    match submission {
        Submission::Root(call) => state.dispatch(rules, block, Origin::Root, call).map(|()| block),
        Submission::Signed(extrinsic) => state.include(rules, genesis, block, extrinsic),
    }
}

fn included(pending: &[Submission]) -> Vec<Included> {
    pending
        .iter()
        .map(|submission| match submission {
            Submission::Root(call) => Included { signer: None, nonce: 0, call: call.clone() },
            Submission::Signed(extrinsic) => Included {
                signer: Some(extrinsic.signer),
                nonce: extrinsic.nonce,
                call: extrinsic.call.clone(),
            },
        })
        .collect()
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
    let mut state = State::default();
    for (hotkey, stake) in neurons {
        let call = Call::Register { hotkey: *hotkey, stake: *stake };
        state.dispatch(rules, BlockNumber(0), Origin::Root, &call)?;
    }
    let hash = Sha256::new()
        .chain_update(b"grail/v6/local-genesis\0")
        .chain_update(seed)
        .chain_update(rules.netuid.0.to_le_bytes())
        .chain_update(rules.genesis_ms.to_le_bytes())
        .finalize();
    let row = BlockRow {
        hash: Digest(hash.into()),
        parent: Digest([0; 32]),
        timestamp_ms: rules.genesis_ms,
        extrinsics: Vec::new(),
    };
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

fn block_hash(
    parent: BlockHash,
    number: BlockNumber,
    timestamp_ms: u64,
    extrinsics: &[Included],
) -> BlockHash {
    let mut hasher = Sha256::new()
        .chain_update(b"grail/v6/local-block\0")
        .chain_update(parent.0)
        .chain_update(number.0.to_le_bytes())
        .chain_update(timestamp_ms.to_le_bytes());
    for extrinsic in extrinsics {
        hasher.update(Sha256::digest(extrinsic.encode()));
    }
    Digest(hasher.finalize().into())
}
