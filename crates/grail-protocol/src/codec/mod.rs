//! Reads and writes the project's binary encodings: little-endian, bounded, one encoding per value.
//!
//! A [`Reader`] never trusts a count: every one has a named maximum and must fit into the bytes that
//! are left before anything is allocated. A [`Writer`] refuses what a reader would refuse, so that
//! whatever was written can be read.

mod error;

pub use error::{DecodeError, EncodeError};

use crate::constants::NAME_BYTES_MAX;
use crate::ids::{Digest, Hotkey, Netuid, Signature, TokenId, Window};

fn is_name(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_graphic)
}

/// Reads values from the front of a byte string.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Returns how many bytes were read.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the bytes that are left, and ends.
    pub fn rest(self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    /// Ends reading.
    ///
    /// # Errors
    /// When bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    /// Reads the first bytes of a file and its protocol version.
    pub fn magic(
        &mut self,
        kind: &'static str,
        magic: &[u8; 8],
        version: u16,
    ) -> Result<(), DecodeError> {
        if self.bytes.get(..magic.len()) != Some(magic) {
            return Err(DecodeError::WrongMagic(kind));
        }
        self.offset = magic.len();
        match self.u16("protocol version")? {
            found if found == version => Ok(()),
            found => Err(DecodeError::WrongVersion { found, expected: version }),
        }
    }

    /// Reads one byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// Reads an integer of 2 bytes.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// Reads an integer of 4 bytes.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// Reads an integer of 8 bytes.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// Reads a finite float of 4 bytes, bit for bit.
    pub fn f32(&mut self, what: &'static str) -> Result<f32, DecodeError> {
        let at = self.offset;
        match f32::from_bits(self.u32(what)?) {
            value if value.is_finite() => Ok(value),
            _ => Err(DecodeError::NotFinite { what, at }),
        }
    }

    /// Reads one byte, 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        let at = self.offset;
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::BadTag { what, at, found }),
        }
    }

    /// Reads 32 bytes.
    pub fn digest(&mut self, what: &'static str) -> Result<Digest, DecodeError> {
        self.array(what).map(Digest)
    }

    /// Reads 32 bytes.
    pub fn hotkey(&mut self, what: &'static str) -> Result<Hotkey, DecodeError> {
        self.array(what).map(Hotkey)
    }

    /// Reads 64 bytes.
    pub fn signature(&mut self, what: &'static str) -> Result<Signature, DecodeError> {
        self.array(what).map(Signature)
    }

    /// Reads 2 bytes.
    pub fn netuid(&mut self) -> Result<Netuid, DecodeError> {
        self.u16("netuid").map(Netuid)
    }

    /// Reads 8 bytes, the first block of a window.
    pub fn window(&mut self) -> Result<Window, DecodeError> {
        let start = self.u64("window")?;
        Window::from_start(start).map_err(|refused| DecodeError::BadWindow(refused.0))
    }

    /// Reads `needed` bytes.
    pub fn bytes(&mut self, what: &'static str, needed: usize) -> Result<&'a [u8], DecodeError> {
        let (at, left) = (self.offset, self.left());
        if needed > left {
            return Err(DecodeError::Truncated { what, at, needed, left });
        }
        self.offset += needed;
        Ok(&self.bytes[at..at + needed])
    }

    /// Reads a count of 4 bytes between `min` and `max`, of items of at least `item_bytes_min`
    /// bytes each: a count that the bytes left cannot hold is refused before anything is allocated.
    pub fn count(
        &mut self,
        what: &'static str,
        (min, max): (u32, u32),
        item_bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let count = self.u32(what)?;
        if count < min || count > max {
            return Err(DecodeError::BadCount {
                what,
                count: count.into(),
                min: min.into(),
                max: max.into(),
            });
        }
        // More than a usize can hold is also more than the bytes left can.
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let needed = count.saturating_mul(item_bytes_min);
        if needed > self.left() {
            return Err(DecodeError::Truncated {
                what,
                at: self.offset,
                needed,
                left: self.left(),
            });
        }
        Ok(count)
    }

    /// Reads a name: length (4 bytes), then 1 to [`NAME_BYTES_MAX`] printable ASCII characters.
    pub fn name(&mut self, what: &'static str) -> Result<String, DecodeError> {
        let at = self.offset;
        let refused = DecodeError::BadName { what, at };
        let length = match usize::try_from(self.u32(what)?) {
            Ok(length) if (1..=NAME_BYTES_MAX).contains(&length) => length,
            _ => return Err(refused),
        };
        let bytes = self.bytes(what, length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) if is_name(bytes) => Ok(text.to_owned()),
            _ => Err(refused),
        }
    }

    /// Reads a count (4 bytes, at most `max`), then that many tokens of 4 bytes each.
    pub fn tokens(&mut self, what: &'static str, max: u32) -> Result<Vec<TokenId>, DecodeError> {
        let count = self.count(what, (0, max), 4)?;
        let words = self.bytes(what, 4 * count)?.chunks_exact(4);
        Ok(words.map(|word| TokenId::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(what, N)?);
        Ok(array)
    }
}

fn name_bytes_max() -> u32 {
    u32::try_from(NAME_BYTES_MAX).expect("the constant is small")
}

