//! A prompt that is, or is about to be, in the cache, for all sequences that begin with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use grail_protocol::ids::TokenId;

use super::job::prompt_blocks;
use crate::engine::blocks::{BlockPool, Prefix};
use crate::engine::cache::BLOCK_POSITIONS;

/// A prompt with its blocks. Whole blocks that the cache knew already are not computed again.
pub(super) struct Prompt {
    pub(super) tokens: Arc<[TokenId]>,
    /// Block table as far as blocks were needed so far. Whole computed blocks are filed.
    pub(super) blocks: Vec<u32>,
    /// Positions in the cache.
    pub(super) computed: usize,
    /// Positions that were there already.
    pub(super) cached: usize,
    /// Residual stream at the last token, once it is known: it predicts the first new token.
    pub(super) last_x: Option<Vec<f32>>,
    /// Sequences that begin with it.
    pub(super) users: usize,
    /// Names the whole computed blocks.
    prefix: Prefix,
    /// Promised blocks that were not needed so far.
    promised: usize,
}

impl Prompt {
    /// Promises the blocks that the cache does not hold for others, and `own` more for the first
    /// sequence; `None` if there is no room.
    fn open(tokens: &Arc<[TokenId]>, own: usize, pool: &mut BlockPool) -> Option<Self> {
        let (mut known, mut prefix) = (Vec::new(), Prefix::EMPTY);
        for block in sharable(tokens).chunks_exact(BLOCK_POSITIONS) {
            let Some(id) = pool.find(prefix, block) else { break };
            prefix = pool.prefix_of(id).expect("a found block is filed");
            known.push(id);
        }
        let in_use = known.iter().filter(|&&id| pool.is_used(id)).count();
        let needed = prompt_blocks(tokens.len()) - in_use;
        if !pool.promise(needed + own) {
            return None;
        }
        for &id in &known {
            if !pool.is_used(id) {
                pool.forget(1);
            }
            pool.hold(id);
        }
        let cached = known.len() * BLOCK_POSITIONS;
        Some(Self {
            tokens: Arc::clone(tokens),
            promised: prompt_blocks(tokens.len()) - known.len(),
            blocks: known,
            computed: cached,
            cached,
            last_x: None,
            users: 0,
            prefix,
        })
    }

    /// Returns whether all of it is in the cache.
    pub(super) fn is_computed(&self) -> bool {
        self.computed == self.tokens.len()
    }

    /// Names the whole computed blocks.
    pub(super) fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Skips blocks that another prompt has computed since. Returns how many tokens that is.
    pub(super) fn catch_up(&mut self, pool: &mut BlockPool) -> usize {
        let before = self.cached;
        while !self.has_begun_block() {
            let rest = sharable(&self.tokens).get(self.computed..).unwrap_or_default();
            let Some(block) = rest.first_chunk::<BLOCK_POSITIONS>() else { break };
            let Some(id) = pool.find(self.prefix, block) else { break };
            pool.forget(1);
            self.promised -= 1;
            pool.hold(id);
            self.blocks.push(id);
            self.prefix = pool.prefix_of(id).expect("a found block is filed");
            self.computed += BLOCK_POSITIONS;
            self.cached += BLOCK_POSITIONS;
        }
        self.cached - before
    }

    /// Returns whether it computes a block at the moment, rather than standing before one.
    pub(super) fn has_begun_block(&self) -> bool {
        self.blocks.len() * BLOCK_POSITIONS > self.computed
    }

    /// Returns the content of the whole block that it computes next, if others could use it.
    pub(super) fn next_content(&self) -> Option<(Prefix, &[TokenId])> {
        let start = self.computed / BLOCK_POSITIONS * BLOCK_POSITIONS;
        Some((self.prefix, self.tokens.get(start..start + BLOCK_POSITIONS)?))
    }

