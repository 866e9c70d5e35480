//! A signed call of a role of ours: asked once, on this chain, within a bounded time.

use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Signature};
use grail_protocol::signature::verify;
use serde::{Deserialize, Serialize};

pub use super::call::Call;

/// Blocks that an unincluded call stays valid for, so that a refused one cannot be kept and sent
/// again much later.
pub const VALIDITY_BLOCKS: u64 = 64;

const DOMAIN: &[u8] = b"grail/v6/local-extrinsic\0";

/// A call with its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedExtrinsic {
    /// The hotkey that asks.
    pub signer: Hotkey,
    /// Number of calls that the signer had included before.
    pub nonce: u64,
    /// Last block that may include the call.
    pub valid_until: BlockNumber,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
    /// Signature over domain, genesis hash, nonce, last block and call.
    pub signature: Signature,
}

impl SignedExtrinsic {
    /// Signs `call` for the chain that starts with `genesis`.
    pub fn sign(
        signer: &dyn Signer,
        genesis: BlockHash,
        nonce: u64,
        valid_until: BlockNumber,
        call: Call,
    ) -> Self {
        let hotkey = signer.hotkey();
        let signature = signer.sign(&payload(genesis, hotkey, nonce, valid_until, &call));
        Self { signer: hotkey, nonce, valid_until, call, signature }
    }

    /// Returns whether the signer signed this call for the chain that starts with `genesis`.
    pub fn is_authentic(&self, genesis: BlockHash) -> bool {
        verify(self.signer, &self.payload(genesis), &self.signature).is_ok()
    }

    /// Returns what the call is known by: equal for equal calls, however often they were signed.
    pub fn id(&self, genesis: BlockHash) -> Digest {
        Digest::of(&self.payload(genesis))
    }

    fn payload(&self, genesis: BlockHash) -> Vec<u8> {
        payload(genesis, self.signer, self.nonce, self.valid_until, &self.call)
    }
}

fn payload(
    genesis: BlockHash,
    signer: Hotkey,
    nonce: u64,
    valid_until: BlockNumber,
    call: &Call,
) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    bytes.extend_from_slice(&genesis.0);
    bytes.extend_from_slice(&signer.0);
    bytes.extend_from_slice(&nonce.to_le_bytes());
    bytes.extend_from_slice(&valid_until.0.to_le_bytes());
    bytes.extend_from_slice(&call.encode());
    bytes
}

/// An extrinsic in the encoding of the real chain, checked as far as that needs no state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// The whole extrinsic with its length prefix.
    #[serde(with = "hex::serde")]
    pub bytes: Vec<u8>,
    /// Its BLAKE2b-256.
    pub hash: Digest,
    /// Who signed it.
    pub signer: Hotkey,
    /// Number of extrinsics that the signer had included before.
    pub nonce: u64,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

/// A call as a block holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Included {
    /// Who asked, or `None` for the network's owner.
    pub signer: Option<Hotkey>,
    /// The signer's nonce, 0 for the network's owner.
    pub nonce: u64,
    /// What was asked.
    #[serde(flatten)]
    pub call: Call,
    /// The extrinsic, if it came as one.
    #[serde(default, with = "hex_option", skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Vec<u8>>,
}

impl Included {
    /// Returns the bytes that enter the block's hash. Signatures stay out: they are random, and a
    /// network made again from its seed must have the same hashes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.signer.map_or([0; 32], |signer| signer.0).to_vec();
        bytes.extend_from_slice(&self.nonce.to_le_bytes());
        bytes.extend_from_slice(&self.call.encode());
        bytes
    }
}

mod hex_option {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "the shape that serde calls")]
    pub(super) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => serializer.serialize_str(&hex::encode(bytes)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| hex::decode(text).map_err(serde::de::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::chain::data::Data;
    use crate::wallet::Wallet;

    const GENESIS: BlockHash = Digest([7; 32]);

    fn weights(uids: Vec<u16>, weights: Vec<u16>, version_key: u64) -> Call {
        Call::SetWeights { netuid: 81, mechanism: 0, uids, weights, version_key }
    }

    fn signed(call: Call) -> SignedExtrinsic {
        let wallet = Wallet::from_seed(&[1; 32]);
        SignedExtrinsic::sign(&wallet, GENESIS, 3, BlockNumber(9), call)
    }

    #[test]
    fn every_part_is_signed() {
        let call = weights(vec![1], vec![5], 2);
        let good = signed(call.clone());
        assert!(good.is_authentic(GENESIS));
        assert!(!good.is_authentic(Digest([8; 32])), "another chain");
        let other = Wallet::from_seed(&[2; 32]).hotkey();
        for bad in [
            SignedExtrinsic { nonce: 4, ..good.clone() },
            SignedExtrinsic { valid_until: BlockNumber(10), ..good.clone() },
            SignedExtrinsic { signer: other, ..good.clone() },
            SignedExtrinsic { call: weights(vec![1], vec![5], 3), ..good.clone() },
            SignedExtrinsic { call: weights(vec![], vec![1, 5], 2), ..good.clone() },
        ] {
            assert!(!bad.is_authentic(GENESIS), "{bad:?}");
        }
        assert_eq!(signed(call).id(GENESIS), good.id(GENESIS), "signing twice is the same call");
    }

    #[test]
    fn an_extrinsic_survives_json() {
        for call in [
            Call::Register { hotkey: Hotkey([9; 32]), stake: 5 },
            Call::SetCommitment {
                netuid: 81,
                fields: vec![Data::Raw { bytes: b"hello".to_vec() }],
            },
            weights(vec![0, 7], vec![1, 65535], 0),
        ] {
            let extrinsic = signed(call);
            let json = serde_json::to_string(&extrinsic).unwrap();
            assert_eq!(serde_json::from_str::<SignedExtrinsic>(&json).unwrap(), extrinsic);
        }
    }
}
