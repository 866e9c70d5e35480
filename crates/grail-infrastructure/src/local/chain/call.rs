//! What can be asked of the chain, apart from how it was asked.

use grail_protocol::ids::Hotkey;
use serde::{Deserialize, Serialize};

use super::data::Data;
use super::params::Parameter;

/// What is asked of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Gives `hotkey` a uid without a price.
    Register {
        /// The new neuron.
        hotkey: Hotkey,
        /// Its stake; anybody but the network's owner says 0.
        stake: u64,
    },
    /// Changes a hyperparameter; for the network's owner.
    Set {
        /// The hyperparameter with its new value.
        parameter: Parameter,
    },
    /// Stores a round of the beacon; for the network's owner.
    StorePulse {
        /// Number of the round, 1-based.
        round: u64,
        /// Its signature.
        pulse: Pulse,
    },
    /// Gives an account money; for the network's owner.
    Endow {
        /// The account.
        account: Hotkey,
        /// Its new balance, rao.
        free: u64,
    },
    /// Makes the call as the network's owner, if the signer is.
    Sudo {
        /// The call.
        inner: Box<Call>,
    },
    /// Does nothing.
    Remark {
        /// How many bytes it says, which cost money.
        #[serde(default)]
        bytes: u64,
    },
    /// Gives `hotkey` a uid for the price of the moment, paid by the signer.
    BurnedRegister {
        /// The subnet.
        netuid: u16,
        /// The new neuron.
        hotkey: Hotkey,
        /// Highest price that the signer pays, rao.
        limit: Option<u64>,
    },
    /// Moves money of the signer to the stake of `hotkey`.
    AddStake {
        /// The neuron.
        hotkey: Hotkey,
        /// The subnet.
        netuid: u16,
        /// How much, rao.
        amount: u64,
    },
    /// Replaces what the signer has committed.
    SetCommitment {
        /// The subnet.
        netuid: u16,
        /// The fields, at most three.
        fields: Vec<Data>,
    },
    /// Replaces the signer's row of weights.
    SetWeights {
        /// The subnet.
        netuid: u16,
        /// The mechanism of the subnet.
        mechanism: u8,
        /// Uids, each once.
        uids: Vec<u16>,
        /// A weight for each uid; only ratios matter.
        weights: Vec<u16>,
        /// Version of the scoring rules.
        version_key: u64,
    },
    /// Commits to a row of weights that a round of the beacon opens.
    CommitTimelockedWeights {
        /// The subnet.
        netuid: u16,
        /// The mechanism of the subnet.
        mechanism: u8,
        /// Ciphertext of hotkey, uids, weights and version key.
        #[serde(with = "hex::serde")]
        commit: Vec<u8>,
        /// The round.
        reveal_round: u64,
        /// Version of the ciphertext's form.
        version: u16,
    },
}

/// A round of the beacon as the chain stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// SHA-256 of the signature.
    #[serde(with = "hex::serde")]
    pub randomness: Vec<u8>,
    /// Compressed point of BLS12-381's G1, 48 bytes.
    #[serde(with = "hex::serde")]
    pub signature: Vec<u8>,
}

/// What a call weighs and who pays for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchInfo {
    /// Computing time with that of any extrinsic, picoseconds.
    pub ref_time: u64,
    /// Whether the signer pays a fee.
    pub pays_fee: bool,
}

/// Picoseconds of computing time that cost 1 rao. Source: fees and weights in the recorded session.
const REF_TIME_PER_RAO: u64 = 2000;

/// Computing time of any extrinsic, picoseconds. Source: as before.
const BASE_REF_TIME: u64 = 108_157_000;

impl DispatchInfo {
    /// Returns the fee for an extrinsic of `bytes` encoded bytes, rao.
    pub fn fee(self, bytes: usize) -> u64 {
        if !self.pays_fee {
            return 0;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        // Both parts are rounded to the nearest, halves down.
        let price = |time: u64| time.saturating_add(REF_TIME_PER_RAO / 2 - 1) / REF_TIME_PER_RAO;
        price(BASE_REF_TIME).saturating_add(price(self.call_ref_time())).saturating_add(bytes)
    }

    /// Returns the computing time of the call alone, picoseconds.
    pub fn call_ref_time(self) -> u64 {
        self.ref_time.saturating_sub(BASE_REF_TIME)
    }
}

impl Call {
    /// Returns the chain's name of the call.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Set { .. } => "set_parameter",
            Self::StorePulse { .. } => "store_pulse",
            Self::Endow { .. } => "endow",
            Self::Sudo { .. } => "sudo",
            Self::Remark { .. } => "remark",
            Self::BurnedRegister { limit: None, .. } => "burned_register",
            Self::BurnedRegister { .. } => "register_limit",
            Self::AddStake { .. } => "add_stake",
            Self::SetCommitment { .. } => "set_commitment",
            Self::SetWeights { .. } => "set_weights",
            Self::CommitTimelockedWeights { .. } => "commit_timelocked_weights",
        }
    }

    /// Returns the weight of the call and whether it costs money. Source: the recorded session.
    pub fn dispatch_info(&self) -> DispatchInfo {
        let (ref_time, pays_fee) = match self {
            Self::BurnedRegister { limit: None, .. } => (4_194_972_000, true),
            Self::BurnedRegister { .. } => (5_637_357_000, true),
            Self::AddStake { .. } => (3_172_221_000, true),
            Self::SetCommitment { .. } => (666_637_000, false),
            Self::SetWeights { .. } => (118_623_157_000, false),
            Self::CommitTimelockedWeights { .. } => (617_177_000, false),
            Self::Sudo { .. } => (366_563_000, false),
            Self::Register { .. }
            | Self::Set { .. }
            | Self::StorePulse { .. }
            | Self::Endow { .. } => (109_743_000, true),
            Self::Remark { bytes } => {
                (109_743_000_u64.saturating_add(bytes.saturating_mul(10_920)), true)
            }
        };
        DispatchInfo { ref_time, pays_fee }
    }

    /// Returns the bytes that stand for the call where it is signed or hashed.
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a call has string keys and integers only")
    }
}
