//! A running sequence: takes the engine's events as fast as they come, gives pieces of text.
//!
//! Between the two is a bounded buffer. A reader that leaves [`EVENTS_MAX`] tokens unread loses its
//! sequence: the engine never waits for a reader, and no reader makes the buffer grow.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use futures::stream::{self, Stream, select_all};
use grail_model::tokenizer::{Tokenizer, TokenizerError};
use grail_ports::model::ModelError;
use grail_protocol::ids::{Digest, TokenId};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::assembler::{Assembler, Piece, Reading};
use super::engine::{
    FinishReason, Held, SequenceEngine, SequenceEvent, SequenceRequest, SubmitError,
};

/// Tokens that may wait for their reader.
pub const EVENTS_MAX: usize = 1024;

/// What to generate, and how to read it.
pub struct Ask {
    /// For the engine.
    pub request: SequenceRequest,
    /// For the reader.
    pub reading: Reading,
    /// When it is cancelled if it is not done by then.
    pub deadline: Option<Instant>,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model drew this end token.
    EndToken(TokenId),
    /// This stop string came.
    StopText(String),
    /// It is as long as was asked for.
    Length,
    /// The engine was stopped.
    Cancelled,
}

/// What is known at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens generated, end token and stop string included.
    pub n_tokens: u32,
    /// Prompt tokens that were in the cache, if the engine told before the end.
    pub prompt_tokens_cached: Option<u32>,
    /// The digest over hidden states and log-probabilities, if it was asked for.
    pub hidden_digest: Option<Digest>,
}

/// What a sequence gives next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Text or tokens or both.
    Piece(Piece),
    /// The end; nothing comes after it.
    Done(Ending),
}

/// Why a sequence broke off.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The reader did not keep up.
    #[error("{EVENTS_MAX} tokens were left unread; read the stream as it comes")]
    TooSlow,
    /// The deadline passed.
    #[error("the request was not done in time; ask for fewer tokens, or try when less is going on")]
    TimedOut,
    /// The engine is gone.
    #[error("the engine stopped; see the server's log")]
    EngineGone,
}

/// Why the guard gave a sequence up.
#[derive(Clone, Copy, Debug)]
enum GivenUp {
    TooSlow,
    TimedOut,
}

/// One sequence on its way. Dropping it cancels it.
pub struct Sequence {
    events: Receiver<SequenceEvent>,
    given_up: Arc<OnceLock<GivenUp>>,
    /// `None` once the text has ended.
    assembler: Option<Assembler>,
    /// Known before it is told: a last piece comes first.
    ending: Option<Ending>,
    last_token: Option<TokenId>,
    n_tokens: u32,
    /// Lets go of the engine's slot.
    running: Option<DropGuard>,
}

/// Queues what `ask` says. `observe` sees each event on the engine's thread; it must not block.
///
/// Must be called within a tokio runtime.
///
/// # Errors
/// As [`SequenceEngine::submit`].
pub fn start(
    engine: &dyn SequenceEngine,
    tokenizer: Arc<Tokenizer>,
    ask: Ask,
    mut observe: impl FnMut(&SequenceEvent) + Send + 'static,
) -> Result<Sequence, SubmitError> {
    let assembler = Assembler::new(tokenizer, &ask.reading)
        .map_err(|error| SubmitError::BadRequest(error.to_string()))?;
    let given_up = Arc::new(OnceLock::new());
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let (overflow, overflowed) = oneshot::channel();
    let mut outlet = Some(Outlet { sender, overflow, given_up: given_up.clone() });
    let on_event = move |event: SequenceEvent| {
        observe(&event);
        outlet = outlet.take().and_then(|outlet| outlet.send(event));
    };
    let held = engine.submit(ask.request, Box::new(on_event))?;

    let read = CancellationToken::new();
    let running = Some(read.clone().drop_guard());
    tokio::spawn(guard(held, read, overflowed, ask.deadline, given_up.clone()));
    Ok(Sequence {
        events,
        given_up,
        assembler: Some(assembler),
        ending: None,
        last_token: None,
        n_tokens: 0,
        running,
    })
}

/// Where events go until the reader has fallen behind.
struct Outlet {
    sender: Sender<SequenceEvent>,
    overflow: oneshot::Sender<()>,
    given_up: Arc<OnceLock<GivenUp>>,
}

impl Outlet {
    /// Hands `event` on. Once one did not fit, no later one may: the reader would miss a token.
    fn send(self, event: SequenceEvent) -> Option<Self> {
        match self.sender.try_send(event) {
            Ok(()) => Some(self),
            Err(mpsc::error::TrySendError::Closed(_)) => None,
            Err(mpsc::error::TrySendError::Full(_)) => {
                // Before the sender goes: the reader asks why when it finds the channel closed. If the
                // deadline was first, or nobody listens, the sequence is being cancelled anyway.
                let _ = self.given_up.set(GivenUp::TooSlow);
                let _ = self.overflow.send(());
                None
            }
        }
    }
}

