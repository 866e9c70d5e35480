//! What a node says of an extrinsic that it watches.

use grail_protocol::ids::BlockHash;
use serde_json::Value as Json;

/// Where a watched extrinsic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// In the pool, or in it again after a re-organisation took its block.
    Waiting,
    /// In a block.
    InBlock(BlockHash),
    /// In a block that is final.
    Finalized(BlockHash),
    /// In a block, but the node stops watching before that is final; or it says what is not known.
    Unwatched,
    /// Out of the pool: the node's word for why.
    Gone(String),
}

/// Reads a message of `author_extrinsicUpdate`.
pub fn read_status(message: &Json) -> Status {
    if let Some(word) = message.as_str() {
        return match word {
            "ready" | "future" => Status::Waiting,
            "dropped" | "invalid" => Status::Gone(word.to_owned()),
            _ => Status::Unwatched,
        };
    }
    let Some((word, detail)) = message.as_object().and_then(|object| object.iter().next()) else {
        return Status::Unwatched;
    };
    let hash = || {
        let digits = detail.as_str()?.strip_prefix("0x")?;
        let bytes = hex::decode(digits).ok()?;
        Some(grail_protocol::ids::Digest(bytes.try_into().ok()?))
    };
    match (word.as_str(), hash()) {
        ("broadcast" | "retracted", _) => Status::Waiting,
        ("inBlock", Some(hash)) => Status::InBlock(hash),
        ("finalized", Some(hash)) => Status::Finalized(hash),
        ("usurped", _) => Status::Gone(word.clone()),
        _ => Status::Unwatched,
    }
}

#[cfg(test)]
mod tests {
    use grail_protocol::ids::Digest;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_status_of_a_node_is_known() {
        let hash = format!("0x{}", "ab".repeat(32));
        let digest = Digest([0xab; 32]);
        for (message, want) in [
            (json!("ready"), Status::Waiting),
            (json!("future"), Status::Waiting),
            (json!({"broadcast": ["12D3KooW"]}), Status::Waiting),
            (json!({"inBlock": hash}), Status::InBlock(digest)),
            (json!({"retracted": hash}), Status::Waiting),
            (json!({"finalized": hash}), Status::Finalized(digest)),
            (json!({"finalityTimeout": hash}), Status::Unwatched),
            (json!({"usurped": hash}), Status::Gone("usurped".to_owned())),
            (json!("dropped"), Status::Gone("dropped".to_owned())),
            (json!("invalid"), Status::Gone("invalid".to_owned())),
        ] {
            assert_eq!(read_status(&message), want, "{message}");
        }
    }

    #[test]
    fn nonsense_only_ends_the_watching() {
        for message in [
            json!(null),
            json!(7),
            json!([]),
            json!({}),
            json!("new"),
            json!({"inBlock": "0x12"}),
            json!({"finalized": 5}),
        ] {
            assert_eq!(read_status(&message), Status::Unwatched, "{message}");
        }
    }
}
