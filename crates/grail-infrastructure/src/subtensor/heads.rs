//! The newest block, asked for or told by the node, and blocks that were seen.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use grail_ports::chain::Block;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::error::{Trouble, unreadable};
use super::node::{Node, read_head};
use super::runtime::Runtimes;
use super::view::View;
use crate::substrate::{Extrinsic, Header};

/// Blocks that are remembered by hash; a block never changes.
const REMEMBERED_MAX: usize = 512;

/// Block times after which a head that does not move makes us ask another node.
const STALL_BLOCKS: u32 = 10;
/// Shortest such time.
const STALL_MIN: Duration = Duration::from_secs(60);

/// Extrinsics of a block among which the one with its time is looked for; they come first.
const INHERENTS_MAX: usize = 4;

/// Wait before the node is asked again for a subscription that it ended or refused.
const RESUBSCRIBE: Duration = Duration::from_secs(30);

/// Where the head is known from.
#[derive(Debug, Default)]
pub struct Heads {
    blocks: Mutex<HashMap<BlockHash, Block>>,
    progress: Mutex<Option<Progress>>,
    told: Arc<Mutex<Option<(Header, Instant)>>>,
}

/// How far the chain got, and when.
#[derive(Clone, Copy, Debug)]
struct Progress {
    number: u64,
    since: Instant,
}

impl Heads {
    /// Returns the newest block.
    pub async fn head(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        block_time: Duration,
    ) -> Result<Block, Trouble> {
        if let Some(header) = self.told(block_time) {
            let block = self.newest(node, runtimes, block_time, &header).await;
            // A re-organisation may have taken away what the node told of; then it is asked.
            let is_gone = block.as_ref().is_err_and(Trouble::is_pruned);
            if !(is_gone && self.forget(Digest(header.hash()))) {
                return block;
            }
        }
        self.newest(node, runtimes, block_time, &node.best().await?).await
    }

    async fn newest(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        block_time: Duration,
        header: &Header,
    ) -> Result<Block, Trouble> {
        let number = u64::from(header.number);
        self.watch_progress(node, number, block_time);
        self.block(node, runtimes, number, Digest(header.hash())).await
    }

    /// Returns the header that the node told of last, unless a later one should have come by now.
    fn told(&self, block_time: Duration) -> Option<Header> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (header, at) = told.as_ref()?;
        (at.elapsed() <= block_time * 2).then(|| header.clone())
    }

    /// Forgets that the node told of the block `hash`; returns whether it was what it told of last.
    pub fn forget(&self, hash: BlockHash) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_last = told.as_ref().is_some_and(|(header, _)| header.hash() == hash.0);
        if is_last {
            *told = None;
        }
        is_last
    }

    /// Leaves a node whose head stands still: it may be cut off from the others.
    fn watch_progress(&self, node: &Node, number: u64, block_time: Duration) {
        let now = Instant::now();
        let limit = (block_time * STALL_BLOCKS).max(STALL_MIN);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *progress {
            Some(seen) if number <= seen.number => {
                if now.duration_since(seen.since) >= limit {
                    let reason = format!("its head stands at block {} for {limit:?}", seen.number);
                    warn!(
                        block = seen.number,
                        "the node's head stands still; another one is asked"
                    );
                    node.rpc().leave(&reason);
                    // Counts anew, from wherever the other node is.
                    *progress = None;
                }
            }
            other => *other = Some(Progress { number, since: now }),
        }
    }

    /// Returns the block of a number and hash that belong together.
    pub async fn block(
        &self,
        node: &Node,
        runtimes: &Runtimes,
        number: u64,
        hash: BlockHash,
    ) -> Result<Block, Trouble> {
        let known = self.blocks.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).copied();
        if let Some(block) = known {
            return Ok(block);
        }
        let timestamp_ms = match time_in_state(node, runtimes, hash).await {
            // Nodes keep blocks longer than their states, and a block says its time itself.
            Err(pruned) if pruned.is_pruned() => {
                time_in_body(node, runtimes, hash).await?.ok_or(pruned)?
            }
            time => time?,
        };
        let block = Block { number: BlockNumber(number), hash, timestamp_ms };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() >= REMEMBERED_MAX {
            let newest = blocks.values().map(|block| block.number.0).max().unwrap_or_default();
            blocks.retain(|_, block| block.number.0 + REMEMBERED_MAX as u64 / 2 > newest);
            if blocks.len() >= REMEMBERED_MAX {
                blocks.clear();
            }
        }
        blocks.insert(hash, block);
        Ok(block)
    }

    /// Lets the node tell of new heads for as long as the guard lives; where it does not, heads are
    /// asked for.
    pub fn follow(&self, node: Arc<Node>) -> DropGuard {
        let stop = CancellationToken::new();
        let (told, stopped) = (self.told.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = listen(&node, &told) => {}
            }
        });
        stop.drop_guard()
    }
}

async fn time_in_state(node: &Node, runtimes: &Runtimes, at: BlockHash) -> Result<u64, Trouble> {
    let view = View::at(node, runtimes, at).await?;
    view.value("Timestamp", "Now", &[])
        .await?
        .ok_or_else(|| unreadable("Timestamp.Now", "the block has no time"))?
        .as_uint::<u64>()
        .map_err(|error| unreadable("Timestamp.Now", error))
}

/// Returns the time that the block's author put into it; `None` if it cannot be read with the
/// runtime in use, which may be newer than the block.
async fn time_in_body(
    node: &Node,
    runtimes: &Runtimes,
    at: BlockHash,
) -> Result<Option<u64>, Trouble> {
    let (Some(body), Some(runtime)) = (node.body(at).await?, runtimes.newest()) else {
        return Ok(None);
    };
    Ok(body.extrinsics.iter().take(INHERENTS_MAX).find_map(|bytes| {
        let Ok(Extrinsic::Bare(call)) = runtime.metadata.decode_extrinsic(bytes) else {
            return None;
        };
        let call = runtime.metadata.decode_call(&call).ok()?;
        let is_time = call.pallet == "Timestamp" && call.name == "set";
        is_time.then(|| call.arguments.field("now").ok()?.as_uint().ok())?
    }))
}

/// Subscribes again and again.
async fn listen(node: &Node, told: &Mutex<Option<(Header, Instant)>>) {
    loop {
        match node.subscribe_heads().await {
            Err(error) => debug!(%error, "no subscription to heads; they are asked for"),
            Ok(mut heads) => {
                let end = loop {
                    let header = match heads.next().await {
                        Ok(message) => read_head(&message),
                        Err(error) => break error,
                    };
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    match header {
                        Ok(header) => *told = Some((header, Instant::now())),
                        Err(error) => break error,
                    }
                };
                *told.lock().unwrap_or_else(PoisonError::into_inner) = None;
                debug!(error = %end, "the subscription to heads ended; they are asked for");
            }
        }
        sleep(RESUBSCRIBE).await;
    }
}
