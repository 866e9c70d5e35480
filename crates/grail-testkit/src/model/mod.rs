//! A language model of 128 characters that does everything the port asks, in microseconds.
//!
//! It is consistent the way the real engine is: `generate`, `score` and the trainer run the same
//! operations in the same order, so log-probabilities and digests agree bit for bit, and races and
//! digests are those of the protocol. It is small enough to be understood: see `weights.rs`.

mod altered;
mod memo;
mod provider;
mod reference;
mod trainer;
mod weights;

use std::sync::Arc;

use grail_ports::environment::ChatMessage;
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelError, ModelInfo, RaceCheck, Sampling, Score,
    ScoreRequest, StopFlag,
};
use grail_protocol::digest::HiddenStateDigest;
use grail_protocol::ids::TokenId;
use grail_protocol::sampler::{RaceKey, race_score, race_winner};
use grail_protocol::sketch::{SketchKey, Sketcher, Whitening};

pub use altered::{AlteredModel, AlteredProvider};
use memo::Memo;
pub use provider::FakeProvider;
pub use trainer::FakeTrainer;
use weights::{HIDDEN_SIZE, Position, VOCAB_SIZE, Weights};

/// Ends a completion; the ids below [`FIRST_CHARACTER`] are special, the others ASCII characters.
const END: TokenId = 0;
const FIRST_CHARACTER: TokenId = 3;

/// Most tokens of prompt and completion together.
const POSITIONS_MAX: usize = 4096;

/// The model; clones share the weights.
#[derive(Clone)]
pub struct FakeModel {
    info: ModelInfo,
    weights: Arc<Weights>,
    memo: Option<Arc<Memo>>,
}

impl FakeModel {
    /// Makes the untrained model of `seed`: it likes `a`, `b` and ending.
    pub fn new(seed: u64) -> Self {
        Self::from_weights(Weights::new(seed))
    }

    /// Makes the untrained model of `seed` that hardly ever ends: it likes `a` and `b` alone, so that
    /// completions have the length that the reference's profile demands.
    pub fn talkative(seed: u64) -> Self {
        Self::from_weights(Weights::talkative(seed))
    }

    /// Returns a model that claims to be this one but has other weights: what a cheater runs who
    /// saves on the real ones. `amount` is the largest change of a weight.
    #[must_use]
    pub fn with_noise(&self, seed: u64, amount: f32) -> Self {
        let weights = Arc::new(self.weights.with_noise(seed, amount));
        Self { info: self.info.clone(), weights, memo: None }
    }

    /// Returns the model as an honest engine of another kind computes it: with every weight rounded
    /// to bf16, which it says under the contract `bf16-1`.
    #[must_use]
    pub fn in_bf16(&self) -> Self {
        let info = ModelInfo { numerics: "bf16-1".to_owned(), ..self.info.clone() };
        Self { info, weights: Arc::new(self.weights.in_bf16()), memo: None }
    }

