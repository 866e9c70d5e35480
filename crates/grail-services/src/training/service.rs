//! The trainer: one checkpoint per window, made from the newest validated rollouts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::chain::Block;
use grail_ports::environment::Environment;
use grail_ports::events::Event;
use grail_ports::model::{Model, ModelError, Trainer};
use grail_protocol::checkpoint::retention::ANCHOR_INTERVAL;
use grail_protocol::checkpoint::{
    CheckpointMetadata, CheckpointType, GenerationParams, checkpoint_digest,
};
use grail_protocol::constants::{PROTOCOL_NAME, TRAINER_UID, WINDOW_BLOCKS};
use grail_protocol::ids::{BlockNumber, Digest, Window};
use grail_protocol::keys;
use grail_protocol::validated::ValidatedFile;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::config::TrainingConfig;
use super::evaluation::{HeldOut, evaluate};
use super::pipeline::{self, TrainingGroup, TrainingStats};
use super::replay::ReplayBuffer;
use super::workshop::{Memory, Workshop};
use super::{TrainingError, TrainingOutcome, publisher, rollouts};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::checkpoint::consumer::{CheckpointConsumer, Runtimes};
use crate::checkpoint::whitening;
use crate::context::RunContext;
use crate::peers::PeerDirectory;

/// What became of a checkpoint that is built.
enum Settled {
    /// It was settled before.
    Nothing,
    /// It is READY now.
    Published(Window),
    /// The window is about to end; the next one gets the marker.
    TooLate,
}

/// Attempts at publishing a delta before the checkpoint is published whole.
const DELTA_ATTEMPTS: u32 = 3;

/// Returns whether a checkpoint that is READY as a delta should be there whole too: at anchors, and
/// when the way back to one has become long.
fn is_full_due(checkpoint: Window, anchor: Option<Window>) -> bool {
    let start = checkpoint.start().0;
    let stride = ANCHOR_INTERVAL.unsigned_abs() * WINDOW_BLOCKS;
    let is_far = anchor.is_none_or(|anchor| start - anchor.start().0.min(start) >= stride);
    start.is_multiple_of(stride) || is_far
}

fn too_late() -> TrainingOutcome {
    TrainingOutcome::Waiting("the checkpoint is marked ready in the next window".to_owned())
}

/// Trains and publishes.
pub struct TrainingService {
    ctx: RunContext,
    config: TrainingConfig,
    environment: Arc<dyn Environment>,
    held_out: HeldOut,
    base: PathBuf,
    workshop: Workshop,
    peers: PeerDirectory,
    memory: Option<Memory>,
    /// In memory as long as it agrees with the newest built checkpoint.
    trainer: Option<Box<dyn Trainer>>,
    /// The base model, loaded when the loss first needs it.
    reference: Option<Arc<dyn Model>>,
    /// Groups of the last windows; a restart forgets them.
    replay: ReplayBuffer<TrainingGroup>,
    /// How often the newest delta could not be published.
    delta_failures: u32,
    /// At most one full checkpoint on its way up; the way ends with the service.
    uploads: JoinSet<Result<Window, TrainingError>>,
}

impl TrainingService {
    /// Makes the service; nothing is read before the first tick.
    ///
    /// `environment` is published with every checkpoint; `base` is the folder of the model that a
    /// new network starts from.
    pub fn new(
        ctx: RunContext,
        config: TrainingConfig,
        environment: Arc<dyn Environment>,
        held_out: HeldOut,
        base: PathBuf,
    ) -> Self {
        let workshop = Workshop::new(ctx.state_dir.join("training"));
        let peers = PeerDirectory::default();
        let replay = ReplayBuffer::new(config.replay);
        Self {
            ctx,
            config,
            environment,
            held_out,
            base,
            workshop,
            peers,
            memory: None,
            trainer: None,
            reference: None,
            replay,
            delta_failures: 0,
            uploads: JoinSet::new(),
        }
    }

