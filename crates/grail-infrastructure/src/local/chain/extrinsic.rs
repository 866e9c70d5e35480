//! Extrinsics as the chain keeps them: the call that was read from them, and their own bytes.

use grail_protocol::ids::{Digest, Hotkey};
use serde::{Deserialize, Serialize};

pub use super::call::Call;

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

    #[test]
    fn a_block_keeps_calls_with_and_without_an_extrinsic() {
        let signed = Included {
            signer: Some(Hotkey([9; 32])),
            nonce: 5,
            call: Call::SetCommitment {
                netuid: 81,
                fields: vec![Data::Raw { bytes: b"hello".to_vec() }],
            },
            bytes: Some(vec![1, 2, 3]),
        };
        let call = Call::Register { hotkey: Hotkey([9; 32]), stake: 5 };
        let owners = Included { signer: None, nonce: 0, call, bytes: None };
        for included in [signed.clone(), owners] {
            let json = serde_json::to_string(&included).unwrap();
            assert_eq!(serde_json::from_str::<Included>(&json).unwrap(), included);
        }
        let resigned = Included { bytes: Some(vec![4]), ..signed.clone() };
        assert_eq!(resigned.encode(), signed.encode(), "signatures do not enter the hash");
        assert_ne!(Included { nonce: 6, ..signed.clone() }.encode(), signed.encode());
    }
}
