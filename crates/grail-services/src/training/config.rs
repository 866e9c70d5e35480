//! Settings of a trainer.

use grail_protocol::sampler::SamplerParams;
use serde_json::{Value, json};

use super::advantages::Estimator;
use super::default_optimizer;
use super::grpo::LossConfig;
use super::pipeline::StepsConfig;
use super::replay::ReplayConfig;

/// Most windows whose rollouts are kept in memory.
const REPLAY_WINDOWS_MAX: usize = 64;

/// Settings of a trainer.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingConfig {
    /// How rollouts become steps.
    pub steps: StepsConfig,
    /// How miners must sample, as the checkpoints publish it.
    pub sampler: SamplerParams,
    /// Validators whose rollouts are used, best first, at least 1.
    pub validators_trusted: u32,
    /// How rollouts of older windows are used again; those of one window alone are used as they
    /// come.
    pub replay: ReplayConfig,
    /// Rollouts of windows older than this many are not used, at least 1.
    pub staleness_windows_max: u32,
    /// Windows back from the head whose checkpoints stay in the bucket, at least 4: validators make
    /// up for some windows, and must find the checkpoint that miners used then.
    pub retention_windows: u32,
    /// Checkpoints between two evaluations, at least 1.
    pub evaluate_every: u32,
    /// Name of the model, for people.
    pub model_name: String,
    /// Commit of this program, or `unknown`.
    pub git_commit: String,
    /// `native` or `instructed`, as the checkpoints publish it.
    pub thinking_mode: String,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            steps: StepsConfig {
                optimizer: default_optimizer(),
                loss: LossConfig::default(),
                estimator: Estimator::default(),
                epochs: 1,
                groups_per_step: 8,
                groups_max: 256,
            },
            sampler: SamplerParams { temperature: 1.0, max_new_tokens: 256 },
            validators_trusted: 1,
            replay: ReplayConfig { windows_max: 1, ..ReplayConfig::default() },
            staleness_windows_max: 5,
            retention_windows: 8,
            evaluate_every: 1,
            model_name: "grail".to_owned(),
            git_commit: "unknown".to_owned(),
            thinking_mode: "instructed".to_owned(),
        }
    }
}

impl TrainingConfig {
    /// Returns why these settings cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        let StepsConfig { epochs, groups_per_step, groups_max, .. } = self.steps;
        let counts = [
            epochs,
            groups_per_step,
            groups_max,
            self.validators_trusted,
            self.staleness_windows_max,
            self.evaluate_every,
        ];
        if counts.contains(&0) {
            return Some(
                "epochs, groups_per_step, groups_max, validators_trusted, staleness_windows_max \
                 and evaluate_every must be at least 1"
                    .to_owned(),
            );
        }
        if self.retention_windows < 4 {
            return Some("retention_windows must be at least 4".to_owned());
        }
        if !(1..=REPLAY_WINDOWS_MAX).contains(&self.replay.windows_max) {
            return Some(format!("replay_windows must be 1 to {REPLAY_WINDOWS_MAX}"));
        }
        if let Some(complaint) = self.steps.loss.complaint() {
            return Some(complaint);
        }
        self.sampler.validate().err().map(|unusable| unusable.to_string())
    }

    /// Returns the settings as the metadata publishes them, in the reference's names.
    pub(crate) fn published(&self) -> Value {
        let StepsConfig { optimizer, loss, .. } = self.steps;
        json!({
            "lr": f64::from(optimizer.lr),
            "epochs": self.steps.epochs,
            "grad_clip": f64::from(optimizer.grad_clip),
            "warmup_steps": 0,
            "kl_coef": loss.kl_coef,
            "entropy_coef": loss.entropy_coef,
            "groups_per_step": self.steps.groups_per_step,
            "advantage_estimator": self.steps.estimator,
            "grpo_variant": loss.aggregation,
            "importance_sampling_level": loss.importance,
            "ppo_clip_eps": loss.clip_low,
            "ppo_clip_eps_upper": loss.clip_high,
        })
    }
}
