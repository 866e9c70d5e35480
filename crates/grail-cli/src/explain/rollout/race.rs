//! A lost race: the claimed and the winning token with everything that made one beat the other.

use anyhow::{Context as _, Result};
use grail_model::tokenizer::Tokenizer;
use grail_ports::model::{ScoreRequest, StopFlag};
use grail_protocol::ids::TokenId;
use grail_protocol::rollout::Group;
use grail_protocol::sampler::perturbation;
use grail_services::validation::examine::{LostRace, RolloutReport};
use serde::Serialize;

use super::Subject;
use crate::serve::wire::token_text;

/// Tokens that are shown before and after the place.
const CONTEXT_TOKENS: usize = 24;

/// A lost race.
#[derive(Debug, Serialize)]
pub struct RaceAnswer {
    /// Position in the completion, 0-based.
    pub position: usize,
    /// How much worse the claimed token is, nats.
    pub margin: f32,
    /// Divides the logits.
    pub temperature: f32,
    /// The end of the text before the place.
    pub before: String,
    /// The beginning of the text after it.
    pub after: String,
    /// The token in the file.
    pub claimed: Runner,
    /// The token that wins.
    pub winner: Runner,
}

/// A token in a race.
#[derive(Debug, Serialize)]
pub struct Runner {
    /// The token.
    pub token: TokenId,
    /// Its text.
    pub text: String,
    /// Log-probability under the raw logits, nats.
    pub logprob: f32,
    /// The same as a probability.
    pub probability: f64,
    /// What the race's generator gave it, nats.
    pub noise: f32,
    /// `logprob / temperature + noise`: the highest of all tokens wins. (A race compares `logit /
    /// temperature + noise`; the difference is the same for every token.)
    pub score: f64,
}

impl RaceAnswer {
    /// Tells a lost race; one more pass of the model finds out what the winner was worth.
    ///
    /// # Errors
    /// When the model fails.
    pub fn of(
        subject: &Subject<'_>,
        group: &Group,
        report: &RolloutReport,
        lost: &LostRace,
    ) -> Result<Self> {
        let Subject { bench, tokenizer, .. } = *subject;
        let header = subject.report.header.as_ref().context("a recomputed file has a header")?;
        let rollout = group
            .rollouts
            .get(usize::try_from(report.rollout)?)
            .context("a recomputed rollout is in its group")?;
        let position = lost.position;
        let (before, rest) = rollout.tokens.split_at_checked(position).unwrap_or_default();
        let claimed_logprob = report.logprobs.get(position).copied().unwrap_or(f32::NAN);
        let tokens = [&group.prompt, before, &[lost.winner]].concat();
        let request = ScoreRequest {
            tokens,
            prompt_len: group.prompt.len(),
            race: None,
            entropy: false,
            whitening: None,
            rows: false,
        };
        let scores = bench.checkpoint.model.score(&[request], &StopFlag::default())?;
        let winner_logprob = scores.first().and_then(|score| score.logprobs.last()).copied();
        let winner_logprob = winner_logprob.context("a scored sequence has log-probabilities")?;

        let temperature = header.sampler.temperature;
        let key = header.race_key(bench.randomness, report.group, report.rollout);
        let step = u32::try_from(position)?;
        let runner = |token, logprob: f32| {
            let noise = perturbation(key, step, token);
            Runner {
                token,
                text: token_text(tokenizer, token),
                logprob,
                probability: f64::from(logprob).exp(),
                noise,
                score: f64::from(logprob) / f64::from(temperature) + f64::from(noise),
            }
        };
        let after = rest.get(1..).unwrap_or_default();
        Ok(Self {
            position,
            margin: lost.margin,
            temperature,
            before: decode(tokenizer, &before[before.len().saturating_sub(CONTEXT_TOKENS)..]),
            after: decode(tokenizer, &after[..after.len().min(CONTEXT_TOKENS)]),
            claimed: runner(lost.claimed, claimed_logprob),
            winner: runner(lost.winner, winner_logprob),
        })
    }
}

/// Returns the text, or the tokens one by one where they are none together.
fn decode(tokenizer: &Tokenizer, tokens: &[TokenId]) -> String {
    tokenizer
        .decode(tokens, false)
        .unwrap_or_else(|_| tokens.iter().map(|&token| token_text(tokenizer, token)).collect())
}
