//! One typed tree of settings: defaults, then the file, then the environment, then flags.
//!
//! It is built once, checked as a whole, and handed down; nothing else reads the environment.
//! Numbers that all roles must share are no settings: they are constants of the protocol.

mod check;
mod layers;
mod network;
mod outside;
mod sections;

use grail_protocol::checkpoint::Protocol;
use grail_services::validation::config::ValidationConfig;
use serde::{Deserialize, Serialize};

pub use layers::{ConfigError, read, resolve, resolve_on};
pub use network::{CUSTOM_NETWORK, LOCAL_NETWORK, NetworkConfig};
pub use outside::{AddressStyle, BeaconChain, BeaconConfig, StoreConfig, StoreKind, WalletConfig};
pub use sections::{
    CalibrationSettings, EngineConfig, EnvironmentConfig, LocalnetConfig, LogConfig,
    MiningSettings, OutsideRole, ProtocolName, SamplingConfig, StatusConfig, TrainingSettings,
    ValidationSettings,
};

use crate::cli::PlaceArgs;
use crate::env_vars;
use crate::human_duration::HumanDuration;

/// What a network is made of: these settings cannot change when it is resumed.
const MADE_OF: [&str; 14] = [
    "protocol",
    "store.kind",
    "store.bucket",
    "localnet.miners",
    "localnet.cheaters",
    "localnet.cheats",
    "localnet.model",
    "localnet.block_time",
    "localnet.seed",
    "environment.id",
    "environment.params",
    "environment.difficulty",
    "sampling.temperature",
    "sampling.max_new_tokens",
];

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which profile this node speaks. It waits while the checkpoint asks for another.
    pub protocol: ProtocolName,
    /// What is told on the way.
    pub log: LogConfig,
    /// Where a role tells how it is doing.
    pub status: StatusConfig,
    /// How the model is computed.
    pub engine: EngineConfig,
    /// Which network.
    pub network: NetworkConfig,
    /// Who we are there.
    pub wallet: WalletConfig,
    /// Public randomness of real networks.
    pub beacon: BeaconConfig,
    /// The buckets.
    pub store: StoreConfig,
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
    /// Engines that are not exact.
    pub calibration: CalibrationSettings,
    /// The trainer.
    pub training: TrainingSettings,
}

/// Windows in a day of 12-second blocks.
const EJECTION_WINDOWS: u32 = 240;

/// Problems whose answers are long enough for the reference's profile.
const WORKED: &str = r#"{"operand_max":9,"terms_max":4,"terms_min":4,"worked":true}"#;

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
        config.validation.groups_checked = 16;
        config.training.learning_rate = 1e-5;
        config.training.groups_per_step = 4;
        config.training.groups = 256;
        config.training.evaluation_problems = 32;
        config
    }

    /// Returns the defaults for a real network: a model of its own, weights in the reference's
    /// rhythm, ejections of a day, and buckets on an S3 server.
    pub fn for_real_network() -> Self {
        let mut config = Self::for_own_model();
        let validation = &mut config.validation;
        let usual = ValidationConfig::default();
        validation.judge_ejected = false;
        validation.ejection_windows = EJECTION_WINDOWS;
        validation.failure_lookback_windows = usual.failure_lookback_windows;
        validation.weights_interval_blocks = usual.schedule.interval_blocks;
        validation.warmup_windows = usual.schedule.warmup_windows;
        validation.scoring_windows = usual.scoring.windows;
        validation.rollouts_cap = usual.scoring.rollouts_cap;
        config.store.kind = StoreKind::S3;
        config
    }

    /// Returns these settings as the reference's profile needs them: completions of at least 32
    /// tokens, and fewer groups, because every row is traced.
    ///
    /// With the embedded model the problems are sums of four numbers that are answered with every step:
    /// such answers have 35 to 52 tokens, and two miners hardly ever get the same problem, which would
    /// look like copies. A quarter of the native groups of a step and twice its learning rate make as
    /// many steps of a window's fewer groups, and move as much: 24 steps with two miners and a cheater.
    #[must_use]
    pub fn for_reference(mut self) -> Self {
        self.protocol = ProtocolName(Protocol::V5);
        if self.sampling.max_new_tokens < 32 {
            self.sampling.max_new_tokens = 64;
            self.environment.params = WORKED.to_owned();
            self.training.groups_per_step = 8;
            self.training.learning_rate = 1e-4;
        }
        self.mining.groups_per_window = self.mining.groups_per_window.min(64);
        // A group's hidden states, keys and values are large, and the profile's completions long.
        self.mining.groups_at_once = 1;
        self
    }

    /// Lays the options that say where a hotkey acts over these settings.
    pub fn overlay_place(&mut self, place: &PlaceArgs) {
        if let Some(name) = &place.network {
            self.network.name.clone_from(name);
        }
        if place.netuid.is_some() {
            self.network.netuid = place.netuid;
        }
        if let Some(hotkey) = &place.hotkey {
            self.wallet.hotkey.clone_from(hotkey);
        }
    }

    /// Returns a setting that a network was made of and that is not the same in `saved`: its key,
    /// and its value here and there.
    pub fn differs_in_kind(&self, saved: &Self) -> Option<(&'static str, String, String)> {
        env_vars::all()
            .filter(|variable| MADE_OF.contains(&variable.key))
            .map(|variable| (variable.key, (variable.show)(self), (variable.show)(saved)))
            .find(|(_, ours, theirs)| ours != theirs)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_of_either_profile_makes_many_steps() {
        // Fewer teach nothing that an evaluation could tell from chance.
        for config in [Config::default(), Config::default().for_reference()] {
            let Config { localnet, mining, training, .. } = &config;
            let miners = u32::from(localnet.miners) + u32::from(localnet.cheaters);
            let groups = (miners * mining.groups_per_window).min(training.groups);
            let steps = groups / training.groups_per_step * training.epochs;
            assert!(steps >= 24, "{steps} steps of {groups} groups under {}", config.protocol);
        }
    }

    #[test]
    fn what_a_network_is_made_of_is_told_apart_from_the_rest() {
        for key in MADE_OF {
            assert!(env_vars::all().any(|variable| variable.key == key), "{key} is no setting");
        }
        let saved = Config::default();
        let mut config = saved.clone();
        config.localnet.windows += 1;
        config.training.learning_rate *= 2.0;
        assert_eq!(config.differs_in_kind(&saved), None);
        config.localnet.seed = 7;
        let expected = ("localnet.seed", "7".to_owned(), "1".to_owned());
        assert_eq!(config.differs_in_kind(&saved), Some(expected));
    }

    #[test]
    fn a_configuration_survives_the_way_through_toml() {
        let mut config = Config::for_real_network();
        config.network.endpoints = vec!["ws://127.0.0.1:9944".to_owned()];
        config.localnet.model = Some("m".into());
        config.localnet.without = vec![OutsideRole::Trainer];
        let text = toml::to_string(&config).unwrap();
        assert_eq!(Config::default().overlaid(&text).unwrap(), config);
    }
}