    /// Writes the checkpoint's files into `dir`, which is made if it is absent.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &std::path::Path) -> Result<(), ModelError> {
        provider::write_checkpoint(&self.weights, dir).map(drop)
    }

    fn from_weights(weights: Weights) -> Self {
        let info = provider::info_of(&weights);
        Self { info, weights: Arc::new(weights), memo: None }
    }

    fn complete(&self, request: &GenerateRequest, key: RaceKey) -> Result<Completion, ModelError> {
        let mut position = Position::start();
        for &token in &request.prompt {
            position = position.after(&self.weights, token);
        }
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        let mut digest = HiddenStateDigest::new();
        let mut sketcher = request.whitening.as_ref().map(|whitening| sketcher(key, whitening));
        for step in 0..request.max_new_tokens {
            let logits = position.logits(&self.weights);
            let token = choose(&logits, request.sampling, key, step)?;
            let logprob = weights::logprob(&logits, token);
            digest.push(&position.row, logprob);
            if let Some(sketcher) = &mut sketcher {
                sketcher.push(&position.row);
            }
            tokens.push(token);
            logprobs.push(logprob);
            if token == END {
                break;
            }
            position = position.after(&self.weights, token);
        }
        let sketches = sketcher.map(Sketcher::finish).unwrap_or_default();
        Ok(Completion { tokens, logprobs, hidden_digest: digest.finish(), sketches })
    }

    fn score_one(&self, request: &ScoreRequest) -> Result<Score, ModelError> {
        let ScoreRequest { tokens, prompt_len, race, entropy, whitening, rows } = request;
        let mut score = Score {
            logprobs: Vec::new(),
            winners: Vec::new(),
            margins: Vec::new(),
            entropies: Vec::new(),
            hidden_digest: HiddenStateDigest::new().finish(),
            sketches: Vec::new(),
            rows: Vec::new(),
        };
        let mut digest = HiddenStateDigest::new();
        let sketches = race.zip(whitening.as_ref());
        let mut sketcher = sketches.map(|(race, whitening)| sketcher(RaceKey(race.key), whitening));
        let positions = weights::positions(&self.weights, tokens, *prompt_len);
        for (step, (position, token)) in (0..).zip(positions) {
            let logits = position.logits(&self.weights);
            let logprob = weights::logprob(&logits, token);
            digest.push(&position.row, logprob);
            score.logprobs.push(logprob);
            if let Some(sketcher) = &mut sketcher {
                sketcher.push(&position.row);
            }
            if *rows {
                score.rows.extend_from_slice(&position.row);
            }
            if *entropy {
                score.entropies.push(weights::entropy(&logits));
            }
            let Some(RaceCheck { key, temperature }) = *race else { continue };
            let key = RaceKey(key);
            let winner = run_race(&logits, temperature, key, step)?;
            let of =
                |token| race_score(logits[weights::index(token)], temperature, key, step, token);
            score.winners.push(winner);
            score.margins.push(of(winner) - of(token));
        }
        score.hidden_digest = digest.finish();
        score.sketches = sketcher.map(Sketcher::finish).unwrap_or_default();
        Ok(score)
    }
}

fn sketcher(key: RaceKey, whitening: &Arc<Whitening>) -> Sketcher {
    Sketcher::new(SketchKey::of(key), Arc::clone(whitening))
}

fn run_race(
    logits: &[f32],
    temperature: f32,
    key: RaceKey,
    step: u32,
) -> Result<TokenId, ModelError> {
    race_winner(logits, temperature, key, step)
        .ok_or_else(|| ModelError::NotFinite("the logits".to_owned()))
}

fn choose(
    logits: &[f32],
    sampling: Sampling,
    key: RaceKey,
    step: u32,
) -> Result<TokenId, ModelError> {
    match sampling {
        Sampling::Race { temperature } => run_race(logits, temperature, key, step),
        Sampling::Greedy => {
            let best = |best: TokenId, token: TokenId| {
                let better = logits[weights::index(token)] > logits[weights::index(best)];
                if better { token } else { best }
            };
            Ok((0..VOCAB_SIZE).fold(0, best))
        }
        Sampling::TopP { temperature, top_p } => {
            let cold: Vec<f32> = logits.iter().map(|logit| logit / temperature).collect();
            let mut order: Vec<TokenId> = (0..VOCAB_SIZE).collect();
            order.sort_by(|&a, &b| cold[weights::index(b)].total_cmp(&cold[weights::index(a)]));
            let mut mass = 0.0;
            let is_kept = |token: &TokenId| {
                let is_kept = mass < top_p;
                mass += weights::logprob(&cold, *token).exp();
                is_kept
            };
            let kept: Vec<TokenId> = order.into_iter().take_while(is_kept).collect();
            let of =
                |token| race_score(logits[weights::index(token)], temperature, key, step, token);
            let better = |best: TokenId, token: TokenId| {
                if of(token) > of(best) { token } else { best }
            };
            kept.into_iter()
                .reduce(better)
                .ok_or_else(|| ModelError::BadRequest(format!("top_p {top_p} keeps no token")))
        }
    }
}

fn bad_request<T>(reason: String) -> Result<T, ModelError> {
    Err(ModelError::BadRequest(reason))
}

