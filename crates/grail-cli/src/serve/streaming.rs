//! Server-sent events: a request's chunks as they come, an error as the last one, or `[DONE]`.
//!
//! Everything lives in the body that the connection pulls from. When the client goes, the body is
//! dropped, with it the sequences, and with them their slots in the engine.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream, StreamExt};

use super::account::Account;
use super::error::ApiError;
use super::job::finished;
use super::limits::KEEP_ALIVE;
use crate::inference::assembler::Piece;
use crate::inference::sequence::{ChoiceStep, Ending, Sequence, Step, steps};

/// How a route words its chunks, as JSON.
pub trait Chunks: Send + 'static {
    /// What comes before any text.
    fn first(&mut self, account: &Account) -> Vec<String>;
    /// A piece of a choice, if it is worth a chunk.
    fn piece(&mut self, account: &Account, choice: usize, piece: Piece) -> Option<String>;
    /// The end of a choice.
    fn done(&mut self, account: &Account, choice: usize, ending: &Ending) -> String;
    /// What comes after all choices.
    fn last(&mut self, account: &Account) -> Option<String>;
}

struct State<S, C> {
    steps: S,
    chunks: C,
    account: Account,
    /// Choices of each prompt.
    n: usize,
    queue: VecDeque<String>,
    is_over: bool,
}

/// Answers with a stream of events.
pub fn respond(
    account: Account,
    n: usize,
    sequences: Vec<Sequence>,
    mut chunks: impl Chunks,
) -> Response {
    let queue = chunks.first(&account).into();
    let state = State { steps: steps(sequences), chunks, account, n, queue, is_over: false };
    let events = stream::unfold(state, |mut state| async move {
        let data = state.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), state))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

impl<S: Stream<Item = ChoiceStep> + Unpin, C: Chunks> State<S, C> {
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.queue.pop_front() {
                return Some(data);
            }
            if self.is_over {
                return None;
            }
            match self.steps.next().await {
                Some((choice, step)) => self.take(choice, step.map_err(ApiError::from)),
                None => {
                    self.queue.extend(self.chunks.last(&self.account));
                    self.queue.push_back("[DONE]".to_owned());
                    self.account.done();
                    self.is_over = true;
                }
            }
        }
    }

    fn take(&mut self, choice: usize, step: Result<Step, ApiError>) {
        let step = step.and_then(|step| match step {
            Step::Done(ending) => finished(ending).map(Step::Done),
            piece @ Step::Piece(_) => Ok(piece),
        });
        match step {
            Ok(Step::Piece(piece)) => {
                self.queue.extend(self.chunks.piece(&self.account, choice, piece));
            }
            Ok(Step::Done(ending)) => {
                self.account.choice_done(&ending, choice.is_multiple_of(self.n));
                self.queue.push_back(self.chunks.done(&self.account, choice, &ending));
            }
            Err(error) => {
                self.account.failed(&error);
                self.queue.push_back(error.to_json());
                self.is_over = true;
            }
        }
    }
}
