//! Names what the chain refuses, as subtensor names it. Source: spec/bittensor.md sections 5 to 8.

use grail_ports::chain::ChainError;
use grail_protocol::ids::BlockNumber;
use serde::{Deserialize, Serialize};

/// Why a call was not included. A refused call changes nothing, not even the nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name")]
pub enum Refusal {
    /// The signature is not that of the signer over this call on this chain.
    BadSignature,
    /// The nonce was used or is not due.
    BadNonce {
        /// The nonce that is due.
        expected: u64,
    },
    /// The call's time has passed, or is too far away.
    Outdated {
        /// First block that could include the call.
        next: BlockNumber,
    },
    /// The block being built holds as many calls as it may.
    ExhaustsResources,
    /// The hotkey has no uid.
    HotKeyNotRegisteredInSubNet,
    /// The hotkey already has a uid.
    HotKeyAlreadyRegisteredInSubNet,
    /// Only the owner of this network registers hotkeys.
    SubNetRegistrationDisabled,
    /// A registration for somebody else, or with a stake that was not staked.
    RegistrationNotPermitted,
    /// All uids are taken.
    NoNeuronIdAvailable,
    /// Committing hotkeys must be registered.
    AccountNotAllowedCommit,
    /// A commitment is empty or larger than 128 bytes.
    CommitmentLengthInvalid {
        /// Its length, bytes.
        bytes: u64,
    },
    /// The hotkey has committed too much in this epoch.
    SpaceLimitExceeded,
    /// The lists of uids and weights differ in length.
    WeightVecNotEqualSize,
    /// More weights than there are uids.
    UidsLengthExceedUidsInSubNet,
    /// Less stake than the threshold.
    NotEnoughStakeToSetWeights {
        /// The threshold, in the chain's smallest unit.
        threshold: u64,
    },
    /// An older version key than the subnet demands.
    IncorrectWeightVersionKey {
        /// The version key that the subnet demands.
        expected: u64,
    },
    /// Too few blocks since the last update.
    SettingWeightsTooFast {
        /// First block that may include the next update.
        next: BlockNumber,
    },
    /// No validator permit.
    NeuronNoValidatorPermit,
    /// A uid occurs twice.
    DuplicateUids,
    /// A uid that nobody has.
    UidVecContainInvalidOne {
        /// The uid.
        uid: u16,
    },
    /// Fewer weights than the subnet demands, or only zeros.
    WeightVecLengthIsLow,
    /// A weight is negative, infinite or not a number.
    WeightNotFinite {
        /// The uid with this weight.
        uid: u16,
    },
}

impl Refusal {
    /// Returns the chain's name of the error.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BadSignature => "BadSignature",
            Self::BadNonce { .. } => "BadNonce",
            Self::Outdated { .. } => "Outdated",
            Self::ExhaustsResources => "ExhaustsResources",
            Self::HotKeyNotRegisteredInSubNet => "HotKeyNotRegisteredInSubNet",
            Self::HotKeyAlreadyRegisteredInSubNet => "HotKeyAlreadyRegisteredInSubNet",
            Self::SubNetRegistrationDisabled => "SubNetRegistrationDisabled",
            Self::RegistrationNotPermitted => "RegistrationNotPermitted",
            Self::NoNeuronIdAvailable => "NoNeuronIdAvailable",
            Self::AccountNotAllowedCommit => "AccountNotAllowedCommit",
            Self::CommitmentLengthInvalid { .. } => "CommitmentLengthInvalid",
            Self::SpaceLimitExceeded => "SpaceLimitExceeded",
            Self::WeightVecNotEqualSize => "WeightVecNotEqualSize",
            Self::UidsLengthExceedUidsInSubNet => "UidsLengthExceedUidsInSubNet",
            Self::NotEnoughStakeToSetWeights { .. } => "NotEnoughStakeToSetWeights",
            Self::IncorrectWeightVersionKey { .. } => "IncorrectWeightVersionKey",
            Self::SettingWeightsTooFast { .. } => "SettingWeightsTooFast",
            Self::NeuronNoValidatorPermit => "NeuronNoValidatorPermit",
            Self::DuplicateUids => "DuplicateUids",
            Self::UidVecContainInvalidOne { .. } => "UidVecContainInvalidOne",
            Self::WeightVecLengthIsLow => "WeightVecLengthIsLow",
            Self::WeightNotFinite { .. } => "WeightNotFinite",
        }
    }

    /// Returns what a person can do about it.
    pub fn advice(&self) -> String {
        match self {
            Self::BadSignature => {
                "check that this is the right network and that no other process uses the hotkey"
                    .into()
            }
            Self::BadNonce { expected } => {
                format!("nonce {expected} is due; let one process only use the hotkey")
            }
            Self::Outdated { next } => format!("sign the call anew, block {next} is being built"),
            Self::ExhaustsResources => "wait for the next block".into(),
            Self::HotKeyNotRegisteredInSubNet | Self::AccountNotAllowedCommit => {
                "register the hotkey on this subnet first, or check the netuid".into()
            }
            Self::HotKeyAlreadyRegisteredInSubNet => "go on with the uid that it has".into(),
            Self::SubNetRegistrationDisabled => {
                "ask the owner of this network to register the hotkey".into()
            }
            Self::RegistrationNotPermitted => "register your own hotkey, without stake".into(),
            Self::NoNeuronIdAvailable => "the subnet is full; use another network".into(),
            Self::CommitmentLengthInvalid { bytes } => {
                format!("commit 1 to 128 bytes instead of {bytes}")
            }
            Self::SpaceLimitExceeded => "commit again in the next epoch".into(),
            Self::WeightVecNotEqualSize => "give one weight for each uid".into(),
            Self::UidsLengthExceedUidsInSubNet => "read the metagraph again".into(),
            Self::NotEnoughStakeToSetWeights { threshold } => {
                format!("stake at least {threshold} on the hotkey")
            }
            Self::IncorrectWeightVersionKey { expected } => {
                format!("version key {expected} or above is demanded; update this software")
            }
            Self::SettingWeightsTooFast { next } => format!("try again at block {next}"),
            Self::NeuronNoValidatorPermit => {
                "only validators set weights; give the hotkey more stake".into()
            }
            Self::DuplicateUids => "give each uid once".into(),
            Self::UidVecContainInvalidOne { uid } => {
                format!("no neuron has uid {uid}; read the metagraph again")
            }
            Self::WeightVecLengthIsLow => "give a weight above 0 to more uids".into(),
            Self::WeightNotFinite { uid } => {
                format!("the weight of uid {uid} must be a finite number, 0 or more")
            }
        }
    }

    /// Returns the port's error for a refused `call`.
    pub fn into_error(self, call: &str) -> ChainError {
        ChainError::Refused {
            call: call.to_owned(),
            name: self.name().to_owned(),
            advice: self.advice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_uses_the_chains_names() {
        for refusal in [
            Refusal::BadNonce { expected: 7 },
            Refusal::NeuronNoValidatorPermit,
            Refusal::SettingWeightsTooFast { next: BlockNumber(9) },
        ] {
            let json = serde_json::to_value(&refusal).unwrap();
            assert_eq!(json["name"], refusal.name());
            assert_eq!(serde_json::from_value::<Refusal>(json).unwrap(), refusal);
        }
    }
}
