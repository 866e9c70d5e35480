//! The verdict of proof v5 on one rollout: what a validator of the reference would decide.
//!
//! Functions judge one thing each; [`judge`] puts them into the reference's order, where the first
//! hard failure ends the rollout and soft ones are counted per file ([`soft_cutoff`]).

use super::constants::{
    CHALLENGE_K, DISTRIBUTION_SOFT_THRESHOLD, LOGPROB_MEDIAN_MAX, MAX_NEW_TOKENS_PROTOCOL_CAP,
    MIN_EOS_PROBABILITY, REWARD_ABS_TOL, REWARD_REL_TOL, REWARD_SOFT_THRESHOLD,
};
use super::distribution::{self, DistributionOutcome};
use super::indices::{self, BadChallenge};
use super::tolerance::{Claim, Distance, tolerance};
use crate::ids::TokenId;

pub use super::distribution::judge as distribution;

/// Comparison of sketches at the challenged positions, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SketchOutcome {
    /// `min(d, Q - d)`: negative for claims far outside 0..Q, which pass. `i64::MAX` where a sketch
    /// is missing, which fails.
    pub differences: Vec<i64>,
    /// Largest difference accepted, in the same order.
    pub tolerances: Vec<i64>,
    /// Whether all positions pass, and there are any.
    pub passed: bool,
}

/// Compares the miner's sketches with the verifier's own at `positions`.
///
/// `claimed` and `own` hold one sketch per position of the sequence, prompt included.
pub fn sketches(claimed: &[i64], own: &[i64], positions: &[usize]) -> SketchOutcome {
    let mut outcome = SketchOutcome {
        differences: Vec::with_capacity(positions.len()),
        tolerances: Vec::with_capacity(positions.len()),
        passed: !positions.is_empty(),
    };
    for &position in positions {
        let (difference, within) = match (claimed.get(position), own.get(position)) {
            (Some(&claim), Some(&own)) => {
                let distance = Distance::between(own, Claim::Integer(i128::from(claim)));
                (clamped(distance), distance.is_within(position))
            }
            _ => (i64::MAX, false),
        };
        outcome.differences.push(difference);
        outcome.tolerances.push(tolerance(position));
        outcome.passed &= within;
    }
    outcome
}

/// Comparison of log-probabilities at the challenged positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogprobOutcome {
    /// Median of `exp(|own - claimed|) - 1`; NaN when a claim is, or nothing was compared.
    pub median_ratio: f64,
    /// Largest of them.
    pub max_ratio: f64,
    /// Whether the median is at most 0.10.
    pub passed: bool,
}

/// Compares the miner's log-probabilities (nats, of the raw logits) with the verifier's own, both at
/// the challenged positions in the same order.
///
/// Half of the claims, less one, may be anything. A finite difference above about 709 fails, since
/// Python's `exp` raises; an infinite one does not. NaN fails: in the reference it leaves the order of
/// the values to chance, and no vector passes.
pub fn logprobs(claimed: &[f64], own: &[f64]) -> LogprobOutcome {
    let refused = LogprobOutcome { median_ratio: f64::NAN, max_ratio: f64::NAN, passed: false };
    if claimed.len() != own.len() || own.is_empty() {
        return refused;
    }
    let mut ratios = Vec::with_capacity(own.len());
    for (claimed, own) in claimed.iter().zip(own) {
        let gap = (own - claimed).abs();
        let ratio = gap.exp() - 1.0;
        if ratio.is_nan() || (gap.is_finite() && ratio.is_infinite()) {
            return refused;
        }
        ratios.push(ratio);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    let median_ratio = distribution::median(&ratios);
    LogprobOutcome {
        median_ratio,
        max_ratio: ratios[ratios.len() - 1],
        passed: median_ratio <= LOGPROB_MEDIAN_MAX,
    }
}

/// How a completion ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TerminationOutcome {
    /// It has exactly as many tokens as allowed; the last may be any.
    AtLimit,
    /// It ends with the end token, which was likely enough.
    Ended,
    /// It has more tokens than allowed.
    TooLong {
        /// Most tokens allowed.
        limit: u32,
    },
    /// It is shorter, and the last token is not the end token, or there is no end token.
    NotEnded,
    /// The end token was too unlikely: it was forced.
    Unlikely {
        /// Probability that the verifier gives it.
        probability: f32,
    },
}

impl TerminationOutcome {
    /// Whether the check passed.
    pub fn passed(self) -> bool {
        matches!(self, Self::AtLimit | Self::Ended)
    }
}

