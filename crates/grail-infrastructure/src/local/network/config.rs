//! What a new network is made of.

use grail_protocol::ids::{Hotkey, Uid};

use super::file::{NetworkRole, NeuronEntry};
use crate::local::chain::state::ChainRules;
use crate::wallet::is_plain_name;

/// What a new network is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Rules of the chain, its name and its times among them.
    pub rules: ChainRules,
    /// Milliseconds between two rounds of the beacon, at least 1; a window's randomness comes with
    /// the first round after the window's first block.
    pub beacon_period_ms: u64,
    /// Neurons, uid 0 first.
    pub neurons: Vec<NeuronConfig>,
    /// With a seed, every key and hash of the network follows from it; without one, from the
    /// operating system's randomness.
    pub seed: Option<[u8; 32]>,
}

/// A neuron of a new network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeuronConfig {
    /// Name of the neuron, of its wallet and of its folder.
    pub name: String,
    /// What it does.
    pub role: NetworkRole,
    /// How it cheats, for miners that are made to.
    pub cheat: Option<String>,
    /// Its stake.
    pub stake: u64,
}

impl NetworkConfig {
    /// Returns a network of one trainer (uid 0), one validator with all the stake (uid 1), and
    /// `miners` honest miners called `miner-1`, `miner-2`, …
    pub fn local(genesis_ms: u64, miners: u16) -> Self {
        let neuron = |name: String, role, stake| NeuronConfig { name, role, cheat: None, stake };
        let mut neurons = vec![
            neuron("trainer".into(), NetworkRole::Trainer, 0),
            neuron("validator".into(), NetworkRole::Validator, 1_000_000_000_000),
        ];
        neurons.extend((1..=miners).map(|k| neuron(format!("miner-{k}"), NetworkRole::Miner, 0)));
        let rules = ChainRules::local(genesis_ms);
        Self { beacon_period_ms: rules.block_time_ms, rules, neurons, seed: None }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        self.rules.validate()?;
        if self.beacon_period_ms == 0 {
            return Err("beacon_period_ms must be at least 1".into());
        }
        for (index, neuron) in self.neurons.iter().enumerate() {
            if !is_plain_name(&neuron.name) {
                return Err(format!("`{}` is not a plain name for a neuron", neuron.name));
            }
            if self.neurons[..index].iter().any(|other| other.name == neuron.name) {
                return Err(format!("two neurons are called `{}`", neuron.name));
            }
        }
        Ok(())
    }
}

impl NeuronConfig {
    pub(super) fn entry(&self, hotkey: Hotkey, uid: Uid) -> NeuronEntry {
        let Self { name, role, cheat, .. } = self.clone();
        NeuronEntry { name, role, cheat, hotkey, uid }
    }
}
