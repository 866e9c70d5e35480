//! The network: the embedding of the last character, a fading sum of those before, a linear head.
//!
//! `row = [last, earlier]`; a token makes `earlier' = earlier / 4 + last`, `last' = embedding[token]`.
//! `logits = head · row + bias`. The row is the LM-head input that digests hash. Only head and bias
//! are trained, so gradients are one line of algebra.

use grail_protocol::ids::TokenId;

use crate::draw;

/// Width of a row, and of the embedding that each half of it has.
pub(super) const HIDDEN_SIZE: usize = 16;
pub(super) const EMBEDDING_SIZE: usize = HIDDEN_SIZE / 2;
/// What is left of earlier characters after another token.
const FADING: f32 = 0.25;
/// Number of token ids.
pub(super) const VOCAB_SIZE: TokenId = 128;
/// The same as a count.
pub(super) const VOCAB: usize = 128;

/// Row-major f32.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Weights {
    /// `[VOCAB, EMBEDDING_SIZE]`, never trained.
    pub(super) embedding: Vec<f32>,
    /// `[VOCAB, HIDDEN_SIZE]`, then the bias `[VOCAB]`: what is trained.
    pub(super) head: Vec<f32>,
}

pub(super) const N_EMBEDDING: usize = VOCAB * EMBEDDING_SIZE;
pub(super) const N_ROWS: usize = VOCAB * HIDDEN_SIZE;
pub(super) const N_HEAD: usize = N_ROWS + VOCAB;

impl Weights {
    pub(super) fn new(seed: u64) -> Self {
        let embedding = (0..N_EMBEDDING).map(|at| noise(seed, "embedding", at)).collect();
        let mut head: Vec<f32> = (0..N_ROWS).map(|at| 0.1 * noise(seed, "head", at)).collect();
        head.extend((0..VOCAB_SIZE).map(|token| match u8::try_from(token) {
            Ok(0) | Ok(b'a' | b'b') => 6.0,
            _ => 0.0,
        }));
        Self { embedding, head }
    }

    /// As [`Weights::new`], but likes the two characters more and ending no more than the rest.
    pub(super) fn talkative(seed: u64) -> Self {
        let mut weights = Self::new(seed);
        let bias = &mut weights.head[N_ROWS..];
        bias[0] = 0.0;
        for character in [b'a', b'b'] {
            bias[usize::from(character)] = 9.0;
        }
        weights
    }

    /// Keeps the upper half of each float, to the nearest.
    pub(super) fn in_bf16(&self) -> Self {
        let round = |weight: &f32| f32::from_bits((weight.to_bits() + 0x8000) & 0xffff_0000);
        Self {
            embedding: self.embedding.iter().map(round).collect(),
            head: self.head.iter().map(round).collect(),
        }
    }

    pub(super) fn with_noise(&self, seed: u64, amount: f32) -> Self {
        let mut noisy = self.clone();
        for (at, weight) in noisy.embedding.iter_mut().chain(&mut noisy.head).enumerate() {
            *weight += amount * noise(seed, "noise", at);
        }
        noisy
    }
}

/// Returns a number between -1 and 1.
fn noise(seed: u64, name: &str, at: usize) -> f32 {
    let word = draw::word("grail/testkit/weights", seed, &[name.as_bytes(), &at.to_le_bytes()]);
    #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in f32")]
    let unit = (word >> 40) as f32 / 16_777_216.0;
    2.0 * unit - 1.0
}

/// Where the model is in a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// The LM-head input that predicts the next token.
    pub(super) row: [f32; HIDDEN_SIZE],
}

impl Position {
    /// Before the first token.
    pub(super) fn start() -> Self {
        Self { row: [0.0; HIDDEN_SIZE] }
    }

    /// After one more token of the vocabulary.
    pub(super) fn after(mut self, weights: &Weights, token: TokenId) -> Self {
        let embedding = &weights.embedding[index(token) * EMBEDDING_SIZE..][..EMBEDDING_SIZE];
        let (last, earlier) = self.row.split_at_mut(EMBEDDING_SIZE);
        for ((last, earlier), embedded) in last.iter_mut().zip(earlier).zip(embedding) {
            *earlier = *earlier * FADING + *last;
            *last = *embedded;
        }
        self
    }

    /// Returns `[VOCAB]` logits.
    pub(super) fn logits(&self, weights: &Weights) -> Vec<f32> {
        let (head, bias) = weights.head.split_at(N_ROWS);
        let logit = |(row, bias): (&[f32], &f32)| {
            row.iter().zip(&self.row).fold(*bias, |sum, (weight, value)| sum + weight * value)
        };
        head.chunks_exact(HIDDEN_SIZE).zip(bias).map(logit).collect()
    }
}

/// Yields, for each completion token, the position that predicts it, and the token.
pub(super) fn positions<'a>(
    weights: &'a Weights,
    tokens: &'a [TokenId],
    prompt_len: usize,
) -> impl Iterator<Item = (Position, TokenId)> + 'a {
    let (prompt, completion) = tokens.split_at(prompt_len);
    let mut next = prompt.iter().fold(Position::start(), |at, &token| at.after(weights, token));
    completion.iter().map(move |&token| {
        let position = next;
        next = position.after(weights, token);
        (position, token)
    })
}

/// Returns the log-softmax of `logits` at `token`, nats.
pub(super) fn logprob(logits: &[f32], token: TokenId) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits[index(token)] - max - sum.ln()
}

/// Returns the entropy of the softmax of `logits`, nats.
pub(super) fn entropy(logits: &[f32]) -> f32 {
    let tokens = (0..).take(logits.len());
    tokens.map(|token| logprob(logits, token)).map(|logprob| -logprob.exp() * logprob).sum()
}

/// Returns the place of a token of the vocabulary.
pub(super) fn index(token: TokenId) -> usize {
    usize::try_from(token).expect("a token of the vocabulary is below 128")
}
