//! Keys and signatures of a beacon as text: lower-case hex, in JSON too.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BeaconPublicKey, RoundSignature};

/// A text that is no key or signature of a beacon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}; expected {digits} hexadecimal digits")]
pub struct NotBeaconHex {
    /// What was expected.
    pub what: &'static str,
    /// Digits expected.
    pub digits: usize,
    /// The text, cut to 200 characters.
    pub text: String,
}

macro_rules! as_hex {
    ($type:ident, $bytes:literal, $what:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }

        impl FromStr for $type {
            type Err = NotBeaconHex;

            fn from_str(text: &str) -> Result<Self, NotBeaconHex> {
                let mut bytes = [0; $bytes];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err(NotBeaconHex {
                        what: $what,
                        digits: 2 * $bytes,
                        text: text.chars().take(200).collect(),
                    }),
                }
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_hex!(BeaconPublicKey, 96, "public key of a beacon");
as_hex!(RoundSignature, 48, "signature of a beacon round");
