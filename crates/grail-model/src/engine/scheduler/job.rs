//! What the scheduler is asked for, and whom it tells.

use std::sync::Arc;

use grail_kernels::RaceKey;
use grail_ports::model::{ModelError, Sampling};
use grail_protocol::ids::{Digest, TokenId};
use grail_protocol::sketch::{Sketch, Whitening};

use crate::engine::cache::{BLOCK_POSITIONS, blocks_for};

/// One completion to be made.
pub(in crate::engine) struct Job {
    pub(in crate::engine) prompt: Arc<[TokenId]>,
    pub(in crate::engine) spec: Spec,
    pub(in crate::engine) listener: Box<dyn Listener>,
}

/// How one completion is made.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Spec {
    pub(in crate::engine) sampling: Sampling,
    pub(in crate::engine) race_key: RaceKey,
    /// Most tokens, at least 1.
    pub(in crate::engine) max_new_tokens: u32,
    /// How many of the likeliest tokens are told at each step.
    pub(in crate::engine) top_logprobs: u8,
    /// Whether the digest of hidden states is computed.
    pub(in crate::engine) capture_digest: bool,
    /// With it sketches are made, under the key that follows from the race's.
    pub(in crate::engine) whitening: Option<Arc<Whitening>>,
    /// Whether the completion goes on after an end token.
    pub(in crate::engine) ignore_eos: bool,
}

/// Whom the tokens of a completion are for. Called on the thread that leads the scheduler.
///
/// One that is dropped before it heard of an end was given up: its step panicked.
pub(in crate::engine) trait Listener: Send {
    /// Returns whether nobody wants the rest.
    fn is_cancelled(&self) -> bool;

    /// Returns whether somebody waits for each token, so that steps should be short.
    fn is_streaming(&self) -> bool;

    /// Takes the next token, its log-probability (nats), and the likeliest tokens if asked for.
    fn token(&mut self, token: TokenId, logprob: f32, top: Vec<(TokenId, f32)>);

    /// Takes the end. Nothing follows.
    fn finished(&mut self, ended: Ended);
}

/// How a completion ended, and all of it.
#[derive(Debug)]
pub(in crate::engine) struct Ended {
    pub(in crate::engine) reason: FinishReason,
    pub(in crate::engine) tokens: Vec<TokenId>,
    pub(in crate::engine) logprobs: Vec<f32>,
    pub(in crate::engine) hidden_digest: Option<Digest>,
    pub(in crate::engine) sketches: Vec<Sketch>,
    pub(in crate::engine) prompt_tokens_cached: u32,
}

impl Ended {
    /// The end of a job that never ran.
    pub(in crate::engine) fn before_start(reason: FinishReason) -> Self {
        Self {
            reason,
            tokens: Vec::new(),
            logprobs: Vec::new(),
            hidden_digest: None,
            sketches: Vec::new(),
            prompt_tokens_cached: 0,
        }
    }
}

/// Why a sequence got no more tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// It drew an end token, its last.
    EndToken,
    /// It has `max_new_tokens` tokens.
    Length,
    /// Nobody wanted the rest.
    Cancelled,
    /// It could not be continued. Other sequences go on.
    Failed(ModelError),
}

/// Blocks of a prompt.
pub(in crate::engine) fn prompt_blocks(prompt_len: usize) -> usize {
    blocks_for(prompt_len)
}

/// Most blocks that a completion owns: all but the prompt's whole ones. The last token is never
/// an input, so it takes no position.
pub(in crate::engine) fn own_blocks(prompt_len: usize, max_new_tokens: u32) -> usize {
    blocks_for(prompt_len + max_new_tokens as usize - 1) - prompt_len / BLOCK_POSITIONS
}
