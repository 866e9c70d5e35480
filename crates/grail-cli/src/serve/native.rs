//! `POST /generate`: token ids in, token ids and log-probabilities out, as RL miners and trainers
//! want them (SGLang's shape).
//!
//! Beyond SGLang it takes a race key for each choice and gives the digest over hidden states, so a
//! rollout made here can be proved.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use grail_protocol::ids::{Digest, TokenId};
use serde::Serialize;
use serde_json::Value;

use super::account::Account;
use super::app::App;
use super::error::{Answer, ApiError, json};
use super::fields::{Fields, whole};
use super::job::{Choice, Job, Races};
use super::limits::{CHOICES_MAX, TOP_LOGPROBS_MAX};
use super::options::seed_or_random;
use super::params::{self, is_empty, is_number};
use super::prompt::texts_or_tokens;
use super::route::{self, Plan, Route, Whole};
use crate::inference::assembler::Token;
use crate::inference::sequence::Finish;

/// Tokens of a choice that does not say how many, as in SGLang.
const MAX_NEW_TOKENS_DEFAULT: u32 = 128;

const ROUTE: Route = Route { path: "/generate", id_prefix: "gen" };

/// Answers a request.
pub async fn handle(State(app): State<Arc<App>>, request: Request) -> Answer {
    route::whole(app, ROUTE, request, parse).await
}

fn parse(app: &App, mut fields: Fields) -> Answer<Plan<Words>> {
    params::model(&mut fields, app)?;
    let (field, value) = match (fields.take("text"), fields.take("input_ids")) {
        (Some(text), None) => ("text", text),
        (None, Some(ids)) => ("input_ids", ids),
        _ => return Err(ApiError::bad("give either `text` or `input_ids`")),
    };
    let is_one = value.is_string()
        || value.as_array().is_some_and(|list| list.first().is_some_and(Value::is_number));
    let prompts = texts_or_tokens(field, value)?;
    let logprobs = fields.flag("return_logprob")?.unwrap_or(false);
    let top = fields.integer("top_logprobs_num", 0, TOP_LOGPROBS_MAX.into())?.unwrap_or(0);
    let capture_digest = fields.flag("return_hidden_digest")?.unwrap_or(false);
    let rid = fields.text("rid")?;
    fields.neutral("stream", |value| value == &Value::Bool(false))?;
    fields.neutral("logprob_start_len", is_number(-1.0))?;
    for name in ["return_text_in_logprobs", "return_hidden_states"] {
        fields.neutral(name, |value| value == &Value::Bool(false))?;
    }
    let params = fields.take("sampling_params");
    fields.end()?;
    let Params { sampling, races, n, max_new_tokens, stops, ignore_eos } =
        sampling_params(params, prompts.len())?;

    let is_one = is_one && n == 1;
    let words = Words { logprobs, top: top > 0, is_one, rid };
    let job = Job {
        prompts: Vec::new(),
        n,
        sampling,
        races,
        max_new_tokens: Some(max_new_tokens),
        stops,
        top_logprobs: u8::try_from(top).unwrap_or(TOP_LOGPROBS_MAX),
        goes_on: true,
        ignore_eos,
        capture_digest,
    };
    Ok(Plan { prompts, prompt_field: field, job, words, stream: false })
}

struct Params {
    sampling: grail_ports::model::Sampling,
    races: Races,
    n: usize,
    max_new_tokens: u32,
    stops: Vec<String>,
    ignore_eos: bool,
}

fn sampling_params(value: Option<Value>, n_prompts: usize) -> Answer<Params> {
    let value = value.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let mut fields = Fields::within("sampling_params.", value)?;
    let sampling = params::sampling(&mut fields)?;
    let n = fields.integer("n", 1, CHOICES_MAX as u64)?.unwrap_or(1);
    let n = usize::try_from(n).unwrap_or(CHOICES_MAX);
    let max = fields.integer("max_new_tokens", 1, u32::MAX.into())?;
    let stops = params::stops(&mut fields)?;
    let ignore_eos = fields.flag("ignore_eos")?.unwrap_or(false);
    let seed = params::seed(&mut fields, "seed")?.or(params::seed(&mut fields, "sampling_seed")?);
    let races = match (fields.take("race_keys"), seed) {
        (None, seed) => Races::Seed(seed_or_random(seed)?),
        (Some(keys), None) => Races::Keys(race_keys(&keys, n_prompts.saturating_mul(n))?),
        (Some(_), Some(_)) => {
            let name = "sampling_params.race_keys";
            return Err(ApiError::field(name, "give either race keys or a seed"));
        }
    };
    fields.neutral("top_k", |value| value.as_i64() == Some(-1))?;
    for name in ["min_p", "frequency_penalty", "presence_penalty", "min_new_tokens"] {
        fields.neutral(name, is_number(0.0))?;
    }
    fields.neutral("repetition_penalty", is_number(1.0))?;
    for name in ["skip_special_tokens", "spaces_between_special_tokens"] {
        fields.neutral(name, |value| value == &Value::Bool(true))?;
    }
    fields.neutral("no_stop_trim", |value| value == &Value::Bool(false))?;
    for name in ["stop_token_ids", "logit_bias", "custom_params"] {
        fields.neutral(name, is_empty)?;
    }
    fields.end()?;
    let max_new_tokens =
        max.and_then(|max| u32::try_from(max).ok()).unwrap_or(MAX_NEW_TOKENS_DEFAULT);
    Ok(Params { sampling, races, n, max_new_tokens, stops, ignore_eos })
}

