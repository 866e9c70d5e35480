//! The public facts of a window that nobody can derive from a file: what `grail verify --context` reads.
//!
//! A local network publishes them in the validator's bucket, so that anyone can check a file offline.

use grail_protocol::ids::{Digest, Netuid, Window};
use serde::{Deserialize, Serialize};

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// Largest JSON that is read; real ones have about 300 bytes.
pub const BYTES_MAX: u64 = 64 * 1024;

/// The facts of one window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowContext {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the network.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The window.
    pub window: Window,
    /// Randomness of the window: seeds and races follow from it.
    pub randomness: Digest,
    /// Randomness that chose the groups that the validator checked.
    pub challenge: Digest,
}

impl WindowContext {
    /// Returns the key of a window's facts in the validator's bucket.
    pub fn key(window: Window) -> String {
        format!("grail/contexts/{window}.json")
    }

    /// Returns the JSON text, for people too.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("names, numbers and digests are always JSON")
    }

    /// Reads the JSON text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let context: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if context.version != VERSION {
            return Err(format!(
                "it has version {}, this program reads {VERSION}; update the program",
                context.version
            ));
        }
        Ok(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> WindowContext {
        WindowContext {
            version: VERSION,
            network: "local".to_owned(),
            netuid: Netuid(81),
            window: Window::from_start(60).unwrap(),
            randomness: Digest([1; 32]),
            challenge: Digest([2; 32]),
        }
    }

    #[test]
    fn the_facts_round_trip() {
        assert_eq!(WindowContext::from_json(context().to_json().as_bytes()), Ok(context()));
    }

    #[test]
    fn other_json_is_refused() {
        let text = context().to_json();
        for (from, to, part) in [
            ("\"version\": 1", "\"version\": 2", "update the program"),
            ("\"window\": 60", "\"window\": 61", "first block of a window"),
            ("\"netuid\"", "\"subnet\"", "subnet"),
            ("{", "", "expected"),
        ] {
            let changed = text.replacen(from, to, 1);
            let error = WindowContext::from_json(changed.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{changed}: {error}");
        }
    }
}
