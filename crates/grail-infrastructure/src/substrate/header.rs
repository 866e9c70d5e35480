//! Headers of blocks: a node gives them without their hash.

use parity_scale_codec::{Compact, Encode as _};

use super::hash::blake2_256;

/// The header of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Hash of the block before.
    pub parent: [u8; 32],
    /// Height, 0-based.
    pub number: u32,
    /// Root of the state after the block.
    pub state_root: [u8; 32],
    /// Root of the block's extrinsics.
    pub extrinsics_root: [u8; 32],
    /// Logs of the consensus, each encoded.
    pub digest: Vec<Vec<u8>>,
}

impl Header {
    /// Returns the block's hash.
    pub fn hash(&self) -> [u8; 32] {
        blake2_256(&self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.parent.to_vec();
        Compact(self.number).encode_to(&mut out);
        out.extend(self.state_root);
        out.extend(self.extrinsics_root);
        let logs = u32::try_from(self.digest.len()).expect("a digest has a few logs");
        Compact(logs).encode_to(&mut out);
        for log in &self.digest {
            out.extend(log);
        }
        out
    }
}
