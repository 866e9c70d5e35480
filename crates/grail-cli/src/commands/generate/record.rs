//! All that was generated, for the JSON answer and the summary.

use std::time::Duration;

use anyhow::Result;
use grail_model::LocalModel;
use grail_ports::model::Model;
use serde::Serialize;

use super::Job;
use crate::inference::assembler::Token;
use crate::inference::seed;
use crate::inference::sequence::{Ending, Finish, Step};

/// Version of the JSON.
const VERSION: u32 = 1;

/// The choices so far.
pub struct Record {
    choices: Vec<Choice>,
}

#[derive(Default)]
struct Choice {
    text: String,
    tokens: Vec<Token>,
    ending: Option<Ending>,
}

/// What `--json` prints; `docs/serve.md` explains it.
#[derive(Serialize)]
struct Told<'a> {
    version: u32,
    numerics: &'a str,
    checkpoint_digest: String,
    seed: u64,
    temperature: f64,
    top_p: f64,
    prompt_tokens: usize,
    completion_tokens: u32,
    seconds: f64,
    choices: Vec<ToldChoice<'a>>,
}

#[derive(Serialize)]
struct ToldChoice<'a> {
    index: usize,
    text: &'a str,
    finish_reason: &'static str,
    stop: Option<&'a str>,
    completion_tokens: u32,
    race_key: [u32; 4],
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<ToldToken>>,
}

#[derive(Serialize)]
struct ToldToken {
    id: u32,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Record {
    /// Nothing so far.
    pub fn new(n: usize) -> Self {
        Self { choices: (0..n).map(|_| Choice::default()).collect() }
    }

    /// Notes a step.
    pub fn take(&mut self, choice: usize, step: &Step) {
        let choice = &mut self.choices[choice];
        match step {
            Step::Piece(piece) => {
                choice.text.push_str(&piece.text);
                choice.tokens.extend_from_slice(&piece.tokens);
            }
            Step::Done(ending) => choice.ending = Some(ending.clone()),
        }
    }

    /// Returns the number of tokens generated.
    pub fn n_tokens(&self) -> u32 {
        self.choices.iter().map(Choice::n_tokens).sum()
    }

    /// Returns the answer.
    pub fn to_json(&self, job: &Job<'_>, model: &LocalModel, took: Duration) -> Result<String> {
        let info = model.info();
        let choices = (0u32..).zip(&self.choices);
        let told = Told {
            version: VERSION,
            numerics: &info.numerics,
            checkpoint_digest: info.checkpoint_digest.to_hex(),
            seed: job.seed,
            temperature: job.args.temperature,
            top_p: job.args.top_p,
            prompt_tokens: job.prompt.len(),
            completion_tokens: self.n_tokens(),
            seconds: took.as_secs_f64(),
            choices: choices.map(|(idx, choice)| choice.told(idx, job, model)).collect(),
        };
        Ok(serde_json::to_string(&told)?)
    }
}

impl Choice {
    fn n_tokens(&self) -> u32 {
        let told = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        self.ending.as_ref().map_or(told, |ending| ending.n_tokens)
    }

    fn told(&self, idx: u32, job: &Job<'_>, model: &LocalModel) -> ToldChoice<'_> {
        let finish = self.ending.as_ref().map_or(&Finish::Cancelled, |ending| &ending.finish);
        let (finish_reason, stop) = match finish {
            Finish::EndToken(_) => ("stop", None),
            Finish::StopText(text) => ("stop", Some(text.as_str())),
            Finish::Length => ("length", None),
            Finish::Cancelled => ("cancelled", None),
        };
        let token = |token: &Token| ToldToken {
            id: token.id,
            logprob: token.logprob,
            bytes: model.tokenizer().token_bytes(token.id),
        };
        ToldChoice {
            index: idx as usize,
            text: &self.text,
            finish_reason,
            stop,
            completion_tokens: self.n_tokens(),
            race_key: seed::race_key(job.seed, idx),
            tokens: job.args.logprobs.then(|| self.tokens.iter().map(token).collect()),
        }
    }
}
