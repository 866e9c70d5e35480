//! The GRPO loss and its derivatives by log-probabilities and entropies, one row at a time.
//!
//! Pure functions over explicit arguments, in f64 over f32 rows. Source: `spec/trainer.md`, loss; the
//! GRPO, DAPO and "Dr. GRPO" papers for the aggregations, the one on GSPO for ratios of sequences.

use serde::{Deserialize, Serialize};

use crate::math::exp;

/// What a token's loss is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Mean over rows of the mean over a row's tokens.
    Grpo,
    /// Mean over the tokens of this process's batch.
    Bnpo,
    /// Mean over the tokens of all processes' batches, so that every token weighs the same; of one
    /// process the same as [`Aggregation::Bnpo`].
    #[default]
    Dapo,
    /// Sum over tokens divided by rows times the longest row, so that length does not matter.
    DrGrpo,
}

/// What one importance ratio speaks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceLevel {
    /// Each token has its own ratio.
    #[default]
    Token,
    /// A row has one ratio: the geometric mean over its tokens (GSPO).
    Sequence,
}

/// A name that nothing of that kind has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is none of {choices}")]
pub struct UnknownName {
    name: String,
    choices: &'static str,
}

/// Reads and prints an enum by the names its configuration has.
macro_rules! named {
    ($type:ty, $choices:literal, $($name:literal => $variant:path),+) => {
        impl std::str::FromStr for $type {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                match name {
                    $($name => Ok($variant),)+
                    other => Err(UnknownName { name: other.to_owned(), choices: $choices }),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($variant => $name,)+
                })
            }
        }
    };
}

named!(Aggregation, "grpo, bnpo, dapo and dr_grpo",
    "grpo" => Aggregation::Grpo,
    "bnpo" => Aggregation::Bnpo,
    "dapo" => Aggregation::Dapo,
    "dr_grpo" => Aggregation::DrGrpo);
named!(ImportanceLevel, "token and sequence",
    "token" => ImportanceLevel::Token,
    "sequence" => ImportanceLevel::Sequence);

/// Settings of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// What a token's loss is divided by.
    pub aggregation: Aggregation,
    /// What one importance ratio speaks of.
    pub importance: ImportanceLevel,
    /// Whether ratios are used at all; without them the loss is the plain policy gradient, the mean
    /// over rows of advantage times the row's log-probability.
    pub importance_sampling: bool,
    /// The ratio is clipped below at 1 minus this, 0 to 1.
    pub clip_low: f64,
    /// The ratio is clipped above at 1 plus this, at least 0 (DAPO's "clip higher").
    pub clip_high: f64,
    /// Log ratios are clamped to plus or minus this, nats, above 0.
    pub log_ratio_max: f64,
    /// Ratios above this count as this, at least 1, infinite for no bound; bounds the loss of a bad
    /// row.
    pub ratio_max: f64,
    /// Weight of half the mean square of log-probability minus reference log-probability, at
    /// least 0.
    pub kl_coef: f64,
    /// Weight of the mean over rows of the mean entropy of a row's tokens, at least 0.
    pub entropy_coef: f64,
    /// Advantages are clipped to plus or minus this percentile of their absolute values; only
    /// between 0 and 100 does it do anything. See [`clip_advantages`].
    pub advantage_percentile: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            aggregation: Aggregation::Dapo,
            importance: ImportanceLevel::Token,
            importance_sampling: true,
            clip_low: 0.2,
            clip_high: 0.28,
            log_ratio_max: 5.0,
            ratio_max: 10.0,
            kl_coef: 0.0,
            entropy_coef: 0.0,
            advantage_percentile: 100.0,
        }
    }
}

impl LossConfig {
    /// Returns why these settings cannot be used, or nothing.
    pub fn complaint(&self) -> Option<String> {
        let at_least_0 = |x: f64| x.is_finite() && x >= 0.0;
        let fits = [
            ("clip_low", (0.0..=1.0).contains(&self.clip_low), "must be 0 to 1"),
            ("clip_high", at_least_0(self.clip_high), "must be at least 0"),
            ("log_ratio_max", self.log_ratio_max > 0.0, "must be above 0"),
            ("ratio_max", self.ratio_max >= 1.0, "must be at least 1"),
            ("kl_coef", at_least_0(self.kl_coef), "must be at least 0"),
            ("entropy_coef", at_least_0(self.entropy_coef), "must be at least 0"),
        ];
        let bad = fits.into_iter().find(|(_, fits, _)| !fits);
        bad.map(|(name, _, expected)| format!("{name} {expected}"))
    }
}

