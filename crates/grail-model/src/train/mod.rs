//! Trains a model: exact gradients, AdamW, checkpoints that anyone can reproduce.
//!
//! Masters are f32. The forward pass computes with the masters rounded to bf16, which is what an
//! export writes and what miners and validators load; so a log-probability here is theirs, bit for
//! bit, and an importance ratio before the first update is exactly 1. The gradient is taken at the
//! rounded weights and applied to the masters (straight through), which keeps updates that are
//! smaller than a bf16 step.

mod adapter;
mod kept;
mod layer_backward;
mod lora;
mod loss_head;
mod micro_batch;
mod parameters;
mod state;
mod workspace;

use std::path::Path;

use grail_kernels::{AdamW, Buffer, Kernels, TrainingState, WeightCopy};
use grail_ports::model::{
    LossGradient, ModelError, OptimizerConfig, StepStats, StopFlag, Trainer, TrainingSequence,
};
use grail_protocol::ids::Digest;

use self::lora::Lora;
use self::loss_head::{LossHead, Slopes};
use self::micro_batch::MicroBatch;
use self::parameters::{Layout, Weights};
use self::workspace::{Pass, Transposed, Workspace};
use crate::arch::{Decoder, WeightSource};
use crate::engine::{Head, check_sequence};
use crate::folder::{CompanionFiles, unloadable};
use crate::formats::config::ModelConfig;
use crate::formats::safetensors::TensorSource;

pub use self::lora::{LORA_RANK_MAX, LoraConfig, LoraTargets};
pub use self::parameters::Precision;

/// Bounds and choices of a trainer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainerConfig {
    /// Most tokens in one micro-batch, at least 1; a longer sequence is one of its own. Bounds the
    /// memory of activations. Changes the order of sums, so it is part of what makes a run
    /// reproducible.
    pub micro_batch_tokens: usize,
    /// Memory for the inner values of layers between forward and backward pass, in bytes. Layers
    /// beyond it are computed twice. Bounds neither the inputs of layers, which are always kept,
    /// nor the buffers of one layer. Changes no bit.
    pub activations_bytes_max: usize,
    /// What the forward pass computes with.
    pub precision: Precision,
    /// Train low-rank pairs beside a frozen model instead of the model; see [`LoraConfig`].
    pub lora: Option<LoraConfig>,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            micro_batch_tokens: 512,
            activations_bytes_max: 512 << 20,
            precision: Precision::Bf16,
            lora: None,
        }
    }
}

/// A model in training. See [`Trainer`] for the contract of its methods.
pub struct ModelTrainer {
    kernels: Kernels,
    config: TrainerConfig,
    companions: CompanionFiles,
    layout: Layout,
    masters: Buffer<f32>,
    grads: Buffer<f32>,
    exp_avg: Buffer<f32>,
    exp_avg_sq: Buffer<f32>,
    /// Steps applied so far.
    step: u64,
    /// Whether `grads` holds anything.
    accumulated: bool,
    /// The weights of the forward pass, made from the masters after each step.
    decoder: Decoder,
    transposed: Transposed,
    lora: Option<Lora>,
    workspace: Workspace,
    head: Head,
    loss_head: LossHead,
}

impl std::fmt::Debug for ModelTrainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelTrainer({} parameters, step {})", self.layout.len(), self.step)
    }
}

