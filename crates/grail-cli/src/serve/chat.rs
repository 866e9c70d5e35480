//! `POST /v1/chat/completions`: the model's answer to a conversation.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use grail_model::tokenizer::Tokenizer;
use grail_protocol::ids::TokenId;
use serde::Serialize;
use serde_json::Value;

use super::account::Account;
use super::app::App;
use super::error::{Answer, ApiError, json};
use super::fields::Fields;
use super::job::{Choice, Job, finish_reason};
use super::limits::TOP_LOGPROBS_MAX;
use super::options::{self, Common};
use super::prompt::messages;
use super::route::{Plan, Route, Whole, streamed_or_whole};
use super::streaming::Chunks;
use super::wire::{Usage, token_text};
use crate::inference::assembler::{Piece, Token};
use crate::inference::sequence::Ending;

const ROUTE: Route = Route { path: "/v1/chat/completions", id_prefix: "chatcmpl" };
const PROMPT: &str = "messages";

/// Answers a request.
pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Answer {
    streamed_or_whole(app, ROUTE, request, parse).await
}

fn parse(app: &App, mut fields: Fields) -> Answer<Plan<Words>> {
    let Common { sampling, races, n, stops, stream, include_usage } =
        options::common(app, &mut fields)?;
    let prompt = messages(fields.take(PROMPT).unwrap_or(Value::Null))?;
    let old = fields.integer("max_tokens", 1, u32::MAX.into())?;
    let new = fields.integer("max_completion_tokens", 1, u32::MAX.into())?;
    let max_new_tokens = new.or(old).and_then(|max| u32::try_from(max).ok());
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX.into())?;
    if top.is_some_and(|top| top > 0) && !logprobs {
        let message = "`top_logprobs` needs `logprobs` to be true";
        return Err(ApiError::field("top_logprobs", message));
    }
    options::refuse_tools(&mut fields)?;
    fields.end()?;

    let tokenizer = app.model.tokenizer().clone();
    let words = Words { tokenizer, logprobs, n, include_usage };
    let job = Job {
        prompts: Vec::new(),
        n,
        sampling,
        races,
        max_new_tokens,
        stops,
        top_logprobs: top.and_then(|top| u8::try_from(top).ok()).unwrap_or(0),
        goes_on: false,
        ignore_eos: false,
        capture_digest: false,
    };
    Ok(Plan { prompts: vec![prompt], prompt_field: PROMPT, job, words, stream })
}

/// How answers are worded.
struct Words {
    tokenizer: Arc<Tokenizer>,
    logprobs: bool,
    n: usize,
    include_usage: bool,
}

#[derive(Serialize)]
struct Completion<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct WholeChoice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: (),
}

#[derive(Serialize)]
struct DeltaChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

#[derive(Serialize)]
struct Logprobs {
    content: Vec<TokenLogprob>,
    refusal: (),
}

#[derive(Serialize)]
struct TokenLogprob {
    #[serde(flatten)]
    token: Alternative,
    top_logprobs: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Words {
    fn message<'a, C>(
        &self,
        account: &'a Account,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Option<Usage>>,
    ) -> Completion<'a, C> {
        Completion {
            id: &account.id,
            object,
            created: account.created,
            model: &account.app.name,
            system_fingerprint: &account.app.fingerprint,
            choices,
            usage,
        }
    }

    fn chunk(&self, account: &Account, choices: Vec<DeltaChoice>, usage: Option<Usage>) -> String {
        // With usage asked for, every chunk has the field and all but the last have null in it.
        let usage = self.include_usage.then_some(usage);
        let chunk = self.message(account, "chat.completion.chunk", choices, usage);
        serde_json::to_string(&chunk).expect("an answer is always JSON")
    }

    fn logprobs(&self, tokens: &[Token]) -> Option<Logprobs> {
        let told = |token: &Token| TokenLogprob {
            token: self.alternative(token.id, token.logprob),
            top_logprobs: token.top.iter().map(|(id, lp)| self.alternative(*id, *lp)).collect(),
        };
        self.logprobs.then(|| Logprobs {
            content: tokens.iter().filter(|token| token.is_shown).map(told).collect(),
            refusal: (),
        })
    }

    fn alternative(&self, id: TokenId, logprob: f32) -> Alternative {
        let token = token_text(&self.tokenizer, id);
        Alternative { token, logprob, bytes: self.tokenizer.token_bytes(id) }
    }
}

impl Whole for Words {
    fn whole(self, account: &Account, choices: Vec<Choice>) -> Response {
        let choices = choices.into_iter().enumerate().map(|(index, choice)| WholeChoice {
            index,
            logprobs: self.logprobs(&choice.tokens),
            message: Message { role: "assistant", content: choice.text, refusal: () },
            finish_reason: finish_reason(&choice.ending.finish),
        });
        let choices = choices.collect();
        let usage = Some(Some(Usage::of(account)));
        json(self.message(account, "chat.completion", choices, usage))
    }
}

impl Chunks for Words {
    fn first(&mut self, account: &Account) -> Vec<String> {
        let chunks = (0..self.n).map(|index| {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            let choice = DeltaChoice { index, delta, logprobs: None, finish_reason: None };
            self.chunk(account, vec![choice], None)
        });
        chunks.collect()
    }

    fn piece(&mut self, account: &Account, index: usize, piece: Piece) -> Option<String> {
        let logprobs = self.logprobs(&piece.tokens);
        if piece.text.is_empty() && logprobs.as_ref().is_none_or(|told| told.content.is_empty()) {
            return None;
        }
        let delta = Delta { role: None, content: Some(piece.text) };
        let choice = DeltaChoice { index, delta, logprobs, finish_reason: None };
        Some(self.chunk(account, vec![choice], None))
    }

    fn done(&mut self, account: &Account, index: usize, ending: &Ending) -> String {
        let finish_reason = Some(finish_reason(&ending.finish));
        let choice = DeltaChoice { index, delta: Delta::default(), logprobs: None, finish_reason };
        self.chunk(account, vec![choice], None)
    }

    fn last(&mut self, account: &Account) -> Option<String> {
        self.include_usage.then(|| self.chunk(account, Vec::new(), Some(Usage::of(account))))
    }
}
