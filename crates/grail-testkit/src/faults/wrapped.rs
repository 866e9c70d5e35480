//! Ports with failures in front.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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

use super::{Fate, FaultKind, Faults};

const REASON: &str = "a fault drawn by the test";

/// Carries out a call as its fate says. `damage` turns a good answer into a damaged one.
async fn carry_out<T, E>(
    faults: &Faults,
    call: String,
    unavailable: impl FnOnce(String) -> E,
    answer: impl Future<Output = Result<T, E>>,
    damage: impl FnOnce(T, &Fate) -> Result<T, E>,
) -> Result<T, E> {
    match faults.fate(&call).await {
        None => answer.await,
        Some(fate) => match fate.kind {
            FaultKind::Unavailable => Err(unavailable(REASON.to_owned())),
            FaultKind::LostAnswer => {
                let _ = answer.await;
                Err(unavailable(REASON.to_owned()))
            }
            FaultKind::Slow | FaultKind::Corrupt => damage(answer.await?, &fate),
        },
    }
}

pub(super) struct Store {
    pub(super) faults: Faults,
    pub(super) name: String,
    pub(super) inner: Arc<dyn ObjectStore>,
}

impl Store {
    async fn run<T>(
        &self,
        verb: &str,
        key: &str,
        answer: impl Future<Output = Result<T, StoreError>>,
        damage: impl FnOnce(T, &Fate) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let call = format!("store.{verb} {} {key}", self.name);
        carry_out(&self.faults, call, StoreError::Unavailable, answer, damage).await
    }
}

fn unreadable<T>(_: T, _: &Fate) -> Result<T, StoreError> {
    Err(StoreError::Malformed(format!("the answer cannot be read: {REASON}")))
}

#[async_trait]
impl ObjectStore for Store {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        let damage = |answer: Option<Bytes>, fate: &Fate| {
            Ok(answer.map(|bytes| {
                let mut bytes = bytes.to_vec();
                fate.damage(&mut bytes);
                Bytes::from(bytes)
            }))
        };
        self.run("get", key, self.inner.get(key, bytes_max), damage).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let damage = |answer: Option<Bytes>, fate: &Fate| {
            Ok(answer.map(|bytes| {
                let mut bytes = bytes.to_vec();
                fate.damage(&mut bytes);
                Bytes::from(bytes)
            }))
        };
        self.run("get_range", key, self.inner.get_range(key, range, etag), damage).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        self.run("put_if", key, self.inner.put_if(key, bytes, condition), unreadable).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.run("head", key, self.inner.head(key), unreadable).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.run("put", key, self.inner.put(key, bytes), unreadable).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.run("put_file", key, self.inner.put_file(key, file), unreadable).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.run("list", prefix, self.inner.list(prefix), unreadable).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.run("delete", key, self.inner.delete(key), unreadable).await
    }
}

pub(super) struct FaultyBuckets {
    pub(super) faults: Faults,
    pub(super) inner: Arc<dyn Buckets>,
}

impl Buckets for FaultyBuckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        let name = format!("own {}", self.inner.read_credentials().account_id);
        self.faults.store(&name, self.inner.own())
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        // Readers are told apart too, so that one's retries do not change another's luck.
        let reader = self.inner.read_credentials().account_id;
        let name = format!("{} for {reader}", credentials.account_id);
        Ok(self.faults.store(&name, self.inner.open(credentials)?))
    }
}

pub(super) struct FaultyChain {
    pub(super) faults: Faults,
    pub(super) name: String,
    pub(super) inner: Arc<dyn Chain>,
}

impl FaultyChain {
    async fn run<T>(
        &self,
        verb: &str,
        argument: &str,
        answer: impl Future<Output = Result<T, ChainError>>,
    ) -> Result<T, ChainError> {
        let call = format!("chain.{verb} {} {argument}", self.name);
        let damage = |_, _: &Fate| {
            Err(ChainError::Malformed { call: verb.to_owned(), reason: REASON.to_owned() })
        };
        carry_out(&self.faults, call, ChainError::Unavailable, answer, damage).await
    }
}

#[async_trait]
impl Chain for FaultyChain {
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
        self.run("head", "", self.inner.head()).await
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        self.run("block", &number.to_string(), self.inner.block(number)).await
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.run("metagraph", "", self.inner.metagraph()).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.run("hyperparameters", "", self.inner.hyperparameters()).await
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.run("commitments", "", self.inner.commitments()).await
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.run("set_commitment", "", self.inner.set_commitment(data)).await
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        self.run("set_weights", "", self.inner.set_weights(weights)).await
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.run("finalized", "", self.inner.finalized()).await
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.run("weights_status", "", self.inner.weights_status()).await
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.run("watch_weights", "", self.inner.watch_weights(sent)).await
    }
}

pub(super) struct FaultyBeacon {
    pub(super) faults: Faults,
    pub(super) name: String,
    pub(super) inner: Arc<dyn Beacon>,
}

#[async_trait]
impl Beacon for FaultyBeacon {
    fn schedule(&self) -> BeaconSchedule {
        self.inner.schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.inner.public_key()
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        let call = format!("beacon.round {} {round}", self.name);
        let damage = |_, _: &Fate| Err(BeaconError::Invalid { round, reason: REASON.to_owned() });
        let answer = self.inner.round(round);
        carry_out(&self.faults, call, BeaconError::Unavailable, answer, damage).await
    }
}
