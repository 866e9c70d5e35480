//! What the node's pool and the chain's pallets say when they refuse, and what to do about it.
//!
//! Source: `spec/bittensor.md`, section 8, and the recorded refusals.

use super::rpc::{ErrorObject, RpcError};
use super::submit::SubmitError;
use crate::substrate::DispatchError;

/// What a failed hand-in means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Signed for a state that has passed: sign once more.
    SignAgain(String),
    /// Refused for a reason that will not go away by itself.
    Refused {
        /// Name of the error.
        name: String,
        /// What to do about it.
        advice: String,
    },
    /// It is not in the pool, and may be later.
    Missed,
    /// It may be in the pool: the answer was lost, or it was there before.
    MayBeIn,
}

/// Returns what the failure of `author_submit…` means.
pub fn verdict(error: &RpcError) -> Verdict {
    let object = match error {
        RpcError::Node { error, .. } => error,
        RpcError::Disconnected(_) | RpcError::TimedOut { .. } | RpcError::Lagged => {
            return Verdict::MayBeIn;
        }
        RpcError::Malformed { .. } => return Verdict::MayBeIn,
        RpcError::Closed => return Verdict::Missed,
    };
    match object.code {
        1010 => invalid(object),
        1013 => Verdict::MayBeIn,
        1014 => named("PriorityIsTooLow"),
        1002 | 1040 => named("NotAnExtrinsic"),
        // Unknown validity, temporarily banned, pool full: it was not taken.
        _ => Verdict::Missed,
    }
}

fn named(name: &str) -> Verdict {
    Verdict::Refused { name: name.to_owned(), advice: advice(name).to_owned() }
}

/// Reads an `Invalid Transaction`.
fn invalid(object: &ErrorObject) -> Verdict {
    let data = object.data.as_deref().unwrap_or(&object.message);
    if data.contains("bad signature") || data.contains("outdated") {
        return Verdict::SignAgain(data.to_owned());
    }
    if data.contains("Inability to pay") {
        return named("InabilityToPay");
    }
    match data.strip_prefix("Custom error: ").and_then(|number| number.trim().parse().ok()) {
        Some(number) => named(custom_name(number)),
        None => {
            let name = data.lines().next().unwrap_or_default().to_owned();
            Verdict::Refused { name, advice: FALLBACK.to_owned() }
        }
    }
}

/// Returns the name of the pool's `Custom error`.
fn custom_name(number: u8) -> &'static str {
    match number {
        0 => "ColdkeySwapAnnounced",
        1 => "StakeAmountTooLow",
        2 => "BalanceTooLow",
        3 => "SubnetNotExists",
        4 => "HotkeyAccountDoesntExist",
        5 => "NotEnoughStakeToWithdraw",
        6 => "RateLimitExceeded",
        7 => "InsufficientLiquidity",
        8 => "SlippageTooHigh",
        9 => "TransferDisallowed",
        10 => "HotKeyNotRegisteredInNetwork",
        11 => "InvalidIpAddress",
        12 => "ServingRateLimitExceeded",
        13 => "InvalidPort",
        14 => "ZeroMaxAmount",
        15 => "InvalidRevealRound",
        16 => "CommitNotFound",
        17 => "CommitBlockNotInRevealRange",
        18 => "InputLengthsUnequal",
        19 => "UidNotFound",
        20 => "EvmKeyAssociateRateLimitExceeded",
        21 => "ColdkeySwapDisputed",
        22 => "InvalidRealAccount",
        23 | 24 => "ShieldedTransaction",
        25 => "NonAssociatedColdKey",
        26 | 27 => "DelegateTake",
        _ => "CustomError",
    }
}

/// What is said of errors that nothing better is known of.
const FALLBACK: &str = "see the pallet's documentation of this error";