/// Appends values to a byte string.
#[derive(Clone, Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Starts an empty byte string.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the bytes, at most `max`.
    pub fn finish(self, max: u64) -> Result<Vec<u8>, EncodeError> {
        match self.0.len() as u64 {
            bytes if bytes > max => Err(EncodeError::TooLarge { bytes, max }),
            _ => Ok(self.0),
        }
    }

    /// Writes bytes whose number the encoding fixes.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes what [`Reader::magic`] reads.
    pub fn magic(&mut self, magic: &[u8; 8], version: u16) {
        self.raw(magic);
        self.raw(&version.to_le_bytes());
    }

    /// Writes an integer of 4 bytes.
    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Writes an integer of 8 bytes.
    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Writes a float of 4 bytes, bit for bit.
    pub fn f32(&mut self, what: &'static str, value: f32) -> Result<(), EncodeError> {
        if !value.is_finite() {
            return Err(EncodeError::NotFinite(what));
        }
        self.u32(value.to_bits());
        Ok(())
    }

    /// Writes one byte, 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.raw(&[value.into()]);
    }

    /// Writes 2 bytes.
    pub fn netuid(&mut self, netuid: Netuid) {
        self.raw(&netuid.0.to_le_bytes());
    }

    /// Writes 8 bytes.
    pub fn window(&mut self, window: Window) {
        self.raw(&window.start().0.to_le_bytes());
    }

    /// Writes a count of 4 bytes between `min` and `max`.
    pub fn count(
        &mut self,
        what: &'static str,
        (min, max): (u32, u32),
        count: usize,
    ) -> Result<(), EncodeError> {
        match u32::try_from(count) {
            Ok(fits) if (min..=max).contains(&fits) => {
                self.u32(fits);
                Ok(())
            }
            _ => Err(EncodeError::BadCount { what, count, min: min.into(), max: max.into() }),
        }
    }

    /// Writes what [`Reader::name`] reads.
    pub fn name(&mut self, what: &'static str, name: &str) -> Result<(), EncodeError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !is_name(name.as_bytes()) {
            return Err(EncodeError::BadName { what, name: name.chars().take(64).collect() });
        }
        self.count(what, (1, name_bytes_max()), name.len())?;
        self.raw(name.as_bytes());
        Ok(())
    }

    /// Writes what [`Reader::tokens`] reads.
    pub fn tokens(
        &mut self,
        what: &'static str,
        max: u32,
        tokens: &[TokenId],
    ) -> Result<(), EncodeError> {
        self.count(what, (0, max), tokens.len())?;
        self.0.reserve(4 * tokens.len());
        for token in tokens {
            self.u32(*token);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_round_trip() {
        let mut writer = Writer::new();
        writer.magic(b"EXAMPLES", 6);
        writer.name("network", "local").unwrap();
        writer.f32("reward", -0.0).unwrap();
        writer.bool(true);
        writer.tokens("tokens", 3, &[0, u32::MAX]).unwrap();
        writer.window(Window::from_start(60).unwrap());
        let bytes = writer.finish(1_000).unwrap();

        let mut reader = Reader::new(&bytes);
        reader.magic("example", b"EXAMPLES", 6).unwrap();
        assert_eq!(reader.name("network").unwrap(), "local");
        assert_eq!(reader.f32("reward").unwrap().to_bits(), (-0.0f32).to_bits());
        assert!(reader.bool("success").unwrap());
        assert_eq!(reader.tokens("tokens", 3).unwrap(), [0, u32::MAX]);
        assert_eq!(reader.window().unwrap().start().0, 60);
        reader.finish().unwrap();
    }

    #[test]
    fn a_huge_count_is_refused_before_anything_is_allocated() {
        let bytes = [u32::MAX.to_le_bytes(), [0; 4]].concat();
        let refused = Reader::new(&bytes).tokens("tokens", 8_192).unwrap_err();
        assert!(matches!(refused, DecodeError::BadCount { count: 0xffff_ffff, max: 8_192, .. }));
        let bytes = 8_000u32.to_le_bytes();
        let refused = Reader::new(&bytes).tokens("tokens", 8_192).unwrap_err();
        assert!(matches!(refused, DecodeError::Truncated { needed: 32_000, left: 0, .. }));
    }

    #[test]
    fn what_a_reader_would_refuse_is_not_written() {
        let mut writer = Writer::new();
        assert_eq!(writer.f32("reward", f32::NAN), Err(EncodeError::NotFinite("reward")));
        for name in ["", "a b", "é", "line\n", &"x".repeat(65)] {
            assert!(writer.name("network", name).is_err(), "{name:?}");
        }
        assert!(writer.tokens("tokens", 1, &[1, 2]).is_err());
        assert_eq!(Writer(vec![0; 9]).finish(8), Err(EncodeError::TooLarge { bytes: 9, max: 8 }));
    }

    #[test]
    fn strange_values_are_refused() {
        let nan = f32::NAN.to_bits().to_le_bytes();
        assert!(matches!(Reader::new(&nan).f32("x"), Err(DecodeError::NotFinite { .. })));
        assert!(matches!(Reader::new(&[2]).bool("x"), Err(DecodeError::BadTag { found: 2, .. })));
        let window = 31u64.to_le_bytes();
        assert_eq!(Reader::new(&window).window(), Err(DecodeError::BadWindow(31)));
        let name = [&[2, 0, 0, 0], b"a ".as_slice()].concat();
        assert!(matches!(Reader::new(&name).name("x"), Err(DecodeError::BadName { at: 0, .. })));
        assert_eq!(Reader::new(&[1]).finish(), Err(DecodeError::TrailingBytes(1)));
    }

    proptest! {
        #[test]
        fn tokens_round_trip(tokens in proptest::collection::vec(any::<u32>(), 0..50)) {
            let mut writer = Writer::new();
            writer.tokens("tokens", 50, &tokens).unwrap();
            let bytes = writer.finish(1_000).unwrap();
            prop_assert_eq!(Reader::new(&bytes).tokens("tokens", 50).unwrap(), tokens);
        }
    }
}
