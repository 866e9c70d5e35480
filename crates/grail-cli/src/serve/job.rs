//! One request's sequences: a choice for each prompt and each of its `n`.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use grail_ports::model::Sampling;
use grail_protocol::ids::TokenId;

use super::app::App;
use super::error::{Answer, ApiError};
use crate::inference::assembler::{Reading, Token};
use crate::inference::engine::{SequenceEvent, SequenceRequest};
use crate::inference::seed;
use crate::inference::sequence::{self, Ask, Broken, Ending, Finish, Sequence, Step, steps};

/// Last prompt tokens that a text may need to go on from.
const CONTEXT_TOKENS: usize = 8;

/// What a request asks the engine for.
#[derive(Clone, Debug)]
pub struct Job {
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<TokenId>>,
    /// Choices of each prompt.
    pub n: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Where the choices' races come from.
    pub races: Races,
    /// Most tokens of a choice; less where the context ends.
    pub max_new_tokens: Option<u32>,
    /// Texts that end a choice.
    pub stops: Vec<String>,
    /// Alternatives told for each token.
    pub top_logprobs: u8,
    /// Whether the text goes on from the prompt, or is an answer of its own.
    pub goes_on: bool,
    /// Whether an end token ends nothing.
    pub ignore_eos: bool,
    /// Whether the digest over hidden states is computed.
    pub capture_digest: bool,
}

/// Where the races of the choices come from.
#[derive(Clone, Debug)]
pub enum Races {
    /// A seed; the key of a choice follows from it and the choice's index.
    Seed(u64),
    /// One key for each choice.
    Keys(Vec<[u32; 4]>),
}

/// Sequences that are on their way.
pub struct Started {
    /// By index of the choice: those of the first prompt, then those of the second, ….
    pub sequences: Vec<Sequence>,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
}

/// A choice that is complete.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// All its tokens, also those that are not shown.
    pub tokens: Vec<Token>,
    /// How it ended.
    pub ending: Ending,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
}

impl Job {
    /// Queues every sequence, or none.
    ///
    /// # Errors
    /// 429 when they do not all fit the queue, 503 when the server drains, 400 when there are more
    /// than could ever fit.
    pub fn start(&self, app: &Arc<App>) -> Answer<Started> {
        let n_choices = self.prompts.len().saturating_mul(self.n);
        let choices_max = app.limits.choices_max();
        if n_choices > choices_max {
            let message = format!(
                "{n_choices} choices (prompts times n) in one request, at most {choices_max} are \
                 taken; send fewer at a time"
            );
            return Err(ApiError::field("n", message));
        }
        // Sequences begun before a refusal are dropped with the vector, which cancels them.
        let mut sequences = Vec::with_capacity(n_choices);
        let each = self.prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt, self.n));
        for (choice, prompt) in each.enumerate() {
            sequences.push(self.start_one(app, choice, prompt)?);
        }
        let prompt_tokens = self.prompts.iter().map(Vec::len).sum();
        Ok(Started { sequences, prompt_tokens })
    }

    fn start_one(&self, app: &Arc<App>, choice: usize, prompt: &[TokenId]) -> Answer<Sequence> {
        let race_key = match &self.races {
            Races::Keys(keys) => keys[choice],
            Races::Seed(seed) => seed::race_key(*seed, bounded(choice)),
        };
        let room = bounded(app.limits.context_max.saturating_sub(prompt.len()));
        let context = if self.goes_on { prompt } else { &[] };
        let context = context[context.len().saturating_sub(CONTEXT_TOKENS)..].to_vec();
        let end_tokens = match self.ignore_eos {
            true => Vec::new(),
            false => app.model.tokenizer().eos_token_ids().to_vec(),
        };
        let ask = Ask {
            request: SequenceRequest {
                prompt: prompt.to_vec(),
                sampling: self.sampling,
                race_key,
                max_new_tokens: self.max_new_tokens.unwrap_or(room).min(room),
                top_logprobs: self.top_logprobs,
                capture_digest: self.capture_digest,
                whitening: None,
                ignore_eos: self.ignore_eos,
            },
            reading: Reading { context, stops: self.stops.clone(), end_tokens },
            deadline: Some(Instant::now() + app.limits.request_time),
        };
        let tokenizer = app.model.tokenizer().clone();
        sequence::start(&*app.engine, tokenizer, ask, observe(app.clone())).map_err(|error| {
            let waiting = app.engine.stats().waiting;
            let retry = app.metrics.retry_after_s(waiting, app.limits.running_max);
            ApiError::of_submit(error, retry)
        })
    }
}

/// Returns what watches a sequence's events for the metrics.
fn observe(app: Arc<App>) -> impl FnMut(&SequenceEvent) + Send {
    let submitted = Instant::now();
    let mut first: Option<Instant> = None;
    let mut last: Option<Instant> = None;
    move |event| {
        let now = Instant::now();
        match event {
            SequenceEvent::Token { .. } => {
                match last {
                    None => app.metrics.first_token.observe(now - submitted),
                    Some(last) => app.metrics.next_token.observe(now - last),
                }
                first.get_or_insert(now);
                last = Some(now);
            }
            SequenceEvent::Finished { .. } => {
                if let Some(first) = first {
                    app.metrics.running.observe(now - first);
                }
            }
        }
    }
}

fn bounded(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Waits for all choices.
///
/// # Errors
/// When one of them broke off, or the engine was stopped.
pub async fn collect(job: &Job, sequences: Vec<Sequence>) -> Answer<Vec<Choice>> {
    let n_choices = sequences.len();
    let mut parts: Vec<(String, Vec<Token>, Option<Ending>)> =
        (0..n_choices).map(|_| (String::new(), Vec::new(), None)).collect();
    let mut steps = steps(sequences);
    while let Some((choice, step)) = steps.next().await {
        let (text, tokens, ending) = &mut parts[choice];
        match step? {
            Step::Piece(piece) => {
                text.push_str(&piece.text);
                tokens.extend(piece.tokens);
            }
            Step::Done(end) => *ending = Some(finished(end)?),
        }
    }
    let choices = parts.into_iter().enumerate().map(|(idx, (text, tokens, ending))| {
        let ending = ending.ok_or_else(|| ApiError::from(Broken::EngineGone))?;
        Ok(Choice { text, tokens, ending, prompt_tokens: job.prompts[idx / job.n].len() })
    });
    choices.collect()
}

/// Tells an end from a stop of the engine, which is a failure to the client.
pub fn finished(ending: Ending) -> Answer<Ending> {
    match ending.finish {
        Finish::Cancelled => Err(ApiError::draining()),
        _ => Ok(ending),
    }
}

/// Returns OpenAI's word for an end.
pub fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::EndToken(_) | Finish::StopText(_) => "stop",
        Finish::Length | Finish::Cancelled => "length",
    }
}
