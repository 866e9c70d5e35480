//! What the reference's profile (v5) asks of a model, beyond our own: every position's hidden state.
//!
//! Our proof looks at completions alone and never holds a row of logits; v5 sketches the prompt and
//! the last token too, and judges probabilities after repetition penalty and temperature.

use grail_protocol::ids::TokenId;

use crate::environment::ChatMessage;
use crate::model::{ModelError, StopFlag};

/// How the profile writes a prompt. Both forms are tokenised with the tokenizer's own frame, such as
/// a BOS token, as `transformers` does by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptForm {
    /// Plain ChatML, whatever the model's template is: mode `instructed`.
    ChatMl,
    /// The model's own template with `enable_thinking`: mode `native`.
    Thinking,
}

/// How chosen tokens' probabilities are changed before they are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Warp {
    /// Divides the logits, after the penalty; above 0.
    pub temperature: f32,
    /// Divides positive and multiplies negative logits of the tokens that have occurred, prompt
    /// included; above 0, 1 changes nothing.
    pub repetition_penalty: f32,
}

/// A sequence to be looked at in every position.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceRequest {
    /// Prompt and completion.
    pub tokens: Vec<TokenId>,
    /// Number of prompt tokens, at least 1, below `tokens.len()`.
    pub prompt_len: usize,
    /// With it the probabilities of the completion's tokens are computed.
    pub warp: Option<Warp>,
}

/// What a forward pass over a sequence gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// The LM-head input at every position, prompt and last token included: `[tokens, hidden_size]`,
    /// row by row.
    pub rows: Vec<f32>,
    /// Log-probability of each completion token under the raw logits, nats: those of
    /// [`Score`](crate::model::Score), bit for bit.
    pub logprobs: Vec<f32>,
    /// Probability of each completion token after the warp; empty without one.
    pub probabilities: Vec<f32>,
    /// Probability of [`ReferenceModel::end_token`] under the raw logits where the last token was
    /// chosen; 0 for a model without one.
    pub end_probability: f32,
}

/// A model as the roles of v5 use it. Calls block; run them outside the async runtime.
pub trait ReferenceModel: Send + Sync {
    /// Returns the tokenizer's own end token: of several that end a completion, v5 knows this one.
    fn end_token(&self) -> Option<TokenId>;

    /// Returns the prompt's token ids, with the generation prompt.
    fn render_as(
        &self,
        messages: &[ChatMessage],
        form: PromptForm,
    ) -> Result<Vec<TokenId>, ModelError>;

    /// Returns the text of `tokens`, special tokens included.
    fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError>;

    /// Looks at sequences in one pass each, in order. Consecutive requests with the same prompt
    /// share the work on it.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] also when the rows of all requests together exceed a bound of
    /// 1 GiB; ask for fewer at a time.
    fn trace(&self, requests: &[TraceRequest], stop: &StopFlag) -> Result<Vec<Trace>, ModelError>;
}
