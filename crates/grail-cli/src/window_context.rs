//! The public facts of a window that nobody can derive from a file: what `grail verify --context` reads.
//!
//! A local network publishes them in the validator's bucket, so that anyone can check a file offline.

use grail_protocol::ids::{Digest, Netuid, Window};
use grail_protocol::timelock::{BeaconPublicKey, RoundSignature};
use serde::{Deserialize, Serialize};

/// Version of the JSON.
pub const VERSION: u32 = 2;

/// Largest JSON that is read; real ones have about 700 bytes.
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
    /// What opens the window's files.
    pub seal: SealContext,
}

/// The beacon round that the files of a window are sealed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealContext {
    /// Key of the beacon.
    pub beacon_key: BeaconPublicKey,
    /// Number of the round.
    pub round: u64,
    /// Signature of the round.
    pub signature: RoundSignature,
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
        // The version first: fields of another version would be told as unknown or missing.
        let Versioned { version } =
            serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!(
                "it has version {version}, this program reads {VERSION}; update the older, or have \
                 the window's facts published again"
            ));
        }
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
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
            seal: SealContext {
                beacon_key: BeaconPublicKey([3; 96]),
                round: 4,
                signature: RoundSignature([5; 48]),
            },
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
            ("\"version\": 2", "\"version\": 3", "this program reads 2"),
            ("\"signature\": \"05", "\"signature\": \"", "96 hexadecimal digits"),
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