/// Returns the most tokens of a completion, from the checkpoint's published `max_tokens` as Python's
/// `int()` reads it; `None` when it cannot.
pub fn token_limit(max_tokens: Option<i64>) -> u32 {
    match max_tokens.map(u32::try_from) {
        Some(Ok(published @ 1..)) => published.min(MAX_NEW_TOKENS_PROTOCOL_CAP),
        // Not positive, or beyond 32 bits: the cap either way.
        _ => MAX_NEW_TOKENS_PROTOCOL_CAP,
    }
}

/// Checks that a completion ends as generation ends.
///
/// - `limit`: see [`token_limit`].
/// - `eos_probability`: probability of the end token under the raw logits (no temperature) at the
///   position before the last; see [`distribution::softmax_at`].
pub fn termination(
    completion_length: usize,
    limit: u32,
    last_token: TokenId,
    eos_token: Option<TokenId>,
    eos_probability: f32,
) -> TerminationOutcome {
    match completion_length.cmp(&(limit as usize)) {
        std::cmp::Ordering::Greater => TerminationOutcome::TooLong { limit },
        std::cmp::Ordering::Equal => TerminationOutcome::AtLimit,
        std::cmp::Ordering::Less if Some(last_token) != eos_token => TerminationOutcome::NotEnded,
        std::cmp::Ordering::Less if eos_probability >= MIN_EOS_PROBABILITY => {
            TerminationOutcome::Ended
        }
        std::cmp::Ordering::Less => TerminationOutcome::Unlikely { probability: eos_probability },
    }
}

/// Whether a claimed reward is near the verifier's: Python's `math.isclose` with 2 % and 1e-6.
pub fn reward_close(claimed: f64, own: f64) -> bool {
    if claimed == own {
        return true;
    }
    if claimed.is_infinite() || own.is_infinite() {
        return false;
    }
    let gap = (own - claimed).abs();
    gap <= (REWARD_REL_TOL * own).abs()
        || gap <= (REWARD_REL_TOL * claimed).abs()
        || gap <= REWARD_ABS_TOL
}

/// What the miner says about a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Claimed<'a> {
    /// The whole sequence.
    pub tokens: &'a [TokenId],
    /// Tokens of the prompt.
    pub prompt_length: usize,
    /// One sketch per token.
    pub sketches: &'a [i64],
    /// One log-probability per token, of any value at the prompt.
    pub logprobs: &'a [f64],
    /// Reward.
    pub reward: f64,
}

/// What the verifier computes about it.
#[derive(Clone, Copy, Debug)]
pub struct Recomputed<'a> {
    /// One sketch per token, with the miner's own coefficients.
    pub sketches: &'a [i64],
    /// Log-probability of every token under the raw logits; any value at position 0.
    pub logprobs: &'a [f64],
    /// Probabilities of the completion's tokens, for [`fn@distribution`].
    pub probabilities: &'a [f64],
    /// Probability of the end token where the last token was chosen, for [`termination`].
    pub eos_probability: f32,
    /// Reward; `None` when it cannot be computed.
    pub reward: Option<f64>,
}

/// What is the same for all rollouts of a file.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The verifier's randomness, hexadecimal.
    pub randomness: &'a str,
    /// Most tokens of a completion, see [`token_limit`].
    pub limit: u32,
    /// The tokenizer's end token.
    pub eos_token: Option<TokenId>,
}

/// A hard failure: the whole file of the miner counts for nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Fewer than 32 tokens, an empty completion, one beyond the cap, or lists of other lengths.
    Schema,
    /// Fewer than 32 completion tokens: nothing to challenge. Honest short answers fail here.
    TooShort {
        /// Completion tokens.
        tokens: usize,
    },
    /// No positions could be drawn.
    Challenge(BadChallenge),
    /// A sketch is too far.
    Sketches(SketchOutcome),
    /// The completion does not end as it should.
    Termination(TerminationOutcome),
    /// The environment cannot evaluate the completion.
    Evaluation,
    /// Log-probabilities are too far.
    Logprobs(LogprobOutcome),
}

impl Failure {
    /// Returns the reference's name of the check.
    pub fn check(&self) -> &'static str {
        match self {
            Self::Schema => "schema_valid",
            Self::TooShort { .. } | Self::Challenge(_) | Self::Sketches(_) => "proof_valid",
            Self::Termination(_) => "termination_valid",
            Self::Evaluation => "env_eval_valid",
            Self::Logprobs(_) => "logprobs_valid",
        }
    }
}

/// A soft failure: counted per file, see [`soft_cutoff`].
#[derive(Clone, Debug, PartialEq)]
pub enum Flag {
    /// The claimed reward is not the verifier's.
    Reward {
        /// The miner's.
        claimed: f64,
        /// The verifier's.
        own: f64,
    },
    /// The probabilities look like another sampler's or model's.
    Distribution(DistributionOutcome),
}

