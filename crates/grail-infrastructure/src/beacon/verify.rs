//! Decides whether a round of a drand-compatible beacon is genuine.
//!
//! Scheme `bls-unchained-g1-rfc9380`, that of drand's quicknet: BLS12-381, public key in G2,
//! signatures in G1, message SHA-256(round as u64, big-endian), randomness SHA-256(signature).
//! Every client checks every round here, the one inside the beacon's own process too.

use blst::BLST_ERROR;
use blst::min_sig::{PublicKey, Signature};
use grail_ports::beacon::{BeaconError, BeaconRound, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::RoundSignature;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// drand's name of the only scheme that is understood here.
pub const SCHEME: &str = "bls-unchained-g1-rfc9380";

/// Domain separation tag of the scheme. Source: RFC 9380, and drand's quicknet.
pub(crate) const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// Bytes of a compressed public key.
pub const PUBLIC_KEY_BYTES: usize = 96;

/// Bytes of a compressed signature.
pub const SIGNATURE_BYTES: usize = 48;

/// Beacon id that drand leaves out of the chain hash.
const DEFAULT_BEACON_ID: &str = "default";

/// A public key that is a valid point of the right subgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconKey(PublicKey);

/// Why a beacon's description cannot be trusted or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeaconInfoError {
    /// Not a point of the group that keys live in.
    #[error(
        "the beacon's public key is not a valid BLS12-381 G2 point ({0}); is it quicknet's kind?"
    )]
    PublicKey(String),
    /// Another signature scheme.
    #[error("the beacon uses scheme `{0}`; only `{SCHEME}` is supported")]
    Scheme(String),
    /// The description contradicts its own hash.
    #[error(
        "the beacon's description hashes to {computed}, but claims {claimed}; use another relay"
    )]
    Hash {
        /// Hash in the description.
        claimed: Digest,
        /// Hash of the description.
        computed: Digest,
    },
    /// A field that makes no sense.
    #[error("the beacon's description is invalid: {0}")]
    Field(&'static str),
}

impl BeaconKey {
    /// Accepts a compressed public key: on the curve, in the subgroup, not the point at infinity.
    ///
    /// # Errors
    /// [`BeaconInfoError::PublicKey`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BeaconInfoError> {
        if bytes.len() != PUBLIC_KEY_BYTES {
            let reason = format!("{} bytes instead of {PUBLIC_KEY_BYTES}", bytes.len());
            return Err(BeaconInfoError::PublicKey(reason));
        }
        PublicKey::key_validate(bytes)
            .map(Self)
            .map_err(|error| BeaconInfoError::PublicKey(format!("{error:?}")))
    }

    /// Returns the compressed public key.
    pub fn to_bytes(self) -> [u8; PUBLIC_KEY_BYTES] {
        self.0.to_bytes()
    }

    /// Returns the round that `signature` (compressed, 48 bytes) stands for.
    ///
    /// # Errors
    /// [`BeaconError::Invalid`] unless the holder of this key signed exactly this round.
    pub fn verify(self, round: u64, signature: &[u8]) -> Result<BeaconRound, BeaconError> {
        let refuse = |reason: String| BeaconError::Invalid { round, reason };
        if round == 0 {
            return Err(refuse("rounds are counted from 1".into()));
        }
        if signature.len() != SIGNATURE_BYTES {
            let length = signature.len();
            return Err(refuse(format!(
                "the signature has {length} bytes instead of {SIGNATURE_BYTES}"
            )));
        }
        // Checks the encoding, the curve, the subgroup, and refuses infinity.
        let point = Signature::sig_validate(signature, true)
            .map_err(|error| refuse(format!("the signature is no group element ({error:?})")))?;
        // The point is already checked, and so is the key since it was made.
        let outcome = point.verify(false, &message(round), DST, &[], &self.0, false);
        if outcome != BLST_ERROR::BLST_SUCCESS {
            return Err(refuse("the signature does not fit the public key".into()));
        }
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(signature);
        let signature = RoundSignature(bytes);
        Ok(BeaconRound { round, randomness: Digest::of(&bytes), signature })
    }
}

/// Returns the message that is signed for `round`.
pub(crate) fn message(round: u64) -> [u8; 32] {
    Sha256::digest(round.to_be_bytes()).into()
}

