//! `POST /v1/completions`: text goes on from a prompt.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use grail_model::tokenizer::Tokenizer;
use serde::Serialize;
use serde_json::{Map, Value};

use super::account::Account;
use super::app::App;
use super::error::{Answer, ApiError, json};
use super::fields::{Fields, whole};
use super::job::{Choice, Job, finish_reason};
use super::limits::TOP_LOGPROBS_MAX;
use super::options::{self, Common};
use super::params::is_empty;
use super::prompt::{Prompt, texts_or_tokens};
use super::route::{Plan, Route, Whole, streamed_or_whole};
use super::streaming::Chunks;
use super::wire::{Usage, token_text};
use crate::inference::assembler::{Piece, Token};
use crate::inference::sequence::Ending;

/// Tokens of a completion that does not say how many, as in OpenAI's API.
const MAX_TOKENS_DEFAULT: u32 = 16;

const ROUTE: Route = Route { path: "/v1/completions", id_prefix: "cmpl" };
const PROMPT: &str = "prompt";

/// Answers a request.
pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Answer {
    streamed_or_whole(app, ROUTE, request, parse).await
}

fn parse(app: &App, mut fields: Fields) -> Answer<Plan<Words>> {
    let Common { sampling, races, n, stops, stream, include_usage } =
        options::common(app, &mut fields)?;
    let prompt = fields.take(PROMPT).unwrap_or(Value::Null);
    let prompts = texts_or_tokens(PROMPT, prompt)?;
    let max_tokens = fields.integer("max_tokens", 1, u32::MAX.into())?;
    let max_tokens = max_tokens.and_then(|max| u32::try_from(max).ok());
    let logprobs = fields.integer("logprobs", 0, TOP_LOGPROBS_MAX.into())?;
    let top_logprobs = logprobs.and_then(|top| u8::try_from(top).ok()).unwrap_or(0);
    let echo = fields.flag("echo")?.unwrap_or(false);
    if echo && logprobs.is_some() {
        let message = "`echo` together with `logprobs` is not supported; leave one of them out";
        return Err(ApiError::unsupported("echo", message));
    }
    // The best of as many as are returned is all of them.
    fields.neutral("best_of", |value| whole(value) == u64::try_from(n).ok())?;
    fields.neutral("suffix", |value| value.as_str() == Some(""))?;
    fields.neutral("logit_bias", is_empty)?;
    fields.end()?;

    let echoed = if echo {
        prompts.iter().map(|prompt| shown(app, prompt)).collect()
    } else {
        Ok(Vec::new())
    };
    let words = Words {
        tokenizer: app.model.tokenizer().clone(),
        logprobs: logprobs.is_some(),
        echoed: echoed?,
        n,
        include_usage,
    };
    let job = Job {
        prompts: Vec::new(),
        n,
        sampling,
        races,
        max_new_tokens: Some(max_tokens.unwrap_or(MAX_TOKENS_DEFAULT)),
        stops,
        top_logprobs,
        goes_on: true,
        ignore_eos: false,
        capture_digest: false,
    };
    Ok(Plan { prompts, prompt_field: PROMPT, job, words, stream })
}

/// Returns a prompt as text.
fn shown(app: &App, prompt: &Prompt) -> Answer<String> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Tokens(ids) => {
            let text = app.model.tokenizer().decode(ids, true);
            text.map_err(|error| ApiError::field(PROMPT, error.to_string()))
        }
        Prompt::Chat(_) => Ok(String::new()),
    }
}

/// How completions are worded.
struct Words {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
    /// Texts of the prompts if they are to be repeated.
    echoed: Vec<String>,
    n: usize,
    include_usage: bool,
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct CompletionChoice {
    index: usize,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

/// Log-probabilities in the shape of OpenAI's older API. All lists have one entry a token.
#[derive(Default, Serialize)]
struct Logprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
    text_offset: Vec<usize>,
}

impl Words {
    fn message<'a>(
        &self,
        account: &'a Account,
        choices: Vec<CompletionChoice>,
        usage: Option<Option<Usage>>,
    ) -> Completion<'a> {
        Completion {
            id: &account.id,
            object: "text_completion",
            created: account.created,
            model: &account.app.name,
            system_fingerprint: &account.app.fingerprint,
            choices,
            usage,
        }
    }

    fn chunk(
        &self,
        account: &Account,
        choices: Vec<CompletionChoice>,
        usage: Option<Usage>,
    ) -> String {
        // With usage asked for, every chunk has the field and all but the last have null in it.
        let usage = self.include_usage.then_some(usage);
        serde_json::to_string(&self.message(account, choices, usage))
            .expect("an answer is always JSON")
    }

    fn logprobs(&self, tokens: &[Token]) -> Option<Logprobs> {
        if !self.logprobs {
            return None;
        }
        let mut logprobs = Logprobs::default();
        for token in tokens.iter().filter(|token| token.is_shown) {
            let text = token_text(&self.tokenizer, token.id);
            let top =
                token.top.iter().map(|(id, logprob)| (token_text(&self.tokenizer, *id), *logprob));
            // The token that was drawn is always among them.
            let drawn = std::iter::once((text.clone(), token.logprob));
            let top = top.chain(drawn).map(|(text, logprob)| (text, number(logprob)));
            logprobs.top_logprobs.push(top.collect());
            logprobs.tokens.push(text);
            logprobs.token_logprobs.push(token.logprob);
            logprobs.text_offset.push(token.text_offset);
        }
        Some(logprobs)
    }
}

/// Returns a number that reads as the f32 it is, in as few digits.
fn number(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().unwrap_or_else(|_| f64::from(value));
    serde_json::Number::from_f64(shortest).map_or(Value::Null, Value::Number)
}

impl Whole for Words {
    fn whole(self, account: &Account, choices: Vec<Choice>) -> Response {
        let choices = choices.into_iter().enumerate().map(|(index, choice)| {
            let echoed = self.echoed.get(index / self.n).map_or("", String::as_str);
            CompletionChoice {
                index,
                text: format!("{echoed}{}", choice.text),
                logprobs: self.logprobs(&choice.tokens),
                finish_reason: Some(finish_reason(&choice.ending.finish)),
            }
        });
        let choices = choices.collect();
        json(self.message(account, choices, Some(Some(Usage::of(account)))))
    }
}

impl Chunks for Words {
    fn first(&mut self, account: &Account) -> Vec<String> {
        let choices = self.echoed.iter().flat_map(|text| std::iter::repeat_n(text, self.n));
        let chunks = choices.enumerate().map(|(index, text)| {
            let choice =
                CompletionChoice { index, text: text.clone(), logprobs: None, finish_reason: None };
            self.chunk(account, vec![choice], None)
        });
        chunks.collect()
    }

    fn piece(&mut self, account: &Account, index: usize, piece: Piece) -> Option<String> {
        let logprobs = self.logprobs(&piece.tokens);
        if piece.text.is_empty() && logprobs.as_ref().is_none_or(|told| told.tokens.is_empty()) {
            return None;
        }
        let choice = CompletionChoice { index, text: piece.text, logprobs, finish_reason: None };
        Some(self.chunk(account, vec![choice], None))
    }

    fn done(&mut self, account: &Account, index: usize, ending: &Ending) -> String {
        let finish_reason = Some(finish_reason(&ending.finish));
        let choice = CompletionChoice { index, text: String::new(), logprobs: None, finish_reason };
        self.chunk(account, vec![choice], None)
    }

    fn last(&mut self, account: &Account) -> Option<String> {
        self.include_usage.then(|| self.chunk(account, Vec::new(), Some(Usage::of(account))))
    }
}
