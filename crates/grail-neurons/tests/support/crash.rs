//! Kills a role at a chosen call of its ports, before the call has its effect or after it.
//!
//! The killed call never returns, so the role's work stays where it was, as after `kill -9`. Calls
//! of the model are killed by unwinding, because they block.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use grail_ports::layer::{Call, Layer, PortError};
use grail_ports::model::{
    LossGradient, Model, ModelError, ModelProvider, OptimizerConfig, StepStats, StopFlag, Trainer,
    TrainingSequence,
};
use grail_protocol::ids::Digest;
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

impl Layer for CrashPlan {
    async fn around<T, E, F>(&self, _: Call<'_>, make: impl Fn() -> F + Send + Sync) -> Result<T, E>
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send,
    {
        self.guard(make()).await
    }
}

/// Models with a plan in front.
pub struct DoomedModels {
    pub plan: Arc<CrashPlan>,
    pub inner: Arc<dyn ModelProvider>,
}

impl ModelProvider for DoomedModels {
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
