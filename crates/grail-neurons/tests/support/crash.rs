//! Kills a role at a chosen call of its ports, before the call has its effect or after it.
//!
//! The killed call never returns, so the role's work stays where it was, as after `kill -9`. Calls
//! of the model are killed by unwinding, because they block.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_ports::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, SentWeights, WeightSubmission,
    WeightsStatus,
};
use grail_ports::model::{
    LossGradient, Model, ModelError, ModelProvider, OptimizerConfig, StepStats, StopFlag, Trainer,
    TrainingSequence,
};
use grail_ports::object_store::{
    Buckets, FilePut, ObjectInfo, ObjectKey, ObjectStore, PutCondition, PutOutcome,
    ReadCredentials, StoreError,
};
use grail_protocol::ids::{BlockNumber, Digest, Hotkey, Netuid};
use grail_protocol::timelock::BeaconPublicKey;
use tokio::sync::Notify;

/// When the role is killed.
pub struct CrashPlan {
    at_call: u64,
    after_effect: bool,
    calls: AtomicU64,
    /// Told when the role is dead.
    pub dead: Notify,
}

enum Fate {
    Lives,
    DiesBefore,
    DiesAfter,
}

impl CrashPlan {
    /// Kills at the `at_call`-th call, 1-based.
    pub fn new(at_call: u64, after_effect: bool) -> Arc<Self> {
        let (calls, dead) = (AtomicU64::new(0), Notify::new());
        Arc::new(Self { at_call, after_effect, calls, dead })
    }

    /// Returns whether the call was reached.
    pub fn has_struck(&self) -> bool {
        self.calls.load(Ordering::SeqCst) >= self.at_call
    }

    fn fate(&self) -> Fate {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        match call.cmp(&self.at_call) {
            std::cmp::Ordering::Less => Fate::Lives,
            std::cmp::Ordering::Equal if self.after_effect => Fate::DiesAfter,
            // A dead role does nothing more, whatever was under way beside the fatal call.
            _ => Fate::DiesBefore,
        }
    }

    async fn die<T>(&self) -> T {
        self.dead.notify_one();
        std::future::pending().await
    }

    async fn guard<T>(&self, call: impl Future<Output = T>) -> T {
        match self.fate() {
            Fate::Lives => call.await,
            Fate::DiesBefore => self.die().await,
            Fate::DiesAfter => {
                let _ = call.await;
                self.die().await
            }
        }
    }

    fn guard_blocking<T>(&self, call: impl FnOnce() -> T) -> T {
        match self.fate() {
            Fate::Lives => return call(),
            Fate::DiesBefore => {}
            Fate::DiesAfter => drop(call()),
        }
        self.dead.notify_one();
        std::panic::resume_unwind(Box::new("killed by the test"))
    }
}

/// Any port with a plan in front.
pub struct Doomed<T: ?Sized> {
    pub plan: Arc<CrashPlan>,
    pub inner: Arc<T>,
}

#[async_trait]
impl Chain for Doomed<dyn Chain> {
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
        self.plan.guard(self.inner.head()).await
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        self.plan.guard(self.inner.block(number)).await
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.plan.guard(self.inner.metagraph()).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        self.plan.guard(self.inner.hyperparameters()).await
    }

    async fn commitments(
        &self,
    ) -> Result<Arc<std::collections::BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.plan.guard(self.inner.commitments()).await
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.plan.guard(self.inner.set_commitment(data)).await
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        self.plan.guard(self.inner.set_weights(weights)).await
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        self.plan.guard(self.inner.finalized()).await
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        self.plan.guard(self.inner.weights_status()).await
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        self.plan.guard(self.inner.watch_weights(sent)).await
    }
}

#[async_trait]
impl Beacon for Doomed<dyn Beacon> {
    fn schedule(&self) -> BeaconSchedule {
        self.inner.schedule()
    }

    fn public_key(&self) -> BeaconPublicKey {
        self.inner.public_key()
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        self.plan.guard(self.inner.round(round)).await
    }
}

impl Buckets for Doomed<dyn Buckets> {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(Doomed { plan: self.plan.clone(), inner: self.inner.own() })
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        Ok(Arc::new(Doomed { plan: self.plan.clone(), inner: self.inner.open(credentials)? }))
    }
}

#[async_trait]
impl ObjectStore for Doomed<dyn ObjectStore> {
    async fn get(&self, key: &ObjectKey, bytes_max: u64) -> Result<Option<Bytes>, StoreError> {
        self.plan.guard(self.inner.get(key, bytes_max)).await
    }

    async fn get_range(
        &self,
        key: &ObjectKey,
        range: std::ops::Range<u64>,
        etag: Option<&str>,
    ) -> Result<Option<Bytes>, StoreError> {
        self.plan.guard(self.inner.get_range(key, range, etag)).await
    }

    async fn put_if(
        &self,
        key: &ObjectKey,
        bytes: Bytes,
        condition: &PutCondition,
    ) -> Result<PutOutcome, StoreError> {
        self.plan.guard(self.inner.put_if(key, bytes, condition)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        self.plan.guard(self.inner.head(key)).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), StoreError> {
        self.plan.guard(self.inner.put(key, bytes)).await
    }

    async fn put_file(&self, key: &ObjectKey, file: &Path) -> Result<FilePut, StoreError> {
        self.plan.guard(self.inner.put_file(key, file)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.plan.guard(self.inner.list(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.plan.guard(self.inner.delete(key)).await
    }
}

impl ModelProvider for Doomed<dyn ModelProvider> {
    fn load(&self, dir: &Path) -> Result<Arc<dyn Model>, ModelError> {
        self.plan.guard_blocking(|| self.inner.load(dir))
    }

    fn trainer(&self, dir: &Path) -> Result<Box<dyn Trainer>, ModelError> {
        let inner = self.plan.guard_blocking(|| self.inner.trainer(dir))?;
        Ok(Box::new(DoomedTrainer { plan: self.plan.clone(), inner }))
    }
}

struct DoomedTrainer {
    plan: Arc<CrashPlan>,
    inner: Box<dyn Trainer>,
}

impl Trainer for DoomedTrainer {
    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<(), ModelError> {
        self.inner.accumulate(sequences, loss, stop)
    }

    fn accumulate_with_entropy(
        &mut self,
        sequences: &[TrainingSequence],
        factors: &[f32],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<f64, ModelError> {
        self.inner.accumulate_with_entropy(sequences, factors, loss, stop)
    }

    fn step(&mut self, config: &OptimizerConfig, stop: &StopFlag) -> Result<StepStats, ModelError> {
        self.plan.guard_blocking(|| self.inner.step(config, stop))
    }

    fn export(&self, dir: &Path) -> Result<Digest, ModelError> {
        self.plan.guard_blocking(|| self.inner.export(dir))
    }

    fn save_state(&self, dir: &Path) -> Result<(), ModelError> {
        self.plan.guard_blocking(|| self.inner.save_state(dir))
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), ModelError> {
        self.plan.guard_blocking(|| self.inner.load_state(dir))
    }
}
