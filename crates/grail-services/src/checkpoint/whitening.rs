//! Measures what a checkpoint's sketches are whitened with, over a fixed public text.
//!
//! The trainer publishes the result with the checkpoint; anybody who has the checkpoint can measure
//! it again and compare.

use grail_ports::model::{Model, ModelError, ScoreRequest, StopFlag};
use grail_protocol::checkpoint::WhiteningRecord;
use grail_protocol::ids::Digest;
use grail_protocol::sketch::Whitening;

/// Prose, arithmetic, proofs, programs, tables and conversations: what rollouts are made of.
///
/// Part of the protocol between trainer and everybody else: changing it changes the statistics of
/// every checkpoint published from then on, which each record says by the text's digest.
const TEXT: &str = include_str!("../../assets/whitening.txt");

/// Most tokens that are scored as one sequence; the text is cut into pieces of this size, which
/// bounds the memory and fits every model's context.
const PIECE_TOKENS: usize = 512;

/// Returns the statistics of the model's LM-head inputs over the text, and the text's name. Blocks.
///
/// # Errors
/// When the model fails, or its states have no usable statistics.
pub fn measure(model: &dyn Model, stop: &StopFlag) -> Result<WhiteningRecord, ModelError> {
    let info = model.info();
    let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let piece = PIECE_TOKENS.min(size(info.max_position_embeddings));
    let tokens = model.encode(TEXT)?;
    let mut rows = Vec::new();
    // One piece at a time: what stands in memory is one piece's work and the rows.
    for tokens in tokens.chunks(piece).filter(|piece| piece.len() > 1) {
        let request = ScoreRequest {
            tokens: tokens.to_vec(),
            prompt_len: 1,
            race: None,
            entropy: false,
            whitening: None,
            rows: true,
        };
        for score in model.score(&[request], stop)? {
            rows.extend(score.rows);
        }
    }
    let whitening = Whitening::measure(&rows, size(info.hidden_size)).map_err(|error| {
        ModelError::NotFinite(format!("the states of the public text: {error}"))
    })?;
    Ok(WhiteningRecord::new(Digest::of(TEXT.as_bytes()), &whitening))
}
