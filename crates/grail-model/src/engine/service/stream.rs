//! The two ends of a running request: the scheduler's, which tells, and the asker's, which cancels.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use grail_ports::model::ModelError;
use grail_protocol::ids::TokenId;

use super::gate::Gate;
use super::types::{FinishReason, SequenceEvent};
use crate::engine::Engine;
use crate::engine::scheduler::{Ended, Listener};

pub(super) type Events = Box<dyn FnMut(SequenceEvent) + Send>;

const LIVE: u8 = 0;
const CANCELLED: u8 = 1;
const ENDED: u8 = 2;

/// Whether a request is live, cancelled or over.
#[derive(Debug, Default)]
pub(super) struct Life(AtomicU8);

impl Life {
    /// Cancels; returns whether it was live until now.
    fn cancel(&self) -> bool {
        self.0.compare_exchange(LIVE, CANCELLED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst) == CANCELLED
    }

    fn end(&self) {
        self.0.store(ENDED, Ordering::SeqCst);
    }
}

/// The scheduler's end.
pub(super) struct Stream {
    /// `None` after the last event, or after a panic.
    events: Option<Events>,
    life: Arc<Life>,
    /// Counts this request until it is dropped.
    gate: Arc<Gate>,
}

impl Stream {
    pub(super) fn new(events: Events, life: Arc<Life>, gate: Arc<Gate>) -> Self {
        Self { events: Some(events), life, gate }
    }

    fn tell(&mut self, event: SequenceEvent) {
        let Some(events) = &mut self.events else { return };
        // The asker's code must not take the scheduler down with it.
        if catch_unwind(AssertUnwindSafe(|| events(event))).is_err() {
            tracing::error!("the receiver of a sequence panicked; the sequence is cancelled");
            self.life.cancel();
            self.hang_up();
        }
    }

    /// Drops the asker's code, which may panic once more.
    fn hang_up(&mut self) {
        let events = self.events.take();
        let _panic = catch_unwind(AssertUnwindSafe(|| drop(events)));
    }
}

impl Listener for Stream {
    fn is_cancelled(&self) -> bool {
        self.life.is_cancelled() || self.gate.all_are_cancelled()
    }

    fn is_streaming(&self) -> bool {
        true
    }

    fn token(&mut self, token: TokenId, logprob: f32, top: Vec<(TokenId, f32)>) {
        self.tell(SequenceEvent::Token { token, logprob, top });
    }

    fn finished(&mut self, ended: Ended) {
        let Ended { reason, hidden_digest, sketches, prompt_tokens_cached, .. } = ended;
        self.life.end();
        self.tell(SequenceEvent::Finished {
            reason,
            hidden_digest,
            sketches,
            prompt_tokens_cached,
        });
        self.hang_up();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.events.is_some() {
            self.finished(Ended::before_start(FinishReason::Failed(ModelError::Crashed)));
        }
        self.gate.leave();
    }
}

/// The asker's end: dropping it cancels the request, and what its sequence holds is freed before
/// the next step.
#[must_use = "dropping a ticket cancels its request"]
#[derive(Debug)]
pub struct Ticket {
    /// `None` once detached.
    life: Option<Arc<Life>>,
    engine: Arc<Engine>,
}

impl Ticket {
    pub(super) fn new(life: Arc<Life>, engine: Arc<Engine>) -> Self {
        Self { life: Some(life), engine }
    }

    /// Cancels the request. Tokens of the step that is being taken may still come; the last event
    /// is its end.
    pub fn cancel(&self) {
        if self.life.as_ref().is_some_and(|life| life.cancel()) {
            self.engine.hub.cancelled();
        }
    }

    /// Lets the request run to its end by itself.
    pub fn detach(mut self) {
        self.life = None;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cancel();
    }
}
