//! What a chain starts with: its subnet, its times, and the first values of its hyperparameters.

use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};
use grail_protocol::randomness::BeaconSchedule;
use grail_protocol::timelock::BeaconPublicKey;
use serde::{Deserialize, Serialize};

/// Largest number of uids. Source: the real chain's default of `MaxAllowedUids`.
const NEURONS_MAX: u16 = 256;

/// Most accounts with a balance in block 0.
const ENDOWED_MAX: usize = 1024;

/// Public key of drand's quicknet.
const QUICKNET_KEY: BeaconPublicKey = BeaconPublicKey([
    0x83, 0xcf, 0x0f, 0x28, 0x96, 0xad, 0xee, 0x7e, 0xb8, 0xb5, 0xf0, 0x1f, 0xca, 0xd3, 0x91, 0x22,
    0x12, 0xc4, 0x37, 0xe0, 0x07, 0x3e, 0x91, 0x1f, 0xb9, 0x00, 0x22, 0xd3, 0xe7, 0x60, 0x18, 0x3c,
    0x8c, 0x4b, 0x45, 0x0b, 0x6a, 0x0a, 0x6c, 0x3a, 0xc6, 0xa5, 0x77, 0x6a, 0x2d, 0x10, 0x64, 0x51,
    0x0d, 0x1f, 0xec, 0x75, 0x8c, 0x92, 0x1c, 0xc2, 0x2b, 0x0e, 0x17, 0xe6, 0x3a, 0xaf, 0x4b, 0xcb,
    0x5e, 0xd6, 0x63, 0x04, 0xde, 0x9c, 0xf8, 0x09, 0xbd, 0x27, 0x4c, 0xa7, 0x3b, 0xab, 0x4a, 0xf5,
    0xa6, 0xe9, 0xc7, 0x6a, 0x4b, 0xc0, 0x9e, 0x76, 0xea, 0xe8, 0x99, 0x1e, 0xf5, 0xec, 0xe4, 0x5a,
]);

/// The account `//Alice` of the well-known development phrase.
pub const ALICE: Hotkey = Hotkey([
    0xd4, 0x35, 0x93, 0xc7, 0x15, 0xfd, 0xd3, 0x1c, 0x61, 0x14, 0x1a, 0xbd, 0x04, 0xa9, 0x9f, 0xd6,
    0x82, 0x2c, 0x85, 0x58, 0x85, 0x4c, 0xcd, 0xe3, 0x9a, 0x56, 0x84, 0xe7, 0xa5, 0x6d, 0xa2, 0x7d,
]);

/// Money of [`ALICE`] in block 0 of a network on one machine, rao: a million TAO without value.
const ALICE_RAO: u64 = 1_000_000_000_000_000;

/// What never changes on a chain, and what its subnet starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainRules {
    /// Name of the network, such as `local`.
    pub network: String,
    /// The only subnet besides the root network.
    pub netuid: Netuid,
    /// Time of block 0, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between blocks, milliseconds, at least 1.
    pub block_time_ms: u64,
    /// Blocks in an epoch, 1 to 65535.
    pub tempo: u64,
    /// Least number of blocks between two `set_weights` of one validator.
    pub weights_rate_limit: u64,
    /// Least version key of `set_weights`; 0 takes any.
    pub weights_version: u64,
    /// Least stake of those who set weights.
    pub stake_threshold: u64,
    /// Largest number of validator permits.
    pub validators_max: u16,
    /// Largest number of neurons, at most 256.
    pub neurons_max: u16,
    /// Least number of weights in one row.
    pub min_allowed_weights: u16,
    /// Whether hotkeys may be registered by others than the network's owner.
    pub open_registration: bool,
    /// Whether weights are committed first and revealed an epoch later.
    #[serde(default)]
    pub commit_reveal: bool,
    /// Blocks that the finalised head is behind the newest.
    #[serde(default)]
    pub finality_lag: u64,
    /// Who may change hyperparameters by a transaction; nobody on a network in a folder, whose
    /// owner has [`super::LocalChain::control`].
    #[serde(default)]
    pub sudo: Option<Hotkey>,
    /// Accounts and their balances in block 0, rao.
    #[serde(default)]
    pub endowed: Vec<(Hotkey, u64)>,
    /// The beacon whose rounds open timelocked weights and commitments; drand's quicknet if absent.
    #[serde(default)]
    pub beacon_key: Option<BeaconPublicKey>,
    /// When the rounds of that beacon come out; quicknet's times if absent.
    #[serde(default)]
    pub beacon_times: Option<BeaconTimes>,
}

/// When the rounds of a beacon come out, in whole seconds as the chain keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconTimes {
    /// Time of round 1, seconds since the Unix epoch.
    pub genesis_s: u32,
    /// Time between rounds, seconds, at least 1.
    pub period_s: u32,
}

impl From<BeaconSchedule> for BeaconTimes {
    /// Rounds what is finer than seconds: the period up, the beginning down.
    fn from(schedule: BeaconSchedule) -> Self {
        let seconds = |ms: u64| u32::try_from(ms / 1000).unwrap_or(u32::MAX);
        Self {
            genesis_s: seconds(schedule.genesis_ms),
            period_s: seconds(schedule.period_ms.saturating_add(999)).max(1),
        }
    }
}

impl ChainRules {
    /// Returns rules for a network on one machine: 1 s blocks, epochs of 360 blocks and a rate
    /// limit of 100 as on the real chain, open registration.
    pub fn local(genesis_ms: u64) -> Self {
        Self {
            network: "local".into(),
            netuid: Netuid(81),
            genesis_ms,
            block_time_ms: 1000,
            tempo: 360,
            weights_rate_limit: 100,
            weights_version: 0,
            stake_threshold: 0,
            validators_max: 64,
            neurons_max: NEURONS_MAX,
            min_allowed_weights: 1,
            open_registration: true,
            commit_reveal: false,
            finality_lag: 0,
            sudo: None,
            endowed: vec![(ALICE, ALICE_RAO)],
            beacon_key: None,
            beacon_times: None,
        }
    }

    /// Returns what is wrong with these rules, if anything.
    ///
    /// # Errors
    /// A text that names the field and its range.
    pub fn validate(&self) -> Result<(), String> {
        if !crate::wallet::is_plain_name(&self.network) {
            return Err(format!("network `{}` is not a plain name", self.network));
        }
        if self.netuid.0 == 0 {
            return Err("netuid 0 is the root network; choose another".into());
        }
        if self.block_time_ms == 0 {
            return Err("block_time_ms must be at least 1".into());
        }
        if self.tempo == 0 || self.tempo > u64::from(u16::MAX) {
            return Err(format!("tempo must be 1 to 65535, not {}", self.tempo));
        }
        if self.neurons_max == 0 || self.neurons_max > NEURONS_MAX {
            return Err(format!(
                "neurons_max must be 1 to {NEURONS_MAX}, not {}",
                self.neurons_max
            ));
        }
        if self.endowed.len() > ENDOWED_MAX {
            return Err(format!("at most {ENDOWED_MAX} accounts may start with a balance"));
        }
        Ok(())
    }

    /// Returns the key of the beacon whose rounds open timelocked weights and commitments.
    pub fn beacon_key(&self) -> BeaconPublicKey {
        self.beacon_key.unwrap_or(QUICKNET_KEY)
    }

    /// Returns when block `number` comes out, milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self, number: BlockNumber) -> u64 {
        self.genesis_ms.saturating_add(number.0.saturating_mul(self.block_time_ms))
    }
}
