//! Bits behind a token: numbers too spread out to have a symbol each.

/// Most bits of one number.
pub(super) const BITS_MAX: u32 = 40;

/// Numbers below this have a token each.
const DIRECT: u64 = 16;

/// Tokens that [`split`] gives.
pub(super) const TOKENS: usize = 16 + 2 * (BITS_MAX as usize - 4);

/// Splits a number below 2^40 into a token and the low bits that follow: value and count. A token
/// knows the number of bits and the one behind the highest.
pub(super) fn split(number: u64) -> (u8, u64, u32) {
    if number < DIRECT {
        return (u8::try_from(number).expect("below 16"), 0, 0);
    }
    let bits = 63 - number.leading_zeros();
    let low = bits - 1;
    let second = (number >> low) & 1;
    let token = 16 + 2 * u64::from(bits - 4) + second;
    let token = u8::try_from(token).expect("numbers are below 2^40");
    (token, number & ((1 << low) - 1), low)
}

/// Returns the number of low bits of a token, and the number without them.
pub(super) fn joined(token: u8) -> (u64, u32) {
    let token = u64::from(token);
    if token < DIRECT {
        return (token, 0);
    }
    let bits = u32::try_from((token - 16) / 2).expect("a token is a byte") + 4;
    let bits = bits.min(BITS_MAX - 1);
    ((2 + (token & 1)) << (bits - 1), bits - 1)
}

/// Collects bits, lowest first.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    held: u64,
    n_held: u32,
}

impl BitWriter {
    /// Adds the low `count` bits of `value`, at most 40.
    pub(super) fn push(&mut self, value: u64, count: u32) {
        self.held |= value << self.n_held;
        self.n_held += count;
        while self.n_held >= 8 {
            self.bytes.push((self.held & 0xff) as u8);
            self.held >>= 8;
            self.n_held -= 8;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.n_held > 0 {
            self.bytes.push((self.held & 0xff) as u8);
        }
        self.bytes
    }
}

/// Reads what [`BitWriter`] collected; zeros behind the end.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    held: u64,
    n_held: u32,
    /// Bits that were asked for behind the end.
    pub(super) missing: u64,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, held: 0, n_held: 0, missing: 0 }
    }

    /// Returns the next `count` bits, at most 40.
    #[inline]
    pub(super) fn take(&mut self, count: u32) -> u64 {
        while self.n_held < count {
            let byte = self.bytes.split_off_first().copied().unwrap_or_else(|| {
                self.missing += 8;
                0
            });
            self.held |= u64::from(byte) << self.n_held;
            self.n_held += 8;
        }
        let value = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.n_held -= count;
        value
    }

    /// Returns whether everything was read and nothing else asked for.
    pub(super) fn is_done(&self) -> bool {
        self.bytes.is_empty() && self.missing == 0 && self.n_held < 8 && self.held == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(numbers in prop::collection::vec((any::<u64>(), 0u32..40), 0..50)) {
            let numbers: Vec<u64> = numbers.iter().map(|(n, bits)| n & ((1 << bits) - 1)).collect();
            let mut writer = BitWriter::default();
            let tokens: Vec<u8> = numbers.iter().map(|number| {
                let (token, low, count) = split(*number);
                writer.push(low, count);
                assert!(usize::from(token) < TOKENS);
                token
            }).collect();
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            for (token, number) in tokens.iter().zip(&numbers) {
                let (high, count) = joined(*token);
                prop_assert_eq!(high | reader.take(count), *number);
            }
            prop_assert!(reader.is_done());
        }
    }
}
