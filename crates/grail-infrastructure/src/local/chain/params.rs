//! The hyperparameters of the subnet, which its owner may change while the chain runs.

use serde::{Deserialize, Serialize};

use super::rules::ChainRules;

/// Hyperparameters with the real chain's defaults where [`ChainRules`] say nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// `Tempo`, blocks; 0 stops the epochs.
    pub tempo: u16,
    /// `WeightsSetRateLimit`, blocks.
    pub weights_rate_limit: u64,
    /// `WeightsVersionKey`; 0 takes any.
    pub weights_version: u64,
    /// `MinAllowedWeights`.
    pub min_allowed_weights: u16,
    /// `MaxWeightsLimit`, a fraction of 65535.
    pub max_weights_limit: u16,
    /// `CommitRevealWeightsEnabled`.
    pub commit_reveal: bool,
    /// `RevealPeriodEpochs`.
    pub reveal_period: u64,
    /// `StakeThreshold`, rao.
    pub stake_threshold: u64,
    /// `MaxAllowedValidators`.
    pub validators_max: u16,
    /// `MaxAllowedUids`.
    pub neurons_max: u16,
    /// `ImmunityPeriod`, blocks.
    pub immunity_period: u16,
    /// `NetworkRegistrationAllowed`.
    pub registration_allowed: bool,
    /// `SubtokenEnabled`.
    pub subtoken_enabled: bool,
    /// `MinBurn`, rao.
    pub min_burn: u64,
    /// `MaxBurn`, rao.
    pub max_burn: u64,
}

/// One hyperparameter with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "parameter", content = "value", rename_all = "snake_case")]
pub enum Parameter {
    /// Blocks in an epoch; the current one starts anew.
    Tempo(u16),
    /// Blocks between two `set_weights`.
    WeightsRateLimit(u64),
    /// Least version key.
    WeightsVersion(u64),
    /// Least number of weights.
    MinAllowedWeights(u16),
    /// Largest share of one weight, a fraction of 65535.
    MaxWeightsLimit(u16),
    /// Whether weights are committed first.
    CommitReveal(bool),
    /// Epochs between a commit and its reveal.
    RevealPeriod(u64),
    /// Least stake of those who set weights.
    StakeThreshold(u64),
    /// Most validator permits.
    MaxValidators(u16),
    /// Blocks in which a new neuron is not evicted.
    ImmunityPeriod(u16),
    /// Whether anybody may register.
    RegistrationAllowed(bool),
    /// Whether the subnet's token is traded.
    SubtokenEnabled(bool),
    /// An epoch at this block, whatever the tempo says.
    EpochAt(u64),
}

/// `ActivityCutoffFactorMilli`: thousandths of an epoch. Source: the chain's default.
const ACTIVITY_CUTOFF_FACTOR: u64 = 13_889;

impl Params {
    /// Returns how long a neuron counts as active after it set weights, blocks.
    pub fn activity_cutoff(&self) -> u64 {
        u64::from(self.tempo) * ACTIVITY_CUTOFF_FACTOR / 1000
    }

    /// Returns the hyperparameters that a chain of `rules` starts with.
    pub fn new(rules: &ChainRules) -> Self {
        Self {
            tempo: u16::try_from(rules.tempo).unwrap_or(u16::MAX),
            weights_rate_limit: rules.weights_rate_limit,
            weights_version: rules.weights_version,
            min_allowed_weights: rules.min_allowed_weights,
            max_weights_limit: u16::MAX,
            commit_reveal: rules.commit_reveal,
            reveal_period: 1,
            stake_threshold: rules.stake_threshold,
            validators_max: rules.validators_max,
            neurons_max: rules.neurons_max,
            immunity_period: 4096,
            registration_allowed: rules.open_registration,
            subtoken_enabled: true,
            min_burn: 500_000,
            max_burn: 100_000_000_000,
        }
    }
}
