//! A signed call: what a hotkey asks of the chain, once, on this chain, within a bounded time.

use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey, Signature};
use grail_protocol::signature::verify;
use serde::{Deserialize, Serialize};

/// Blocks that an unincluded call stays valid for, so that a refused one cannot be kept and sent
/// again much later.
pub const VALIDITY_BLOCKS: u64 = 64;

const DOMAIN: &[u8] = b"grail/v6/local-extrinsic\0";

/// What is asked of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Gives `hotkey` a uid.
    Register {
        /// The new neuron.
        hotkey: Hotkey,
        /// Its stake; anybody but the network's owner says 0.
        stake: u64,
    },
    /// Replaces what the signer has committed.
    SetCommitment {
        /// 1 to 128 bytes, lower-case hex.
        #[serde(with = "hex::serde")]
        data: Vec<u8>,
    },
    /// Replaces the signer's row of weights.
    SetWeights {
        /// Uids, each once.
        uids: Vec<u16>,
        /// A weight for each uid; only ratios matter.
        weights: Vec<u16>,
        /// Version of the scoring rules.
        version_key: u64,
    },
}

impl Call {
    /// Returns the chain's name of the call.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::SetCommitment { .. } => "set_commitment",
            Self::SetWeights { .. } => "set_weights",
        }
    }

    /// Returns the bytes that are signed: a tag, then the fields, little-endian, length-prefixed.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Register { hotkey, stake } => {
                bytes.push(0);
                bytes.extend_from_slice(&hotkey.0);
                bytes.extend_from_slice(&stake.to_le_bytes());
            }
            Self::SetCommitment { data } => {
                bytes.push(1);
                push_length(&mut bytes, data.len());
                bytes.extend_from_slice(data);
            }
            Self::SetWeights { uids, weights, version_key } => {
                bytes.push(2);
                for list in [uids, weights] {
                    push_length(&mut bytes, list.len());
                    for value in list {
                        bytes.extend_from_slice(&value.to_le_bytes());
                    }
                }
                bytes.extend_from_slice(&version_key.to_le_bytes());
            }
        }
        bytes
    }
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    // Lengths come from messages that fit in memory, so 8 bytes hold any of them.
    bytes.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes());
}

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

/// A call as a block holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Included {
    /// The hotkey that asked, or `None` for the network's owner.
    pub signer: Option<Hotkey>,
    /// The signer's nonce, 0 for the network's owner.
    pub nonce: u64,
    /// What was asked.
    #[serde(flatten)]
    pub call: Call,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wallet::Wallet;

    const GENESIS: BlockHash = Digest([7; 32]);

    fn signed(call: Call) -> SignedExtrinsic {
        let wallet = Wallet::from_seed(&[1; 32]);
        SignedExtrinsic::sign(&wallet, GENESIS, 3, BlockNumber(9), call)
    }

    #[test]
    fn every_part_is_signed() {
        let call = Call::SetWeights { uids: vec![1], weights: vec![5], version_key: 2 };
        let good = signed(call.clone());
        assert!(good.is_authentic(GENESIS));
        assert!(!good.is_authentic(Digest([8; 32])), "another chain");
        let other = Wallet::from_seed(&[2; 32]).hotkey();
        for bad in [
            SignedExtrinsic { nonce: 4, ..good.clone() },
            SignedExtrinsic { valid_until: BlockNumber(10), ..good.clone() },
            SignedExtrinsic { signer: other, ..good.clone() },
            SignedExtrinsic {
                call: Call::SetWeights { uids: vec![1], weights: vec![5], version_key: 3 },
                ..good.clone()
            },
            SignedExtrinsic {
                call: Call::SetWeights { uids: vec![], weights: vec![1, 5], version_key: 2 },
                ..good.clone()
            },
        ] {
            assert!(!bad.is_authentic(GENESIS), "{bad:?}");
        }
        assert_eq!(signed(call).id(GENESIS), good.id(GENESIS), "signing twice is the same call");
    }

    #[test]
    fn an_extrinsic_survives_json() {
        for call in [
            Call::Register { hotkey: Hotkey([9; 32]), stake: 5 },
            Call::SetCommitment { data: b"hello".to_vec() },
            Call::SetWeights { uids: vec![0, 7], weights: vec![1, 65535], version_key: 0 },
        ] {
            let extrinsic = signed(call);
            let json = serde_json::to_string(&extrinsic).unwrap();
            assert_eq!(serde_json::from_str::<SignedExtrinsic>(&json).unwrap(), extrinsic);
        }
    }
}
