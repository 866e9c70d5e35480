//! The engine as its readers need it: a seam, so that they are tested without a model.

use std::time::Duration;

use grail_model::EngineService;
pub use grail_model::{FinishReason, SequenceEvent, SequenceRequest, ServiceStats, SubmitError};

/// Called with each event of a sequence, on the engine's thread: it must not block.
pub type EventHandler = Box<dyn FnMut(SequenceEvent) + Send>;

/// A sequence that the engine works on. Dropping it cancels the sequence and frees its slot.
pub type Held = Box<dyn Send + Sync>;

/// Generates sequences, many at a time, each as if it were alone.
pub trait SequenceEngine: Send + Sync {
    /// Queues one sequence.
    ///
    /// # Errors
    /// When the queue is full, the engine is draining, or the request cannot be served.
    fn submit(&self, request: SequenceRequest, events: EventHandler) -> Result<Held, SubmitError>;

    /// Returns what the engine is doing, and did so far.
    fn stats(&self) -> ServiceStats;

    /// Takes no new sequence, waits for the others up to `deadline`, then cancels the rest. Blocks.
    fn drain(&self, deadline: Duration);
}

impl SequenceEngine for EngineService {
    fn submit(&self, request: SequenceRequest, events: EventHandler) -> Result<Held, SubmitError> {
        Ok(Box::new(Self::submit(self, request, events)?))
    }

    fn stats(&self) -> ServiceStats {
        Self::stats(self)
    }

    fn drain(&self, deadline: Duration) {
        Self::drain(self, deadline);
    }
}
