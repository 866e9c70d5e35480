//! What can go wrong between a question and its answer, and what the port makes of it.

use std::fmt::Display;

use grail_ports::chain::ChainError;
use grail_protocol::ids::BlockNumber;

use super::node::is_pruned;
use super::rpc::{ErrorObject, RpcError};

/// Codes of JSON-RPC servers that are overloaded or broken for a moment: `-32603` internal error,
/// `-32000` to `-32099` left to servers, `-32999` rate limited (Substrate).
const TRY_LATER: [std::ops::RangeInclusive<i64>; 3] =
    [-32099..=-32000, -32603..=-32603, -32999..=-32999];

/// Why a question has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The node did not answer, or refused.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// The node answered something that does not fit its metadata, or what is known of subtensor.
    #[error("{what}: {reason}")]
    Unreadable {
        /// What was read.
        what: String,
        /// Why it cannot be.
        reason: String,
    },
}

/// Returns the trouble of reading `what`.
pub fn unreadable(what: &str, reason: impl Display) -> Trouble {
    Trouble::Unreadable { what: what.to_owned(), reason: reason.to_string() }
}

impl Trouble {
    /// Returns whether the node has dropped what was asked for, or never had it.
    pub fn is_pruned(&self) -> bool {
        matches!(self, Self::Rpc(error) if is_pruned(error))
    }

    /// Returns what the port says of it; `at` is the block that was asked for, if any.
    pub fn into_chain_error(self, call: &str, at: Option<BlockNumber>) -> ChainError {
        let malformed = |reason: String| ChainError::Malformed { call: call.to_owned(), reason };
        match self {
            Self::Unreadable { .. } => malformed(self.to_string()),
            Self::Rpc(error) => match (&error, at) {
                (_, Some(at)) if is_pruned(&error) => ChainError::Pruned(at),
                // The block was there a moment ago: a re-organisation, or a node that restarted.
                (_, None) if is_pruned(&error) => ChainError::Unavailable(error.to_string()),
                (RpcError::Malformed { .. }, _) => malformed(error.to_string()),
                (RpcError::Node { error: object, .. }, _) if !is_passing(object) => {
                    malformed(error.to_string())
                }
                _ => ChainError::Unavailable(error.to_string()),
            },
        }
    }
}

fn is_passing(error: &ErrorObject) -> bool {
    TRY_LATER.iter().any(|codes| codes.contains(&error.code))
}
