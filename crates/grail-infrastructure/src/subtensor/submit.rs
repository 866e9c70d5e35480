//! Brings a call into a block: signs it, hands it in, watches it, and reads what came of it.
//!
//! One call at a time, each with a fresh nonce and a short life: whatever happens on the way, the
//! outcome is known a few blocks later. A subscription reports it; when that breaks, the blocks are
//! searched instead, so a lost connection never leads to the call being made twice.

use std::time::Duration;

use grail_ports::chain::ChainError;
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use super::error::{Trouble, unreadable};
use super::node::Node;
use super::pool::{self, Verdict};
use super::runtime::{Runtime, Runtimes};
use super::status::{Status, read_status};
use super::view::View;
use crate::substrate::{
    DispatchError, Era, EventRecord, MultiSignature, Phase, SignedWith, SigningContext, blake2_256,
    outcome,
};

/// How calls are brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmitConfig {
    /// Blocks within which a call must be in a block, or never will be; a power of two, 4 or more.
    pub era_blocks: u64,
    /// Whether a call counts only once its block is final.
    pub wait_for_finality: bool,
    /// Time, on top of the life of the call, for the last questions about it.
    pub grace: Duration,
}

impl Default for SubmitConfig {
    fn default() -> Self {
        Self { era_blocks: 16, wait_for_finality: false, grace: Duration::from_secs(15) }
    }
}

/// A call that is in a block and succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Included {
    /// The block.
    pub number: BlockNumber,
    /// Its hash.
    pub hash: BlockHash,
    /// The events of the call.
    pub events: Vec<EventRecord>,
}

/// Why a call did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Nobody could be asked, or nobody understood.
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The chain's rules forbid it.
    #[error("{name}: {advice}")]
    Refused {
        /// The chain's name of the error.
        name: String,
        /// What to do about it.
        advice: String,
    },
    /// It is in no block and never will be.
    #[error("{0}")]
    Missed(String),
}

impl SubmitError {
    /// Returns what the port says of it.
    pub fn into_chain_error(self, call: &str) -> ChainError {
        match self {
            Self::Trouble(trouble) => trouble.into_chain_error(call, None),
            Self::Refused { name, advice } => {
                ChainError::Refused { call: call.to_owned(), name, advice }
            }
            Self::Missed(reason) => ChainError::Unavailable(format!("{call}: {reason}")),
        }
    }
}

/// Brings calls into blocks, one at a time.
pub struct Submitter {
    config: SubmitConfig,
    turn: Mutex<()>,
}

/// A signed call.
struct Signed {
    extrinsic: Vec<u8>,
    hash: Digest,
    /// First block that may carry it.
    first: u64,
    /// First block that may not any more.
    death: u64,
    block_time: Duration,
}

impl Submitter {
    /// Makes one; no I/O.
    pub fn new(config: SubmitConfig) -> Self {
        Self { config, turn: Mutex::new(()) }
    }

    /// Brings in the call that `make` encodes for the runtime in force, signed by `signer`.
    ///
    /// # Errors
    /// See [`SubmitError`]; within the life of the call and the grace.
    ///
    /// # Cancel safety
    /// A call whose future is dropped may still be made.
    pub async fn submit(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        signer: &dyn Signer,
        make: impl Fn(&Runtime) -> Result<Vec<u8>, Trouble> + Send + Sync,
    ) -> Result<Included, SubmitError> {
        let _turn = self.turn.lock().await;
        let mut is_second_try = false;
        loop {
            let signed = self.sign(node, runtimes, signer, &make).await?;
            let deadline = self.deadline(&signed);
            let handed_in = node.submit_and_watch(&signed.extrinsic).await;
            let found = match handed_in {
                Ok(subscription) => self.watch(subscription, deadline).await?,
                Err(error) => match pool::verdict(&error) {
                    Verdict::SignAgain(reason) if !is_second_try => {
                        // The runtime or the account moved on since they were asked about.
                        info!(reason, "the pool refused an extrinsic; it is signed once more");
                        is_second_try = true;
                        runtimes.clear();
                        continue;
                    }
                    Verdict::SignAgain(reason) => return Err(pool::refused_twice(&reason)),
                    Verdict::Refused { name, advice } => {
                        return Err(SubmitError::Refused { name, advice });
                    }
                    Verdict::Missed => return Err(Trouble::from(error).into()),
                    Verdict::MayBeIn => {
                        warn!(%error, "an extrinsic may be in the pool; blocks are searched for it");
                        None
                    }
                },
            };
            return self.settle(node, runtimes, &signed, found, deadline).await;
        }
    }

