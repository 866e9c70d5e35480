//! How a neuron is doing, for a health endpoint or a status screen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grail_protocol::ids::{BlockNumber, Window};

/// What is known of a neuron.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct HealthReport {
    /// The role, such as `miner`.
    pub role: String,
    /// Whether it started and its last tick did not fail.
    pub ready: bool,
    /// Why it ended, if it did.
    pub ended: Option<String>,
    /// Newest block that it saw.
    pub head: Option<BlockNumber>,
    /// Window of that block.
    pub window: Option<Window>,
    /// Ticks that did not fail.
    pub ticks: u64,
    /// What the last such tick did, for a person.
    pub last: Option<String>,
    /// Failures since the last success.
    pub failures: u32,
    /// What a person should look at although the role goes on, such as weights that the chain lost.
    pub alarm: Option<String>,
    /// The last failure, for a person; stays after a success.
    pub last_failure: Option<String>,
}

/// A report that the neuron writes and others read; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<HealthReport>>);

impl Health {
    /// Returns a copy of the report.
    pub fn report(&self) -> HealthReport {
        self.lock().clone()
    }

    /// Changes the report.
    pub(crate) fn update(&self, change: impl FnOnce(&mut HealthReport)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, HealthReport> {
        // Every change leaves a whole report, whatever became of the thread that made it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
