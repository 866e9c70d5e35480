//! Time on the chain, which is counted in blocks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use super::{LocalChain, LocalChainError};
use crate::clock::Clock;

/// How time passes; under one lock, so that head and time always fit.
pub(super) struct Pace {
    /// Timestamp of the head.
    head_ms: u64,
    /// When the head came out, while a ticker runs.
    head_since: Option<Instant>,
    /// Time that was already told.
    told_ms: u64,
}

impl Pace {
    /// Stands still at `head_ms`.
    pub(super) fn at(head_ms: u64) -> Self {
        Self { head_ms, head_since: None, told_ms: 0 }
    }
}

impl LocalChain {
    /// Makes a block each block time until `stop`.
    ///
    /// A late tick moves the later ones: time on this chain is counted in blocks, so a machine that
    /// slept or stalled never has to catch up.
    ///
    /// # Errors
    /// When the file fails; no more blocks are made then.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Result<(), LocalChainError> {
        let period = Duration::from_millis(self.rules.block_time_ms);
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let _running = Running::start(&self);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let chain = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || chain.advance(1)).await {
                Ok(advanced) => drop(advanced?),
                // The runtime is going down.
                Err(error) if error.is_cancelled() => return Ok(()),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Returns the time on this chain, milliseconds since the Unix epoch: that of the head, plus,
    /// while a ticker runs, what has passed since the head came out, ending just before the next
    /// block. It never goes back while the chain is open.
    pub fn now_ms(&self) -> u64 {
        let mut pace = self.pace();
        let since_head_ms = pace.head_since.map_or(0, |since| {
            let elapsed = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            elapsed.min(self.rules.block_time_ms - 1)
        });
        pace.told_ms = pace.told_ms.max(pace.head_ms.saturating_add(since_head_ms));
        pace.told_ms
    }

    /// Returns [`LocalChain::now_ms`] as a clock.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let chain = Arc::clone(self);
        Arc::new(move || chain.now_ms())
    }

    /// Moves time to a new head; before anybody sees it, so that no head is ever in the future.
    pub(super) fn step_to(&self, head_ms: u64) {
        let mut pace = self.pace();
        pace.head_ms = head_ms;
        pace.head_since = pace.head_since.map(|_| Instant::now());
    }
}

/// Lets time pass between blocks for as long as it lives.
struct Running<'a>(&'a LocalChain);

impl<'a> Running<'a> {
    fn start(chain: &'a LocalChain) -> Self {
        chain.pace().head_since = Some(Instant::now());
        Self(chain)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.pace().head_since = None;
    }
}
