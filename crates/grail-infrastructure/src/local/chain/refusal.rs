//! Names what the chain refuses, as subtensor names it. Source: spec/bittensor.md sections 5 to 8.

use grail_ports::chain::ChainError;
use grail_protocol::ids::BlockNumber;
use serde::{Deserialize, Serialize};

/// Why a call was not done. A call that failed changes nothing but the nonce and the fee of its
/// signer, and one that was not included not even those.
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
    /// No such subnet.
    SubnetNotExists,
    /// The root network has no neurons to register.
    RegistrationNotPermittedOnRootSubnet,
    /// The account has less than the price.
    NotEnoughBalanceToStake,
    /// The hotkey belongs to another coldkey.
    NonAssociatedColdKey,
    /// The price is above the limit that was given.
    RegistrationPriceLimitExceeded,
    /// No such hotkey was ever registered.
    HotKeyAccountNotExists,
    /// More than three fields in a commitment.
    TooManyFieldsInCommitmentInfo,
    /// A field that only the chain writes.
    TimelockRevealFailedNotAllowed,
    /// The root network takes no weights.
    CanNotSetRootNetworkWeights,
    /// No such mechanism in the subnet.
    MechanismDoesNotExist,
    /// One weight has too large a share.
    MaxWeightExceeded,
    /// Plain weights while the subnet wants them committed first.
    CommitRevealEnabled,
    /// A commit while the subnet wants plain weights.
    CommitRevealDisabled,
    /// The ciphertext has a form of another version.
    IncorrectCommitRevealVersion,
    /// Ten commits of this epoch wait already.
    TooManyUnrevealedCommits,
    /// The round is out already.
    InvalidRevealRound,
    /// The signer is not the chain's owner.
    RequireSudo,
    /// Too few blocks since the last commit.
    CommittingWeightsTooFast {
        /// First block that may include the next commit.
        next: BlockNumber,
    },
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
            Self::SubnetNotExists => "SubnetNotExists",
            Self::RegistrationNotPermittedOnRootSubnet => "RegistrationNotPermittedOnRootSubnet",
            Self::NotEnoughBalanceToStake => "NotEnoughBalanceToStake",
            Self::NonAssociatedColdKey => "NonAssociatedColdKey",
            Self::RegistrationPriceLimitExceeded => "RegistrationPriceLimitExceeded",
            Self::HotKeyAccountNotExists => "HotKeyAccountNotExists",
            Self::TooManyFieldsInCommitmentInfo => "TooManyFieldsInCommitmentInfo",
            Self::TimelockRevealFailedNotAllowed => "TimelockRevealFailedNotAllowed",
            Self::CanNotSetRootNetworkWeights => "CanNotSetRootNetworkWeights",
            Self::MechanismDoesNotExist => "MechanismDoesNotExist",
            Self::MaxWeightExceeded => "MaxWeightExceeded",
            Self::CommitRevealEnabled => "CommitRevealEnabled",
            Self::CommitRevealDisabled => "CommitRevealDisabled",
            Self::IncorrectCommitRevealVersion => "IncorrectCommitRevealVersion",
            Self::TooManyUnrevealedCommits => "TooManyUnrevealedCommits",
            Self::InvalidRevealRound => "InvalidRevealRound",
            Self::RequireSudo => "RequireSudo",
            Self::CommittingWeightsTooFast { .. } => "CommittingWeightsTooFast",
            Self::WeightNotFinite { .. } => "WeightNotFinite",
        }
    }

    /// Returns the pallet whose error this is.
    pub fn pallet(&self) -> &'static str {
        match self {
            Self::AccountNotAllowedCommit
            | Self::SpaceLimitExceeded
            | Self::TooManyFieldsInCommitmentInfo
            | Self::TimelockRevealFailedNotAllowed => "Commitments",
            Self::RequireSudo => "Sudo",
            _ => "SubtensorModule",
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
            Self::SpaceLimitExceeded | Self::TooManyUnrevealedCommits => {
                "commit again in the next epoch".into()
            }
            Self::WeightVecNotEqualSize => "give one weight for each uid".into(),
            Self::UidsLengthExceedUidsInSubNet => "read the metagraph again".into(),
            Self::NotEnoughStakeToSetWeights { threshold } => {
                format!("stake at least {threshold} on the hotkey")
            }
            Self::IncorrectWeightVersionKey { expected } => {
                format!("version key {expected} or above is demanded; update this software")
            }
            Self::SettingWeightsTooFast { next } | Self::CommittingWeightsTooFast { next } => {
                format!("try again at block {next}")
            }
            Self::SubnetNotExists => "check the netuid".into(),
            Self::RegistrationNotPermittedOnRootSubnet => {
                "register on a subnet; netuid 0 is the root network".into()
            }
            Self::NotEnoughBalanceToStake => "move TAO to the coldkey first".into(),
            Self::NonAssociatedColdKey => "use the coldkey that registered the hotkey first".into(),
            Self::RegistrationPriceLimitExceeded => {
                "give a higher limit, or wait until the price falls".into()
            }
            Self::HotKeyAccountNotExists => "register the hotkey first".into(),
            Self::TooManyFieldsInCommitmentInfo => "commit to at most three fields".into(),
            Self::TimelockRevealFailedNotAllowed => {
                "send the timelocked field again with a new round".into()
            }
            Self::CanNotSetRootNetworkWeights => {
                "set weights on a subnet; netuid 0 is the root network".into()
            }
            Self::MechanismDoesNotExist => "use mechanism 0".into(),
            Self::MaxWeightExceeded => "clip the weights to the subnet's limit".into(),
            Self::CommitRevealEnabled => "commit to the weights instead".into(),
            Self::CommitRevealDisabled => "set the weights plainly".into(),
            Self::IncorrectCommitRevealVersion => "update this software".into(),
            Self::InvalidRevealRound => "choose a round after the newest".into(),
            Self::RequireSudo => "sign with the owner's key".into(),
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