/// Clips advantages, in place, to plus or minus the `percentile` of their absolute values, with
/// linear interpolation between ranks. A percentile outside (0, 100) clips nothing.
pub fn clip_advantages(advantages: &mut [f64], percentile: f64) {
    let mut sizes: Vec<f64> = advantages.iter().map(|advantage| advantage.abs()).collect();
    if !(percentile > 0.0 && percentile < 100.0) || sizes.is_empty() {
        return;
    }
    sizes.sort_by(f64::total_cmp);
    let place = percentile / 100.0 * count(sizes.len() - 1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last place"
    )]
    let below = place as usize;
    let above = (below + 1).min(sizes.len() - 1);
    let bound = sizes[below] + (place - place.floor()) * (sizes[above] - sizes[below]);
    for advantage in advantages {
        // A bound that is no number clips nothing.
        if advantage.abs() > bound {
            *advantage = bound.copysign(*advantage);
        }
    }
}

/// Factors of a row's parts of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowScale {
    /// Of each token's surrogate.
    pub policy: f64,
    /// Of each token's half square of the distance to the reference.
    pub kl: f64,
    /// Of each token's entropy; negative, as entropy is to grow.
    pub entropy: f64,
}

/// Returns the factors of each row of a batch, given the numbers of completion tokens.
///
/// `tokens_of_all`: completion tokens of all processes' batches together, for
/// [`Aggregation::Dapo`]; on one process the sum of `lengths`.
pub fn row_scales(config: &LossConfig, lengths: &[usize], tokens_of_all: usize) -> Vec<RowScale> {
    let rows = count(lengths.len());
    let tokens = count(lengths.iter().sum()).max(1.0);
    let longest = count(lengths.iter().copied().max().unwrap_or(0));
    let scale = |&length: &usize| {
        let own = count(length).max(1.0);
        RowScale {
            policy: match config.aggregation {
                _ if !config.importance_sampling => 1.0 / rows,
                Aggregation::Grpo => 1.0 / (rows * own),
                Aggregation::Bnpo => 1.0 / tokens,
                Aggregation::Dapo => 1.0 / count(tokens_of_all).max(1.0),
                Aggregation::DrGrpo => 1.0 / (rows * longest).max(1.0),
            },
            kl: config.kl_coef / tokens,
            entropy: -config.entropy_coef / (rows * own),
        }
    };
    lengths.iter().map(scale).collect()
}

/// What the loss of a row is made of; `[tokens]` each, nats.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Log-probabilities under the current weights.
    pub logprobs: &'a [f32],
    /// Log-probabilities under the weights that drew the tokens.
    pub behaviour: &'a [f32],
    /// Log-probabilities under the reference model; without them there is no distance to it.
    pub reference: Option<&'a [f32]>,
    /// Of the row.
    pub advantage: f64,
}

/// Loss of one row and what it says of the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowLoss {
    /// Derivative of the step's loss with respect to each log-probability; `[tokens]`.
    pub gradient: Vec<f32>,
    /// This row's part of the surrogate.
    pub policy: f64,
    /// This row's part of the KL term.
    pub kl: f64,
    /// Sum over tokens of half the square of the distance to the reference, without factors.
    pub kl_sum: f64,
    /// Exponential of the row's clamped log ratio: of the mean over its tokens where ratios are of
    /// sequences, else of their sum. Not yet bounded by `ratio_max`.
    pub ratio: f64,
    /// Ratios in the row: its tokens, or 1.
    pub ratios: u32,
    /// Ratios above `ratio_max`.
    pub bounded: u32,
    /// Ratios that, once bounded, lie outside the clip range, whatever the advantage's sign.
    pub outside: u32,
    /// Tokens whose ratio was clipped, so that they give no gradient.
    pub clipped: u32,
    /// Largest |log-probability − behaviour log-probability| before clamping, nats.
    pub log_ratio_max: f64,
}

impl RowLoss {
    /// Returns this row's part of the step's loss, without the entropy term.
    pub fn loss(&self) -> f64 {
        self.policy + self.kl
    }
}

