//! From rows of the residual stream to logits and log-probabilities, a bounded number at a time.

use grail_kernels::{KernelError, Kernels};
use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use crate::arch::Decoder;

/// Bytes of logits held at once; they stay in a last-level cache between the kernels that use them.
const LOGITS_BYTES_MAX: usize = 16 << 20;

/// Rows beyond which a small vocabulary gains nothing.
const ROWS_MAX: usize = 512;

/// Returns how many rows of logits `bytes` hold, between 1 and 512.
pub(crate) fn head_rows_max(vocab_size: usize, bytes: usize) -> usize {
    (bytes / size_of::<f32>() / vocab_size).clamp(1, ROWS_MAX)
}

/// Buffers of the LM head.
#[derive(Debug)]
pub(crate) struct Head {
    hidden: usize,
    vocab: usize,
    rows_max: usize,
    /// Rows of the residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    /// After the final norm, `[rows, hidden]`.
    input: Vec<f32>,
    /// `[rows, vocab]`.
    logits: Vec<f32>,
}

impl Head {
    pub(crate) fn new(decoder: &Decoder) -> Self {
        let (hidden, vocab) = (decoder.shape.hidden, decoder.config.vocab_size);
        let rows_max = head_rows_max(vocab, LOGITS_BYTES_MAX);
        Self { hidden, vocab, rows_max, x: Vec::new(), input: Vec::new(), logits: Vec::new() }
    }

    /// Returns the most rows of one [`Head::run`].
    pub(crate) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Computes logits for the given rows of the residual stream.
    ///
    /// # Panics
    /// If there are more than [`Head::rows_max`].
    pub(crate) fn run<'a>(
        &mut self,
        kernels: &Kernels,
        decoder: &Decoder,
        rows: impl Iterator<Item = &'a [f32]>,
    ) {
        self.x.clear();
        rows.for_each(|row| self.x.extend_from_slice(row));
        let n_rows = self.x.len() / self.hidden;
        assert!(n_rows <= self.rows_max, "{n_rows} rows for a head of {}", self.rows_max);
        self.input.resize(n_rows * self.hidden, 0.0);
        decoder.head_input(kernels, &self.x, &mut self.input);
        self.logits.resize(n_rows * self.vocab, 0.0);
        decoder.logits(kernels, &self.input, &mut self.logits);
    }

    /// Returns row `row` of the LM head's input.
    pub(crate) fn input_row(&self, row: usize) -> &[f32] {
        &self.input[row * self.hidden..][..self.hidden]
    }

    /// Returns the logits of `rows`.
    pub(crate) fn logits_of(&self, rows: std::ops::Range<usize>) -> &[f32] {
        &self.logits[rows.start * self.vocab..rows.end * self.vocab]
    }

    /// Computes the log-probability of one token for each row into `logprobs`.
    ///
    /// # Errors
    /// [`ModelError::NotFinite`]: the weights overflowed, so nothing computed from them counts.
    pub(crate) fn logprobs(
        &self,
        kernels: &Kernels,
        tokens: &[TokenId],
        logprobs: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        logprobs.resize(tokens.len(), 0.0);
        kernels.log_softmax_of(&self.logits, self.vocab, tokens, logprobs).map_err(not_finite)?;
        if logprobs.iter().all(|logprob| logprob.is_finite()) {
            Ok(())
        } else {
            Err(ModelError::NotFinite("the log-probabilities".into()))
        }
    }
}

/// Says what a kernel found in the logits.
#[expect(clippy::needless_pass_by_value, reason = "the shape that `map_err` wants")]
pub(crate) fn not_finite(error: KernelError) -> ModelError {
    ModelError::NotFinite(format!("the logits ({error})"))
}
