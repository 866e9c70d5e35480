//! Tries requests again by the class of their failure, all within one deadline.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::fault::{Fault, FaultKind};
use super::settings::Patience;

/// When an operation as a whole is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    start: Instant,
    end: Instant,
}

impl Deadline {
    /// Starts an operation that transfers `bytes` bytes.
    pub(super) fn start(patience: &Patience, bytes: u64) -> Self {
        let start = Instant::now();
        Self { start, end: start + patience.operation }.with_bytes(patience, bytes)
    }

    /// Returns the deadline of the same operation, which turned out to transfer `bytes` bytes.
    pub(super) fn with_bytes(self, patience: &Patience, bytes: u64) -> Self {
        let transfer = Duration::from_secs(bytes / patience.bytes_per_s_min.max(1));
        Self { end: self.start + patience.operation + transfer, ..self }
    }

    /// Returns the outcome of `work`, or the fault that the time is over.
    pub(super) async fn bound<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        timeout_at(self.end, work).await.unwrap_or_else(|_| Err(self.passed()))
    }

    fn passed(&self) -> Fault {
        let allowed = self.end.duration_since(self.start);
        Fault::new(FaultKind::NoAnswer, format!("not done within {} s", allowed.as_secs()))
    }
}

/// How failed attempts of one store are repeated.
#[derive(Debug)]
pub(super) struct Attempts {
    patience: Patience,
    /// State of the generator that spreads the pauses of processes that failed together.
    jitter: AtomicU64,
}

impl Attempts {
    /// Makes the policy; `seed` decides the jitter of its pauses.
    pub(super) fn new(patience: Patience, seed: u64) -> Self {
        Self { patience, jitter: AtomicU64::new(seed) }
    }

    /// Calls `attempt` until it succeeds, fails for good, or the bounds are reached.
    pub(super) async fn run<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        deadline: Deadline,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Fault> {
        let mut failures = 0;
        loop {
            let fault = match deadline.bound(attempt()).await {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            failures += 1;
            self.pause(deadline, fault, failures).await?;
        }
    }

    /// Waits before the next attempt after the `failures`th failure in a row, or gives up.
    pub(super) async fn pause(
        &self,
        deadline: Deadline,
        fault: Fault,
        failures: u32,
    ) -> Result<(), Fault> {
        if !fault.is_transient() {
            return Err(fault);
        }
        if failures >= self.patience.attempts {
            return Err(fault.explained(&format!("tried {failures} times")));
        }
        let wait = self.delay(&fault, failures);
        if Instant::now() + wait >= deadline.end {
            return Err(fault.explained(&deadline.passed().to_string()));
        }
        tracing::debug!(%fault, ?wait, "asking the store again");
        sleep(wait).await;
        Ok(())
    }

    /// Returns the pause: doubling, longer when the server is overloaded, spread by a quarter.
    fn delay(&self, fault: &Fault, failures: u32) -> Duration {
        let Patience { delay, delay_max, .. } = self.patience;
        let doubled = delay.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let wait = match fault.kind {
            FaultKind::Throttled => doubled.saturating_mul(2),
            _ => doubled,
        };
        let spread = 0.75 + 0.5 * self.random();
        wait.min(delay_max).mul_f64(spread).max(fault.retry_after.unwrap_or_default())
    }

    /// Returns a number from 0 to below 1. Source: Steele, Lea and Flood, SplitMix64, 2014.
    fn random(&self) -> f64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.jitter.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let top = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0);
        f64::from(top) / (f64::from(u32::MAX) + 1.0)
    }

    /// Returns the first good answer of one request, or of a second one if the first takes long.
    ///
    /// A slow answer is most often the bad luck of one connection or one disk, so that a second
    /// request overtakes it; only reads may be sent twice.
    pub(super) async fn hedged<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        request: impl Fn() -> F,
    ) -> Result<T, Fault> {
        let mut first = pin!(request());
        if let Ok(answer) = timeout(self.patience.hedge_after, &mut first).await {
            return answer;
        }
        let mut second = pin!(request());
        let (answer, first_is_done) = tokio::select! {
            answer = &mut first => (answer, true),
            answer = &mut second => (answer, false),
        };
        match answer {
            Err(fault) if fault.is_transient() => {
                if first_is_done {
                    second.await
                } else {
                    first.await
                }
            }
            decided => decided,
        }
    }
}

