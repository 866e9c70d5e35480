//! The blocks whose state is kept, as a pruning node keeps the newest few hundred.

use std::collections::VecDeque;
use std::sync::Arc;

use grail_protocol::ids::{BlockHash, BlockNumber, Digest};

use super::event::EventRecord;
use super::ledger::BlockRow;
use super::state::State;

/// Most blocks whose state is kept. Source: spec/bittensor.md section 1.
pub const RECENT_BLOCKS_MAX: usize = 256;

/// Most blocks of left forks that are kept.
const LEFT_BLOCKS_MAX: usize = 64;

/// A block with its state and its events.
#[derive(Debug)]
pub struct SealedBlock {
    /// Height.
    pub number: BlockNumber,
    /// Hashes, time and calls.
    pub row: BlockRow,
    /// What happened in it, in order.
    pub events: Vec<EventRecord>,
    /// The state after it.
    pub state: Arc<State>,
    /// Hashes of its extrinsics, in order.
    pub extrinsics: Vec<Digest>,
}

/// The newest blocks, each the child of the one before, and some that were left by a fork.
#[derive(Default)]
pub(super) struct Recent {
    blocks: VecDeque<Arc<SealedBlock>>,
    left: VecDeque<Arc<SealedBlock>>,
}

impl Recent {
    pub(super) fn push(&mut self, block: Arc<SealedBlock>) {
        self.blocks.push_back(block);
        while self.blocks.len() > RECENT_BLOCKS_MAX {
            self.blocks.pop_front();
        }
    }

    /// Leaves the newest `depth` blocks for a fork and returns them, newest first, or `None` if the
    /// block below them is not kept.
    pub(super) fn leave(&mut self, depth: usize) -> Option<Vec<Arc<SealedBlock>>> {
        if depth >= self.blocks.len() {
            return None;
        }
        let left: Vec<_> = (0..depth).filter_map(|_| self.blocks.pop_back()).collect();
        self.left.extend(left.iter().cloned());
        while self.left.len() > LEFT_BLOCKS_MAX {
            self.left.pop_front();
        }
        Some(left)
    }

    /// Keeps the state of the newest `blocks` only, at least of the head.
    pub(super) fn prune(&mut self, blocks: usize) {
        let excess = self.blocks.len().saturating_sub(blocks.max(1));
        self.blocks.drain(..excess);
    }

    pub(super) fn by_number(&self, number: BlockNumber) -> Option<&Arc<SealedBlock>> {
        self.blocks.iter().rev().find(|block| block.number == number)
    }

    pub(super) fn by_hash(&self, hash: BlockHash) -> Option<&Arc<SealedBlock>> {
        self.blocks.iter().rev().chain(&self.left).find(|block| block.row.hash == hash)
    }

    /// Returns the block on the chain that holds the extrinsic `hash`.
    pub(super) fn including(&self, hash: Digest) -> Option<&Arc<SealedBlock>> {
        self.blocks.iter().rev().find(|block| block.extrinsics.contains(&hash))
    }
}
