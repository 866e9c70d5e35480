//! Blocks: made, left for a fork, final, forgotten.

use std::sync::{Arc, PoisonError, Weak};

use grail_ports::chain::Block;
use grail_protocol::ids::BlockNumber;

use super::builder::{self, Draft};
use super::call::Pulse;
use super::recent::{RECENT_BLOCKS_MAX, SealedBlock};
use super::state::State;
use super::{ADVANCE_BLOCKS_MAX, Heads, LocalChain, LocalChainError, Pulses, Writer, block, next};

impl LocalChain {
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
                    draft.repeat(&self.rules, included);
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
}
