//! Why a call has no answer.

use std::fmt;
use std::time::Duration;

use grail_ports::observer::{Classified, Outcome};
use serde_json::Value;

/// Longest text of a node that is kept, bytes; a trap's back trace is longer than anybody reads.
const TEXT_BYTES_MAX: usize = 2_000;

/// A refusal as the node words it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorObject {
    /// Number of the error, such as 1010.
    pub code: i64,
    /// What happened.
    pub message: String,
    /// More about it; anything but text is written as JSON.
    pub data: Option<String>,
}

impl RpcError {
    /// Returns whether the node answered with an error.
    pub fn is_node_error(&self) -> bool {
        matches!(self, Self::Node { .. })
    }
}

impl ErrorObject {
    /// Reads the `error` member of an answer.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let text = |value: &Value| match value {
            Value::String(text) => cut(text),
            other => cut(&other.to_string()),
        };
        Some(Self {
            code: value.get("code")?.as_i64()?,
            message: value.get("message").map(text).unwrap_or_default(),
            data: value.get("data").filter(|data| !data.is_null()).map(text),
        })
    }

    /// Returns whether message or data contain `text`.
    pub fn says(&self, text: &str) -> bool {
        self.message.contains(text) || self.data.as_ref().is_some_and(|data| data.contains(text))
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl fmt::Display for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Only the first line: what follows is the node's own back trace.
        let line = |text: &str| text.lines().next().unwrap_or_default().escape_debug().to_string();
        write!(f, "{} (code {}", line(&self.message), self.code)?;
        if let Some(data) = &self.data {
            write!(f, ": {}", line(data))?;
        }
        write!(f, ")")
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// There is no connection, or it died before the answer came; what was sent may have been done.
    #[error("no connection: {0}")]
    Disconnected(String),
    /// The node is there and did not answer in time.
    #[error("{endpoint} did not answer {method} within {after:?}")]
    TimedOut {
        /// What was called.
        method: &'static str,
        /// Who did not answer.
        endpoint: String,
        /// How long it had.
        after: Duration,
    },
    /// The node answered with an error.
    #[error("{method} failed: {error}")]
    Node {
        /// What was called.
        method: &'static str,
        /// What the node says.
        error: ErrorObject,
    },
    /// The node answered with something that is no answer.
    #[error("the answer to {method} cannot be read: {reason}")]
    Malformed {
        /// What was called.
        method: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Messages of a subscription came faster than they were read.
    #[error("messages of a subscription were lost: they came faster than they were read")]
    Lagged,
    /// The client was closed.
    #[error("the connection was closed by this program")]
    Closed,
}

impl Classified for RpcError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Disconnected(_) => Outcome::Unavailable,
            Self::TimedOut { .. } => Outcome::TimedOut,
            Self::Node { .. } => Outcome::Refused,
            Self::Malformed { .. } | Self::Lagged => Outcome::Bad,
            Self::Closed => Outcome::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_keep_code_message_and_data() {
        let error =
            json!({"code": 1010, "message": "Invalid Transaction", "data": "Custom error: 6"});
        let read = ErrorObject::read(&error).unwrap();
        assert_eq!(read.to_string(), "Invalid Transaction (code 1010: Custom error: 6)");
        assert!(read.says("Custom error: 6") && read.says("Invalid") && !read.says("stake"));
        let object = ErrorObject::read(&json!({"code": -1, "data": {"a": [1]}})).unwrap();
        assert_eq!(object.data.as_deref(), Some(r#"{"a":[1]}"#));
        assert_eq!(ErrorObject::read(&json!({"message": "no code"})), None);
        assert_eq!(ErrorObject::read(&json!("text")), None);
    }

    #[test]
    fn long_texts_are_cut_and_shown_as_one_line() {
        let error = json!({"code": 4003, "message": format!("trap\n{}", "é".repeat(5_000))});
        let read = ErrorObject::read(&error).unwrap();
        assert!(read.message.len() <= TEXT_BYTES_MAX);
        assert_eq!(read.to_string(), "trap (code 4003)");
    }
}
