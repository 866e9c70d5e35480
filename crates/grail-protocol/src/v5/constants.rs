//! Numbers of proof v5 that peers share; the reference has no setting for any of them.

/// Sketches are integers modulo this prime, 2^31 - 1.
pub const PRIME_Q: i64 = 2_147_483_647;

/// Challenged completion positions; also the fewest tokens that a completion may have.
pub const CHALLENGE_K: usize = 32;

/// Activations of largest magnitude that make a sketch.
pub const PROOF_TOPK: usize = 16;

/// Buckets per sign; a bucket index is in -7..=7.
pub const PROOF_NUM_BUCKETS: usize = 8;

/// Coefficients are in -127..=127.
pub const PROOF_COEFF_RANGE: i16 = 127;

/// Distance allowed at position 0, in units of the sketch.
pub const PROOF_SKETCH_TOLERANCE_BASE: f64 = 6_000.0;

/// Distance allowed in addition, per square root of the position.
pub const PROOF_SKETCH_TOLERANCE_GROWTH: f64 = 5.0;

/// Layer that is sketched: the last, after the final norm.
pub const LAYER_INDEX: i32 = -1;

/// Version that a miner writes; see [`ACCEPTED_PROOF_VERSIONS`].
pub const GRAIL_PROOF_VERSION: &str = "v5";

/// Versions that a verifier accepts, both with the rules of v5.
pub const ACCEPTED_PROOF_VERSIONS: [&str; 2] = ["v4", "v5"];

/// Most tokens of a completion, whatever the checkpoint publishes.
pub const MAX_NEW_TOKENS_PROTOCOL_CAP: u32 = 8_192;

/// Smallest probability of the end token where a completion ends early.
pub const MIN_EOS_PROBABILITY: f32 = 0.02;

/// Largest median deviation of an importance ratio from 1.
pub const LOGPROB_MEDIAN_MAX: f64 = 0.10;

/// Largest relative difference of rewards.
pub const REWARD_REL_TOL: f64 = 0.02;

/// Largest absolute difference of rewards near 0.
pub const REWARD_ABS_TOL: f64 = 1e-6;

/// Fewest probabilities that the distribution check looks at.
pub const SAMPLING_MIN_STEPS: usize = 30;

/// Probabilities at the start that are also judged by themselves.
pub const SAMPLING_INITIAL_WINDOW_STEPS: usize = 50;

/// A median at or below this is suspicious.
pub const SAMPLING_MEDIAN_LOW_MAX: f64 = 0.30;

/// A 10 % quantile at or below this is suspicious.
pub const SAMPLING_LOW_Q10_MAX: f64 = 0.025;

/// A smallest probability at or below this is suspicious.
pub const SAMPLING_MIN_TOKEN_PROB: f64 = 1e-5;

/// Probabilities at or below this count as low; reported only.
pub const SAMPLING_LOW_P: f64 = 0.10;

/// Probabilities at or above this count as high; reported only.
pub const SAMPLING_HIGH_P: f64 = 0.90;

/// Share of a file's checked rollouts whose reward may be wrong.
pub const REWARD_SOFT_THRESHOLD: f64 = 0.20;

/// Share of them whose distribution may be suspicious.
pub const DISTRIBUTION_SOFT_THRESHOLD: f64 = 0.51;