/// Returns what to do about an error of the chain, by its name.
pub fn advice(name: &str) -> &'static str {
    match name {
        "StakeAmountTooLow" | "NotEnoughStakeToSetWeights" => {
            "the hotkey has less stake than the subnet asks of validators; stake more to it"
        }
        "BalanceTooLow" | "InabilityToPay" | "NotEnoughBalanceToStake" => {
            "the account that signs has too little TAO; move some to it"
        }
        "SubnetNotExists" => "there is no such subnet on this network; check NETUID",
        "HotKeyNotRegisteredInSubNet"
        | "UidNotFound"
        | "HotKeyNotRegisteredInNetwork"
        | "AccountNotAllowedCommit" => {
            "the hotkey is not registered on the subnet; register it (btcli subnet register), or \
             check NETUID and the wallet"
        }
        "RateLimitExceeded" | "SettingWeightsTooFast" | "CommittingWeightsTooFast" => {
            "weights were set too recently; they are set again after the subnet's rate limit"
        }
        "InvalidRevealRound" => {
            "the seal names a round that the chain has seen; it is sealed anew with the next try"
        }
        "NeuronNoValidatorPermit" => {
            "the hotkey has no validator permit; it needs more stake than other validators"
        }
        "IncorrectWeightVersionKey" => {
            "the subnet demands newer scoring rules; update this program"
        }
        "CommitRevealEnabled" | "CommitRevealDisabled" => {
            "the subnet switched commit-reveal meanwhile; the next try follows it"
        }
        "IncorrectCommitRevealVersion" => {
            "the chain changed the form of sealed weights; update this program"
        }
        "TooManyUnrevealedCommits" => "ten seals wait to be opened; wait for the next epoch",
        "WeightVecLengthIsLow" => {
            "too few miners have a weight above 0; the subnet asks for more of them"
        }
        "DuplicateUids" => "a uid has two weights; name each once",
        "UidVecContainInvalidOne" | "UidsLengthExceedUidsInSubNet" => {
            "a uid is not in the subnet; the metagraph is read again"
        }
        "WeightsNotFinite" => "a weight is negative or no number; it must be finite and at least 0",
        "MaxWeightExceeded" => "one uid has a larger share than the subnet allows",
        "MechanismDoesNotExist" => "the subnet has no such mechanism",
        "SpaceLimitExceeded" => {
            "the hotkey has committed as much as an epoch allows; wait for the next epoch"
        }
        "TooManyFieldsInCommitmentInfo" => "a commitment has 1 to 128 bytes in one field",
        "HotKeyAlreadyRegisteredInSubNet" => "it is registered already; nothing needs to be done",
        "SubNetRegistrationDisabled" => "the subnet takes no registrations now; ask its owner",
        "NonAssociatedColdKey" => "the hotkey belongs to another coldkey; check the wallet",
        "RegistrationPriceLimitExceeded" => "registering costs more than the limit; raise it",
        "PriorityIsTooLow" => {
            "another transaction of this hotkey waits; does a second program use the same hotkey?"
        }
        "NotAnExtrinsic" => {
            "the node cannot read the transaction; the network runs another runtime than it says"
        }
        "ColdkeySwapAnnounced" | "ColdkeySwapDisputed" => {
            "the coldkey is being swapped; wait until that is done"
        }
        _ => FALLBACK,
    }
}

/// Returns name and advice of a dispatch error.
pub fn dispatch_advice(error: &DispatchError) -> (String, String) {
    match error {
        DispatchError::Other(name) => (name.clone(), advice(name).to_owned()),
        DispatchError::Module(module) => {
            let known = advice(&module.name);
            let own_words = known == FALLBACK && !module.docs.is_empty();
            let words = if own_words { module.docs.clone() } else { known.to_owned() };
            (module.name.clone(), words)
        }
    }
}

/// Returns the error of an extrinsic that was refused although it was signed anew.
pub fn refused_twice(reason: &str) -> SubmitError {
    SubmitError::Refused {
        name: reason.to_owned(),
        advice: "signing it again did not help; does another program use this hotkey, or is this \
                 node behind the others?"
            .to_owned(),
    }
}

/// Returns the error of an extrinsic that left the pool.
pub fn gone(status: &str) -> SubmitError {
    match status {
        "usurped" => SubmitError::Refused {
            name: "Usurped".to_owned(),
            advice: advice("PriorityIsTooLow").to_owned(),
        },
        other => SubmitError::Missed(format!("the node's pool let it go ({other}); try again")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i64, data: &str) -> RpcError {
        let error = ErrorObject {
            code,
            message: "Invalid Transaction".to_owned(),
            data: Some(data.to_owned()),
        };
        RpcError::Node { method: "author_submitAndWatchExtrinsic", error }
    }

    #[test]
    fn refusals_are_sorted_by_what_helps() {
        for (code, data, want) in [
            (1010, "Custom error: 6", "RateLimitExceeded"),
            (1010, "Custom error: 19", "UidNotFound"),
            (1010, "Custom error: 255", "CustomError"),
            (1010, "Inability to pay some fees (e.g. account balance too low)", "InabilityToPay"),
            (1010, "Something new", "Something new"),
            (1014, "(18 > 18)", "PriorityIsTooLow"),
            (1002, "RuntimeApi", "NotAnExtrinsic"),
        ] {
            let Verdict::Refused { name, advice } = verdict(&refusal(code, data)) else {
                panic!("{code} {data} is no refusal");
            };
            assert_eq!(name, want);
            assert!(!advice.is_empty());
        }
        for data in ["Transaction has a bad signature", "Transaction is outdated"] {
            assert!(matches!(verdict(&refusal(1010, data)), Verdict::SignAgain(_)));
        }
        for code in [1011, 1012, 1016, -32000] {
            assert_eq!(verdict(&refusal(code, "")), Verdict::Missed);
        }
        assert_eq!(verdict(&refusal(1013, "Any { .. }")), Verdict::MayBeIn);
        assert_eq!(verdict(&RpcError::Disconnected(String::new())), Verdict::MayBeIn);
        assert_eq!(verdict(&RpcError::Closed), Verdict::Missed);
    }
}