/// A beacon's description: the JSON of drand's `/info`, with two fields of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconInfo {
    /// Compressed public key, lower-case hex.
    pub public_key: String,
    /// Seconds between rounds, at least 1.
    pub period: u32,
    /// Time of round 1, seconds since the Unix epoch.
    pub genesis_time: i64,
    /// Hash of the description; names the beacon in addresses.
    pub hash: Digest,
    /// Hash of the group that runs the beacon, lower-case hex.
    #[serde(rename = "groupHash")]
    pub group_hash: Digest,
    /// Signature scheme.
    #[serde(rename = "schemeID")]
    pub scheme_id: String,
    /// More about the beacon.
    pub metadata: BeaconMetadata,
    /// Milliseconds between rounds, for embedded beacons faster than drand's unit of a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_ms: Option<u64>,
    /// Time of round 1, milliseconds since the Unix epoch, when it is not a whole second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genesis_ms: Option<u64>,
}

/// The part of a description that names the beacon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconMetadata {
    /// Name of the beacon within its network.
    #[serde(rename = "beaconID")]
    pub beacon_id: String,
}

impl BeaconInfo {
    /// Returns the key and the schedule of the beacon.
    ///
    /// # Errors
    /// When the scheme is foreign, the key is no key, or the hash does not fit.
    pub fn check(&self) -> Result<(BeaconKey, BeaconSchedule), BeaconInfoError> {
        if self.scheme_id != SCHEME {
            return Err(BeaconInfoError::Scheme(self.scheme_id.chars().take(64).collect()));
        }
        let bytes = hex::decode(&self.public_key)
            .map_err(|_| BeaconInfoError::PublicKey("not hexadecimal".into()))?;
        let key = BeaconKey::from_bytes(&bytes)?;
        let computed = self.compute_hash(key);
        if computed != self.hash {
            return Err(BeaconInfoError::Hash { claimed: self.hash, computed });
        }
        let schedule = match (self.period_ms, self.genesis_ms) {
            (None, None) => BeaconSchedule {
                period_ms: u64::from(self.period) * 1000,
                genesis_ms: u64::try_from(self.genesis_time)
                    .ok()
                    .and_then(|seconds| seconds.checked_mul(1000))
                    .ok_or(BeaconInfoError::Field("the genesis time is out of range"))?,
            },
            (Some(period_ms), Some(genesis_ms)) => {
                let schedule = BeaconSchedule { genesis_ms, period_ms };
                // drand's hash says nothing of our two fields; the group hash does.
                if self.group_hash != embedded_group_hash(key, schedule) {
                    return Err(BeaconInfoError::Field("the group hash does not fit the schedule"));
                }
                schedule
            }
            _ => return Err(BeaconInfoError::Field("one of period_ms and genesis_ms is missing")),
        };
        if schedule.period_ms == 0 {
            return Err(BeaconInfoError::Field("the period is 0"));
        }
        Ok((key, schedule))
    }

    /// Returns the chain hash by drand's rule. Source: drand, `chain.Info.Hash`.
    pub(crate) fn compute_hash(&self, key: BeaconKey) -> Digest {
        let mut hasher = Sha256::new()
            .chain_update(self.period.to_be_bytes())
            .chain_update(self.genesis_time.to_be_bytes())
            .chain_update(key.to_bytes())
            .chain_update(self.group_hash.0);
        let beacon_id = self.metadata.beacon_id.as_str();
        if !beacon_id.is_empty() && beacon_id != DEFAULT_BEACON_ID {
            hasher.update(beacon_id.as_bytes());
        }
        Digest(hasher.finalize().into())
    }
}

/// Returns the group hash of an embedded beacon, which binds its schedule to the millisecond.
pub(crate) fn embedded_group_hash(key: BeaconKey, schedule: BeaconSchedule) -> Digest {
    let hasher = Sha256::new()
        .chain_update(b"grail/v6/local-beacon-group\0")
        .chain_update(key.to_bytes())
        .chain_update(schedule.genesis_ms.to_le_bytes())
        .chain_update(schedule.period_ms.to_le_bytes());
    Digest(hasher.finalize().into())
}