impl Flag {
    /// Returns the reference's name of the check.
    pub fn check(&self) -> &'static str {
        match self {
            Self::Reward { .. } => "reward_valid",
            Self::Distribution(_) => "token_distribution_valid",
        }
    }

    /// Returns the share of a file's checked rollouts that may have this flag, at most.
    pub fn threshold(&self) -> f64 {
        match self {
            Self::Reward { .. } => REWARD_SOFT_THRESHOLD,
            Self::Distribution(_) => DISTRIBUTION_SOFT_THRESHOLD,
        }
    }
}

/// Returns how many flags with this threshold end a file of which `planned` rollouts are checked.
pub fn soft_cutoff(threshold: f64, planned: usize) -> usize {
    ((threshold * planned.max(1) as f64).ceil() as usize).max(1)
}

/// What v5 says about one rollout.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// At most one: checks after it do not run.
    pub hard: Vec<Failure>,
    /// In the order of the checks.
    pub soft: Vec<Flag>,
}

impl Verdict {
    /// Whether nothing hard failed.
    pub fn passed(&self) -> bool {
        self.hard.is_empty()
    }
}

/// Judges one rollout in the reference's order: schema, sketches, termination, evaluation, reward
/// (soft), log-probabilities, distribution (soft).
///
/// Signatures, prompt, and vocabulary are not looked at; the caller has checked them.
pub fn judge(claimed: &Claimed<'_>, own: &Recomputed<'_>, rules: &Rules<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(failure) = run_checks(claimed, own, rules, &mut verdict.soft) {
        verdict.hard.push(failure);
    }
    verdict
}

fn run_checks(
    claimed: &Claimed<'_>,
    own: &Recomputed<'_>,
    rules: &Rules<'_>,
    soft: &mut Vec<Flag>,
) -> Result<(), Failure> {
    let tokens = claimed.tokens;
    let completion_length = completion_length(claimed).ok_or(Failure::Schema)?;
    if completion_length < CHALLENGE_K {
        return Err(Failure::TooShort { tokens: completion_length });
    }
    let positions =
        indices::challenge(tokens, rules.randomness, claimed.prompt_length, completion_length)
            .map_err(Failure::Challenge)?;
    let compared = sketches(claimed.sketches, own.sketches, &positions);
    if !compared.passed {
        return Err(Failure::Sketches(compared));
    }

    let last = tokens[tokens.len() - 1];
    let ending =
        termination(completion_length, rules.limit, last, rules.eos_token, own.eos_probability);
    if !ending.passed() {
        return Err(Failure::Termination(ending));
    }

    let reward = own.reward.ok_or(Failure::Evaluation)?;
    if !reward_close(claimed.reward, reward) {
        soft.push(Flag::Reward { claimed: claimed.reward, own: reward });
    }

    let compared = challenged_logprobs(claimed, own, &positions);
    if !compared.passed {
        return Err(Failure::Logprobs(compared));
    }

    let looked_at = distribution(own.probabilities);
    if !looked_at.passed() {
        soft.push(Flag::Distribution(looked_at));
    }
    Ok(())
}

/// Returns the tokens of the completion when the lengths are those of a commit.
fn completion_length(claimed: &Claimed<'_>) -> Option<usize> {
    let n_tokens = claimed.tokens.len();
    let length = n_tokens.checked_sub(claimed.prompt_length)?;
    let is_commit = n_tokens >= CHALLENGE_K
        && claimed.sketches.len() == n_tokens
        && (1..=MAX_NEW_TOKENS_PROTOCOL_CAP as usize).contains(&length);
    is_commit.then_some(length)
}

/// Compares log-probabilities; lists that are not one per token fail.
fn challenged_logprobs(
    claimed: &Claimed<'_>,
    own: &Recomputed<'_>,
    positions: &[usize],
) -> LogprobOutcome {
    let pick = |all: &[f64]| {
        let of_all_tokens = all.len() == claimed.tokens.len();
        of_all_tokens.then(|| positions.iter().map(|&position| all[position]).collect::<Vec<_>>())
    };
    match (pick(claimed.logprobs), pick(own.logprobs)) {
        (Some(claimed), Some(own)) => logprobs(&claimed, &own),
        _ => logprobs(&[], &[]),
    }
}

/// Returns an integer distance as i64; only distances of absurd claims are cut.
fn clamped(distance: Distance) -> i64 {
    match distance {
        Distance::Integer(distance) => i64::try_from(distance).unwrap_or(i64::MIN),
        Distance::Float(distance) => distance as i64,
    }
}