fn check_tokens(tokens: &[TokenId], prompt_len: usize, total: usize) -> Result<(), ModelError> {
    if prompt_len == 0 || prompt_len > tokens.len() {
        return bad_request(format!("a prompt of {prompt_len} of {} tokens", tokens.len()));
    }
    if total > POSITIONS_MAX {
        return bad_request(format!("{total} tokens, more than {POSITIONS_MAX}"));
    }
    match tokens.iter().find(|&&token| token >= VOCAB_SIZE) {
        Some(token) => bad_request(format!("token {token} of a vocabulary of {VOCAB_SIZE}")),
        None => Ok(()),
    }
}

fn check_temperature(temperature: f32) -> Result<(), ModelError> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(());
    }
    bad_request(format!("temperature {temperature}"))
}

fn check_whitening(whitening: Option<&Arc<Whitening>>) -> Result<(), ModelError> {
    match whitening.map(|whitening| whitening.hidden_size()) {
        None | Some(HIDDEN_SIZE) => Ok(()),
        Some(other) => bad_request(format!("whitening of {other} dimensions, not {HIDDEN_SIZE}")),
    }
}

fn check_generate(request: &GenerateRequest) -> Result<(), ModelError> {
    let GenerateRequest { prompt, race_keys, sampling, max_new_tokens, whitening } = request;
    check_whitening(whitening.as_ref())?;
    let room = usize::try_from(*max_new_tokens).unwrap_or(usize::MAX);
    check_tokens(prompt, prompt.len(), prompt.len().saturating_add(room))?;
    if *max_new_tokens == 0 || race_keys.is_empty() {
        return bad_request("a group without completions or tokens".to_owned());
    }
    match *sampling {
        Sampling::Greedy => Ok(()),
        Sampling::Race { temperature } => check_temperature(temperature),
        Sampling::TopP { temperature, top_p } => {
            check_temperature(temperature)?;
            if top_p > 0.0 && top_p <= 1.0 { Ok(()) } else { bad_request(format!("top_p {top_p}")) }
        }
    }
}

fn check_score(request: &ScoreRequest) -> Result<(), ModelError> {
    let ScoreRequest { tokens, prompt_len, race, whitening, .. } = request;
    check_whitening(whitening.as_ref())?;
    if whitening.is_some() && race.is_none() {
        return bad_request("sketches without the key of a race".to_owned());
    }
    check_tokens(tokens, *prompt_len, tokens.len())?;
    if *prompt_len == tokens.len() {
        return bad_request("a sequence without a completion".to_owned());
    }
    race.map_or(Ok(()), |race| check_temperature(race.temperature))
}

impl Model for FakeModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Writes each message as a line break, the first letter of its role and the content; then `>`.
    fn render(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, ModelError> {
        let mut text = String::new();
        for message in messages {
            text.push('\n');
            text.push_str(&message.role.as_str()[..1]);
            text.push_str(&message.content);
        }
        text.push('>');
        self.encode(&text)
    }

    /// Turns what is no ASCII character into `?`.
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        let character = |c| {
            let token = TokenId::from(c);
            if (FIRST_CHARACTER..VOCAB_SIZE).contains(&token) { token } else { '?'.into() }
        };
        Ok(text.chars().map(character).collect())
    }

    fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        let characters = tokens.iter().filter(|&&token| token >= FIRST_CHARACTER);
        let character = |&token: &TokenId| {
            u8::try_from(token).ok().filter(u8::is_ascii).map(char::from).ok_or_else(|| {
                ModelError::BadRequest(format!("token {token} of a vocabulary of {VOCAB_SIZE}"))
            })
        };
        characters.map(character).collect()
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        requests.iter().try_for_each(check_generate)?;
        for (index, request) in requests.iter().enumerate() {
            if stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            let keys = request.race_keys.iter();
            let group = keys.map(|key| self.complete(request, RaceKey(*key)));
            on_group(index, group.collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    fn score(&self, requests: &[ScoreRequest], stop: &StopFlag) -> Result<Vec<Score>, ModelError> {
        requests.iter().try_for_each(check_score)?;
        let score = |request| {
            if stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            match &self.memo {
                Some(memo) => memo.get(request, || self.score_one(request)),
                None => self.score_one(request),
            }
        };
        requests.iter().map(score).collect()
    }
}

#[cfg(test)]
mod tests;