/// Reads one key of four 32-bit words for each choice.
fn race_keys(value: &Value, n_choices: usize) -> Answer<Vec<[u32; 4]>> {
    let word = |value: &Value| whole(value).and_then(|word| u32::try_from(word).ok());
    let key = |value: &Value| {
        let words: Vec<u32> = value.as_array()?.iter().map(word).collect::<Option<_>>()?;
        <[u32; 4]>::try_from(words).ok()
    };
    let keys: Option<Vec<[u32; 4]>> =
        value.as_array().and_then(|keys| keys.iter().map(key).collect());
    keys.filter(|keys| keys.len() == n_choices).ok_or_else(|| {
        let message = format!(
            "`sampling_params.race_keys` must have one list of four 32-bit numbers for each of the \
             {n_choices} choices"
        );
        ApiError::field("sampling_params.race_keys", message)
    })
}

/// How choices are worded.
struct Words {
    logprobs: bool,
    top: bool,
    /// Whether the answer is the choice itself and no list.
    is_one: bool,
    rid: Option<String>,
}

#[derive(Serialize)]
struct Generated {
    text: String,
    output_ids: Vec<TokenId>,
    meta_info: MetaInfo,
}

#[derive(Serialize)]
struct MetaInfo {
    id: String,
    finish_reason: FinishInfo,
    prompt_tokens: usize,
    completion_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u32>,
    e2e_latency: f64,
    weight_version: String,
    /// Log-probability, token, and nothing where SGLang may write the token's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_token_logprobs: Option<Vec<(f32, TokenId, ())>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_top_logprobs: Option<Vec<Vec<(f32, TokenId, ())>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_digest: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FinishInfo {
    Stop { matched: Matched },
    Length { length: u32 },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Matched {
    Token(TokenId),
    Text(String),
}

impl Whole for Words {
    fn whole(self, account: &Account, choices: Vec<Choice>) -> Response {
        let mut generated = choices.into_iter().enumerate().map(|(idx, choice)| {
            let id = match &self.rid {
                Some(rid) => rid.clone(),
                None => format!("{}-{idx}", account.id),
            };
            self.generated(account, id, choice)
        });
        if self.is_one
            && let Some(one) = generated.next()
        {
            return json(one);
        }
        json(generated.collect::<Vec<_>>())
    }
}

impl Words {
    fn generated(&self, account: &Account, id: String, choice: Choice) -> Generated {
        let Choice { text, tokens, ending, prompt_tokens } = choice;
        let entry = |(id, logprob): (TokenId, f32)| (logprob, id, ());
        let all = |token: &Token| token.top.iter().copied().map(entry).collect();
        let finish_reason = match ending.finish {
            Finish::EndToken(token) => FinishInfo::Stop { matched: Matched::Token(token) },
            Finish::StopText(text) => FinishInfo::Stop { matched: Matched::Text(text) },
            Finish::Length | Finish::Cancelled => FinishInfo::Length { length: ending.n_tokens },
        };
        Generated {
            text,
            output_ids: tokens.iter().map(|token| token.id).collect(),
            meta_info: MetaInfo {
                id,
                finish_reason,
                prompt_tokens,
                completion_tokens: ending.n_tokens,
                cached_tokens: ending.prompt_tokens_cached,
                e2e_latency: account.seconds(),
                weight_version: account.app.fingerprint.clone(),
                output_token_logprobs: self
                    .logprobs
                    .then(|| tokens.iter().map(|token| entry((token.id, token.logprob))).collect()),
                output_top_logprobs: (self.logprobs && self.top)
                    .then(|| tokens.iter().map(all).collect()),
                hidden_digest: ending.hidden_digest.map(Digest::to_hex),
            },
        }
    }
}
