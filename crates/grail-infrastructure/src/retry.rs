//! Tries calls again that failed for want of an answer, within bounds.
//!
//! [`Retrying`] wraps a port, so that neither adapters nor services contain retries. Only calls that
//! may be repeated are; `set_commitment`, `set_weights` and `put_if` pass straight through.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_ports::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, SentWeights, WeightSubmission,
    WeightsStatus,
};
use grail_ports::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};
use grail_protocol::timelock::BeaconPublicKey;
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
pub struct Retrying<P: ?Sized> {
    inner: Arc<P>,
    policy: RetryPolicy,
}

impl<P: ?Sized> Retrying<P> {
    /// Wraps `inner`.
    pub fn new(inner: Arc<P>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }
}

fn chain_is_away(error: &ChainError) -> bool {
    matches!(error, ChainError::Unavailable(_))
}

fn beacon_is_away(error: &BeaconError) -> bool {
    matches!(error, BeaconError::Unavailable(_))
}

fn store_is_away(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}

#[async_trait]
impl Chain for Retrying<dyn Chain> {
    fn netuid(&self) -> Netuid {
        self.inner.netuid()
    }

    fn network(&self) -> &str {
        self.inner.network()
    }

    fn block_time_ms(&self) -> u64 {
        self.inner.block_time_ms()
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.policy.run(chain_is_away, || self.inner.head()).await
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        self.policy.run(chain_is_away, || self.inner.block(number)).await
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.policy.run(chain_is_away, || self.inner.metagraph()).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.policy.run(chain_is_away, || self.inner.hyperparameters()).await
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.policy.run(chain_is_away, || self.inner.commitments()).await
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.inner.set_commitment(data).await
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        self.inner.set_weights(weights).await
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.policy.run(chain_is_away, || self.inner.finalized()).await
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.policy.run(chain_is_away, || self.inner.weights_status()).await
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.policy.run(chain_is_away, || self.inner.watch_weights(sent)).await
    }
}

#[async_trait]
impl Beacon for Retrying<dyn Beacon> {
    fn schedule(&self) -> BeaconSchedule {
        self.inner.schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.inner.public_key()
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        self.policy.run(beacon_is_away, || self.inner.round(round)).await
    }
}

#[async_trait]
impl ObjectStore for Retrying<dyn ObjectStore> {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.policy.run(store_is_away, || self.inner.get(key, bytes_max)).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        self.policy.run(store_is_away, || self.inner.get_range(key, range.clone(), etag)).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        self.inner.put_if(key, bytes, condition).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.policy.run(store_is_away, || self.inner.head(key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.policy.run(store_is_away, || self.inner.put(key, bytes.clone())).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.policy.run(store_is_away, || self.inner.put_file(key, file)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.policy.run(store_is_away, || self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.policy.run(store_is_away, || self.inner.delete(key)).await
    }
}

impl Buckets for Retrying<dyn Buckets> {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Retrying::new(self.inner.own(), self.policy))
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        Ok(Arc::new(Retrying::new(self.inner.open(credentials)?, self.policy)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

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
            .run(store_is_away, || {
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
