//! Chains of drand, the public ones and one's own: schedules and keys, known before any relay says a
//! word.

use std::fmt;
use std::str::FromStr;

use grail_ports::beacon::{BeaconError, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::BeaconPublicKey;

use super::VerifiedRound;
use crate::beacon::chained::ChainedKey;
use crate::beacon::verify::{BeaconInfo, BeaconInfoError, BeaconKey};

/// A chain of drand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrandChain {
    /// A round every 3 seconds, unchained; what the chain's pallet and our seals use.
    Quicknet,
    /// A round every 30 seconds, each signed over the one before; the oldest.
    Default,
    /// One of quicknet's kind that somebody else runs.
    Own(OwnChain),
}

/// A chain of quicknet's kind with a key and a schedule of its own, such as an embedded network's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnChain {
    hash: Digest,
    key: BeaconPublicKey,
    schedule: BeaconSchedule,
}

impl OwnChain {
    /// Returns the chain that `info` describes; `info` must come from a source that is trusted, such
    /// as the network's own file.
    ///
    /// # Errors
    /// When the description contradicts itself.
    pub fn new(info: &BeaconInfo) -> Result<Self, BeaconInfoError> {
        let (key, schedule) = info.check()?;
        Ok(Self { hash: info.hash, key: BeaconPublicKey(key.to_bytes()), schedule })
    }
}

/// Text that names no chain of drand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no chain of drand: quicknet, default, or the 64 digits of a chain's hash")]
pub struct UnknownDrandChain(pub String);

const QUICKNET_KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d10\
     64510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991e\
     f5ece45a";
const DEFAULT_KEY: &str = "868f005eb8e6e4ca0a47c8a77ceaa5309a47978a7c71bc5cce96366b5d7a569937c529eeda66c7293784a9402801\
     af31";

impl DrandChain {
    /// Returns the name of the chain.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quicknet => "quicknet",
            Self::Default => "default",
            Self::Own(_) => "own",
        }
    }

    /// Returns the hash that names the chain in addresses.
    pub fn hash(self) -> String {
        let public = match self {
            Self::Quicknet => "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971",
            Self::Default => "8990e7a9aaed2ffed73dbd7092123d6f289930540d7651336225dc172e51b2ce",
            Self::Own(own) => return own.hash.to_hex(),
        };
        public.to_owned()
    }

    /// Returns when rounds come out.
    pub fn schedule(self) -> BeaconSchedule {
        match self {
            Self::Quicknet => BeaconSchedule { genesis_ms: 1_692_803_367_000, period_ms: 3_000 },
            Self::Default => BeaconSchedule { genesis_ms: 1_595_431_050_000, period_ms: 30_000 },
            Self::Own(own) => own.schedule,
        }
    }

    /// Returns the key that one seals to, if one can seal to rounds of this chain.
    pub fn sealing_key(self) -> Option<BeaconPublicKey> {
        match self {
            Self::Quicknet => Some(BeaconPublicKey(quicknet_key().to_bytes())),
            Self::Default => None,
            Self::Own(own) => Some(own.key),
        }
    }

    /// Returns `round` if `signature` is the chain's own; `previous` is the signature of the round
    /// before, which only the default chain looks at.
    ///
    /// # Errors
    /// [`BeaconError::Invalid`] otherwise.
    pub fn verify(
        self,
        round: u64,
        previous: &[u8],
        signature: &[u8],
    ) -> Result<VerifiedRound, BeaconError> {
        let randomness = match self {
            Self::Quicknet => quicknet_key().verify(round, signature)?.randomness,
            Self::Own(own) => {
                let key = BeaconKey::from_bytes(&own.key.0).expect("the key was checked before");
                key.verify(round, signature)?.randomness
            }
            Self::Default => {
                let key = hex::decode(DEFAULT_KEY).expect("the key is hexadecimal");
                let key = ChainedKey::from_bytes(&key).expect("the key is a point of the group");
                key.verify(round, previous, signature)?
            }
        };
        Ok(VerifiedRound { round, randomness, signature: signature.to_vec() })
    }
}

fn quicknet_key() -> BeaconKey {
    let key = hex::decode(QUICKNET_KEY).expect("the key is hexadecimal");
    BeaconKey::from_bytes(&key).expect("the key is a point of the group")
}

impl fmt::Display for DrandChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(own) => f.write_str(&own.hash.to_hex()),
            public => f.write_str(public.name()),
        }
    }
}

impl FromStr for DrandChain {
    type Err = UnknownDrandChain;

    fn from_str(name: &str) -> Result<Self, UnknownDrandChain> {
        [Self::Quicknet, Self::Default]
            .into_iter()
            .find(|chain| chain.name() == name)
            .ok_or_else(|| UnknownDrandChain(name.chars().take(32).collect()))
    }
}