/// Returns the loss of one row, the entropy term left out: its derivative by the entropy of each
/// token is [`RowScale::entropy`] itself. `scale` comes from [`row_scales`].
///
/// # Panics
/// When the slices differ in length.
pub fn row_loss(config: &LossConfig, row: Row<'_>, scale: RowScale) -> RowLoss {
    let tokens = row.logprobs.len();
    assert_eq!(tokens, row.behaviour.len(), "one behaviour log-probability a token");
    let pairs = row.logprobs.iter().zip(row.behaviour);
    let log_ratios: Vec<f64> = pairs.map(|(&new, &old)| f64::from(new) - f64::from(old)).collect();
    let mut loss = RowLoss {
        log_ratio_max: log_ratios.iter().fold(0.0, |most, ratio| ratio.abs().max(most)),
        ratio: exp(config.clamped(config.of_row(&log_ratios))),
        ..RowLoss::default()
    };
    let mut gradient = vec![0.0; tokens];
    if config.importance_sampling {
        surrogates(config, &log_ratios, row.advantage, scale.policy, &mut loss, &mut gradient);
    } else {
        let sum: f64 = row.logprobs.iter().map(|&logprob| f64::from(logprob)).sum();
        loss.policy = -row.advantage * sum * scale.policy;
        gradient.fill(-row.advantage * scale.policy);
    }
    if let Some(reference) = row.reference {
        assert_eq!(tokens, reference.len(), "one reference log-probability a token");
        for ((slope, &new), &old) in gradient.iter_mut().zip(row.logprobs).zip(reference) {
            let gap = f64::from(new) - f64::from(old);
            loss.kl_sum += 0.5 * gap * gap;
            *slope += scale.kl * gap;
        }
        loss.kl = scale.kl * loss.kl_sum;
    }
    loss.gradient = gradient.into_iter().map(narrow).collect();
    loss
}

/// Adds the clipped surrogates of a row's ratios.
fn surrogates(
    config: &LossConfig,
    log_ratios: &[f64],
    advantage: f64,
    scale: f64,
    loss: &mut RowLoss,
    gradient: &mut [f64],
) {
    let mut add = |term: Surrogate, tokens: usize| {
        loss.policy += term.loss * scale * count(tokens);
        loss.ratios += 1;
        loss.bounded += u32::from(term.bounded);
        loss.outside += u32::from(term.outside);
        loss.clipped += if term.clipped { narrow_count(tokens) } else { 0 };
        term.derivative * scale
    };
    match config.importance {
        ImportanceLevel::Token => {
            for (&log_ratio, slope) in log_ratios.iter().zip(gradient) {
                *slope = add(surrogate(config, log_ratio, advantage), 1);
            }
        }
        ImportanceLevel::Sequence => {
            // Every token carries the row's loss, and moves the mean log ratio by 1 / tokens.
            let term = surrogate(config, config.of_row(log_ratios), advantage);
            gradient.fill(add(term, log_ratios.len()));
        }
    }
}

impl LossConfig {
    /// Returns the row's own log ratio.
    fn of_row(&self, log_ratios: &[f64]) -> f64 {
        let sum: f64 = log_ratios.iter().sum();
        match self.importance {
            ImportanceLevel::Token => sum,
            ImportanceLevel::Sequence => sum / count(log_ratios.len()).max(1.0),
        }
    }

    fn clamped(&self, log_ratio: f64) -> f64 {
        log_ratio.clamp(-self.log_ratio_max, self.log_ratio_max)
    }
}

/// The clipped surrogate of one ratio and its derivative with respect to the log ratio.
struct Surrogate {
    loss: f64,
    derivative: f64,
    clipped: bool,
    bounded: bool,
    outside: bool,
}

fn surrogate(config: &LossConfig, log_ratio: f64, advantage: f64) -> Surrogate {
    let clamped = config.clamped(log_ratio);
    let raw = exp(clamped);
    let ratio = raw.min(config.ratio_max);
    let near = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high);
    let (free, bounded) = (ratio * advantage, near * advantage);
    let clipped = bounded < free;
    // Each clamp that is active makes the loss flat.
    let flat = clipped || clamped != log_ratio || raw > config.ratio_max;
    Surrogate {
        loss: -free.min(bounded),
        derivative: if flat { 0.0 } else { -ratio * advantage },
        clipped,
        bounded: raw > config.ratio_max,
        outside: near != ratio,
    }
}

/// Raises the weight of the KL term when the policy has moved too far from the reference and lowers
/// it when it stays too near.
///
/// Off in the reference as in this trainer, whose `kl_coef` is constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveKl {
    /// The weight.
    pub coef: f64,
    /// Wanted distance, nats; within a fifth of it nothing changes.
    pub target: f64,
    /// Least and largest weight.
    pub range: (f64, f64),
    /// Factor of one change, above 1.
    pub rate: f64,
}

impl Default for AdaptiveKl {
    /// The reference's settings.
    fn default() -> Self {
        Self { coef: 0.02, target: 0.04, range: (0.001, 0.2), rate: 1.5 }
    }
}

impl AdaptiveKl {
    /// Takes note of a step's distance and returns the weight of the next step. A distance that is
    /// not a number changes nothing.
    pub fn update(&mut self, observed: f64) -> f64 {
        if observed > self.target * 1.2 {
            self.coef = (self.coef * self.rate).min(self.range.1);
        } else if observed < self.target * 0.8 {
            self.coef = (self.coef / self.rate).max(self.range.0);
        }
        self.coef
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows and tokens are far below 2^53")]
fn count(n: usize) -> f64 {
    n as f64
}

fn narrow_count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "the engine takes gradients in f32")]
fn narrow(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests;