impl ModelTrainer {
    /// Starts training from the model folder `dir`. Everything that an export copies is read now,
    /// so the folder may go away afterwards.
    ///
    /// # Errors
    /// [`ModelError::Unloadable`] naming the file.
    pub fn load(dir: &Path, kernels: Kernels, config: TrainerConfig) -> Result<Self, ModelError> {
        if config.micro_batch_tokens == 0 {
            return Err(ModelError::BadRequest("micro_batch_tokens is 0; set at least 1".into()));
        }
        let model = ModelConfig::load(dir).map_err(|error| unloadable(&error))?;
        let weights = TensorSource::open(dir).map_err(|error| unloadable(&error))?;
        weights.check(&model).map_err(|error| unloadable(&error))?;
        let companions = CompanionFiles::read(dir).map_err(|error| unloadable(&error))?;
        if let Some(lora) = &config.lora {
            lora.check()?;
        }
        let layout = Layout::new(&model, config.lora.as_ref());
        let mut masters = Buffer::zeroed(layout.len());
        let mut lora = None;
        if let Some(config) = config.lora {
            let tensors = model.tensors().into_iter();
            let read = |(name, _): (String, _)| Ok((name.clone(), weights.values(&name)?));
            lora = Some(Lora::new(config, tensors.map(read).collect::<Result<_, ModelError>>()?));
            lora::initialise(&config, &layout, &mut masters);
        } else {
            for tensor in layout.tensors() {
                let values = weights.values(&tensor.name)?.into_f32();
                masters[tensor.range.clone()].copy_from_slice(&values);
            }
        }
        let source = Weights {
            kernels: &kernels,
            layout: &layout,
            masters: &masters,
            lora: lora.as_ref(),
            precision: config.precision,
        };
        let decoder = Decoder::load(&model, &source, &kernels)?;
        let mut trainer = Self {
            config,
            companions,
            grads: Buffer::zeroed(layout.gradient_len()),
            exp_avg: Buffer::zeroed(layout.len()),
            exp_avg_sq: Buffer::zeroed(layout.len()),
            step: 0,
            accumulated: false,
            transposed: Transposed::new(&decoder, &kernels),
            workspace: Workspace::default(),
            head: Head::new(&decoder),
            loss_head: LossHead::default(),
            kernels,
            layout,
            masters,
            decoder,
            lora,
        };
        // The pairs are still to be packed.
        trainer.refresh_pairs()?;
        Ok(trainer)
    }

    /// Returns the gradient accumulated for the tensor called `name`, row-major, if there is one.
    pub fn gradient(&self, name: &str) -> Option<&[f32]> {
        self.layout.tensor(name).map(|tensor| &self.grads[tensor.range.clone()])
    }

    /// Returns the master values of the tensor called `name`, row-major, if there is one.
    pub fn master(&self, name: &str) -> Option<&[f32]> {
        self.layout.tensor(name).map(|tensor| &self.masters[tensor.range.clone()])
    }

    /// Replaces the master values of the tensor called `name`.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] if there is no such tensor or the number of values differs.
    pub fn set_master(&mut self, name: &str, values: &[f32]) -> Result<(), ModelError> {
        match self.layout.tensor(name) {
            Some(tensor) if tensor.range.len() == values.len() => {
                self.masters[tensor.range.clone()].copy_from_slice(values);
                self.reload_weights()
            }
            Some(tensor) => Err(ModelError::BadRequest(format!(
                "tensor {name:?} has {} values, got {}",
                tensor.range.len(),
                values.len()
            ))),
            None => Err(ModelError::BadRequest(format!("the model has no tensor {name:?}"))),
        }
    }

    /// Returns the number of optimiser steps applied.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Brings the weights of the forward and backward pass up to date with the masters.
    fn reload_weights(&mut self) -> Result<(), ModelError> {
        if self.lora.is_some() {
            return self.refresh_pairs();
        }
        let mut copies = copies(&self.layout, &mut self.decoder, &mut self.transposed);
        self.kernels.store_weights(&self.masters, &mut copies);
        self.reload_vectors()
    }

    fn reload_vectors(&mut self) -> Result<(), ModelError> {
        let Self { kernels, layout, masters, lora, config, decoder, .. } = self;
        let (lora, precision) = (lora.as_ref(), config.precision);
        decoder.reload_vectors(&Weights { kernels, layout, masters, lora, precision }, kernels)
    }

    /// In a LoRA training, merges and packs the pairs anew.
    fn refresh_pairs(&mut self) -> Result<(), ModelError> {
        let Self { kernels, layout, masters, lora, decoder, transposed, .. } = self;
        let Some(lora) = lora else { return Ok(()) };
        let matrices = decoder.matrices_mut().into_iter().zip(transposed.matrices_mut());
        let copies = matrices.map(|((name, packed), transposed)| {
            (name, WeightCopy { parts: Vec::new(), packed, transposed })
        });
        lora.refresh(kernels, layout, masters, copies.collect())
    }

