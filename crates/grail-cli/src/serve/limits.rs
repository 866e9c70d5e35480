//! Every bound of the server, in one place.

use std::time::Duration;

use tokio::sync::Semaphore;

/// Most bytes of a request's body.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Most choices of one request: prompts times `n`.
pub const CHOICES_MAX: usize = 128;
/// Most stop strings of a request, and bytes of each.
pub const STOPS_MAX: usize = 16;
pub const STOP_BYTES_MAX: usize = 256;
/// Most alternatives that are told for a token.
pub const TOP_LOGPROBS_MAX: u8 = 20;
/// Most messages of a chat.
pub const MESSAGES_MAX: usize = 1024;
/// Temperatures other than 0: below, logits would overflow; above, the model has no say.
pub const TEMPERATURE_MIN: f64 = 0.001;
pub const TEMPERATURE_MAX: f64 = 100.0;
/// Most connections at once; more wait in the system's queue.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest time for the head of a request, which is also how long an idle connection is kept.
pub const HEAD_TIME: Duration = Duration::from_secs(60);
/// Longest time for the body of a request.
pub const BODY_TIME: Duration = Duration::from_secs(30);
/// Longest time in which a client takes none of the bytes that wait for it.
pub const STALL_TIME: Duration = Duration::from_secs(60);
/// Silence in a stream after which a comment keeps the connection alive.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Time that answers under way get after the engine has drained.
pub const LAST_WORDS: Duration = Duration::from_secs(3);
/// Requests that may be read beside those that the engine holds at most.
pub const IN_FLIGHT_SPARE: usize = 16;

/// The bounds that an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of prompt and completion together.
    pub context_max: usize,
    /// Sequences that the engine works on at once, and that may wait.
    pub running_max: usize,
    pub queue_max: usize,
    /// Longest time from a request to its last byte.
    pub request_time: Duration,
}

impl Limits {
    /// Most choices of one request that could ever fit.
    pub fn choices_max(&self) -> usize {
        CHOICES_MAX.min(self.running_max.saturating_add(self.queue_max))
    }

    /// Most requests that are read or answered at once: each holds at least one sequence.
    pub fn in_flight_max(&self) -> usize {
        let places = self.running_max.saturating_add(self.queue_max);
        places.saturating_add(IN_FLIGHT_SPARE).min(Semaphore::MAX_PERMITS)
    }
}