    /// Publishes and evaluates what is built, else trains on what the last window brought.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window gets two checkpoints.
    pub async fn tick(&mut self, head: Block) -> Result<TrainingOutcome, TrainingError> {
        self.ctx.heartbeat.beat();
        self.upload_due().await?;
        let current = Window::containing(head.number);
        let mut memory = self.recall().await?;
        if memory.built.is_none() {
            self.begin(head).await?;
            memory = self.recall().await?;
        }
        match self.settle(current, &memory).await? {
            Settled::Published(checkpoint) => return Ok(TrainingOutcome::Published(checkpoint)),
            Settled::TooLate => return Ok(too_late()),
            Settled::Nothing => {}
        }
        if memory.built >= Some(current) {
            return Ok(TrainingOutcome::Idle);
        }
        let Some(file) = self.newest_rollouts(current, &memory).await? else {
            return Ok(TrainingOutcome::Waiting("no new validated rollouts yet".to_owned()));
        };
        if !self.train(head, &memory, file).await? {
            return Ok(TrainingOutcome::Waiting("the rollouts teach nothing".to_owned()));
        }
        let memory = self.recall().await?;
        Ok(match self.settle(current, &memory).await? {
            Settled::Published(checkpoint) => TrainingOutcome::Published(checkpoint),
            Settled::TooLate => too_late(),
            Settled::Nothing => TrainingOutcome::Idle,
        })
    }

    /// Makes the first checkpoint: what our bucket holds from an earlier life, else the base model.
    async fn begin(&mut self, head: Block) -> Result<(), TrainingError> {
        let metagraph = self.ctx.chain.metagraph().await?;
        let ours = self.ctx.hotkey();
        if metagraph.uid(TRAINER_UID).map(|neuron| neuron.hotkey) != Some(ours) {
            return Err(TrainingError::NotTheTrainer { ours, uid: TRAINER_UID });
        }
        let objects = self.ctx.buckets.own().list(keys::CHECKPOINTS_PREFIX).await?;
        let names = objects.iter().map(|object| object.key.as_str());
        let models = self.ctx.models.clone();
        if let Some(last) = names.filter_map(keys::ReadyMarker::parse).max() {
            let mut consumer = CheckpointConsumer::new(self.ctx.clone(), Runtimes::Published);
            let found = consumer.for_window(last.ready.next()).await?;
            let checkpoint = last.checkpoint;
            let dir = found
                .map(|loaded| loaded.dir.clone())
                .ok_or(CheckpointError::NoTrainer(TRAINER_UID))?;
            info!(%checkpoint, "going on from the newest checkpoint in our bucket");
            let trainer = blocking(move || models.trainer(&dir)).await?;
            self.build(head, checkpoint, None, trainer).await?;
            let mut memory = self.recall().await?;
            memory.published = Some(checkpoint);
            return self.remember(memory).await;
        }
        let base = self.base.clone();
        info!(base = %base.display(), "starting from the base model");
        let trainer = blocking(move || models.trainer(&base)).await?;
        self.build(head, Window::containing(head.number), None, trainer).await
    }

    /// Publishes what is built and evaluates it, as far as that is not done.
    async fn settle(&mut self, current: Window, memory: &Memory) -> Result<Settled, TrainingError> {
        let Some(built) = memory.built else {
            return Ok(Settled::Nothing);
        };
        let mut memory = memory.clone();
        let mut settled = Settled::Nothing;
        if memory.published != Some(built) {
            let Some(kind) = self.publish(built).await? else {
                return Ok(Settled::TooLate);
            };
            memory.published = Some(built);
            match kind {
                CheckpointType::Full => (memory.anchor, memory.full_due) = (Some(built), None),
                CheckpointType::Delta if is_full_due(built, memory.anchor) => {
                    memory.full_due = Some(built);
                }
                CheckpointType::Delta => {}
            }
            self.remember(memory.clone()).await?;
            let reach = u64::from(self.config.retention_windows) * WINDOW_BLOCKS;
            let horizon = BlockNumber(current.start().0.saturating_sub(reach));
            publisher::retire(&self.ctx, Window::containing(horizon)).await;
            let (workshop, due) = (self.workshop.clone(), memory.full_due);
            blocking(move || workshop.tidy(built, due)).await?;
            settled = Settled::Published(built);
        }
        if self.is_evaluation_due(memory.evaluated, built) {
            match self.evaluate(built).await {
                Err(ModelError::Stopped) => return Err(ModelError::Stopped.into()),
                // A measurement that cannot be made must not keep the network waiting.
                Err(error) => warn!(checkpoint = %built, %error, "could not evaluate"),
                Ok(()) => {}
            }
            memory.evaluated = Some(built);
            self.remember(memory).await?;
        }
        Ok(settled)
    }