/// Returns the outcome of one attempt, or the fault that nothing came for `wait`.
pub(super) async fn answered<T>(
    wait: Duration,
    attempt: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(wait, attempt).await.unwrap_or_else(|_| {
        Err(Fault::new(FaultKind::NoAnswer, format!("no answer for {} s", wait.as_secs_f32())))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn attempts() -> Attempts {
        let patience = Patience {
            operation: Duration::from_secs(100),
            bytes_per_s_min: 10,
            hedge_after: Duration::from_secs(3),
            attempts: 4,
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(3),
            ..Patience::default()
        };
        Attempts::new(patience, 1)
    }

    fn fault(kind: FaultKind) -> Fault {
        Fault::new(kind, "a test's fault")
    }

    async fn run(policy: &Attempts, bytes: u64, kind: FaultKind, took: u64) -> (Fault, u32, f64) {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let outcome = policy
            .run(Deadline::start(&policy.patience, bytes), || {
                calls.set(calls.get() + 1);
                async move {
                    sleep(Duration::from_secs(took)).await;
                    Err::<(), _>(fault(kind))
                }
            })
            .await;
        (outcome.unwrap_err(), calls.get(), start.elapsed().as_secs_f64())
    }

    #[tokio::test(start_paused = true)]
    async fn each_class_is_tried_as_it_deserves() {
        let policy = attempts();
        for kind in [FaultKind::Denied, FaultKind::Absent, FaultKind::Broken, FaultKind::Condition]
        {
            let (given, calls, took) = run(&policy, 0, kind, 0).await;
            assert_eq!((given.kind, calls, took), (kind, 1, 0.0));
        }
        // 1 + 2 + 3 seconds, each spread by a quarter; 2 + 3 + 3 for an overloaded server.
        for (kind, pauses) in
            [(FaultKind::Server, 6.0), (FaultKind::NoAnswer, 6.0), (FaultKind::Throttled, 8.0)]
        {
            let (given, calls, took) = run(&policy, 0, kind, 0).await;
            assert_eq!((given.kind, calls), (kind, 4));
            assert!((0.75 * pauses..=1.25 * pauses).contains(&took), "{kind:?}: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_ends_all_attempts() {
        let policy = attempts();
        let (given, calls, took) = run(&policy, 0, FaultKind::Server, 40).await;
        assert!((calls, took) == (3, 100.0) && given.to_string().contains("100 s"), "{given}");
        let (_, calls, took) = run(&policy, 0, FaultKind::Server, 1_000).await;
        assert_eq!((calls, took), (1, 100.0), "an attempt without an end too");
        let (_, _, took) = run(&policy, 500, FaultKind::Server, 1_000).await;
        assert_eq!(took, 150.0, "bytes take time");
    }

    #[tokio::test(start_paused = true)]
    async fn the_server_may_ask_for_a_longer_pause() {
        let policy = attempts();
        let start = Instant::now();
        let mut busy = fault(FaultKind::Server);
        busy.retry_after = Some(Duration::from_secs(20));
        let deadline = Deadline::start(&policy.patience, 0);
        policy.pause(deadline, busy.clone(), 1).await.unwrap();
        assert_eq!(start.elapsed(), Duration::from_secs(20));
        sleep(Duration::from_secs(70)).await;
        assert!(policy.pause(deadline, busy, 1).await.is_err(), "not beyond the deadline");
    }

    /// Answers the first request after `first` seconds, the second after `second`.
    async fn hedge(
        first: (u64, Result<u32, FaultKind>),
        second: (u64, Result<u32, FaultKind>),
    ) -> (Result<u32, FaultKind>, u32, u64) {
        let (start, calls) = (Instant::now(), Cell::new(0));
        let outcome = attempts()
            .hedged(|| {
                let (after, answer) = if calls.get() == 0 { first } else { second };
                calls.set(calls.get() + 1);
                async move {
                    sleep(Duration::from_secs(after)).await;
                    answer.map_err(fault)
                }
            })
            .await;
        (outcome.map_err(|fault| fault.kind), calls.get(), start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_wins() {
        use FaultKind::{Denied, Server};
        assert_eq!(hedge((2, Ok(1)), (0, Ok(2))).await, (Ok(1), 1, 2), "in time: asked once");
        assert_eq!(hedge((90, Ok(1)), (1, Ok(2))).await, (Ok(2), 2, 4), "the second overtakes");
        assert_eq!(hedge((5, Ok(1)), (9, Ok(2))).await, (Ok(1), 2, 5), "the first still may");
        assert_eq!(hedge((5, Err(Server)), (9, Ok(2))).await, (Ok(2), 2, 12));
        assert_eq!(hedge((9, Ok(1)), (1, Err(Server))).await, (Ok(1), 2, 9));
        assert_eq!(hedge((90, Ok(1)), (1, Err(Denied))).await, (Err(Denied), 2, 4), "no is no");
        assert_eq!(hedge((5, Err(Server)), (4, Err(Server))).await, (Err(Server), 2, 7));
        assert_eq!(hedge((1, Err(Server)), (0, Ok(2))).await, (Err(Server), 1, 1));
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(seed in any::<u64>(), failures in 1u32..40) {
            let policy = Attempts::new(attempts().patience, seed);
            let wait = policy.delay(&fault(FaultKind::Throttled), failures);
            prop_assert!(wait >= Duration::from_millis(750), "{wait:?}");
            prop_assert!(wait <= Duration::from_millis(3750), "{wait:?}");
            let again = Attempts::new(attempts().patience, seed);
            prop_assert_eq!(wait, again.delay(&fault(FaultKind::Throttled), failures));
        }
    }
}
