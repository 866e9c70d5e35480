//! What all requests share: the model, the engine, the bounds, who may ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use grail_model::LocalModel;
use grail_ports::model::Model;
use tokio::sync::Semaphore;

use super::keys::Keys;
use super::limits::Limits;
use super::metrics::Metrics;
use crate::inference::engine::SequenceEngine;

/// Digits of the checkpoint's digest in `system_fingerprint`.
const FINGERPRINT_DIGITS: usize = 16;

/// The state of the server.
pub struct App {
    /// Name that requests give the model.
    pub name: String,
    /// Tokenizer, chat template, facts.
    pub model: Arc<LocalModel>,
    /// What generates.
    pub engine: Arc<dyn SequenceEngine>,
    /// Every bound.
    pub limits: Limits,
    /// Who may ask.
    pub keys: Keys,
    /// Counts and times.
    pub metrics: Metrics,
    /// Requests that are being read or answered hold one each.
    pub in_flight: Arc<Semaphore>,
    /// Says that equal requests give equal answers: contract and weights.
    pub fingerprint: String,
    /// When the server started, seconds since 1970.
    pub started: u64,
    /// Bytes beyond which a text has more tokens than fit.
    pub prompt_bytes_max: usize,
    draining: AtomicBool,
}

impl App {
    /// Puts the parts together.
    pub fn new(
        name: String,
        model: Arc<LocalModel>,
        engine: Arc<dyn SequenceEngine>,
        limits: Limits,
        keys: Keys,
    ) -> Self {
        let info = model.info();
        let digits: String =
            info.checkpoint_digest.to_hex().chars().take(FINGERPRINT_DIGITS).collect();
        let fingerprint = format!("{}-{digits}", info.numerics);
        let tokenizer = model.tokenizer();
        let longest = (0..info.vocab_size).map(|id| tokenizer.token_bytes(id).len()).max();
        Self {
            name,
            engine,
            limits,
            keys,
            metrics: Metrics::default(),
            in_flight: Arc::new(Semaphore::new(limits.in_flight_max())),
            fingerprint,
            started: unix_time(),
            prompt_bytes_max: limits.context_max.saturating_mul(longest.unwrap_or(1)),
            draining: AtomicBool::new(false),
            model,
        }
    }

    /// Takes no new request from now on.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Returns whether no new request is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}

/// Returns the seconds since 1970.
pub fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