    /// Publishes a built checkpoint as a delta if it has one, else whole, and returns which; nothing
    /// if the window is too close to its end. A delta that cannot be published is given up.
    async fn publish(&mut self, built: Window) -> Result<Option<CheckpointType>, TrainingError> {
        let delta = self.workshop.delta_dir(built);
        let (kind, dir) = match delta.exists() && self.delta_failures < DELTA_ATTEMPTS {
            true => (CheckpointType::Delta, delta),
            false => (CheckpointType::Full, self.workshop.export_dir(built)),
        };
        match publisher::publish(&self.ctx, built, kind, &dir).await {
            Ok(marker) => {
                self.delta_failures = 0;
                Ok(marker.map(|_| kind))
            }
            Err(error) => {
                self.delta_failures += u32::from(kind == CheckpointType::Delta);
                Err(error)
            }
        }
    }

    /// Uploads the checkpoint that is due whole, beside everything else, and notes when it is there.
    async fn upload_due(&mut self) -> Result<(), TrainingError> {
        let mut memory = self.recall().await?;
        while let Some(ended) = self.uploads.try_join_next() {
            let uploaded =
                ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            match uploaded {
                Ok(checkpoint) => {
                    memory.anchor = memory.anchor.max(Some(checkpoint));
                    memory.full_due = memory.full_due.filter(|due| *due != checkpoint);
                    self.remember(memory.clone()).await?;
                }
                Err(error) => warn!(%error, "a full checkpoint beside its delta goes up again"),
            }
        }
        if let Some(due) = memory.full_due.filter(|_| self.uploads.is_empty()) {
            let (ctx, dir) = (self.ctx.clone(), self.workshop.export_dir(due));
            self.uploads.spawn(async move {
                publisher::upload_all(&ctx, due, CheckpointType::Full, &dir).await.map(|_| due)
            });
        }
        Ok(())
    }

    fn is_evaluation_due(&self, last: Option<Window>, built: Window) -> bool {
        let gap = u64::from(self.config.evaluate_every) * WINDOW_BLOCKS;
        last.is_none_or(|last| built.start().0 >= last.start().0.saturating_add(gap))
    }