    /// Returns the weights that the passes compute with, by tensor, as an export writes them.
    fn weights(&self) -> Weights<'_> {
        let Self { kernels, layout, masters, lora, config, .. } = self;
        let (lora, precision) = (lora.as_ref(), config.precision);
        Weights { kernels, layout, masters, lora, precision }
    }

    fn clear_gradients(&mut self) {
        self.grads.fill(0.0);
        self.accumulated = false;
    }

    fn accumulate_micro_batch(
        &mut self,
        first_idx: usize,
        sequences: &[TrainingSequence],
        factors: &[f32],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<f64, ModelError> {
        let Self {
            kernels,
            config,
            decoder,
            transposed,
            layout,
            workspace,
            head,
            loss_head,
            grads,
            lora,
            ..
        } = self;
        let batch = MicroBatch::new(sequences);
        let (slots, pairs, lora) = (&layout.slots, layout.pairs(), lora.as_ref());
        let activations_bytes_max = config.activations_bytes_max;
        let batch = &batch;
        let pass = Pass {
            kernels,
            decoder,
            transposed,
            slots,
            pairs,
            lora,
            batch,
            stop,
            activations_bytes_max,
        };
        workspace.forward(&pass)?;
        let has_entropy = factors.iter().any(|factor| *factor != 0.0);
        let predicted = loss_head::predict(&pass, &workspace.x, head, has_entropy)?;
        let logprobs: Vec<f32> = predicted.iter().map(|predicted| predicted.logprob).collect();
        let mut derivatives = Vec::with_capacity(logprobs.len());
        let (mut by_entropy, mut term) = (Vec::new(), 0.0);
        for (offset, range) in batch.target_ranges.iter().enumerate() {
            let of_sequence = loss(first_idx + offset, &logprobs[range.clone()]);
            if of_sequence.len() != range.len() {
                return Err(ModelError::BadRequest(format!(
                    "the loss of sequence {} has {} derivatives for {} completion tokens",
                    first_idx + offset,
                    of_sequence.len(),
                    range.len()
                )));
            }
            derivatives.extend(of_sequence);
            if has_entropy {
                let entropies = predicted[range.clone()].iter().map(|it| f64::from(it.entropy));
                term += f64::from(factors[offset]) * entropies.sum::<f64>();
                by_entropy.extend(range.clone().map(|_| factors[offset]));
            }
        }
        let slopes = Slopes { logprobs: &derivatives, entropies: &by_entropy };
        // A group whose rewards are all equal has no advantage: nothing to propagate.
        if !slopes.are_all_flat() {
            loss_head.backward(&pass, &predicted, &slopes, workspace, grads)?;
            workspace.backward(&pass, grads)?;
        }
        Ok(term)
    }
}

