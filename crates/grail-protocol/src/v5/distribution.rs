//! Looks at the probabilities of the chosen tokens for signs of another sampler or model.
//!
//! A heuristic: greedy decoding, a lower temperature and a better model all raise the probabilities
//! and pass. The sums are NumPy's, pair by pair, so that the means agree to the last bit.

use std::collections::BTreeSet;

use super::constants::{
    SAMPLING_HIGH_P, SAMPLING_INITIAL_WINDOW_STEPS, SAMPLING_LOW_P, SAMPLING_LOW_Q10_MAX,
    SAMPLING_MEDIAN_LOW_MAX, SAMPLING_MIN_STEPS, SAMPLING_MIN_TOKEN_PROB,
};
use crate::ids::TokenId;

/// Keeps a division by a variance of nothing finite.
const EPSILON: f64 = 1e-12;

/// What is reported about a list of probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// Mean.
    pub mean: f64,
    /// Middle value, or the mean of the middle two.
    pub median: f64,
    /// The 10 % quantile, interpolated.
    pub q10: f64,
    /// Smallest.
    pub min: f64,
    /// Share at or below 0.10.
    pub low_frac: f64,
    /// Share at or above 0.90.
    pub high_frac: f64,
    /// The rest.
    pub mid_frac: f64,
    /// Bimodality coefficient; 0 when all are equal. Reported only.
    pub bimodality: f64,
}

/// Why a distribution is suspicious; each is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasons {
    /// The median is at most 0.30.
    pub median_low: bool,
    /// Some token had a probability of at most 1e-5.
    pub min_low: bool,
    /// The 10 % quantile is at most 0.025.
    pub q10_low: bool,
    /// The 10 % quantile of the first 50 is at most 0.025.
    pub q10_low_initial: bool,
}

impl Reasons {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.median_low || self.min_low || self.q10_low || self.q10_low_initial
    }
}

/// Result of the check.
#[derive(Clone, Debug, PartialEq)]
pub enum DistributionOutcome {
    /// Fewer than 30 probabilities, or some are NaN: counts as failed.
    Insufficient,
    /// Enough of them.
    Judged {
        /// Of all probabilities.
        metrics: Metrics,
        /// Of the first 50.
        initial: Metrics,
        /// What is wrong.
        reasons: Reasons,
    },
}

impl DistributionOutcome {
    /// Whether the check passed.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Judged { reasons, .. } if !reasons.any())
    }
}

/// Judges the probabilities that the verifier gives the tokens of a completion, in order.
///
/// They are after repetition penalty and temperature, without top-k and top-p; see
/// [`chosen_probabilities`]. Source: `distribution.py`.
pub fn judge(probabilities: &[f64]) -> DistributionOutcome {
    if probabilities.len() < SAMPLING_MIN_STEPS || probabilities.iter().any(|p| p.is_nan()) {
        return DistributionOutcome::Insufficient;
    }
    let metrics = measure(probabilities);
    let head = SAMPLING_INITIAL_WINDOW_STEPS.min(probabilities.len());
    let initial = measure(&probabilities[..head]);
    let reasons = Reasons {
        median_low: metrics.median <= SAMPLING_MEDIAN_LOW_MAX,
        min_low: metrics.min <= SAMPLING_MIN_TOKEN_PROB,
        q10_low: metrics.q10 <= SAMPLING_LOW_Q10_MAX,
        q10_low_initial: initial.q10 <= SAMPLING_LOW_Q10_MAX,
    };
    DistributionOutcome::Judged { metrics, initial, reasons }
}

/// Returns the probability of every completion token as the check wants it.
///
/// - `logits`: the raw logits of every position, `[positions, vocab]`, row-major; the row at `p - 1`
///   predicts token `p`.
/// - `tokens`: the whole sequence. The penalty counts those before the predicted one, prompt included.
///
/// Rows and tokens that are missing end the list early.
pub fn chosen_probabilities(
    logits: &[f32],
    vocab: usize,
    tokens: &[TokenId],
    prompt_length: usize,
    temperature: f32,
    repetition_penalty: f32,
) -> Vec<f64> {
    let mut probabilities = Vec::new();
    let mut seen = BTreeSet::new();
    for (position, &token) in tokens.iter().enumerate() {
        if position >= prompt_length.max(1) {
            let Some(row) = logits.get((position - 1) * vocab..position * vocab) else { break };
            let mut row = row.to_vec();
            let Some(probability) =
                chosen_probability(&mut row, &seen, token, temperature, repetition_penalty)
            else {
                break;
            };
            probabilities.push(f64::from(probability));
        }
        seen.insert(token);
    }
    probabilities
}

