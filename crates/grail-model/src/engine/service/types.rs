//! What is asked of a service, and what it says.

use std::sync::Arc;

use grail_ports::model::Sampling;
use grail_protocol::ids::{Digest, TokenId};
use grail_protocol::sketch::{Sketch, Whitening};

pub use crate::engine::scheduler::FinishReason;

/// Most likely tokens that can be told at each step.
pub const TOP_LOGPROBS_MAX: u8 = 20;

/// Bounds of a service, beside those of its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Most requests that wait, beside as many as the engine can run at once. 0 takes no more than
    /// can run.
    pub queue_max: usize,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self { queue_max: 256 }
    }
}

/// One sequence to be generated.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceRequest {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Race key, four words. Equal requests with equal keys get equal tokens, whatever else runs.
    pub race_key: [u32; 4],
    /// Most tokens of the completion, at least 1.
    pub max_new_tokens: u32,
    /// How many of the likeliest tokens are told at each step, at most [`TOP_LOGPROBS_MAX`].
    pub top_logprobs: u8,
    /// Whether to compute the digest of `grail_protocol::digest` over LM-head inputs and
    /// log-probabilities.
    pub capture_digest: bool,
    /// With it the sketches of `grail_protocol::sketch` are captured, under the key that follows
    /// from the race's. Of the model's hidden size.
    pub whitening: Option<Arc<Whitening>>,
    /// Whether to go on after an end token.
    pub ignore_eos: bool,
}

/// What happens to a sequence: tokens, then one end.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceEvent {
    /// It has another token.
    Token {
        /// The token; an end token is told too.
        token: TokenId,
        /// Its log-probability under the raw logits, nats.
        logprob: f32,
        /// The likeliest tokens with their log-probabilities, likeliest first, of equal ones the
        /// lower id first; as many as asked for.
        top: Vec<(TokenId, f32)>,
    },
    /// It gets no more tokens.
    Finished {
        /// Why.
        reason: FinishReason,
        /// The digest, if it was asked for, over the tokens told so far.
        hidden_digest: Option<Digest>,
        /// The sketches, over the same tokens; empty without a [`Whitening`].
        sketches: Vec<Sketch>,
        /// Tokens of the prompt that were in the cache already.
        prompt_tokens_cached: u32,
    },
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many requests as may be are running or waiting.
    #[error("{live} requests are running or waiting, which is all that may; try again later")]
    QueueFull {
        /// Requests of the service that run or wait.
        live: usize,
    },
    /// The service ends.
    #[error("the service is shutting down and takes no more requests; ask another one")]
    Draining,
    /// The request cannot be served.
    #[error("{0}")]
    BadRequest(String),
}

/// What an engine has done and is doing. Numbers may be a step apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceStats {
    /// Sequences that run.
    pub running: usize,
    /// Sequences that wait for a place or for memory.
    pub waiting: usize,
    /// Cache blocks (16 positions each) that running sequences hold.
    pub kv_blocks_used: usize,
    /// Cache blocks that are kept for prompts to come.
    pub kv_blocks_cached: usize,
    /// All cache blocks there may be.
    pub kv_blocks_total: usize,
    /// Bytes of a cache block.
    pub kv_block_bytes: usize,
    /// Prompt tokens that went through the model.
    pub prompt_tokens_computed: u64,
    /// Prompt tokens that did not have to.
    pub prompt_tokens_cached: u64,
    /// Tokens generated.
    pub tokens_generated: u64,
    /// Sequences that ended with an end token or at their length.
    pub finished: u64,
    /// Sequences that were cancelled.
    pub cancelled: u64,
    /// Sequences that failed.
    pub failed: u64,
    /// Requests that were refused because the queue was full.
    pub refused: u64,
}
