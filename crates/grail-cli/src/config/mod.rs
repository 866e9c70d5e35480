//! One typed tree of settings: defaults, then the file, then the environment, then flags.
//!
//! It is built once, checked as a whole, and handed down; nothing else reads the environment.
//! Numbers that all roles must share are no settings: they are constants of the protocol.

mod check;
mod layers;
mod sections;

use serde::{Deserialize, Serialize};

pub use layers::{ConfigError, read, resolve, resolve_on};
pub use sections::{
    EngineConfig, EnvironmentConfig, LocalnetConfig, LogConfig, MiningSettings, NetworkConfig,
    OutsideRole, SamplingConfig, TrainingSettings, ValidationSettings,
};

use crate::human_duration::HumanDuration;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is told on the way.
    pub log: LogConfig,
    /// How the model is computed.
    pub engine: EngineConfig,
    /// Which network, and who we are there.
    pub network: NetworkConfig,
    /// The embedded network.
    pub localnet: LocalnetConfig,
    /// What the problems are.
    pub environment: EnvironmentConfig,
    /// How completions are drawn.
    pub sampling: SamplingConfig,
    /// The miner.
    pub mining: MiningSettings,
    /// The validator.
    pub validation: ValidationSettings,
    /// The trainer.
    pub training: TrainingSettings,
}

impl Config {
    /// Returns the defaults for a network that starts from a model of the user's own.
    ///
    /// [`Config::default`] fits the embedded model; a real one is about a hundred times larger, is
    /// slower, needs more room for an answer and a smaller learning rate.
    pub fn for_own_model() -> Self {
        let mut config = Self::default();
        config.localnet.block_time = HumanDuration::from_millis(12_000);
        config.sampling.max_new_tokens = 48;
        config.mining.groups_per_window = 4;
        config.mining.groups_at_once = 1;
        config.training.learning_rate = 1e-5;
        config.training.evaluation_problems = 32;
        config
    }

    /// Lays `text`, TOML that was read as a [`Config`] before, over this configuration.
    fn overlaid(&self, text: &str) -> Result<Self, toml::de::Error> {
        let mut whole = toml::Table::try_from(self).expect("a configuration is always a table");
        merge(&mut whole, text.parse()?);
        whole.try_into()
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