/// Returns the probability of one token after penalty and temperature, which are applied to the
/// `[vocab]` logits in place; `None` when there is no such logit.
///
/// - `seen`: the tokens before it, prompt included.
pub fn chosen_probability(
    logits: &mut [f32],
    seen: &BTreeSet<TokenId>,
    token: TokenId,
    temperature: f32,
    repetition_penalty: f32,
) -> Option<f32> {
    penalise(logits, seen, repetition_penalty);
    for logit in logits.iter_mut() {
        *logit /= temperature;
    }
    softmax_at(logits, token)
}

/// Returns entry `token` of the softmax, in f32; `None` when there is no such logit.
pub fn softmax_at(logits: &[f32], token: TokenId) -> Option<f32> {
    let chosen = f64::from(*logits.get(token as usize)?);
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    Some(((chosen - max).exp() / total) as f32)
}

/// Returns `ln` of [`softmax_at`], computed without leaving the log domain.
pub fn log_softmax_at(logits: &[f32], token: TokenId) -> Option<f32> {
    let chosen = f64::from(*logits.get(token as usize)?);
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    Some((chosen - max - total.ln()) as f32)
}

/// Makes tokens that have occurred less likely: positive logits are divided, others multiplied.
fn penalise(row: &mut [f32], seen: &BTreeSet<TokenId>, penalty: f32) {
    for &token in seen {
        if let Some(logit) = row.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

fn measure(probabilities: &[f64]) -> Metrics {
    let n = probabilities.len() as f64;
    let mut sorted = probabilities.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let share = |count: usize| count as f64 / n;
    let low_frac = share(sorted.iter().filter(|&&p| p <= SAMPLING_LOW_P).count());
    let high_frac = share(sorted.iter().filter(|&&p| p >= SAMPLING_HIGH_P).count());
    Metrics {
        mean: mean(probabilities),
        median: median(&sorted),
        q10: quantile(&sorted, 0.1),
        min: sorted[0],
        low_frac,
        high_frac,
        mid_frac: (1.0 - low_frac - high_frac).max(0.0),
        bimodality: bimodality(probabilities),
    }
}

/// Returns the middle of ascending values.
pub(super) fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

/// Interpolates between ascending values as NumPy does, from the nearer end.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let (low, high, part) = (sorted[below], sorted[above], place - below as f64);
    if part < 0.5 { low + (high - low) * part } else { high - (high - low) * (1.0 - part) }
}

fn mean(values: &[f64]) -> f64 {
    pairwise_sum(values) / values.len() as f64
}

/// Adds as NumPy does: eight running sums in blocks of 128, halves of longer lists recursively.
fn pairwise_sum(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().sum();
    }
    if values.len() > 128 {
        let half = values.len() / 2;
        let half = half - half % 8;
        return pairwise_sum(&values[..half]) + pairwise_sum(&values[half..]);
    }
    let (blocks, rest) = values.as_chunks::<8>();
    let mut r = blocks[0];
    for block in &blocks[1..] {
        for (sum, value) in r.iter_mut().zip(block) {
            *sum += value;
        }
    }
    let total = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(total, |total, value| total + value)
}

fn bimodality(values: &[f64]) -> f64 {
    let centre = mean(values);
    let moment = |power: f64| {
        let powers: Vec<f64> = values.iter().map(|value| (value - centre).powf(power)).collect();
        mean(&powers)
    };
    let variance = moment(2.0);
    let skewness = moment(3.0) / (variance.powf(1.5) + EPSILON);
    let kurtosis = moment(4.0) / (variance * variance + EPSILON);
    if kurtosis > 0.0 { (skewness * skewness + 1.0) / kurtosis } else { 0.0 }
}
