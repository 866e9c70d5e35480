//! The hash of a model's weights, whatever files they lie in: XXH3 over all tensors' bytes.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::Xxh3;

/// XXH3 with 128 bits and seed 0 over the little-endian bytes of every tensor, in the order of their
/// names. Names, shapes and types are not hashed: it finds accidents, not forgeries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WeightsHash(pub u128);

/// Text that is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a weights hash has 32 hexadecimal digits")]
pub struct NotAWeightsHash;

/// Takes tensors one after the other, so that no copy of the model is needed.
#[derive(Default)]
pub struct WeightsHasher(Box<Xxh3>);

impl WeightsHasher {
    /// Starts with no tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next tensor or the next part of one. Tensors come in code-point order of their
    /// names.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the hash of everything that was added.
    pub fn finish(&self) -> WeightsHash {
        WeightsHash(self.0.digest128())
    }
}

impl WeightsHash {
    /// Returns the hash of tensors given as name and bytes, in any order.
    pub fn of<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut sorted: Vec<_> = tensors.into_iter().collect();
        // UTF-8 sorts as code points do.
        sorted.sort_unstable_by_key(|(name, _)| *name);
        let mut hasher = WeightsHasher::new();
        for (_, bytes) in sorted {
            hasher.update(bytes);
        }
        hasher.finish()
    }
}

impl fmt::Display for WeightsHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for WeightsHash {
    type Err = NotAWeightsHash;

    fn from_str(text: &str) -> Result<Self, NotAWeightsHash> {
        let is_digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = if is_digits { text } else { return Err(NotAWeightsHash) };
        u128::from_str_radix(digits, 16).map(Self).map_err(|_| NotAWeightsHash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_order_change_nothing_and_bits_do() {
        let (a, b) = ([1u8; 700], [2u8; 5]);
        let whole = WeightsHash::of([("b", &b[..]), ("a", &a[..])]);
        let mut hasher = WeightsHasher::new();
        a.chunks(13).for_each(|piece| hasher.update(piece));
        hasher.update(&b);
        assert_eq!(hasher.finish(), whole);
        assert_eq!(whole.to_string().parse(), Ok(whole));
        // Equal as values, not as bits.
        let hash = |value: f32| WeightsHash::of([("w", &value.to_le_bytes()[..])]);
        assert_ne!(hash(0.0), hash(-0.0));
        for text in ["", "0", "+0000000000000000000000000000000", &"0".repeat(33)] {
            assert_eq!(text.parse::<WeightsHash>(), Err(NotAWeightsHash), "{text}");
        }
    }
}