/// One round as drand's HTTP interface gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundJson {
    /// Number of the round.
    pub round: u64,
    /// SHA-256 of the signature.
    pub randomness: Digest,
    /// Compressed signature, lower-case hex.
    pub signature: String,
}

impl RoundJson {
    /// Returns the round if it is `expected` and genuine.
    ///
    /// # Errors
    /// [`BeaconError::Invalid`] otherwise.
    pub fn verify(&self, key: BeaconKey, expected: u64) -> Result<BeaconRound, BeaconError> {
        let refuse = |reason: String| BeaconError::Invalid { round: expected, reason };
        if self.round != expected {
            return Err(refuse(format!("the answer is for round {}", self.round)));
        }
        let signature = hex::decode(&self.signature)
            .map_err(|_| refuse("the signature is not hexadecimal".into()))?;
        let round = key.verify(expected, &signature)?;
        if round.randomness != self.randomness {
            return Err(refuse("the randomness is not the hash of the signature".into()));
        }
        Ok(round)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// drand's own description of quicknet.
    fn quicknet() -> BeaconInfo {
        serde_json::from_str(include_str!("../../tests/vectors/quicknet_info.json")).unwrap()
    }

    fn quicknet_rounds() -> Vec<RoundJson> {
        serde_json::from_str(include_str!("../../tests/vectors/quicknet_rounds.json")).unwrap()
    }

    #[test]
    fn quicknets_description_hashes_to_its_name() {
        let info = quicknet();
        assert_eq!(
            info.hash.to_hex(),
            "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"
        );
        let (_, schedule) = info.check().unwrap();
        let expected = BeaconSchedule { genesis_ms: 1_692_803_367_000, period_ms: 3000 };
        assert_eq!(schedule, expected);
    }

    #[test]
    fn real_rounds_of_quicknet_verify() {
        let (key, _) = quicknet().check().unwrap();
        for answer in quicknet_rounds() {
            let round = answer.verify(key, answer.round).unwrap();
            assert_eq!(round.randomness, answer.randomness);
        }
    }

    #[test]
    fn a_real_signature_stands_for_its_own_round_only() {
        let (key, _) = quicknet().check().unwrap();
        let answer = &quicknet_rounds()[0];
        let signature = hex::decode(&answer.signature).unwrap();
        for round in [0, answer.round - 1, answer.round + 1, u64::MAX] {
            assert!(key.verify(round, &signature).is_err(), "round {round}");
        }
        assert!(answer.verify(key, answer.round + 1).is_err());
        let wrong = RoundJson { randomness: Digest([1; 32]), ..answer.clone() };
        assert!(wrong.verify(key, answer.round).is_err());
    }

    #[test]
    fn points_outside_the_group_are_refused() {
        let (key, _) = quicknet().check().unwrap();
        let mut infinity = [0; SIGNATURE_BYTES];
        infinity[0] = 0xc0;
        assert!(key.verify(1, &infinity).is_err());
        assert!(key.verify(1, &[]).is_err());
        assert!(key.verify(1, &[0; 96]).is_err());
        let mut infinite_key = [0; PUBLIC_KEY_BYTES];
        infinite_key[0] = 0xc0;
        assert!(BeaconKey::from_bytes(&infinite_key).is_err());
        assert!(BeaconKey::from_bytes(&[0; 48]).is_err());
    }

    #[test]
    fn an_altered_description_is_refused() {
        let good = quicknet();
        for bad in [
            BeaconInfo { period: 4, ..good.clone() },
            BeaconInfo { genesis_time: good.genesis_time + 1, ..good.clone() },
            BeaconInfo { group_hash: Digest([0; 32]), ..good.clone() },
            BeaconInfo { metadata: BeaconMetadata { beacon_id: "other".into() }, ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(BeaconInfoError::Hash { .. })), "{bad:?}");
        }
        let foreign = BeaconInfo { scheme_id: "pedersen-bls-chained".into(), ..good };
        assert!(matches!(foreign.check(), Err(BeaconInfoError::Scheme(_))));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_refused(bit in 0..SIGNATURE_BYTES * 8) {
            let (key, _) = quicknet().check().unwrap();
            let answer = &quicknet_rounds()[0];
            let mut signature = hex::decode(&answer.signature).unwrap();
            signature[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(key.verify(answer.round, &signature).is_err());
        }
    }
}
