//! The trainer: one checkpoint per window, made from the newest rollouts; what its profile does is in
//! [`super::profile`].

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::chain::Block;
use grail_ports::environment::Environment;
use grail_ports::events::Event;
use grail_ports::model::{Model, ModelError, Trainer};
use grail_protocol::constants::{TRAINER_UID, WINDOW_BLOCKS};
use grail_protocol::ids::{BlockNumber, Window};
use grail_protocol::keys;
use tokio::time::Instant;
use tracing::{info, warn};

use super::config::TrainingConfig;
use super::evaluation::{HeldOut, evaluate};
use super::native::NativeTraining;
use super::outbox::Outbox;
use super::pipeline::{self, TrainingGroup, TrainingStats};
use super::profile::{DeltaBase, Lesson, TrainingProfile, TrainingSetup, Unsigned};
use super::replay::ReplayBuffer;
use super::workshop::{Memory, Workshop};
use super::{TrainingError, TrainingOutcome};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::context::RunContext;
use crate::peers::PeerDirectory;

/// Trains and publishes in the native profile.
pub type TrainingService = Training<NativeTraining>;

/// Where a checkpoint came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// From the model that training begins with.
    Base,
    /// From our own bucket, in which it is READY.
    Bucket,
    /// From the rollouts of a window.
    Rollouts(Window),
}

/// Trains and publishes.
pub struct Training<P> {
    setup: TrainingSetup,
    profile: P,
    held_out: HeldOut,
    base: PathBuf,
    workshop: Workshop,
    outbox: Outbox,
    peers: PeerDirectory,
    memory: Option<Memory>,
    /// In memory as long as it agrees with the newest built checkpoint.
    trainer: Option<Box<dyn Trainer>>,
    /// The base model, loaded when the loss first needs it.
    reference: Option<Arc<dyn Model>>,
    /// Groups of the last windows; a restart forgets them.
    replay: ReplayBuffer<TrainingGroup>,
}