/// Holds the engine's slot until the reader is gone, has fallen behind, or is out of time. A task of
/// its own, because a reader that does not read is not polled either.
async fn guard(
    held: Held,
    read: CancellationToken,
    overflowed: oneshot::Receiver<()>,
    deadline: Option<Instant>,
    given_up: Arc<OnceLock<GivenUp>>,
) {
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let fell_behind = async {
        if overflowed.await.is_err() {
            // The engine is done with the sequence; its reader may still be reading.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = read.cancelled() => {}
        () = fell_behind => {}
        // Whatever was first is the reason.
        () = late => drop(given_up.set(GivenUp::TimedOut)),
    }
    drop(held);
}

impl Sequence {
    /// Waits for what comes next. Not to be called after an end or an error.
    ///
    /// # Errors
    /// When the sequence broke off.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Step, Broken> {
        loop {
            if let Some(ending) = self.ending.take() {
                return Ok(Step::Done(ending));
            }
            match self.events.recv().await {
                Some(SequenceEvent::Token { token, logprob, top }) => {
                    let assembler = self.assembler.as_mut().ok_or(Broken::EngineGone)?;
                    self.n_tokens = self.n_tokens.saturating_add(1);
                    self.last_token = Some(token);
                    let piece = assembler.push(token, logprob, top)?;
                    if let Some(stop) = &piece.stop {
                        self.end(Finish::StopText(stop.clone()), None, None);
                    }
                    if !(piece.text.is_empty() && piece.tokens.is_empty()) {
                        return Ok(Step::Piece(piece));
                    }
                }
                Some(SequenceEvent::Finished {
                    reason,
                    hidden_digest,
                    prompt_tokens_cached,
                    ..
                }) => {
                    let piece = self.finished(reason, hidden_digest, prompt_tokens_cached)?;
                    if !(piece.text.is_empty() && piece.tokens.is_empty()) {
                        return Ok(Step::Piece(piece));
                    }
                }
                None => return Err(self.broken()),
            }
        }
    }

    /// Takes the engine's last word; returns the text that was still held back.
    fn finished(
        &mut self,
        reason: FinishReason,
        hidden_digest: Option<Digest>,
        prompt_tokens_cached: u32,
    ) -> Result<Piece, Broken> {
        let finish = match reason {
            FinishReason::EndToken => Finish::EndToken(self.last_token.ok_or(Broken::EngineGone)?),
            FinishReason::Length => Finish::Length,
            FinishReason::Cancelled if self.given_up.get().is_some() => return Err(self.broken()),
            FinishReason::Cancelled => Finish::Cancelled,
            FinishReason::Failed(error) => return Err(error.into()),
        };
        let assembler = self.assembler.take().ok_or(Broken::EngineGone)?;
        let piece = assembler.finish()?;
        // A stop string may be complete only with the text that was held back to the end.
        let finish = piece.stop.clone().map_or(finish, Finish::StopText);
        self.end(finish, Some(prompt_tokens_cached), hidden_digest);
        Ok(piece)
    }

    fn end(&mut self, finish: Finish, cached: Option<u32>, hidden_digest: Option<Digest>) {
        self.ending = Some(Ending {
            finish,
            n_tokens: self.n_tokens,
            prompt_tokens_cached: cached,
            hidden_digest,
        });
        self.running = None;
    }

    fn broken(&self) -> Broken {
        match self.given_up.get() {
            Some(GivenUp::TooSlow) => Broken::TooSlow,
            Some(GivenUp::TimedOut) => Broken::TimedOut,
            None => Broken::EngineGone,
        }
    }
}

/// A step of one of several sequences, with the choice's index.
pub type ChoiceStep = (usize, Result<Step, Broken>);

/// Merges the steps of sequences as they come. A sequence ends with its end or its failure.
pub fn steps(sequences: Vec<Sequence>) -> impl Stream<Item = ChoiceStep> + Send + Unpin {
    let each = sequences.into_iter().enumerate().map(|(choice, sequence)| {
        let steps = stream::unfold(Some(sequence), move |sequence| async move {
            let mut sequence: Sequence = sequence?;
            let step = sequence.next().await;
            let rest = matches!(step, Ok(Step::Piece(_))).then_some(sequence);
            Some(((choice, step), rest))
        });
        Box::pin(steps) as Pin<Box<dyn Stream<Item = ChoiceStep> + Send>>
    });
    select_all(each)
}
