//! From rows of the residual stream to tokens and log-probabilities, without a row of logits.
//!
//! The kernels' fused head answers for all rows in one pass over its weights. Only the two things
//! that need a whole row's logits side by side, a nucleus and the likeliest tokens, have them
//! computed, a few rows at a time.

use grail_kernels::{
    HeadOptions, HeadQuery, HeadRow, KernelError, Kernels, Pick, RaceKey, SoftmaxStats,
};
use grail_ports::model::{ModelError, Sampling};
use grail_protocol::ids::TokenId;

use super::sampling;
use crate::arch::Decoder;

/// Most rows of one [`Head::draw`]; more would gain nothing.
const ROWS_MAX: usize = 512;

/// Bytes of logits held at once, for the rows that need theirs.
const LOGITS_BYTES_MAX: usize = 4 << 20;

/// Returns how many rows of logits `bytes` hold, between 1 and 512.
fn head_rows_max(vocab_size: usize, bytes: usize) -> usize {
    (bytes / size_of::<f32>() / vocab_size).clamp(1, ROWS_MAX)
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Draw {
    /// How to draw a token, if at all.
    pub(crate) sampling: Option<Sampling>,
    /// Key and 0-based step of its race.
    pub(crate) race: (RaceKey, u32),
    /// A token whose log-probability and margin are wanted.
    pub(crate) claimed: Option<TokenId>,
    /// How many of the likeliest tokens are wanted.
    pub(crate) top: u8,
    /// Whether the entropy is wanted.
    pub(crate) entropy: bool,
}

/// What a row gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    /// The drawn token, if one was asked for.
    pub(crate) token: Option<DrawnToken>,
    /// The claimed token, if one was named.
    pub(crate) claimed: Option<DrawnToken>,
    /// The likeliest tokens with their log-probabilities, likeliest first, of equal ones the lower
    /// id first.
    pub(crate) top: Vec<(TokenId, f32)>,
    /// Entropy of the softmax, nats, if asked for.
    pub(crate) entropy: Option<f32>,
    /// What the row's log-softmax is made of.
    pub(crate) stats: SoftmaxStats,
}

/// A token of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct DrawnToken {
    pub(crate) token: TokenId,
    /// Log-probability under the raw logits, nats.
    pub(crate) logprob: f32,
    /// Score in the race, nats; without a race, the logit.
    pub(crate) score: f32,
}

/// Buffers of the LM head.
#[derive(Debug)]
pub(crate) struct Head {
    hidden: usize,
    vocab: usize,
    /// Rows of the residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    /// After the final norm, `[rows, hidden]`.
    input: Vec<f32>,
    /// `[rows, vocab]` of the few rows that need them.
    logits: Vec<f32>,
}

impl Head {
    pub(crate) fn new(decoder: &Decoder) -> Self {
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        Self { hidden, vocab, x: Vec::new(), input: Vec::new(), logits: Vec::new() }
    }

    /// Returns the most rows of one [`Head::draw`].
    pub(crate) fn rows_max(&self) -> usize {
        ROWS_MAX
    }

