//! What is put around a port, such as attempts or a meter: one hook that sees every call, in place of
//! wrappers that forward each method.
//!
//! [`Layered`] is the port again, so that layers stack.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};
use grail_protocol::timelock::BeaconPublicKey;

use crate::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use crate::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, SentWeights, WeightSubmission,
    WeightsStatus,
};
use crate::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};
use crate::observer::{Classified, Service};

/// A call on its way to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// The port.
    pub service: Service,
    /// The method's name.
    pub verb: &'static str,
    /// A key, a prefix, or the number of a block or round; empty where there is none.
    pub argument: Cow<'a, str>,
    /// Whether the call may be made again when its outcome is not known.
    pub is_repeatable: bool,
}

/// Errors of ports, as far as a layer makes them.
pub trait PortError: Classified + Send {
    /// Returns the error for no answer.
    fn unavailable(reason: String) -> Self;

    /// Returns the error for an answer that makes no sense.
    fn unreadable(call: &Call<'_>, reason: String) -> Self;
}

/// What happens around each call of a port.
pub trait Layer: Send + Sync {
    /// Answers `call`; `make` makes it, each time anew. A layer that looks into answers finds what it
    /// knows by their type; see the ports' methods.
    fn around<T, E, F>(
        &self,
        call: Call<'_>,
        make: impl Fn() -> F + Send + Sync,
    ) -> impl Future<Output = Result<T, E>> + Send
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send;
}

impl<L: Layer> Layer for Arc<L> {
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
        L::around(self, call, make).await
    }
}

/// The port `P`, a trait object, with a layer around it.
pub struct Layered<P: ?Sized, L> {
    inner: Arc<P>,
    layer: L,
}

impl<P: ?Sized, L> Layered<P, L> {
    /// Puts `layer` around `inner`.
    pub fn new(inner: Arc<P>, layer: L) -> Self {
        Self { inner, layer }
    }
}

impl<'a> Call<'a> {
    fn new(service: Service, verb: &'static str, argument: impl Into<Cow<'a, str>>) -> Self {
        Self { service, verb, argument: argument.into(), is_repeatable: true }
    }

    fn chain(verb: &'static str) -> Self {
        Self::new(Service::Chain, verb, "")
    }

    fn store(verb: &'static str, key: &'a str) -> Self {
        Self::new(Service::Store, verb, key)
    }

    fn once(self) -> Self {
        Self { is_repeatable: false, ..self }
    }
}

#[async_trait]
impl<L: Layer> Chain for Layered<dyn Chain, L> {
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
        self.layer.around(Call::chain("head"), || self.inner.head()).await
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        let call = Call::new(Service::Chain, "block", number.to_string());
        self.layer.around(call, || self.inner.block(number)).await
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.layer.around(Call::chain("metagraph"), || self.inner.metagraph()).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.layer.around(Call::chain("hyperparameters"), || self.inner.hyperparameters()).await
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.layer.around(Call::chain("commitments"), || self.inner.commitments()).await
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        let call = Call::chain("set_commitment").once();
        self.layer.around(call, || self.inner.set_commitment(data)).await
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        let call = Call::chain("set_weights").once();
        self.layer.around(call, || self.inner.set_weights(weights)).await
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.layer.around(Call::chain("finalized"), || self.inner.finalized()).await
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.layer.around(Call::chain("weights_status"), || self.inner.weights_status()).await
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.layer.around(Call::chain("watch_weights"), || self.inner.watch_weights(sent)).await
    }
}

#[async_trait]
impl<L: Layer> Beacon for Layered<dyn Beacon, L> {
    fn schedule(&self) -> BeaconSchedule {
        self.inner.schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.inner.public_key()
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        let call = Call::new(Service::Beacon, "round", round.to_string());
        self.layer.around(call, || self.inner.round(round)).await
    }
}

#[async_trait]
impl<L: Layer> ObjectStore for Layered<dyn ObjectStore, L> {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.layer.around(Call::store("get", key), || self.inner.get(key, bytes_max)).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        let call = Call::store("get_range", key);
        self.layer.around(call, || self.inner.get_range(key, range.clone(), etag)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.layer.around(Call::store("head", key), || self.inner.head(key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.layer.around(Call::store("put", key), || self.inner.put(key, bytes.clone())).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.layer.around(Call::store("put_file", key), || self.inner.put_file(key, file)).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        let call = Call::store("put_if", key).once();
        self.layer.around(call, || self.inner.put_if(key, bytes.clone(), condition)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.layer.around(Call::store("list", prefix), || self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.layer.around(Call::store("delete", key), || self.inner.delete(key)).await
    }
}

impl<L: Layer + Clone + 'static> Buckets for Layered<dyn Buckets, L> {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Layered::new(self.inner.own(), self.layer.clone()))
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        Ok(Arc::new(Layered::new(self.inner.open(credentials)?, self.layer.clone())))
    }
}

impl PortError for ChainError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }

    fn unreadable(call: &Call<'_>, reason: String) -> Self {
        Self::Malformed { call: call.verb.to_owned(), reason }
    }
}

impl PortError for StoreError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }

    fn unreadable(call: &Call<'_>, reason: String) -> Self {
        Self::Malformed(format!("the answer to {} cannot be read: {reason}", call.verb))
    }
}

impl PortError for BeaconError {
    fn unavailable(reason: String) -> Self {
        Self::Unavailable(reason)
    }

    fn unreadable(call: &Call<'_>, reason: String) -> Self {
        // The argument of the only call is a round.
        Self::Invalid { round: call.argument.parse().unwrap_or_default(), reason }
    }
}