    fn deadline(&self, signed: &Signed) -> Instant {
        // Two blocks more than its life: the last one must come, and be read.
        let blocks = u32::try_from(self.config.era_blocks.saturating_add(2)).unwrap_or(u32::MAX);
        Instant::now() + signed.block_time.saturating_mul(blocks) + self.config.grace
    }

    async fn sign(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        signer: &dyn Signer,
        make: &(impl Fn(&Runtime) -> Result<Vec<u8>, Trouble> + Send + Sync),
    ) -> Result<Signed, Trouble> {
        let genesis = node.genesis().await?;
        let best = node.best().await?;
        let view = View::at(node, runtimes, Digest(best.hash())).await?;
        let runtime = &view.runtime;
        let call = make(runtime)?;
        let (birth, birth_hash) = self.birth(node, u64::from(best.number), best.hash()).await?;
        let account = signer.hotkey();
        let era = Era::mortal(self.config.era_blocks, birth);
        let nonce = node.next_nonce(&account.to_ss58()).await?;
        let with = SignedWith { era, nonce, tip: 0 };
        let context = SigningContext {
            genesis: genesis.0,
            spec_version: runtime.version.spec,
            transaction_version: runtime.version.transaction,
        };
        let payload = runtime
            .metadata
            .signing_payload(&call, with, &context, birth_hash)
            .map_err(|error| unreadable("transaction extensions", error))?;
        let signature = MultiSignature::Sr25519(signer.sign(&payload.bytes_to_sign()).0);
        let extrinsic = payload.into_extrinsic(account.0, &signature);
        let hash = Digest(blake2_256(&extrinsic));
        debug!(%hash, nonce, birth, era = self.config.era_blocks, "an extrinsic is signed");
        Ok(Signed {
            extrinsic,
            hash,
            first: u64::from(best.number) + 1,
            death: era.death(birth).unwrap_or(u64::MAX),
            block_time: Duration::from_millis(runtime.block_time_ms),
        })
    }

    /// Returns the block that an era begins with, and its hash: a final one, which no
    /// re-organisation takes away, unless finality lags so far that little would be left of the era.
    async fn birth(
        &self,
        node: &Node,
        best: u64,
        best_hash: [u8; 32],
    ) -> Result<(u64, [u8; 32]), Trouble> {
        let hash = node.finalized().await?;
        let header = node.header(Some(hash)).await?;
        let number = header.map_or(0, |header| u64::from(header.number));
        if best.saturating_sub(number) <= self.config.era_blocks / 2 {
            Ok((number, hash.0))
        } else {
            Ok((best, best_hash))
        }
    }

    /// Returns the block that has the extrinsic, or `None` if the subscription broke before it said.
    async fn watch(
        &self,
        mut subscription: super::rpc::Subscription,
        deadline: Instant,
    ) -> Result<Option<BlockHash>, SubmitError> {
        loop {
            let Ok(Ok(message)) = timeout_at(deadline, subscription.next()).await else {
                return Ok(None);
            };
            match read_status(&message) {
                Status::Waiting => {}
                Status::InBlock(hash) if !self.config.wait_for_finality => return Ok(Some(hash)),
                Status::InBlock(hash) => debug!(%hash, "an extrinsic is in a block"),
                Status::Finalized(hash) => return Ok(Some(hash)),
                Status::Unwatched => return Ok(None),
                Status::Gone(status) => return Err(pool::gone(&status)),
            }
        }
    }

    /// Reads the outcome in `found`, or in the block that turns out to have the extrinsic.
    async fn settle(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        signed: &Signed,
        mut found: Option<BlockHash>,
        deadline: Instant,
    ) -> Result<Included, SubmitError> {
        loop {
            let hash = match found.take() {
                Some(hash) => hash,
                None => self.search(node, signed, deadline).await?,
            };
            match read_outcome(node, runtimes, signed.hash, hash).await {
                Ok(Some(result)) => return result,
                // The block went away with a re-organisation; another one has it, or none.
                Ok(None) => debug!(%hash, "the block of an extrinsic is gone"),
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(error) => debug!(%error, "the outcome of an extrinsic cannot be read yet"),
            }
            sleep(pause(signed.block_time)).await;
        }
    }

