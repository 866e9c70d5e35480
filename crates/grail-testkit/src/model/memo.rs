//! Remembers what a model said of a text, for tests that run the same subnet hundreds of times.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use grail_ports::model::{ModelError, Score, ScoreRequest};
use grail_protocol::ids::TokenId;

/// Scores by tokens and length of the prompt.
#[derive(Default)]
pub(super) struct Memo {
    scores: Mutex<BTreeMap<(Vec<TokenId>, usize), Score>>,
}

impl Memo {
    /// Returns the score of `request`, which `compute` computes if it was not asked before. Races,
    /// sketches and entropies are not remembered: they belong to one rollout.
    pub(super) fn get(
        &self,
        request: &ScoreRequest,
        compute: impl FnOnce() -> Result<Score, ModelError>,
    ) -> Result<Score, ModelError> {
        let is_plain = request.race.is_none() && request.whitening.is_none() && !request.entropy;
        if !(is_plain && request.rows) {
            return compute();
        }
        let key = (request.tokens.clone(), request.prompt_len);
        let known = self.scores.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(score) = known {
            return Ok(score);
        }
        let score = compute()?;
        let mut scores = self.scores.lock().unwrap_or_else(PoisonError::into_inner);
        scores.insert(key, score.clone());
        Ok(score)
    }
}
