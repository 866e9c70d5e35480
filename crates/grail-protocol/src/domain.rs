//! Hashes typed fields under a domain, so that no two meanings ever share a hash.
//!
//! Every hash of the protocol is SHA-256 over `grail/v6/<what>`, a zero byte, and the fields in
//! order. Integers are little-endian; whatever may vary in length carries its length in front.

use sha2::{Digest as _, Sha256};

use crate::ids::{Digest, Hotkey, TokenId};

/// The prefix of every domain: a new protocol version hashes to other values throughout.
const DOMAIN_PREFIX: &str = "grail/v6/";

/// Returns the bytes that open the domain `what`: the prefix, the name, a zero byte.
///
/// Signatures use them too: a signed message never means two things.
pub fn prefix(what: &str) -> Vec<u8> {
    assert!(!what.contains('\0'), "the zero byte ends a domain");
    [DOMAIN_PREFIX.as_bytes(), what.as_bytes(), b"\0"].concat()
}

/// A SHA-256 under a domain, fed field by field.
#[derive(Clone, Debug)]
#[must_use]
pub struct DomainHash(Sha256);

impl DomainHash {
    /// Starts a hash in the domain `what`, which must not contain a zero byte.
    pub fn new(what: &str) -> Self {
        Self(Sha256::new_with_prefix(prefix(what)))
    }

    /// Adds one byte.
    pub fn u8(self, value: u8) -> Self {
        self.raw(&[value])
    }

    /// Adds an integer, 4 bytes little-endian.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    /// Adds an integer, 8 bytes little-endian.
    pub fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    /// Adds the bits of a float, 4 bytes little-endian.
    pub fn f32(self, value: f32) -> Self {
        self.u32(value.to_bits())
    }

    /// Adds 32 bytes.
    pub fn digest(self, value: &Digest) -> Self {
        self.raw(&value.0)
    }

    /// Adds 32 bytes.
    pub fn hotkey(self, value: &Hotkey) -> Self {
        self.raw(&value.0)
    }

    /// Adds the number of bytes (8 bytes little-endian), then the bytes.
    pub fn bytes(self, value: &[u8]) -> Self {
        // A usize has at most 64 bits on every platform that Rust knows.
        self.u64(value.len() as u64).raw(value)
    }

    /// Adds the UTF-8 bytes as [`DomainHash::bytes`] does.
    pub fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    /// Adds the number of tokens (8 bytes little-endian), then each as 4 bytes little-endian.
    pub fn tokens(self, tokens: &[TokenId]) -> Self {
        let mut hash = self.u64(tokens.len() as u64);
        for chunk in tokens.chunks(256) {
            let mut bytes = [0; 4 * 256];
            for (slot, token) in bytes.chunks_exact_mut(4).zip(chunk) {
                slot.copy_from_slice(&token.to_le_bytes());
            }
            hash = hash.raw(&bytes[..4 * chunk.len()]);
        }
        hash
    }

    /// Adds bytes whose number the domain fixes.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes);
        self
    }

    /// Returns the hash.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_sha_256_of_the_documented_bytes() {
        let hash = DomainHash::new("example").u32(7).text("ab").tokens(&[1, 258]).finish();
        let bytes = [
            b"grail/v6/example\0".as_slice(),
            &[7, 0, 0, 0],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            b"ab",
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0],
            &[2, 1, 0, 0],
        ]
        .concat();
        assert_eq!(hash, Digest::of(&bytes));
    }

    #[test]
    fn many_tokens_hash_as_few_do() {
        let tokens: Vec<TokenId> = (0..1000).collect();
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let plain = DomainHash::new("x").u64(1000).raw(&bytes).finish();
        assert_eq!(DomainHash::new("x").tokens(&tokens).finish(), plain);
    }

    #[test]
    fn moving_a_field_boundary_changes_the_hash() {
        let one = DomainHash::new("x").text("ab").text("c").finish();
        let other = DomainHash::new("x").text("a").text("bc").finish();
        assert_ne!(one, other);
        assert_ne!(DomainHash::new("x").finish(), DomainHash::new("y").finish());
    }
}
