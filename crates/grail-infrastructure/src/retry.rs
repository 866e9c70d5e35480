//! Tries calls again that failed for want of an answer, within bounds.
//!
//! [`Retrying`] wraps a port, so that neither adapters nor services contain retries. Only calls that
//! may be repeated are; `set_commitment`, `set_weights` and `put_if` pass straight through.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use grail_ports::layer::{Call, Layer, Layered, PortError};
use grail_ports::observer::{Classified, Outcome};
use tokio::time::{Instant, sleep};

/// How often and how long a call is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Largest number of attempts, at least 1.
    pub attempts: u32,
    /// Wait after the first failed attempt; doubled after each further one.
    pub delay: Duration,
    /// Longest wait between two attempts.
    pub delay_max: Duration,
    /// No attempt starts later than this after the first.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            delay: Duration::from_millis(200),
            delay_max: Duration::from_secs(5),
            deadline: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// Calls `attempt` until it succeeds, fails for good, or the bounds are reached; returns its
    /// last answer.
    ///
    /// # Cancel safety
    /// Dropping the future drops the attempt under way.
    pub async fn run<T, E, F>(
        &self,
        is_transient: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let start = Instant::now();
        let mut delay = self.delay;
        let mut attempts = 1;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let too_late = start.elapsed().saturating_add(delay) > self.deadline;
            if attempts >= self.attempts || too_late || !is_transient(&error) {
                return Err(error);
            }
            sleep(delay).await;
            delay = delay.saturating_mul(2).min(self.delay_max);
            attempts += 1;
        }
    }
}

/// A port whose unanswered calls are tried again.
pub type Retrying<P> = Layered<P, RetryPolicy>;

impl Layer for RetryPolicy {
    async fn around<T, E, F>(
        &self,
        call: Call<'_>,
        make: impl Fn() -> F + Send + Sync,
    ) -> Result<T, E>
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send,
    {
        if call.is_repeatable { self.run(is_away, make).await } else { make().await }
    }
}

fn is_away<E: Classified>(error: &E) -> bool {
    error.outcome() == Outcome::Unavailable
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use grail_ports::object_store::StoreError;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 4,
        delay: Duration::from_secs(1),
        delay_max: Duration::from_secs(3),
        deadline: Duration::from_secs(60),
    };

    /// Fails `failures` times, then succeeds; returns the outcome, the calls and the time taken.
    async fn try_with(
        policy: RetryPolicy,
        failures: u32,
        error: StoreError,
    ) -> (Result<u32, StoreError>, u32, Duration) {
        let calls = AtomicU32::new(0);
        let start = Instant::now();
        let outcome = policy
            .run(is_away, || {
                let call = calls.fetch_add(1, Ordering::Relaxed);
                let error = error.clone();
                async move { if call < failures { Err(error) } else { Ok(call) } }
            })
            .await;
        (outcome, calls.into_inner(), start.elapsed())
    }

    fn away() -> StoreError {
        StoreError::Unavailable("no answer".into())
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_their_bound() {
        assert_eq!(try_with(POLICY, 0, away()).await, (Ok(0), 1, Duration::ZERO));
        assert_eq!(try_with(POLICY, 2, away()).await, (Ok(2), 3, Duration::from_secs(3)));
        let (outcome, calls, took) = try_with(POLICY, 9, away()).await;
        assert_eq!((outcome, calls, took), (Err(away()), 4, Duration::from_secs(1 + 2 + 3)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_ends_it_earlier() {
        let policy = RetryPolicy { deadline: Duration::from_millis(2500), ..POLICY };
        assert_eq!(try_with(policy, 9, away()).await, (Err(away()), 2, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_no_is_final() {
        let denied = StoreError::Denied("bucket".into());
        let (outcome, calls, _) = try_with(POLICY, 9, denied.clone()).await;
        assert_eq!((outcome, calls), (Err(denied), 1));
    }
}
