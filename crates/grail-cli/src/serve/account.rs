//! Keeps the books of one request: its log line and its metrics, however it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::error::ApiError;
use super::job::Started;
use crate::inference::sequence::Ending;

/// Lives as long as the request; what happened is written down when it goes.
///
/// The log never has a word of a prompt or of a completion.
pub struct Account {
    /// What all requests share.
    pub app: Arc<App>,
    /// Id of the answer, such as `cmpl-…`.
    pub id: String,
    /// When the answer was begun, seconds since 1970.
    pub created: u64,
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Tokens of the choices that are done.
    pub completion_tokens: usize,
    /// Prompt tokens that were cached; `None` once a choice did not tell.
    pub cached_tokens: Option<usize>,
    route: &'static str,
    choices: usize,
    started: Instant,
    outcome: Option<&'static str>,
    _permit: OwnedSemaphorePermit,
}

impl Account {
    /// Opens the books of a request that arrived at `started`.
    pub fn open(
        app: Arc<App>,
        route: &'static str,
        prefix: &str,
        started: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, ApiError> {
        let mut random = [0; 12];
        getrandom::fill(&mut random)
            .map_err(|error| ApiError::internal(format!("no random numbers: {error}")))?;
        let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            app,
            id: format!("{prefix}-{digits}"),
            created: super::app::unix_time(),
            prompt_tokens: 0,
            completion_tokens: 0,
            cached_tokens: Some(0),
            route,
            choices: 0,
            started,
            outcome: None,
            _permit: permit,
        })
    }

    /// Notes what was begun.
    pub fn begin(&mut self, started: &Started) {
        self.prompt_tokens = started.prompt_tokens;
        self.choices = started.sequences.len();
    }

    /// Notes the end of a choice. Only the first choice of each prompt says what was cached: the
    /// others share the first one's prompt.
    pub fn choice_done(&mut self, ending: &Ending, is_first_of_prompt: bool) {
        self.completion_tokens += ending.n_tokens as usize;
        if is_first_of_prompt {
            let told = ending.prompt_tokens_cached.map(|tokens| tokens as usize);
            self.cached_tokens = self.cached_tokens.zip(told).map(|(sum, tokens)| sum + tokens);
        }
    }

    /// Notes that the client gets all of its answer.
    pub fn done(&mut self) {
        self.outcome = Some("done");
    }

    /// Notes a failure, which the client is told.
    pub fn failed(&mut self, error: &ApiError) {
        self.outcome = Some(error.code.unwrap_or("bad_request"));
    }

    /// Returns how long the request has taken, seconds.
    pub fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        self.app.metrics.request.observe(took);
        if self.outcome.is_none() {
            self.app.metrics.disconnected.fetch_add(1, Relaxed);
        }
        tracing::info!(
            id = %self.id,
            route = self.route,
            outcome = self.outcome.unwrap_or("disconnected"),
            choices = self.choices,
            prompt_tokens = self.prompt_tokens,
            completion_tokens = self.completion_tokens,
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "answered a request"
        );
    }
}
