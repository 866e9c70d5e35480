//! The model as the services see it: token ids in, token ids and plain rows out.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use grail_protocol::ids::{Digest, TokenId};
use grail_protocol::sketch::{Sketch, Whitening};

use crate::environment::ChatMessage;
use crate::reference::ReferenceModel;

/// Facts about a loaded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// Architecture as `config.json` names it, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Width of the hidden states.
    pub hidden_size: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Most tokens of prompt and completion together.
    pub max_position_embeddings: u32,
    /// Tokens that end a completion, ascending, at least one.
    pub eos_token_ids: Vec<TokenId>,
    /// SHA-256 over config, weights and tokenizer: `grail_protocol` calls it the checkpoint digest.
    pub checkpoint_digest: Digest,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_digest: Digest,
    /// Numeric contract and engine, such as `exact-1`.
    pub numerics: String,
}

/// A flag that asks long work to end early; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Asks the work to end.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Returns whether the work was asked to end.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The token with the highest logit, ties to the lower id.
    Greedy,
    /// The winner of the exponential race at this temperature (above 0).
    Race {
        /// Divides the logits.
        temperature: f32,
    },
    /// The winner of a race with the rollouts' keys, but with every candidate outside the most
    /// likely `top_p` mass left out. Not part of the protocol: cheaters and users may want it.
    TopP {
        /// Divides the logits.
        temperature: f32,
        /// Mass that is kept, above 0, at most 1.
        top_p: f32,
    },
}

/// A group of completions of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<TokenId>,
    /// One race key per completion (four words, see `grail_protocol::sampler`).
    pub race_keys: Vec<[u32; 4]>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most tokens of a completion, at least 1.
    pub max_new_tokens: u32,
    /// With it the sketches of `grail_protocol::sketch` are captured, each under the key that
    /// follows from its completion's race key. Of the model's hidden size.
    pub whitening: Option<Arc<Whitening>>,
}

/// One completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Tokens, with the end token if one was drawn.
    pub tokens: Vec<TokenId>,
    /// Log-probability of each token under the raw logits, nats.
    pub logprobs: Vec<f32>,
    /// The digest of `grail_protocol::digest` over LM-head inputs and log-probabilities.
    pub hidden_digest: Digest,
    /// Sketches of the LM-head inputs; empty without a [`Whitening`].
    pub sketches: Vec<Sketch>,
}

/// A sequence to be recomputed.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreRequest {
    /// Prompt and completion.
    pub tokens: Vec<TokenId>,
    /// Number of prompt tokens, at least 1, below `tokens.len()`.
    pub prompt_len: usize,
    /// Race key of the rollout; with it the race is run at every completion position.
    pub race: Option<RaceCheck>,
    /// Whether the entropies are wanted.
    pub entropy: bool,
    /// With it the sketches are computed, under the key that follows from the race's; it needs a
    /// race. Of the model's hidden size.
    pub whitening: Option<Arc<Whitening>>,
    /// Whether the LM-head inputs themselves are wanted.
    pub rows: bool,
}

/// The race that a completion claims to have run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RaceCheck {
    /// Key, four words.
    pub key: [u32; 4],
    /// Temperature, above 0.
    pub temperature: f32,
}

/// What the verifier's own forward pass says of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Log-probability of each completion token under the raw logits, nats.
    pub logprobs: Vec<f32>,
    /// Winner of the race at each completion position; empty without a [`RaceCheck`].
    pub winners: Vec<TokenId>,
    /// How much worse than the winner the claimed token is, nats, 0 for the winner; as `winners`.
    pub margins: Vec<f32>,
    /// Entropy of the model's distribution at each completion position, under the raw logits, nats;
    /// empty if not asked for.
    pub entropies: Vec<f32>,
    /// The digest of `grail_protocol::digest` over LM-head inputs and log-probabilities.
    pub hidden_digest: Digest,
    /// Sketches of the LM-head inputs; empty without a [`Whitening`].
    pub sketches: Vec<Sketch>,
    /// The LM-head input that predicted each completion token, `[completion tokens, hidden_size]`,
    /// row by row; empty if not asked for.
    pub rows: Vec<f32>,
}

/// Why the model could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The folder does not hold a model that can be used.
    #[error("cannot load the model: {0}")]
    Unloadable(String),
    /// The request cannot be served, such as a token outside the vocabulary.
    #[error("the model cannot serve this request: {0}")]
    BadRequest(String),
    /// The work was asked to end.
    #[error("stopped on request")]
    Stopped,
    /// Numbers stopped being finite.
    #[error("the model produced a value that is not finite in {0}; the weights may be damaged")]
    NotFinite(String),
    /// The engine panicked while it worked on this.
    #[error("the engine broke off; ask again, and report the panic in the log")]
    Crashed,
    /// A file could not be written.
    #[error("cannot write {path}: {reason}")]
    Unwritable {
        /// The file.
        path: String,
        /// The operating system's word.
        reason: String,
    },
}

