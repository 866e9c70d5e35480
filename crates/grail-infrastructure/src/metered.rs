//! Tells how calls of a port end and how long they take.
//!
//! [`Metered`] wraps a port, as [`crate::retry::Retrying`] does; outside of it, retries and their waits
//! count.

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
use grail_ports::observer::{Classified, Observation, Observer, Outcome, Service};
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};
use grail_protocol::timelock::BeaconPublicKey;
use tokio::time::Instant;

use crate::clock::Clock;

/// A port whose calls are told.
pub struct Metered<P: ?Sized> {
    inner: Arc<P>,
    meter: Meter,
}

/// Where they are told, and the time that heads are compared with; cheap to clone.
#[derive(Clone)]
pub struct Meter {
    observer: Arc<dyn Observer>,
    clock: Clock,
}

impl Meter {
    /// Tells `observer`.
    pub fn new(observer: Arc<dyn Observer>, clock: Clock) -> Self {
        Self { observer, clock }
    }

    async fn call<T, E: Classified>(
        &self,
        service: Service,
        call: &'static str,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let answer = answer.await;
        let outcome = answer.as_ref().err().map_or(Outcome::Ok, Classified::outcome);
        let took = start.elapsed();
        self.observer.observe(Observation::Call { service, call, outcome, took });
        answer
    }
}

impl<P: ?Sized> Metered<P> {
    /// Wraps `inner`.
    pub fn new(inner: Arc<P>, meter: Meter) -> Self {
        Self { inner, meter }
    }

    async fn chain<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, ChainError>>,
    ) -> Result<T, ChainError> {
        self.meter.call(Service::Chain, call, answer).await
    }

    async fn store<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.meter.call(Service::Store, call, answer).await
    }
}

#[async_trait]
impl Chain for Metered<dyn Chain> {
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
        let head = self.chain("head", self.inner.head()).await?;
        let lag = Duration::from_millis((self.meter.clock)().saturating_sub(head.timestamp_ms));
        self.meter.observer.observe(Observation::Head { block: head.number, lag });
        Ok(head)
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        self.chain("block", self.inner.block(number)).await
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.chain("metagraph", self.inner.metagraph()).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.chain("hyperparameters", self.inner.hyperparameters()).await
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.chain("commitments", self.inner.commitments()).await
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.chain("set_commitment", self.inner.set_commitment(data)).await
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        self.chain("set_weights", self.inner.set_weights(weights)).await
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.chain("finalized", self.inner.finalized()).await
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.chain("weights_status", self.inner.weights_status()).await
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.chain("watch_weights", self.inner.watch_weights(sent)).await
    }
}

#[async_trait]
impl Beacon for Metered<dyn Beacon> {
    fn schedule(&self) -> BeaconSchedule {
        self.inner.schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.inner.public_key()
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        self.meter.call(Service::Beacon, "round", self.inner.round(round)).await
    }
}

#[async_trait]
impl ObjectStore for Metered<dyn ObjectStore> {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.store("get", self.inner.get(key, bytes_max)).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        self.store("get_range", self.inner.get_range(key, range, etag)).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        self.store("put_if", self.inner.put_if(key, bytes, condition)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.store("head", self.inner.head(key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.store("put", self.inner.put(key, bytes)).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.store("put_file", self.inner.put_file(key, file)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.store("list", self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.store("delete", self.inner.delete(key)).await
    }
}

impl Buckets for Metered<dyn Buckets> {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Metered::new(self.inner.own(), self.meter.clone()))
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        Ok(Arc::new(Metered::new(self.inner.open(credentials)?, self.meter.clone())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use grail_ports::signer::Signer as _;
    use grail_testkit::{FakeChain, FakeChainConfig, FakeSigner, MemoryStorage};

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Observation>>);

    impl Observer for Seen {
        fn observe(&self, observation: Observation) {
            self.0.lock().unwrap().push(observation);
        }
    }

    impl Seen {
        fn take(&self) -> Vec<Observation> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn call(service: Service, call: &'static str, outcome: Outcome) -> Observation {
        Observation::Call { service, call, outcome, took: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_told_with_their_class_and_heads_with_their_lag() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let head = chain.advance(5);
        let seen = Arc::new(Seen::default());
        let clock: Clock = Arc::new(move || head.timestamp_ms + 2_500);
        let meter = Meter::new(seen.clone(), clock);
        let handle: Arc<dyn Chain> = chain.handle(FakeSigner::new(1).hotkey());
        let metered = Metered::new(handle, meter.clone());
        assert_eq!(metered.head().await, Ok(head));
        metered.set_commitment(b"x").await.unwrap_err();
        chain.prune_below(BlockNumber(4));
        metered.block(BlockNumber(3)).await.unwrap_err();
        chain.set_down(true);
        metered.metagraph().await.unwrap_err();
        let lag = Duration::from_millis(2_500);
        assert_eq!(
            seen.take(),
            [
                call(Service::Chain, "head", Outcome::Ok),
                Observation::Head { block: BlockNumber(5), lag },
                call(Service::Chain, "set_commitment", Outcome::Refused),
                call(Service::Chain, "block", Outcome::Pruned),
                call(Service::Chain, "metagraph", Outcome::Unavailable),
            ]
        );

        let buckets: Arc<dyn Buckets> =
            MemoryStorage::new(chain.clock()).buckets(FakeSigner::new(1).hotkey());
        let metered = Metered::new(buckets, meter);
        let own = metered.own();
        own.put("key", Bytes::from_static(b"1234")).await.unwrap();
        own.get("key", 2).await.unwrap_err();
        let want =
            [call(Service::Store, "put", Outcome::Ok), call(Service::Store, "get", Outcome::Bad)];
        assert_eq!(seen.take(), want);
    }
}
