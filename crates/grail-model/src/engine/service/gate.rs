//! Counts the requests of a service, and closes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::types::SubmitError;

/// Lets at most so many requests in at a time.
#[derive(Debug)]
pub(super) struct Gate {
    live_max: usize,
    state: Mutex<State>,
    /// The last live request has left.
    empty: Condvar,
    all_are_cancelled: AtomicBool,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    live: usize,
    is_closed: bool,
}

impl Gate {
    pub(super) fn new(live_max: usize) -> Self {
        Self {
            live_max,
            state: Mutex::default(),
            empty: Condvar::new(),
            all_are_cancelled: AtomicBool::new(false),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets a request in, which must [leave](Self::leave).
    pub(super) fn enter(&self) -> Result<(), SubmitError> {
        let mut state = self.state();
        if state.is_closed {
            return Err(SubmitError::Draining);
        }
        if state.live >= self.live_max {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(SubmitError::QueueFull { live: state.live });
        }
        state.live += 1;
        Ok(())
    }

    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.live -= 1;
        if state.live == 0 {
            self.empty.notify_all();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().live == 0
    }

    /// Returns whether no request is live and none can enter.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.is_closed && state.live == 0
    }

    /// Lets nobody in from now on.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
    }

    /// Makes every request that is live count as cancelled.
    pub(super) fn cancel_all(&self) {
        self.all_are_cancelled.store(true, Ordering::SeqCst);
    }

    pub(super) fn all_are_cancelled(&self) -> bool {
        self.all_are_cancelled.load(Ordering::SeqCst)
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until no request is live, at most `patience`; returns whether that is so.
    pub(super) fn wait_until_empty(&self, patience: Duration) -> bool {
        let waited = self.empty.wait_timeout_while(self.state(), patience, |state| state.live > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.live == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
