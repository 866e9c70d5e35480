//! A block's header in the encoding of the real chain, whose BLAKE2b-256 is the block's hash.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use grail_protocol::ids::{BlockHash, BlockNumber, Digest};
use parity_scale_codec::{Compact, Encode};

/// A header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Hash of the block before, zeros for block 0.
    pub parent: BlockHash,
    /// Height.
    pub number: BlockNumber,
    /// What stands for the state. Not the root of a trie: nothing here serves proofs.
    pub state_root: Digest,
    /// What stands for the calls.
    pub extrinsics_root: Digest,
    /// Digest items, each in its encoding.
    pub logs: Vec<Vec<u8>>,
}

impl Header {
    /// Returns the header in SCALE.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.parent.0.to_vec();
        Compact(self.number.0).encode_to(&mut bytes);
        bytes.extend_from_slice(&self.state_root.0);
        bytes.extend_from_slice(&self.extrinsics_root.0);
        Compact(u64::try_from(self.logs.len()).unwrap_or(u64::MAX)).encode_to(&mut bytes);
        for log in &self.logs {
            bytes.extend_from_slice(log);
        }
        bytes
    }

    /// Returns the hash of the block.
    pub fn hash(&self) -> BlockHash {
        blake2_256(&self.encode())
    }
}

/// Returns the digest item that names the slot of a block, as the real chain's consensus does.
pub(super) fn slot(slot: u64) -> Vec<u8> {
    const PRE_RUNTIME: u8 = 6;
    let mut item = vec![PRE_RUNTIME];
    item.extend_from_slice(b"aura");
    slot.to_le_bytes().to_vec().encode_to(&mut item);
    item
}

/// Returns a digest item of other use, which tells forks apart.
pub(super) fn other(bytes: &[u8]) -> Vec<u8> {
    const OTHER: u8 = 0;
    let mut item = vec![OTHER];
    bytes.to_vec().encode_to(&mut item);
    item
}

/// Returns the BLAKE2b-256 of `bytes`.
pub fn blake2_256(bytes: &[u8]) -> Digest {
    Digest(Blake2b::<U32>::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;

    use super::*;

    fn digest(value: &serde_json::Value) -> Digest {
        Digest(hex_bytes(value).try_into().unwrap())
    }

    fn hex_bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    /// Checks the headers that a real node gave together with the hash that it was asked for.
    #[test]
    fn recorded_headers_have_the_hash_they_were_asked_by() {
        // Another set of vectors need not repeat the recordings.
        let recorded = |file: &str| -> serde_json::Value {
            let text = std::fs::read(vectors::shared("bittensor", file)).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let file = recorded("recorded/session_node425.json");
        let node = recorded("recorded/rpc_node425.json");
        let asked = node["records"].as_array().unwrap().iter().filter(|record| {
            record["method"] == "chain_getHeader" && record["params"][0].is_string()
        });
        let mut checked = 0;
        for record in file["headers"].as_array().unwrap().iter().chain(asked) {
            let header = &record["result"];
            if header.is_null() {
                continue;
            }
            let number = header["number"].as_str().unwrap().trim_start_matches("0x");
            let header = Header {
                parent: digest(&header["parentHash"]),
                number: BlockNumber(u64::from_str_radix(number, 16).unwrap()),
                state_root: digest(&header["stateRoot"]),
                extrinsics_root: digest(&header["extrinsicsRoot"]),
                logs: header["digest"]["logs"].as_array().unwrap().iter().map(hex_bytes).collect(),
            };
            assert_eq!(header.hash(), digest(&record["params"][0]));
            checked += 1;
        }
        println!("{checked} headers");
        assert!(checked > 0, "the recordings hold headers");
    }

    #[test]
    fn digest_items_read_as_the_real_ones() {
        assert_eq!(hex::encode(slot(0x010f_ac0c_u64)), "0661757261200cac0f0100000000");
        assert_eq!(hex::encode(other(&[7])), "000407");
    }
}
