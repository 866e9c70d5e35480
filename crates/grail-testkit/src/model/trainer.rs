//! Training of the fake model: exact gradients of head and bias, and AdamW.

use std::fs;
use std::path::Path;

use grail_ports::model::{
    LossGradient, ModelError, OptimizerConfig, ScoreRequest, StepStats, StopFlag, Trainer,
    TrainingSequence,
};
use grail_protocol::ids::Digest;

use super::provider::{floats, unwritable, write_checkpoint};
use super::weights::{self, HIDDEN_SIZE, N_EMBEDDING, N_HEAD, N_ROWS, Weights};
use super::{check_score, check_tokens};

const STATE_FILE: &str = "state.bin";

/// A fake model that is being trained.
pub struct FakeTrainer {
    pub(super) weights: Weights,
    /// `[N_HEAD]` each, as the head.
    gradient: Vec<f32>,
    first_moment: Vec<f32>,
    second_moment: Vec<f32>,
    steps: u32,
}

impl FakeTrainer {
    pub(super) fn new(weights: Weights) -> Self {
        let zeros = vec![0.0; N_HEAD];
        Self {
            weights,
            gradient: zeros.clone(),
            first_moment: zeros.clone(),
            second_moment: zeros,
            steps: 0,
        }
    }

    /// Adds `slope * d logprob(token) / d head + factor * d entropy / d head` at one position, and
    /// returns the entropy.
    fn add_gradient(
        &mut self,
        position: &weights::Position,
        token: u32,
        slope: f32,
        factor: f32,
    ) -> f32 {
        let logits = position.logits(&self.weights);
        let (head, bias) = self.gradient.split_at_mut(N_ROWS);
        let places = head.chunks_exact_mut(HIDDEN_SIZE).zip(bias);
        // Shifting all logits by the same amount makes their exponentials probabilities.
        let shift = logits[weights::index(token)] - weights::logprob(&logits, token);
        let surprise = |logit: &f32| (shift - logit) * (logit - shift).exp();
        let entropy: f32 = logits.iter().map(surprise).sum();
        for ((other, logit), (row, bias)) in (0..).zip(&logits).zip(places) {
            let indicator = if other == token { 1.0 } else { 0.0 };
            let p = (logit - shift).exp();
            let by_logit = slope * (indicator - p) - factor * p * (logit - shift + entropy);
            for (gradient, value) in row.iter_mut().zip(&position.row) {
                *gradient += by_logit * value;
            }
            *bias += by_logit;
        }
        entropy
    }
}

impl Trainer for FakeTrainer {
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
        if factors.len() != sequences.len() {
            return Err(ModelError::BadRequest("one factor for each sequence".to_owned()));
        }
        let mut term = 0.0;
        for sequence in sequences {
            let TrainingSequence { tokens, prompt_len } = sequence.clone();
            check_tokens(&tokens, prompt_len, tokens.len())?;
            check_score(&ScoreRequest {
                tokens,
                prompt_len,
                race: None,
                entropy: false,
                whitening: None,
                rows: false,
            })?;
        }
        for (index, TrainingSequence { tokens, prompt_len }) in sequences.iter().enumerate() {
            if stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            let positions: Vec<_> =
                weights::positions(&self.weights, tokens, *prompt_len).collect();
            let logprobs: Vec<f32> = positions
                .iter()
                .map(|(position, token)| weights::logprob(&position.logits(&self.weights), *token))
                .collect();
            let slopes = loss(index, &logprobs);
            if slopes.len() != logprobs.len() {
                let reason = format!("{} slopes for {} tokens", slopes.len(), logprobs.len());
                return Err(ModelError::BadRequest(reason));
            }
            for ((position, token), slope) in positions.iter().zip(slopes) {
                let factor = factors[index];
                let entropy = self.add_gradient(position, *token, slope, factor);
                term += f64::from(factor) * f64::from(entropy);
            }
        }
        Ok(term)
    }

    fn step(&mut self, config: &OptimizerConfig, stop: &StopFlag) -> Result<StepStats, ModelError> {
        if stop.is_stopped() {
            return Err(ModelError::Stopped);
        }
        let mut gradient = std::mem::replace(&mut self.gradient, vec![0.0; N_HEAD]);
        let grad_norm = gradient.iter().map(|value| value * value).sum::<f32>().sqrt();
        if !grad_norm.is_finite() {
            return Ok(StepStats { grad_norm, applied: false });
        }
        let scale = config.clip_scale(grad_norm);
        gradient.iter_mut().for_each(|value| *value *= scale);
        self.steps += 1;
        let exponent = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let correction_1 = 1.0 - config.beta1.powi(exponent);
        let correction_2 = 1.0 - config.beta2.powi(exponent);
        let moments = self.first_moment.iter_mut().zip(&mut self.second_moment);
        for ((weight, g), (m, v)) in self.weights.head.iter_mut().zip(gradient).zip(moments) {
            *m = config.beta1 * *m + (1.0 - config.beta1) * g;
            *v = config.beta2 * *v + (1.0 - config.beta2) * g * g;
            let direction = (*m / correction_1) / ((*v / correction_2).sqrt() + config.eps);
            *weight -= config.lr * (direction + config.weight_decay * *weight);
        }
        Ok(StepStats { grad_norm, applied: true })
    }

    fn export(&self, dir: &Path) -> Result<Digest, ModelError> {
        write_checkpoint(&self.weights, dir)
    }

    fn save_state(&self, dir: &Path) -> Result<(), ModelError> {
        let Self { weights, first_moment, second_moment, steps, gradient: _ } = self;
        let values = [&weights.embedding, &weights.head, first_moment, second_moment];
        let mut bytes = steps.to_le_bytes().to_vec();
        bytes.extend(values.into_iter().flatten().flat_map(|value| value.to_le_bytes()));
        fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
        let path = dir.join(STATE_FILE);
        fs::write(&path, bytes).map_err(|error| unwritable(&path, &error))
    }

    fn load_state(&mut self, dir: &Path) -> Result<(), ModelError> {
        let path = dir.join(STATE_FILE);
        let unloadable =
            |reason: String| ModelError::Unloadable(format!("{}: {reason}", path.display()));
        let bytes = fs::read(&path).map_err(|error| unloadable(error.to_string()))?;
        let state = bytes
            .split_first_chunk()
            .filter(|(_, values)| values.len() == 4 * (N_EMBEDDING + 3 * N_HEAD));
        let Some((steps, values)) = state else {
            return Err(unloadable("not the state of a fake trainer".to_owned()));
        };
        let values = floats(values);
        let (embedding, rest) = values.split_at(N_EMBEDDING);
        let mut parts = rest.chunks_exact(N_HEAD).map(<[f32]>::to_vec);
        let mut part = || parts.next().expect("the length was checked: three parts");
        let weights = Weights { embedding: embedding.to_vec(), head: part() };
        *self = Self {
            weights,
            gradient: vec![0.0; N_HEAD],
            first_moment: part(),
            second_moment: part(),
            steps: u32::from_le_bytes(*steps),
        };
        Ok(())
    }
}
