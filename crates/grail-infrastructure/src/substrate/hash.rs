//! Hash functions of Substrate chains, and those of their storage keys.

use blake2::digest::consts::{U16, U32};
use blake2::{Blake2b, Digest as _};
/// How a part of a storage key is made from a map's key; `…Concat` appends the key to its hash.
pub use frame_metadata::v14::StorageHasher as Hasher;
use twox_hash::XxHash64;

/// Returns the BLAKE2b hash of 32 bytes: of blocks, extrinsics and long signed payloads.
pub fn blake2_256(bytes: &[u8]) -> [u8; 32] {
    Blake2b::<U32>::digest(bytes).into()
}

/// Returns the BLAKE2b hash of 16 bytes.
pub fn blake2_128(bytes: &[u8]) -> [u8; 16] {
    Blake2b::<U16>::digest(bytes).into()
}

/// Returns the XXH64 of `bytes`, little-endian.
pub fn twox_64(bytes: &[u8]) -> [u8; 8] {
    twox(bytes)
}

/// Returns two XXH64 of `bytes`: of the names of pallets and storage items.
pub fn twox_128(bytes: &[u8]) -> [u8; 16] {
    twox(bytes)
}

/// Returns one XXH64 for every 8 bytes, with the seeds 0, 1, ….
fn twox<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut hash = [0; N];
    for (seed, word) in (0..).zip(hash.chunks_exact_mut(8)) {
        word.copy_from_slice(&XxHash64::oneshot(seed, bytes).to_le_bytes());
    }
    hash
}

/// Returns what stands in a storage key before the map's key, or instead of it.
pub(super) fn hash(hasher: &Hasher, key: &[u8]) -> Vec<u8> {
    match hasher {
        Hasher::Blake2_128 | Hasher::Blake2_128Concat => blake2_128(key).to_vec(),
        Hasher::Blake2_256 => blake2_256(key).to_vec(),
        Hasher::Twox128 => twox_128(key).to_vec(),
        Hasher::Twox256 => twox::<32>(key).to_vec(),
        Hasher::Twox64Concat => twox_64(key).to_vec(),
        Hasher::Identity => Vec::new(),
    }
}

/// Whether the map's key stands in the storage key.
pub(super) fn keeps_key(hasher: &Hasher) -> bool {
    matches!(hasher, Hasher::Blake2_128Concat | Hasher::Twox64Concat | Hasher::Identity)
}