    /// Takes the final norm of `rows` of the residual stream and does for each what `draws` say.
    ///
    /// No result depends on the other rows.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`]: the weights overflowed, so nothing computed from them counts.
    ///
    /// # Panics
    /// If there are more than [`Head::rows_max`] rows, or not as many as draws.
    pub(crate) fn draw<'a>(
        &mut self,
        kernels: &Kernels,
        decoder: &Decoder,
        rows: impl Iterator<Item = &'a [f32]>,
        draws: &[Draw],
    ) -> Result<Vec<Drawn>, ModelError> {
        self.x.clear();
        rows.for_each(|row| self.x.extend_from_slice(row));
        let n_rows = self.x.len() / self.hidden;
        assert!(n_rows <= ROWS_MAX, "{n_rows} rows for a head of {ROWS_MAX}");
        assert_eq!(n_rows, draws.len(), "rows and draws differ in number");
        self.input.resize(n_rows * self.hidden, 0.0);
        decoder.head_input(kernels, &self.x, &mut self.input);
        let queries: Vec<HeadQuery> = draws.iter().map(query).collect();
        let entropy = draws.iter().any(|draw| draw.entropy);
        let options = HeadOptions { entropy, soft_cap: decoder.logit_cap() };
        let found = kernels.head(&self.input, &decoder.head, &queries, options);
        let found = found.map_err(not_finite)?.into_iter();
        let mut drawn: Vec<Drawn> =
            found.zip(draws).map(|(row, draw)| Drawn::new(&row, draw)).collect();
        self.draw_with_logits(kernels, decoder, draws, &mut drawn)?;
        let tokens = drawn.iter().flat_map(|drawn| [drawn.token, drawn.claimed]).flatten();
        if tokens.into_iter().all(|token| token.logprob.is_finite()) {
            Ok(drawn)
        } else {
            Err(ModelError::NotFinite("the log-probabilities".into()))
        }
    }

    /// Returns row `row` of the LM head's input.
    pub(crate) fn input_row(&self, row: usize) -> &[f32] {
        &self.input[row * self.hidden..][..self.hidden]
    }

    /// Does what needs the logits of whole rows.
    fn draw_with_logits(
        &mut self,
        kernels: &Kernels,
        decoder: &Decoder,
        draws: &[Draw],
        drawn: &mut [Drawn],
    ) -> Result<(), ModelError> {
        let needs = |draw: &Draw| draw.top > 0 || is_top_p(draw.sampling);
        let rows: Vec<usize> = (0..draws.len()).filter(|&row| needs(&draws[row])).collect();
        for rows in rows.chunks(head_rows_max(self.vocab, LOGITS_BYTES_MAX)) {
            self.x.clear();
            for &row in rows {
                self.x.extend_from_slice(&self.input[row * self.hidden..][..self.hidden]);
            }
            self.logits.resize(rows.len() * self.vocab, 0.0);
            decoder.logits(kernels, &self.x, &mut self.logits);
            for (&row, logits) in rows.iter().zip(self.logits.chunks_exact_mut(self.vocab)) {
                let (draw, drawn) = (&draws[row], &mut drawn[row]);
                let stats = drawn.stats;
                let likeliest = sampling::likeliest(logits, draw.top.into()).into_iter();
                let logprob = |id: TokenId| stats.logprob(logits[id as usize]);
                drawn.top = likeliest.map(|id| (id, logprob(id))).collect();
                if let Some(Sampling::TopP { temperature, top_p }) = draw.sampling {
                    let raw = logits.to_vec();
                    sampling::keep_top_p(logits, temperature, top_p);
                    let (token, score) = sampling::race(kernels, logits, temperature, draw.race)?;
                    let logprob = stats.logprob(raw[token as usize]);
                    drawn.token = Some(DrawnToken { token, logprob, score });
                }
            }
        }
        Ok(())
    }
}

fn is_top_p(sampling: Option<Sampling>) -> bool {
    matches!(sampling, Some(Sampling::TopP { .. }))
}

/// What the fused head is asked about a row.
fn query(draw: &Draw) -> HeadQuery {
    let (key, step) = draw.race;
    let pick = match draw.sampling {
        None | Some(Sampling::TopP { .. }) => Pick::None,
        Some(Sampling::Greedy) => Pick::Greedy,
        Some(Sampling::Race { temperature }) => Pick::Race { key, step, temperature },
    };
    HeadQuery { pick, claimed: draw.claimed }
}

impl Drawn {
    fn new(row: &HeadRow, draw: &Draw) -> Self {
        let token = |found: grail_kernels::HeadToken| DrawnToken {
            token: found.token,
            logprob: row.stats.logprob(found.logit),
            score: found.score,
        };
        Self {
            token: row.winner.map(token),
            claimed: row.claimed.map(token),
            top: Vec::new(),
            entropy: row.entropy.filter(|_| draw.entropy),
            stats: row.stats,
        }
    }
}

/// Says what a kernel found in the logits.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
pub(super) fn not_finite(error: KernelError) -> ModelError {
    ModelError::NotFinite(format!("the logits ({error})"))
}
