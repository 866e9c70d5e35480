//! A subnet's rules and schedule, all read at one block.

use grail_ports::chain::Hyperparameters;
use grail_protocol::ids::{Hotkey, Uid};

use super::error::{Trouble, unreadable};
use super::view::{Item, View};
use crate::substrate::Value;

/// The pallet of subnets.
pub(super) const PALLET: &str = "SubtensorModule";

/// Mechanisms of a subnet are stored under `mechanism * 4096 + netuid`.
const MECHANISM_STRIDE: u16 = 4_096;

/// What binds a validator of a subnet at a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The block.
    pub number: u64,
    /// Its time, milliseconds since the Unix epoch.
    pub timestamp_ms: u64,
    /// Number of neurons.
    pub neurons: u16,
    /// Uid of the hotkey that asks, if it is registered.
    pub uid: Option<Uid>,
    /// Blocks in an epoch; 0 for a subnet without epochs.
    pub tempo: u16,
    /// Block of the last epoch.
    pub last_epoch_block: u64,
    /// Block from which on an epoch that the owner asked for is due; 0 for none.
    pub pending_epoch_at: u64,
    /// Epochs so far.
    pub epoch_index: u64,
    /// Blocks since the last epoch, as the chain counts them.
    pub blocks_since_last_step: u64,
    /// Whether weights are sealed.
    pub commit_reveal: bool,
    /// Epochs after which they are opened.
    pub reveal_period_epochs: u64,
    /// Version of the seal.
    pub commit_reveal_version: u16,
    /// Least number of blocks between two sets of weights.
    pub weights_rate_limit: u64,
    /// Least version key.
    pub weights_version: u64,
    /// Least number of uids with weights.
    pub weights_min: u16,
    /// Largest share of a uid, of 65,535.
    pub weight_share_max: u16,
    /// Least stake for weights, rao.
    pub stake_min: u64,
    /// Newest round of the beacon that the chain has.
    pub last_stored_round: u64,
}

/// Returns the index under which the weights of a mechanism are stored.
pub fn storage_index(netuid: u16, mechanism: u8) -> u16 {
    u16::from(mechanism).wrapping_mul(MECHANISM_STRIDE).wrapping_add(netuid)
}

impl Subnet {
    /// Reads it.
    ///
    /// # Errors
    /// When a node does not answer, or the runtime lacks an item.
    pub async fn read(
        view: &View<'_>,
        number: u64,
        netuid: u16,
        hotkey: Hotkey,
    ) -> Result<Self, Trouble> {
        let net = [Value::from(netuid)];
        let member = [Value::from(netuid), Value::from(hotkey.0)];
        let items: [Item<'_>; 18] = [
            ("Timestamp", "Now", &[]),
            (PALLET, "SubnetworkN", &net),
            (PALLET, "Uids", &member),
            (PALLET, "Tempo", &net),
            (PALLET, "LastEpochBlock", &net),
            (PALLET, "PendingEpochAt", &net),
            (PALLET, "SubnetEpochIndex", &net),
            (PALLET, "BlocksSinceLastStep", &net),
            (PALLET, "CommitRevealWeightsEnabled", &net),
            (PALLET, "RevealPeriodEpochs", &net),
            (PALLET, "CommitRevealWeightsVersion", &[]),
            (PALLET, "WeightsSetRateLimit", &net),
            (PALLET, "WeightsVersionKey", &net),
            (PALLET, "MinAllowedWeights", &net),
            (PALLET, "MaxWeightsLimit", &net),
            (PALLET, "StakeThreshold", &[]),
            (PALLET, "NetworksAdded", &net),
            ("Drand", "LastStoredRound", &[]),
        ];
        let values = view.values(&items).await?;
        let value = |index: usize| {
            let (pallet, item, _) = items[index];
            let name = format!("{pallet}.{item}");
            values[index].as_ref().ok_or_else(|| unreadable(&name, "there is no value")).cloned()
        };
        let bad = |index: usize, error| unreadable(items[index].1, error);
        let uint = |index: usize| value(index)?.as_uint::<u64>().map_err(|e| bad(index, e));
        let small = |index: usize| value(index)?.as_uint::<u16>().map_err(|e| bad(index, e));
        let flag = |index: usize| value(index)?.as_bool().map_err(|e| bad(index, e));
        if !flag(16)? {
            let reason = format!("there is no subnet {netuid} on this chain; check NETUID");
            return Err(unreadable("SubtensorModule.NetworksAdded", reason));
        }
        let uid = match &values[2] {
            None => None,
            Some(uid) => Some(Uid(uid.as_uint().map_err(|e| bad(2, e))?)),
        };
        Ok(Self {
            number,
            timestamp_ms: uint(0)?,
            neurons: small(1)?,
            uid,
            tempo: small(3)?,
            last_epoch_block: uint(4)?,
            pending_epoch_at: uint(5)?,
            epoch_index: uint(6)?,
            blocks_since_last_step: uint(7)?,
            commit_reveal: flag(8)?,
            reveal_period_epochs: uint(9)?,
            commit_reveal_version: small(10)?,
            weights_rate_limit: uint(11)?,
            weights_version: uint(12)?,
            weights_min: small(13)?,
            weight_share_max: small(14)?,
            stake_min: uint(15)?,
            last_stored_round: uint(17)?,
        })
    }

    /// Returns the rules that bind validators.
    pub fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters {
            weights_rate_limit: self.weights_rate_limit,
            weights_version: self.weights_version,
            tempo: self.tempo.into(),
            reveal_epochs: self.commit_reveal.then_some(self.reveal_period_epochs),
            // The chain asks for no more uids than there are.
            weights_min: self.weights_min.min(self.neurons),
            weight_share_max: self.weight_share_max,
            stake_min: self.stake_min,
        }
    }
}