    /// Searches the blocks that may carry the extrinsic, until one does or none can any more.
    async fn search(
        &self,
        node: &Node,
        signed: &Signed,
        deadline: Instant,
    ) -> Result<BlockHash, SubmitError> {
        let mut next = signed.first;
        loop {
            match self.look(node, signed, &mut next).await {
                Ok(Looked::Found(hash)) => return Ok(hash),
                Ok(Looked::Dead) => {
                    let reason = "it was in no block before it expired; it is safe to try again";
                    return Err(SubmitError::Missed(reason.to_owned()));
                }
                Ok(Looked::NotYet) if Instant::now() >= deadline => {
                    let reason = "no block has it yet; the chain may be standing still";
                    return Err(SubmitError::Missed(reason.to_owned()));
                }
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Ok(Looked::NotYet) => {}
                Err(error) => debug!(%error, "blocks cannot be searched yet"),
            }
            sleep(pause(signed.block_time)).await;
        }
    }

    /// Looks through the blocks from `next` on; final ones are looked through once.
    async fn look(&self, node: &Node, signed: &Signed, next: &mut u64) -> Result<Looked, Trouble> {
        let hash = node.finalized().await?;
        let header = node.header(Some(hash)).await?;
        let last_final = header.map_or(0, |header| u64::from(header.number));
        let last = if self.config.wait_for_finality {
            last_final
        } else {
            u64::from(node.best().await?.number)
        };
        for number in *next..=last.min(signed.death) {
            let Some(hash) = node.block_hash(number).await? else { break };
            let Some(body) = node.body(hash).await? else { break };
            if position(&body.extrinsics, signed.hash).is_some() {
                return Ok(Looked::Found(hash));
            }
            if number <= last_final {
                *next = number + 1;
            }
        }
        Ok(if last_final >= signed.death { Looked::Dead } else { Looked::NotYet })
    }
}

enum Looked {
    Found(BlockHash),
    NotYet,
    Dead,
}

/// Returns how long to wait between two looks.
fn pause(block_time: Duration) -> Duration {
    (block_time / 2).clamp(Duration::from_millis(100), Duration::from_secs(6))
}

fn position(extrinsics: &[Vec<u8>], hash: Digest) -> Option<u32> {
    let index = extrinsics.iter().position(|bytes| blake2_256(bytes) == hash.0)?;
    u32::try_from(index).ok()
}

/// Returns what came of the extrinsic in a block; `None` if the block does not have it.
async fn read_outcome(
    node: &Node,
    runtimes: &Runtimes,
    extrinsic: Digest,
    hash: BlockHash,
) -> Result<Option<Result<Included, SubmitError>>, Trouble> {
    let Some(body) = node.body(hash).await? else { return Ok(None) };
    let Some(index) = position(&body.extrinsics, extrinsic) else { return Ok(None) };
    let view = View::at(node, runtimes, hash).await?;
    let metadata = &view.runtime.metadata;
    let key = view.key("System", "Events", &[])?;
    let events = node.storage(&key, hash).await?;
    let events = metadata
        .decode_events(events.as_deref())
        .map_err(|error| unreadable("System.Events", error))?;
    let result = outcome(metadata, &events, index)
        .map_err(|error| unreadable("System.Events", error))?
        .ok_or_else(|| unreadable("System.Events", "no event tells the extrinsic's outcome"))?;
    let number = BlockNumber(body.header.number.into());
    Ok(Some(match result {
        Err(error) => Err(refusal(&error)),
        Ok(()) => {
            info!(block = number.0, %hash, %extrinsic, "an extrinsic is in a block");
            let phase = Phase::ApplyExtrinsic(index);
            let events = events.into_iter().filter(|event| event.phase == phase).collect();
            Ok(Included { number, hash, events })
        }
    }))
}

fn refusal(error: &DispatchError) -> SubmitError {
    let (name, advice) = pool::dispatch_advice(error);
    SubmitError::Refused { name, advice }
}
