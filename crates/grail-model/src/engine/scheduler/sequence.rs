//! A completion that is being made.

use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::ids::TokenId;
use grail_protocol::sketch::Sketcher;

use super::job::{Ended, FinishReason, Listener, Spec, own_blocks};
use super::prompt::{Prompt, PromptId, Prompts};
use crate::engine::blocks::BlockPool;
use crate::engine::cache::{BLOCK_POSITIONS, KvCache};
use crate::engine::requests::sketcher;

pub(super) struct Sequence {
    pub(super) prompt: PromptId,
    pub(super) spec: Spec,
    /// Block table; the first blocks are the prompt's whole ones. Empty before the first token.
    pub(super) blocks: Vec<u32>,
    /// Positions in the cache.
    pub(super) cached: usize,
    pub(super) tokens: Vec<TokenId>,
    /// Why it gets no more tokens.
    pub(super) end: Option<FinishReason>,
    pub(super) listener: Box<dyn Listener>,
    /// Blocks that belong to the prompt.
    shared: usize,
    /// Promised blocks that were not needed so far.
    promised: usize,
    logprobs: Vec<f32>,
    digest: Option<HiddenStateDigest>,
    sketcher: Option<Sketcher>,
    /// Whether another sequence had the prompt computed.
    joined: bool,
}

impl Sequence {
    /// Starts after a prompt of `prompt_len` tokens that it has [joined](Prompts::join); `joined`
    /// says that it was not the first.
    pub(super) fn new(
        prompt: PromptId,
        prompt_len: usize,
        joined: bool,
        spec: Spec,
        listener: Box<dyn Listener>,
    ) -> Self {
        let sketcher =
            spec.whitening.as_ref().map(|whitening| sketcher(spec.race_key.0, whitening));
        Self {
            prompt,
            blocks: Vec::new(),
            cached: prompt_len,
            tokens: Vec::new(),
            end: None,
            listener,
            shared: prompt_len / BLOCK_POSITIONS,
            promised: own_blocks(prompt_len, spec.max_new_tokens),
            logprobs: Vec::new(),
            digest: spec.capture_digest.then(HiddenStateDigest::new),
            sketcher,
            joined,
            spec,
        }
    }

    /// Returns the 0-based step of the token to choose next.
    pub(super) fn next_step(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("a completion has at most max_new_tokens, a u32")
    }

    /// Makes room in the table for the next position. On first use the table starts with the
    /// prompt's whole blocks and a copy of its partial one.
    pub(super) fn make_room(
        &mut self,
        prompts: &Prompts,
        pool: &mut BlockPool,
        cache: &mut KvCache,
    ) {
        if self.blocks.is_empty() {
            let prompt = &prompts.get(self.prompt).blocks;
            self.blocks.extend_from_slice(&prompt[..self.shared]);
            if let Some(&partial) = prompt.get(self.shared) {
                let copy = self.take(pool);
                cache.copy_block(partial, copy);
            }
        }
        if self.cached == self.blocks.len() * BLOCK_POSITIONS {
            self.take(pool);
        }
    }

    fn take(&mut self, pool: &mut BlockPool) -> u32 {
        let id = pool.take();
        self.promised -= 1;
        self.blocks.push(id);
        id
    }

    /// Adds a token that the LM head drew from `input_row`, and tells the listener.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        logprob: f32,
        top: Vec<(TokenId, f32)>,
        input_row: &[f32],
        eos_token_ids: &[TokenId],
    ) {
        self.tokens.push(token);
        self.logprobs.push(logprob);
        if let Some(digest) = &mut self.digest {
            digest.push(input_row, logprob);
        }
        if let Some(sketcher) = &mut self.sketcher {
            sketcher.push(input_row);
        }
        if !self.spec.ignore_eos && eos_token_ids.contains(&token) {
            self.end = Some(FinishReason::EndToken);
        } else if self.tokens.len() == self.spec.max_new_tokens as usize {
            self.end = Some(FinishReason::Length);
        }
        self.listener.token(token, logprob, top);
        if self.end.is_none() && self.listener.is_cancelled() {
            self.end = Some(FinishReason::Cancelled);
        }
    }

    /// Gives back what it held, and returns whom to tell what.
    ///
    /// Of a sequence that somebody streamed, whole blocks are filed: a dialogue goes on with them.
    pub(super) fn finish(
        self,
        prompts: &mut Prompts,
        pool: &mut BlockPool,
    ) -> (Box<dyn Listener>, Ended) {
        let reason = self.end.clone().unwrap_or(FinishReason::Cancelled);
        if self.listener.is_streaming() && !matches!(reason, FinishReason::Failed(_)) {
            self.file_blocks(prompts.get(self.prompt), pool);
        }
        let prompt = prompts.get(self.prompt);
        let cached = if self.joined { prompt.tokens.len() } else { prompt.cached };
        pool.release(self.blocks.get(self.shared..).unwrap_or_default());
        pool.forget(self.promised);
        prompts.leave(self.prompt);
        let ended = Ended {
            reason,
            tokens: self.tokens,
            logprobs: self.logprobs,
            hidden_digest: self.digest.map(HiddenStateDigest::finish),
            sketches: self.sketcher.map(Sketcher::finish).unwrap_or_default(),
            prompt_tokens_cached: u32::try_from(cached).expect("positions are below 2^14"),
        };
        (self.listener, ended)
    }

    fn file_blocks(&self, prompt: &Prompt, pool: &mut BlockPool) {
        let mut prefix = prompt.prefix();
        let whole = self.blocks.len().min(self.cached / BLOCK_POSITIONS);
        let tail = &prompt.tokens[self.shared * BLOCK_POSITIONS..];
        let mut tokens = tail.iter().chain(&self.tokens).copied();
        for &id in self.blocks.get(self.shared..whole).unwrap_or_default() {
            let mut content = [0; BLOCK_POSITIONS];
            content.fill_with(|| tokens.next().expect("a cached position has a token"));
            prefix = match pool.file(id, prefix, &content) {
                Ok(prefix) => prefix,
                Err(same) => pool.prefix_of(same).expect("a filed block"),
            };
        }
    }
}
