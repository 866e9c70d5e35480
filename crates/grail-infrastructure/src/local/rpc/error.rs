//! What a node answers when it does not do what was asked, in the node's codes and words.
//!
//! Source: `vectors/bittensor/recorded/rpc_node425.json`.

use serde_json::{Value as Json, json};

use crate::local::chain::LocalChainError;
use crate::local::chain::state::PoolRefusal;

/// An error of JSON-RPC.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The code.
    pub code: i32,
    /// The text.
    pub message: String,
    /// More, where the node says more.
    pub data: Option<Json>,
}

impl RpcError {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    fn with(self, data: impl Into<Json>) -> Self {
        Self { data: Some(data.into()), ..self }
    }

    /// No JSON.
    pub fn parse() -> Self {
        Self::new(-32700, "Parse error")
    }

    /// JSON that is no request.
    pub fn invalid_request() -> Self {
        Self::new(-32600, "Invalid request")
    }

    /// An unknown method.
    pub fn unknown_method() -> Self {
        Self::new(-32601, "Method not found")
    }

    /// Parameters that the method does not take.
    pub fn invalid_params(why: impl Into<String>) -> Self {
        Self::new(-32602, "Invalid params").with(why.into())
    }

    /// More requests in one message than this node answers.
    pub fn batch_too_large(limit: usize) -> Self {
        Self::new(-32010, "The batch request was too large")
            .with(format!("Exceeded max limit of {limit}"))
    }

    /// More subscriptions on one connection than this node keeps.
    pub fn too_many_subscriptions(limit: usize) -> Self {
        Self::new(-32006, "Too many subscriptions on the connection")
            .with(format!("Exceeded max limit of {limit}"))
    }

    /// Something that is not the asker's doing.
    pub fn internal(why: impl Into<String>) -> Self {
        Self::new(-32603, "Internal error").with(why.into())
    }

    /// A block that this node does not have.
    pub fn unknown_block(hash: &str) -> Self {
        Self::new(
            4003,
            format!("Client error: UnknownBlock: Header was not found in the database: {hash}"),
        )
    }

    /// A block whose state is gone.
    pub fn pruned(hash: &str) -> Self {
        Self::new(4003, format!("Client error: UnknownBlock: State already discarded for {hash}"))
    }

    /// A runtime function that there is not.
    pub fn unknown_function(method: &str) -> Self {
        Self::new(
            4003,
            format!("Client error: Execution failed: Other: Exported method {method} is not found"),
        )
    }

    /// A runtime function that stopped over its arguments.
    pub fn trap() -> Self {
        Self::new(4003, format!("Client error: {TRAP}"))
    }

    /// More keys on one page than a node gives.
    pub fn page_too_large(count: u64, max: u64) -> Self {
        Self::new(4002, format!("count exceeds maximum value. value: {count}, max: {max}"))
    }

    /// Bytes that have not the form of an extrinsic.
    pub fn no_extrinsic() -> Self {
        Self::new(
            1040,
            "Client error: Could not decode `OpaqueExtrinsic.0`:\n\tNot enough data to decode \
             vector\n",
        )
    }

    /// An extrinsic that the runtime cannot read.
    pub fn unreadable_extrinsic() -> Self {
        Self::new(1002, format!("Verification Error: Runtime error: {TRAP}"))
            .with(format!("RuntimeApi(\"{TRAP}\")"))
    }

    /// An extrinsic that the pool turns down.
    pub fn pool(refusal: PoolRefusal) -> Self {
        let invalid = |why: &str| Self::new(1010, "Invalid Transaction").with(why);
        match refusal {
            PoolRefusal::Payment => {
                invalid("Inability to pay some fees (e.g. account balance too low)")
            }
            PoolRefusal::BadProof => invalid("Transaction has a bad signature"),
            PoolRefusal::Stale => invalid("Transaction is outdated"),
            PoolRefusal::AncientBirthBlock => invalid("Transaction has an ancient birth block"),
            PoolRefusal::StakeTooLow => invalid("Custom error: 1"),
            PoolRefusal::RateLimitExceeded => invalid("Custom error: 6"),
            PoolRefusal::InvalidRevealRound => invalid("Custom error: 15"),
            PoolRefusal::AlreadyImported => {
                Self::new(1013, "Transaction Already Imported").with("Any { .. }")
            }
            PoolRefusal::Full => Self::new(1016, "Immediately Dropped")
                .with("The transaction couldn't enter the pool because of the limit"),
        }
    }

    /// Words the chain's own error.
    pub fn of_chain(error: &LocalChainError) -> Self {
        match error {
            LocalChainError::Pool(refusal) => Self::pool(*refusal),
            other => Self::internal(other.to_string()),
        }
    }

    /// Returns the error as JSON.
    pub fn to_json(&self) -> Json {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        error
    }
}

const TRAP: &str = "Execution failed: Execution aborted due to trap: wasm trap: wasm \
                    `unreachable` instruction executed";
