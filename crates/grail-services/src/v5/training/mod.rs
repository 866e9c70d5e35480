//! The trainer of the reference's profile: one full checkpoint per window, made from the newest files
//! of trusted miners.
//!
//! Training itself is the native profile's: the same estimators, loss and optimiser. What differs is
//! the data, which nobody has validated, and the metadata, which Python peers read.

pub mod lesson;
mod publishing;

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::chain::Block;
use grail_ports::environment::Environment;
use grail_ports::events::Event;
use grail_ports::model::{Model, ModelError, ModelInfo, Trainer};
use grail_protocol::checkpoint::{CheckpointType, ReferenceMetadata};
use grail_protocol::constants::{TRAINER_UID, WINDOW_BLOCKS};
use grail_protocol::ids::{BlockNumber, Digest, Window};
use grail_protocol::keys;
use grail_protocol::v5::python::json::{self, Value};
use tokio::time::Instant;
use tracing::{info, warn};

use self::lesson::{Lesson, lesson};
use super::checkpoints::{AssignmentSource, ReferenceEnvironments};
use crate::blocking::blocking;
use crate::checkpoint::CheckpointError;
use crate::context::RunContext;
use crate::peers::PeerDirectory;
use crate::training::config::TrainingConfig;
use crate::training::evaluation::{HeldOut, evaluate};
use crate::training::pipeline::{self, TrainingStats};
use crate::training::publisher::retire;
use crate::training::workshop::{Memory, Workshop};
use crate::training::{TrainingError, TrainingOutcome};

/// What became of a checkpoint that is built.
enum Settled {
    /// It was settled before.
    Nothing,
    /// It is READY now.
    Published(Window),
    /// The window is about to end; the next one gets the marker.
    TooLate,
}

/// Trains and publishes for peers of the reference.
pub struct ReferenceTraining {
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
    /// What rows must fit, of the checkpoint that it was read from.
    info: Option<(Window, ModelInfo)>,
}