    async fn evaluate(&mut self, checkpoint: Window) -> Result<(), ModelError> {
        let before = Instant::now();
        let model = self.exported(checkpoint).await?;
        let (environment, held_out) = (self.environment.clone(), self.held_out.clone());
        let (sampler, ctx) = (self.config.sampler, self.ctx.clone());
        let result = blocking(move || {
            evaluate(&*model, &*environment, sampler, &held_out, &ctx.stop, &ctx.heartbeat)
        })
        .await?;
        self.ctx.emit(Event::Evaluated {
            checkpoint,
            problems: result.problems,
            pass_at_1: result.pass_at_1(),
            seconds: before.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    async fn exported(&mut self, checkpoint: Window) -> Result<Arc<dyn Model>, ModelError> {
        let (models, dir) = (self.ctx.models.clone(), self.workshop.export_dir(checkpoint));
        blocking(move || models.load(&dir)).await
    }

    /// Returns the rollouts of the newest window that has some and was not used yet.
    async fn newest_rollouts(
        &mut self,
        current: Window,
        memory: &Memory,
    ) -> Result<Option<ValidatedFile>, TrainingError> {
        self.peers.refresh(&*self.ctx.chain).await?;
        let metagraph = self.ctx.chain.metagraph().await?;
        let at_most = self.config.validators_trusted;
        let validators = rollouts::trusted_validators(&metagraph, self.ctx.hotkey(), at_most);
        let mut window = current.previous();
        for _ in 0..self.config.staleness_windows_max {
            let Some(candidate) = window.filter(|window| memory.trained_on < Some(*window)) else {
                break;
            };
            let found = rollouts::fetch(&self.ctx, &self.peers, &validators, candidate).await?;
            if found.is_some() {
                return Ok(found);
            }
            window = candidate.previous();
        }
        Ok(None)
    }

    /// Trains and builds the checkpoint of the head's window; returns whether there is one.
    async fn train(
        &mut self,
        head: Block,
        memory: &Memory,
        file: ValidatedFile,
    ) -> Result<bool, TrainingError> {
        let before = Instant::now();
        let window = file.window;
        let reward_mean = pipeline::reward_mean(&file);
        let steps = self.config.steps;
        let mut groups = blocking(move || pipeline::prepare(&file, &steps)).await;
        if groups.is_empty() {
            let memory = Memory { trained_on: Some(window), ..memory.clone() };
            self.report(window, TrainingStats::default(), reward_mean, before);
            self.remember(memory).await?;
            return Ok(false);
        }
        if steps.loss.kl_coef > 0.0 {
            let (reference, ctx) = (self.reference_model().await?, self.ctx.clone());
            groups = blocking(move || {
                pipeline::refer(&mut groups, &*reference, &ctx.stop, &ctx.heartbeat)?;
                Ok::<_, ModelError>(groups)
            })
            .await?;
        }
        let groups_max = usize::try_from(steps.groups_max).unwrap_or(usize::MAX);
        let groups = self.replay.mix(window.start().0, groups, groups_max);
        let mut trainer = self.take_trainer(memory).await?;
        let ctx = self.ctx.clone();
        // A trainer that failed half-way is dropped: the next tick takes the saved state.
        let (trainer, stats) = blocking(move || {
            let stats = pipeline::train(&mut *trainer, &groups, &steps, &ctx.stop, &ctx.heartbeat)?;
            Ok::<_, ModelError>((trainer, stats))
        })
        .await?;
        if steps.loss.kl_coef > 0.0 || steps.loss.entropy_coef > 0.0 {
            info!(%window, kl = stats.kl, entropy = stats.entropy, "terms of the loss");
        }
        // Told before it is remembered: a crash in between tells it twice, never not at all.
        self.report(window, stats, reward_mean, before);
        self.build(head, Window::containing(head.number), Some(window), trainer).await?;
        Ok(true)
    }

    /// Returns the model that the KL term holds the policy to: the one that training began with.
    async fn reference_model(&mut self) -> Result<Arc<dyn Model>, ModelError> {
        if self.reference.is_none() {
            let (models, base) = (self.ctx.models.clone(), self.base.clone());
            self.reference = Some(blocking(move || models.load(&base)).await?);
        }
        let missing = || ModelError::Unloadable("the reference model is gone".to_owned());
        self.reference.clone().ok_or_else(missing)
    }

    fn report(&self, window: Window, stats: TrainingStats, reward_mean: f64, before: Instant) {
        self.ctx.emit(Event::WindowTrained {
            window,
            steps: stats.steps,
            rollouts: stats.rollouts,
            tokens: stats.tokens,
            loss: stats.loss,
            grad_norm: stats.grad_norm,
            reward_mean,
            first_log_ratio_max: stats.first_log_ratio_max,
            seconds: before.elapsed().as_secs_f64(),
        });
    }

    async fn take_trainer(&mut self, memory: &Memory) -> Result<Box<dyn Trainer>, TrainingError> {
        match (self.trainer.take(), memory.built) {
            (Some(trainer), _) => Ok(trainer),
            (None, Some(built)) => {
                let (workshop, models) = (self.workshop.clone(), self.ctx.models.clone());
                blocking(move || workshop.resume(built, &models)).await
            }
            (None, None) => {
                let (base, models) = (self.base.clone(), self.ctx.models.clone());
                Ok(blocking(move || models.trainer(&base)).await?)
            }
        }
    }

    /// Writes a checkpoint and makes it the one that the trainer remembers: the commit point.
    async fn build(
        &mut self,
        head: Block,
        checkpoint: Window,
        trained_on: Option<Window>,
        trainer: Box<dyn Trainer>,
    ) -> Result<(), TrainingError> {
        let workshop = self.workshop.clone();
        let trainer = blocking(move || {
            workshop.build(checkpoint, &*trainer)?;
            Ok::<_, TrainingError>(trainer)
        })
        .await?;
        self.ctx.heartbeat.beat();
        let model = self.exported(checkpoint).await?;
        let memory = self.recall().await?;
        let mut described =
            self.describe(head, checkpoint, memory.built, &model.info().numerics)?;
        let stop = self.ctx.stop.clone();
        described.whitening = match blocking(move || whitening::measure(&*model, &stop)).await {
            Ok(record) => Some(record),
            Err(ModelError::Stopped) => return Err(ModelError::Stopped.into()),
            // Exact miners do not need it, and the network must not wait for those who do.
            Err(error) => {
                warn!(%checkpoint, %error, "published without whitening: exact engines alone can mine");
                None
            }
        };
        self.ctx.heartbeat.beat();
        let (workshop, signer) = (self.workshop.clone(), self.ctx.signer.clone());
        let base = memory.published.zip(memory.anchor).filter(|(base, _)| *base < checkpoint);
        blocking(move || {
            workshop.sign(checkpoint, base, &*signer, |file_manifest| CheckpointMetadata {
                checkpoint_digest: checkpoint_digest(&file_manifest),
                file_manifest,
                ..described
            })
        })
        .await?;
        let trained_on = trained_on.or(memory.trained_on);
        self.remember(Memory { built: Some(checkpoint), trained_on, ..memory }).await?;
        self.trainer = Some(trainer);
        Ok(())
    }

    /// Returns the metadata of a checkpoint but for its files and its whitening.
    fn describe(
        &self,
        head: Block,
        checkpoint: Window,
        parent: Option<Window>,
        numerics: &str,
    ) -> Result<CheckpointMetadata, TrainingError> {
        let training_config = self.config.published();
        // The chain is the clock; its times are far below 2^53 ms.
        #[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^53")]
        let created_at = head.timestamp_ms as f64 / 1000.0;
        let env_params = serde_json::from_str(&self.environment.params_json())
            .map_err(|error| TrainingError::Environment(error.to_string()))?;
        Ok(CheckpointMetadata {
            window: checkpoint,
            file_manifest: BTreeMap::new(),
            config_hash: CheckpointMetadata::hash_config(&training_config),
            training_config,
            git_commit: self.config.git_commit.clone(),
            created_at,
            model_name: self.config.model_name.clone(),
            parent_window: parent.unwrap_or(Window::containing(BlockNumber(0))),
            checkpoint_type: CheckpointType::Full,
            prev_window: None,
            anchor_window: None,
            weights_hash: None,
            delta: None,
            env_id: self.environment.id().to_owned(),
            env_params,
            generation_params: GenerationParams::new(self.config.sampler),
            thinking_mode: self.config.thinking_mode.clone(),
            protocol: PROTOCOL_NAME.to_owned(),
            numerics: numerics.to_owned(),
            checkpoint_digest: Digest([0; 32]),
            whitening: None,
        })
    }

    async fn recall(&mut self) -> Result<Memory, TrainingError> {
        if let Some(memory) = &self.memory {
            return Ok(memory.clone());
        }
        let workshop = self.workshop.clone();
        let memory = blocking(move || workshop.recall()).await?;
        self.memory = Some(memory.clone());
        Ok(memory)
    }

    async fn remember(&mut self, memory: Memory) -> Result<(), TrainingError> {
        let (workshop, kept) = (self.workshop.clone(), memory.clone());
        blocking(move || workshop.remember(&kept)).await?;
        self.memory = Some(memory);
        Ok(())
    }
}