impl Trainer for ModelTrainer {
    /// An error drops all gradients accumulated since the last step: half a batch is no batch.
    fn accumulate(
        &mut self,
        sequences: &[TrainingSequence],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<(), ModelError> {
        let factors = vec![0.0; sequences.len()];
        self.accumulate_with_entropy(sequences, &factors, loss, stop).map(|_| ())
    }

    fn accumulate_with_entropy(
        &mut self,
        sequences: &[TrainingSequence],
        factors: &[f32],
        loss: &mut LossGradient<'_>,
        stop: &StopFlag,
    ) -> Result<f64, ModelError> {
        if factors.len() != sequences.len() || factors.iter().any(|factor| !factor.is_finite()) {
            let text = "each sequence takes one finite factor of its entropy".to_owned();
            return Err(ModelError::BadRequest(text));
        }
        for sequence in sequences {
            check_sequence(&sequence.tokens, sequence.prompt_len, &self.decoder)?;
        }
        self.accumulated |= !sequences.is_empty();
        let mut term = 0.0;
        for range in micro_batch::plan(sequences, self.config.micro_batch_tokens) {
            let (part, factors) = (&sequences[range.clone()], &factors[range.clone()]);
            match self.accumulate_micro_batch(range.start, part, factors, loss, stop) {
                Ok(of_part) => term += of_part,
                Err(error) => {
                    self.clear_gradients();
                    return Err(error);
                }
            }
        }
        Ok(term)
    }

    /// A stop is looked at before anything is written: it changes nothing, and the gradients stay.
    ///
    /// An error of kind [`ModelError::NotFinite`] says that the update itself overflowed (a learning
    /// rate far too high); the trainer is then of no use before a state is loaded.
    fn step(&mut self, config: &OptimizerConfig, stop: &StopFlag) -> Result<StepStats, ModelError> {
        check_optimizer(config)?;
        let grad_norm = self.kernels.norm(&self.grads[..self.layout.len()]);
        if !grad_norm.is_finite() {
            tracing::warn!(step = self.step, "the gradient is not finite, no step is taken");
            self.clear_gradients();
            return Ok(StepStats { grad_norm, applied: false });
        }
        if stop.is_stopped() {
            return Err(ModelError::Stopped);
        }
        let grad_scale = config.clip_scale(grad_norm);
        self.step += 1;
        let settings = AdamW {
            lr: config.lr,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: config.weight_decay,
            step: self.step,
        };
        let state = TrainingState {
            params: &mut self.masters,
            grads: &mut self.grads[..self.layout.len()],
            exp_avg: &mut self.exp_avg,
            exp_avg_sq: &mut self.exp_avg_sq,
        };
        let mut copies = match self.lora {
            None => copies(&self.layout, &mut self.decoder, &mut self.transposed),
            Some(_) => Vec::new(),
        };
        let finite = self.kernels.adamw(state, grad_scale, settings, &mut copies);
        self.accumulated = false;
        if !finite {
            return Err(ModelError::NotFinite("the weights after an optimiser step".into()));
        }
        match self.lora {
            None => self.reload_vectors()?,
            Some(_) => self.refresh_pairs()?,
        }
        tracing::debug!(step = self.step, grad_norm, "applied an optimiser step");
        Ok(StepStats { grad_norm, applied: true })
    }

    fn export(&self, dir: &Path) -> Result<Digest, ModelError> {
        state::export(self, dir)
    }

    fn save_state(&self, dir: &Path) -> Result<(), ModelError> {
        state::save(self, dir)
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), ModelError> {
        state::load(self, dir)
    }
}

/// Pairs every matrix that the passes compute with with the masters it is rounded from.
fn copies<'a>(
    layout: &Layout,
    decoder: &'a mut Decoder,
    transposed: &'a mut Transposed,
) -> Vec<WeightCopy<'a>> {
    let of = |((name, packed), transposed): ((String, _), _)| {
        let tensor = layout.tensor(&name).expect("every matrix of a decoder is in the layout");
        WeightCopy { parts: vec![tensor.range.clone()], packed, transposed }
    };
    decoder.matrices_mut().into_iter().zip(transposed.matrices_mut()).map(of).collect()
}

fn check_optimizer(config: &OptimizerConfig) -> Result<(), ModelError> {
    let OptimizerConfig { lr, beta1, beta2, eps, weight_decay, grad_clip } = *config;
    let not_negative = |x: f32| x.is_finite() && x >= 0.0;
    let decay = |x: f32| (0.0..1.0).contains(&x);
    for (name, value, fits, expected) in [
        ("lr", lr, not_negative(lr), "a finite number from 0"),
        ("beta1", beta1, decay(beta1), "from 0 and below 1"),
        ("beta2", beta2, decay(beta2), "from 0 and below 1"),
        ("eps", eps, not_negative(eps) && eps > 0.0, "a finite number above 0"),
        ("weight_decay", weight_decay, not_negative(weight_decay), "a finite number from 0"),
        ("grad_clip", grad_clip, grad_clip > 0.0, "above 0 (infinity for no clipping)"),
    ] {
        if !fits {
            let text =
                format!("{name} is {value}, expected {expected}; correct the optimiser settings");
            return Err(ModelError::BadRequest(text));
        }
    }
    Ok(())
}