/// A loaded model. Calls block; run them outside the async runtime.
pub trait Model: ReferenceModel {
    /// Returns facts about the model.
    fn info(&self) -> &ModelInfo;

    /// Returns the prompt's token ids: chat template with the generation prompt, tokenised.
    fn render(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, ModelError>;

    /// Returns the token ids of plain `text`: no template, no special token is added.
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError>;

    /// Returns the text of `tokens`; special tokens are left out.
    fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError>;

    /// Generates groups, in any number, and hands each to `on_group` with its index when it is
    /// complete (not necessarily in order). The tokens depend on the requests alone.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] when `stop` was raised; groups handed over before stay valid.
    fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError>;

    /// Recomputes sequences in one pass each, in order.
    fn score(&self, requests: &[ScoreRequest], stop: &StopFlag) -> Result<Vec<Score>, ModelError>;
}

/// A sequence to train on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingSequence {
    /// Prompt and completion.
    pub tokens: Vec<TokenId>,
    /// Number of prompt tokens, at least 1; the loss sees the rest.
    pub prompt_len: usize,
}

/// Computes, from the current log-probabilities of one sequence's completion tokens, the derivative
/// of the loss with respect to each of them. Arguments: index of the sequence, log-probabilities.
pub type LossGradient<'a> = dyn FnMut(usize, &[f32]) -> Vec<f32> + 'a;

/// Optimiser settings of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Largest global gradient norm; larger gradients are scaled down.
    pub grad_clip: f32,
}

impl OptimizerConfig {
    /// Returns what a gradient of global norm `norm` (finite, from 0) is multiplied by, 0 to 1.
    /// Source: PyTorch, `clip_grad_norm_`, with the small number that keeps it from dividing by 0.
    pub fn clip_scale(&self, norm: f32) -> f32 {
        (self.grad_clip / (norm + 1e-6)).min(1.0)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepStats {
    /// Global norm of the gradient before clipping; a value that is not finite means no step.
    pub grad_norm: f32,
    /// Whether the weights changed.
    pub applied: bool,
}

/// A model that is being trained: f32 master weights, gradients and AdamW moments.
pub trait Trainer: Send {
    /// Adds the gradients of `sequences` to those accumulated since the last step.
    ///
    /// Log-probabilities are those of [`Model::score`] for the same weights, bit for bit.
    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<(), ModelError>;

    /// As [`Trainer::accumulate`], with a term of the loss for the entropy of what the model predicts:
    /// `factors[i]` times the sum, over the completion tokens of sequence `i`, of the entropy of the
    /// distribution they were drawn from (raw logits, nats). A negative factor rewards entropy.
    ///
    /// Returns what the term came to.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] from a trainer that has no such term, unless all factors are 0.
    fn accumulate_with_entropy(
        &mut self,
        sequences: &[TrainingSequence],
        factors: &[f32],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<f64, ModelError> {
        if factors.iter().any(|factor| *factor != 0.0) {
            let text = "this trainer has no entropy term; set the entropy coefficient to 0";
            return Err(ModelError::BadRequest(text.to_owned()));
        }
        self.accumulate(sequences, loss, stop).map(|()| 0.0)
    }

    /// Clips, applies AdamW and clears the gradients.
    ///
    /// # Errors
    /// [`ModelError::Stopped`] when `stop` was raised before anything was written: weights, moments
    /// and gradients are as they were. Once it writes, a step ends.
    fn step(&mut self, config: &OptimizerConfig, stop: &StopFlag) -> Result<StepStats, ModelError>;

    /// Writes `config.json`, bf16 `model.safetensors` and the tokenizer files into the new folder
    /// `dir`, and returns the checkpoint digest.
    fn export(&self, dir: &Path) -> Result<Digest, ModelError>;

    /// Writes master weights, moments and step count into the new folder `dir`.
    fn save_state(&self, dir: &Path) -> Result<(), ModelError>;

    /// Reads what [`Trainer::save_state`] wrote; afterwards training goes on as if never stopped.
    fn load_state(&mut self, dir: &Path) -> Result<(), ModelError>;
}

/// Loads models; equal checkpoints are shared in memory.
pub trait ModelProvider: Send + Sync {
    /// Loads the model in `dir`.
    fn load(&self, dir: &Path) -> Result<Arc<dyn Model>, ModelError>;

    /// Starts training from the model in `dir`.
    fn trainer(&self, dir: &Path) -> Result<Box<dyn Trainer>, ModelError>;
}