    /// Takes the blocks for positions below `end`.
    pub(super) fn make_room(&mut self, end: usize, pool: &mut BlockPool) {
        while self.blocks.len() * BLOCK_POSITIONS < end {
            self.blocks.push(pool.take());
            self.promised -= 1;
        }
    }

    /// Notes that positions below `end` were computed, and files the blocks that became whole.
    pub(super) fn advance(&mut self, end: usize, pool: &mut BlockPool) {
        for idx in self.computed / BLOCK_POSITIONS..end / BLOCK_POSITIONS {
            let content = &self.tokens[idx * BLOCK_POSITIONS..][..BLOCK_POSITIONS];
            match pool.file(self.blocks[idx], self.prefix, content) {
                Ok(prefix) => self.prefix = prefix,
                Err(same) => {
                    // Another prompt was faster; its bits are the same.
                    pool.release(&self.blocks[idx..=idx]);
                    pool.hold(same);
                    self.blocks[idx] = same;
                    self.prefix = pool.prefix_of(same).expect("a filed block");
                }
            }
        }
        self.computed = end;
    }

    fn close(self, pool: &mut BlockPool) {
        pool.release(&self.blocks);
        pool.forget(self.promised);
    }
}

/// The part of a prompt that may come from the cache: at least one token must be computed, since
/// the residual stream at the last one is not kept.
fn sharable(tokens: &[TokenId]) -> &[TokenId] {
    &tokens[..(tokens.len() - 1) / BLOCK_POSITIONS * BLOCK_POSITIONS]
}

/// Names a prompt while it has users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PromptId(usize);

/// The prompts of the running sequences.
#[derive(Default)]
pub(super) struct Prompts {
    slots: Vec<Option<Prompt>>,
    vacant: Vec<usize>,
    by_tokens: HashMap<Arc<[TokenId]>, PromptId>,
    /// Prompts that are not all in the cache; the one served longest ago comes first.
    pub(super) unfinished: VecDeque<PromptId>,
    /// Prompts whose last user may have left.
    unused: Vec<PromptId>,
}

impl Prompts {
    /// Adds a user with room for `own` blocks to a prompt, which is opened if need be. `None` if
    /// there is no room.
    pub(super) fn join(
        &mut self,
        tokens: &Arc<[TokenId]>,
        own: usize,
        pool: &mut BlockPool,
    ) -> Option<PromptId> {
        if let Some(&id) = self.by_tokens.get(tokens) {
            if !pool.promise(own) {
                return None;
            }
            self.get_mut(id).users += 1;
            return Some(id);
        }
        let mut prompt = Prompt::open(tokens, own, pool)?;
        prompt.users = 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(prompt);
        let id = PromptId(slot);
        self.by_tokens.insert(Arc::clone(tokens), id);
        self.unfinished.push_back(id);
        Some(id)
    }

    /// Takes a user from a prompt, which stays for users that come before [`Prompts::close_unused`].
    pub(super) fn leave(&mut self, id: PromptId) {
        let prompt = self.get_mut(id);
        prompt.users -= 1;
        if prompt.users == 0 {
            self.unused.push(id);
        }
    }

    /// Releases the blocks of prompts without users; returns whether there were any.
    pub(super) fn close_unused(&mut self, pool: &mut BlockPool) -> bool {
        let mut any = false;
        while let Some(id) = self.unused.pop() {
            let Some(prompt) = self.slots[id.0].take_if(|prompt| prompt.users == 0) else {
                continue;
            };
            any = true;
            self.by_tokens.remove(&prompt.tokens);
            if !prompt.is_computed() {
                self.unfinished.retain(|&other| other != id);
            }
            self.vacant.push(id.0);
            prompt.close(pool);
        }
        any
    }

    pub(super) fn get(&self, id: PromptId) -> &Prompt {
        self.slots[id.0].as_ref().expect("a prompt outlives its users")
    }

    pub(super) fn get_mut(&mut self, id: PromptId) -> &mut Prompt {
        self.slots[id.0].as_mut().expect("a prompt outlives its users")
    }
}