impl ReferenceTraining {
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
        let workshop = Workshop::new(ctx.state_dir.join("training-v5"));
        let peers = PeerDirectory::default();
        let (memory, trainer, info) = (None, None, None);
        Self { ctx, config, environment, held_out, base, workshop, peers, memory, trainer, info }
    }

    /// Publishes and evaluates what is built, else trains on what the last window brought.
    ///
    /// # Errors
    /// When something failed that the next tick may find mended. No window gets two checkpoints.
    pub async fn tick(&mut self, head: Block) -> Result<TrainingOutcome, TrainingError> {
        self.ctx.heartbeat.beat();
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
            return Ok(TrainingOutcome::Waiting("no new files of trusted miners yet".to_owned()));
        };
        if !self.train(head, lesson).await? {
            return Ok(TrainingOutcome::Waiting("the rollouts teach nothing".to_owned()));
        }
        Ok(self.settle(current).await?.unwrap_or(TrainingOutcome::Idle))
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
        let Some(last) = names.filter_map(keys::ReadyMarker::parse).max() else {
            let base = self.base.clone();
            info!(base = %base.display(), "starting from the base model");
            let trainer = blocking(move || models.trainer(&base)).await?;
            return self.build(head, Window::containing(head.number), None, trainer).await;
        };
        let environment = self.environment.clone();
        let environments: ReferenceEnvironments = Arc::new(move |_, _, _| Ok(environment.clone()));
        let mut consumer = AssignmentSource::new(self.ctx.clone(), environments);
        let found = consumer.for_window(last.ready.next()).await?;
        let checkpoint = last.checkpoint;
        let dir = found
            .map(|assignment| assignment.dir.clone())
            .ok_or(CheckpointError::NoTrainer(TRAINER_UID))?;
        info!(%checkpoint, "going on from the newest checkpoint in our bucket");
        let trainer = blocking(move || models.trainer(&dir)).await?;
        self.build(head, checkpoint, None, trainer).await?;
        let memory = Memory { published: Some(checkpoint), ..self.recall().await? };
        self.remember(memory).await
    }

    /// Publishes what is built and evaluates it, as far as that is not done.
    async fn settle(&mut self, current: Window) -> Result<Option<TrainingOutcome>, TrainingError> {
        Ok(match self.publish_built(current).await? {
            Settled::Nothing => None,
            Settled::Published(checkpoint) => Some(TrainingOutcome::Published(checkpoint)),
            Settled::TooLate => Some(TrainingOutcome::Waiting(
                "the checkpoint is marked ready in the next window".to_owned(),
            )),
        })
    }

    async fn publish_built(&mut self, current: Window) -> Result<Settled, TrainingError> {
        let mut memory = self.recall().await?;
        let Some(built) = memory.built else { return Ok(Settled::Nothing) };
        let mut settled = Settled::Nothing;
        if memory.published != Some(built) {
            let dir = self.workshop.export_dir(built);
            if !publishing::publish(&self.ctx, built, &dir).await? {
                return Ok(Settled::TooLate);
            }
            memory.published = Some(built);
            self.remember(memory.clone()).await?;
            let reach = u64::from(self.config.retention_windows) * WINDOW_BLOCKS;
            let horizon = BlockNumber(current.start().0.saturating_sub(reach));
            retire(&self.ctx, Window::containing(horizon)).await;
            let workshop = self.workshop.clone();
            blocking(move || workshop.tidy(built, None)).await?;
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

    /// Returns the facts of a built checkpoint's model, which is loaded for them once.
    async fn model_info(&mut self, built: Window) -> Result<ModelInfo, ModelError> {
        match &self.info {
            Some((of, info)) if *of == built => Ok(info.clone()),
            _ => {
                let info = self.exported(built).await?.info().clone();
                self.info = Some((built, info.clone()));
                Ok(info)
            }
        }
    }

    /// Returns the files of the newest window that has some and was not used yet.
    async fn newest_lesson(&mut self, current: Window) -> Result<Option<Lesson>, TrainingError> {
        self.peers.refresh(&*self.ctx.chain).await?;
        let memory = self.recall().await?;
        let Some(built) = memory.built else { return Ok(None) };
        let info = self.model_info(built).await?;
        let mut window = current.previous();
        for _ in 0..self.config.staleness_windows_max {
            let Some(candidate) = window.filter(|window| memory.trained_on < Some(*window)) else {
                break;
            };
            let found = lesson(&self.ctx, &self.peers, candidate, &info, &self.config.steps);
            let found = found.await?;
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
        let Lesson { window, groups, reward_mean } = lesson;
        if groups.is_empty() {
            let memory = Memory { trained_on: Some(window), ..self.recall().await? };
            self.report(window, TrainingStats::default(), reward_mean, before);
            self.remember(memory).await?;
            return Ok(false);
        }
        let mut trainer = self.take_trainer().await?;
        let (ctx, steps) = (self.ctx.clone(), self.config.steps);
        // A trainer that failed half-way is dropped: the next tick takes the saved state.
        let (trainer, stats) = blocking(move || {
            let stats = pipeline::train(&mut *trainer, &groups, &steps, &ctx.stop, &ctx.heartbeat)?;
            Ok::<_, ModelError>((trainer, stats))
        })
        .await?;
        // Told before it is remembered: a crash in between tells it twice, never not at all.
        self.report(window, stats, reward_mean, before);
        self.build(head, Window::containing(head.number), Some(window), trainer).await?;
        Ok(true)
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

    async fn take_trainer(&mut self) -> Result<Box<dyn Trainer>, TrainingError> {
        let models = self.ctx.models.clone();
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
        let memory = self.recall().await?;
        let described = self.describe(head, checkpoint, memory.built)?;
        let (workshop, signer) = (self.workshop.clone(), self.ctx.signer.clone());
        blocking(move || {
            workshop.sign_reference(checkpoint, &*signer, |file_manifest| ReferenceMetadata {
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

    /// Returns the metadata of a checkpoint but for its files.
    fn describe(
        &self,
        head: Block,
        checkpoint: Window,
        parent: Option<Window>,
    ) -> Result<ReferenceMetadata, TrainingError> {
        let parse = |text: String| {
            json::parse(&text).map_err(|error| TrainingError::Environment(error.to_string()))
        };
        let training_config = parse(self.config.published().to_string())?;
        let sampler = self.config.sampler;
        Ok(ReferenceMetadata {
            window: checkpoint,
            file_manifest: Vec::<(String, Digest)>::new(),
            config_hash: Some(ReferenceMetadata::hash_config(&training_config)),
            training_config,
            git_commit: self.config.git_commit.clone(),
            // The chain is the clock.
            created_at: head.timestamp_ms as f64 / 1000.0,
            model_name: self.config.model_name.clone(),
            parent_window: Some(parent.map_or(0, |parent| parent.start().0)),
            checkpoint_type: Some(CheckpointType::Full),
            prev_window: None,
            anchor_window: None,
            weights_hash: None,
            env_id: self.environment.id().to_owned(),
            env_params: parse(self.environment.params_json())?,
            generation_params: Value::object([
                ("max_tokens", Value::Integer(i64::from(sampler.max_new_tokens))),
                ("temperature", Value::Float(f64::from(sampler.temperature))),
                ("top_p", Value::Float(1.0)),
                ("top_k", Value::Integer(0)),
                ("repetition_penalty", Value::Float(1.0)),
            ]),
            thinking_mode: self.config.thinking_mode.clone(),
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
