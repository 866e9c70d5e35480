//! Names what the chain refuses, as subtensor names it. Source: spec/bittensor.md sections 5 to 8.

use grail_protocol::ids::BlockNumber;

use crate::subtensor::pool;

/// Why a call was not done. A call that failed changes nothing but the nonce and the fee of its
/// signer, and one that was not included not even those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
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
}

impl Refusal {
    /// Returns the chain's name of the error.
    pub fn name(&self) -> &'static str {
        match self {
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
            Self::MechanismDoesNotExist => "MechanismDoesNotExist",
            Self::MaxWeightExceeded => "MaxWeightExceeded",
            Self::CommitRevealEnabled => "CommitRevealEnabled",
            Self::CommitRevealDisabled => "CommitRevealDisabled",
            Self::IncorrectCommitRevealVersion => "IncorrectCommitRevealVersion",
            Self::TooManyUnrevealedCommits => "TooManyUnrevealedCommits",
            Self::InvalidRevealRound => "InvalidRevealRound",
            Self::RequireSudo => "RequireSudo",
            Self::CommittingWeightsTooFast { .. } => "CommittingWeightsTooFast",
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
    pub fn advice(&self) -> &'static str {
        match self {
            Self::ExhaustsResources => "wait for the next block",
            Self::NoNeuronIdAvailable => "the subnet is full; use another network",
            Self::RegistrationNotPermitted => "register your own hotkey, without stake",
            Self::CommitmentLengthInvalid { .. } => "a commitment has 1 to 128 bytes in one field",
            _ => pool::advice(self.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::rpc::Runtime;

    /// What an extrinsic fails with is told by its place in the metadata, so it must have one.
    #[test]
    fn every_refusal_of_an_extrinsic_is_an_error_of_the_real_runtime() {
        let runtime = Runtime::current();
        for refusal in [
            Refusal::HotKeyNotRegisteredInSubNet,
            Refusal::HotKeyAlreadyRegisteredInSubNet,
            Refusal::SubNetRegistrationDisabled,
            Refusal::NoNeuronIdAvailable,
            Refusal::AccountNotAllowedCommit,
            Refusal::SpaceLimitExceeded,
            Refusal::WeightVecNotEqualSize,
            Refusal::UidsLengthExceedUidsInSubNet,
            Refusal::NotEnoughStakeToSetWeights { threshold: 1 },
            Refusal::IncorrectWeightVersionKey { expected: 1 },
            Refusal::SettingWeightsTooFast { next: BlockNumber(1) },
            Refusal::NeuronNoValidatorPermit,
            Refusal::DuplicateUids,
            Refusal::UidVecContainInvalidOne { uid: 9 },
            Refusal::WeightVecLengthIsLow,
            Refusal::SubnetNotExists,
            Refusal::RegistrationNotPermittedOnRootSubnet,
            Refusal::NotEnoughBalanceToStake,
            Refusal::NonAssociatedColdKey,
            Refusal::RegistrationPriceLimitExceeded,
            Refusal::HotKeyAccountNotExists,
            Refusal::TooManyFieldsInCommitmentInfo,
            Refusal::TimelockRevealFailedNotAllowed,
            Refusal::MechanismDoesNotExist,
            Refusal::MaxWeightExceeded,
            Refusal::CommitRevealEnabled,
            Refusal::CommitRevealDisabled,
            Refusal::IncorrectCommitRevealVersion,
            Refusal::TooManyUnrevealedCommits,
            Refusal::InvalidRevealRound,
            Refusal::RequireSudo,
            Refusal::CommittingWeightsTooFast { next: BlockNumber(1) },
            Refusal::RequireSudo,
            Refusal::NoNeuronIdAvailable,
        ] {
            let error = runtime.metadata.error_value(refusal.pallet(), refusal.name());
            assert!(error.is_ok(), "{}: {error:?}", refusal.name());
            assert!(!refusal.advice().is_empty());
        }
    }
}