impl<P: TrainingProfile> Training<P> {
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
        let workshop = Workshop::new(ctx.state_dir.join(P::FOLDER));
        let replay = ReplayBuffer::new(config.replay);
        Self {
            setup: TrainingSetup { ctx, config, environment },
            profile: P::default(),
            held_out,
            base,
            workshop,
            outbox: Outbox::new(P::objects),
            peers: PeerDirectory::default(),
            memory: None,
            trainer: None,
            reference: None,
            replay,
        }
    }

    /// Publishes and evaluates what is built, else trains on what the last window brought.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window gets two checkpoints.
    pub async fn tick(&mut self, head: Block) -> Result<TrainingOutcome, TrainingError> {
        self.setup.ctx.heartbeat.beat();
        self.send_due().await?;
        let current = Window::containing(head.number);
        if self.recall().await?.built.is_none() {
            self.begin(head).await?;
        }
        if let Some(outcome) = self.settle(current).await? {
            return Ok(outcome);
        }
        if self.recall().await?.built >= Some(current) {
            return Ok(TrainingOutcome::Idle);
        }
        let Some(lesson) = self.newest_lesson(current).await? else {
            return Ok(TrainingOutcome::Waiting("no new rollouts to train on yet".to_owned()));
        };
        if !self.train(head, lesson).await? {
            return Ok(TrainingOutcome::Waiting("the rollouts teach nothing".to_owned()));
        }
        Ok(self.settle(current).await?.unwrap_or(TrainingOutcome::Idle))
    }

    /// Makes the first checkpoint: what our bucket holds from an earlier life, else the base model.
    async fn begin(&mut self, head: Block) -> Result<(), TrainingError> {
        let ctx = &self.setup.ctx;
        let metagraph = ctx.chain.metagraph().await?;
        let ours = ctx.hotkey();
        if metagraph.uid(TRAINER_UID).map(|neuron| neuron.hotkey) != Some(ours) {
            return Err(TrainingError::NotTheTrainer { ours, uid: TRAINER_UID });
        }
        let objects = ctx.buckets.own().list(keys::CHECKPOINTS_PREFIX).await?;
        let names = objects.iter().map(|object| object.key.as_str());
        let models = ctx.models.clone();
        let Some(last) = names.filter_map(keys::ReadyMarker::parse).max() else {
            let base = self.base.clone();
            info!(base = %base.display(), "starting from the base model");
            let trainer = blocking(move || models.trainer(&base)).await?;
            return self.build(head, Window::containing(head.number), Origin::Base, trainer).await;
        };
        let checkpoint = last.checkpoint;
        let found = self.profile.recover(&self.setup, last.ready.next()).await?;
        let dir = found.ok_or(CheckpointError::NoTrainer(TRAINER_UID))?;
        info!(%checkpoint, "going on from the newest checkpoint in our bucket");
        let trainer = blocking(move || models.trainer(&dir)).await?;
        self.build(head, checkpoint, Origin::Bucket, trainer).await
    }

    /// Publishes what is built and evaluates it, as far as that is not done; returns what came of it,
    /// if anything.
    async fn settle(&mut self, current: Window) -> Result<Option<TrainingOutcome>, TrainingError> {
        let mut memory = self.recall().await?;
        let Some(built) = memory.built else { return Ok(None) };
        let mut settled = None;
        if memory.published != Some(built) {
            let before = memory.published;
            let ctx = &self.setup.ctx;
            if !self.outbox.publish(ctx, &self.workshop, built, &mut memory).await? {
                let reason = "the checkpoint is marked ready in the next window".to_owned();
                return Ok(Some(TrainingOutcome::Waiting(reason)));
            }
            self.remember(memory.clone()).await?;
            self.retire(current, before, built).await;
            let (workshop, due) = (self.workshop.clone(), memory.full_due);
            blocking(move || workshop.tidy(built, due)).await?;
            settled = Some(TrainingOutcome::Published(built));
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

    /// Removes from our bucket what nobody needs any more. Trouble is reported and tried again later.
    async fn retire(&mut self, current: Window, before: Option<Window>, built: Window) {
        let reach = u64::from(self.setup.config.retention_windows) * WINDOW_BLOCKS;
        let horizon = Window::containing(BlockNumber(current.start().0.saturating_sub(reach)));
        if let Err(error) = self.profile.retire(&self.setup, horizon, before, built).await {
            warn!(%error, "old checkpoints stay in the bucket for now");
        }
    }

    /// Sends the checkpoint that is due whole, beside everything else, and notes what arrived.
    async fn send_due(&mut self) -> Result<(), TrainingError> {
        let mut memory = self.recall().await?;
        if self.outbox.send_due(&self.setup.ctx, &self.workshop, &mut memory) {
            self.remember(memory).await?;
        }
        Ok(())
    }

    fn is_evaluation_due(&self, last: Option<Window>, built: Window) -> bool {
        let gap = u64::from(self.setup.config.evaluate_every) * WINDOW_BLOCKS;
        last.is_none_or(|last| built.start().0 >= last.start().0.saturating_add(gap))
    }

    async fn evaluate(&mut self, checkpoint: Window) -> Result<(), ModelError> {
        let before = Instant::now();
        let model = self.exported(checkpoint).await?;
        let (environment, held_out) = (self.setup.environment.clone(), self.held_out.clone());
        let (sampler, ctx) = (self.setup.config.sampler, self.setup.ctx.clone());
        let form = P::prompt_form(&self.setup.config);
        let result = blocking(move || {
            let (stop, heartbeat) = (&ctx.stop, &ctx.heartbeat);
            evaluate(&*model, &*environment, sampler, &held_out, form, stop, heartbeat)
        })
        .await?;
        self.setup.ctx.emit(Event::Evaluated {
            checkpoint,
            problems: result.problems,
            pass_at_1: result.pass_at_1(),
            seconds: before.elapsed().as_secs_f64(),
        });
        Ok(())
    }

    async fn exported(&mut self, checkpoint: Window) -> Result<Arc<dyn Model>, ModelError> {
        let (models, dir) = (self.setup.ctx.models.clone(), self.workshop.export_dir(checkpoint));
        blocking(move || models.load(&dir)).await
    }

    /// Returns the rollouts of the newest window that has some and was not used yet.
    async fn newest_lesson(&mut self, current: Window) -> Result<Option<Lesson>, TrainingError> {
        self.peers.refresh(&*self.setup.ctx.chain).await?;
        let memory = self.recall().await?;
        let Some(built) = memory.built else { return Ok(None) };
        let mut window = current.previous();
        for _ in 0..self.setup.config.staleness_windows_max {
            let Some(candidate) = window.filter(|window| memory.trained_on < Some(*window)) else {
                break;
            };
            let newest = (built, self.workshop.export_dir(built));
            let found = self.profile.lesson(&self.setup, &self.peers, candidate, newest).await?;
            if found.is_some() {
                return Ok(found);
            }
            window = candidate.previous();
        }
        Ok(None)
    }

    /// Trains and builds the checkpoint of the head's window; returns whether there is one.
    async fn train(&mut self, head: Block, lesson: Lesson) -> Result<bool, TrainingError> {
        let before = Instant::now();
        let Lesson { window, mut groups, reward_mean } = lesson;
        if groups.is_empty() {
            let memory = Memory { trained_on: Some(window), ..self.recall().await? };
            self.report(window, TrainingStats::default(), reward_mean, before);
            self.remember(memory).await?;
            return Ok(false);
        }
        let (ctx, steps) = (self.setup.ctx.clone(), self.setup.config.steps);
        if steps.loss.kl_coef > 0.0 {
            let (reference, ctx) = (self.reference_model().await?, ctx.clone());
            groups = blocking(move || {
                pipeline::refer(&mut groups, &*reference, &ctx.stop, &ctx.heartbeat)?;
                Ok::<_, ModelError>(groups)
            })
            .await?;
        }
        let groups_max = usize::try_from(steps.groups_max).unwrap_or(usize::MAX);
        let groups = self.replay.mix(window.start().0, groups, groups_max);
        let mut trainer = self.take_trainer().await?;
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
        let checkpoint = Window::containing(head.number);
        self.build(head, checkpoint, Origin::Rollouts(window), trainer).await?;
        Ok(true)
    }

    /// Returns the model that the KL term holds the policy to: the one that training began with.
    async fn reference_model(&mut self) -> Result<Arc<dyn Model>, ModelError> {
        if self.reference.is_none() {
            let (models, base) = (self.setup.ctx.models.clone(), self.base.clone());
            self.reference = Some(blocking(move || models.load(&base)).await?);
        }
        let missing = || ModelError::Unloadable("the reference model is gone".to_owned());
        self.reference.clone().ok_or_else(missing)
    }

    fn report(&self, window: Window, stats: TrainingStats, reward_mean: f64, before: Instant) {
        self.setup.ctx.emit(Event::WindowTrained {
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

    async fn take_trainer(&mut self) -> Result<Box<dyn Trainer>, TrainingError> {
        let models = self.setup.ctx.models.clone();
        match (self.trainer.take(), self.recall().await?.built) {
            (Some(trainer), _) => Ok(trainer),
            (None, Some(built)) => {
                let workshop = self.workshop.clone();
                blocking(move || workshop.resume(built, &models)).await
            }
            (None, None) => {
                let base = self.base.clone();
                Ok(blocking(move || models.trainer(&base)).await?)
            }
        }
    }

    /// Writes a checkpoint and makes it the one that the trainer remembers: the commit point.
    async fn build(
        &mut self,
        head: Block,
        checkpoint: Window,
        origin: Origin,
        trainer: Box<dyn Trainer>,
    ) -> Result<(), TrainingError> {
        let workshop = self.workshop.clone();
        let trainer = blocking(move || {
            workshop.build(checkpoint, &*trainer)?;
            Ok::<_, TrainingError>(trainer)
        })
        .await?;
        self.setup.ctx.heartbeat.beat();
        let memory = self.recall().await?;
        let base = memory.published.zip(memory.anchor).filter(|(base, _)| *base < checkpoint);
        // The chain is the clock; its times are far below 2^53 ms.
        #[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^53")]
        let created_at = head.timestamp_ms as f64 / 1000.0;
        let build = Unsigned {
            checkpoint,
            dir: self.workshop.export_dir(checkpoint),
            delta_dir: self.workshop.delta_dir(checkpoint),
            parent: memory.built,
            base: base.map(|(window, anchor)| DeltaBase {
                window,
                dir: self.workshop.export_dir(window),
                anchor,
            }),
            created_at,
        };
        self.profile.sign(&self.setup, build).await?;
        let mut memory = Memory { built: Some(checkpoint), ..memory };
        match origin {
            Origin::Base => {}
            Origin::Bucket => memory.published = Some(checkpoint),
            Origin::Rollouts(window) => memory.trained_on = Some(window),
        }
        self.remember(memory).await?;
        self.trainer = Some(trainer);
        Ok(())
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
