//! Words of a tensor as whole numbers in the order of the floats that they stand for.

/// How the bytes of a tensor are taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// bfloat16.
    Bf16,
    /// IEEE-754 binary16.
    F16,
    /// IEEE-754 binary32.
    F32,
    /// Single bytes of any other type.
    Byte,
}

impl Word {
    /// Returns how a type of safetensors is taken apart.
    pub fn of_dtype(dtype: &str) -> Self {
        match dtype {
            "BF16" => Self::Bf16,
            "F16" => Self::F16,
            "F32" => Self::F32,
            _ => Self::Byte,
        }
    }

    /// Returns the bytes of one word.
    pub fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::Byte => 1,
        }
    }

    /// Returns the number of classes.
    pub(super) fn classes(self) -> usize {
        match self {
            Self::Bf16 | Self::F32 => 256,
            Self::F16 => 32,
            Self::Byte => 1,
        }
    }
}

/// One type of word. All functions are total: a delta may ask for any bits.
pub(super) trait Bits: Copy + PartialEq {
    /// Bytes of one word.
    const SIZE: usize;
    /// Reads the word at the front of `bytes`, which has at least [`Bits::SIZE`].
    fn read(bytes: &[u8]) -> Self;
    /// Writes the word to the front of `bytes`.
    fn write(self, bytes: &mut [u8]);
    /// Returns the class, below [`Word::classes`].
    fn class(self) -> usize;
    /// Returns `2 (|d| - 1) + (d < 0)` of the difference `d` to `new`, which is another word.
    fn difference(self, new: Self) -> u64;
    /// Returns the word at such a difference; around the end where there is none.
    fn moved(self, difference: u64) -> Self;
}

/// Takes the order of floats from sign and magnitude to that of whole numbers, and back.
macro_rules! floats {
    ($name:ident, $bits:ty, $size:literal, $mantissa:literal, $classes:literal) => {
        #[derive(Clone, Copy, PartialEq)]
        pub(super) struct $name($bits);

        impl $name {
            const SIGN: $bits = 1 << (<$bits>::BITS - 1);

            fn ordered(self) -> $bits {
                if self.0 & Self::SIGN == 0 { self.0 | Self::SIGN } else { !self.0 }
            }

            fn of_ordered(ordered: $bits) -> Self {
                Self(if ordered & Self::SIGN == 0 { !ordered } else { ordered ^ Self::SIGN })
            }
        }

        impl Bits for $name {
            const SIZE: usize = $size;

            #[inline(always)]
            fn read(bytes: &[u8]) -> Self {
                let word = bytes.first_chunk().copied().expect("the caller has a whole word");
                Self(<$bits>::from_le_bytes(word))
            }

            #[inline(always)]
            fn write(self, bytes: &mut [u8]) {
                bytes[..$size].copy_from_slice(&self.0.to_le_bytes());
            }

            #[inline(always)]
            fn class(self) -> usize {
                (self.0 >> $mantissa) as usize & ($classes - 1)
            }

            fn difference(self, new: Self) -> u64 {
                let gap = i64::from(new.ordered()) - i64::from(self.ordered());
                2 * (gap.unsigned_abs() - 1) + u64::from(gap < 0)
            }

            #[expect(clippy::cast_possible_truncation, reason = "differences wrap around")]
            fn moved(self, difference: u64) -> Self {
                let size = (difference / 2 + 1) as $bits;
                let ordered = self.ordered();
                Self::of_ordered(match difference % 2 {
                    0 => ordered.wrapping_add(size),
                    _ => ordered.wrapping_sub(size),
                })
            }
        }
    };
}

floats!(Bf16, u16, 2, 7, 256);
floats!(F16, u16, 2, 10, 32);
floats!(F32, u32, 4, 23, 256);

#[derive(Clone, Copy, PartialEq)]
pub(super) struct Byte(u8);

impl Bits for Byte {
    const SIZE: usize = 1;

    #[inline(always)]
    fn read(bytes: &[u8]) -> Self {
        Self(bytes[0])
    }

    #[inline(always)]
    fn write(self, bytes: &mut [u8]) {
        bytes[0] = self.0;
    }

    fn class(self) -> usize {
        0
    }

    fn difference(self, new: Self) -> u64 {
        let gap = i64::from(new.0) - i64::from(self.0);
        2 * (gap.unsigned_abs() - 1) + u64::from(gap < 0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "differences wrap around")]
    fn moved(self, difference: u64) -> Self {
        let size = (difference / 2 + 1) as u8;
        Self(match difference % 2 {
            0 => self.0.wrapping_add(size),
            _ => self.0.wrapping_sub(size),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<B: Bits + std::fmt::Debug>(old: B, new: B) {
        if old != new {
            assert!(old.moved(old.difference(new)) == new);
        }
    }

    macro_rules! debug {
        ($($name:ident)*) => {$(
            impl std::fmt::Debug for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    write!(f, "{:#x}", self.0)
                }
            }
        )*};
    }
    debug!(Bf16 F16 F32 Byte);

    #[test]
    fn the_next_float_is_one_away() {
        let bf16 = |value: f32| Bf16((value.to_bits() >> 16) as u16);
        assert_eq!(bf16(1.0).difference(Bf16(bf16(1.0).0 + 1)), 0);
        assert_eq!(bf16(-1.0).difference(Bf16(bf16(-1.0).0 + 1)), 1);
        // Both zeros are words of their own, beside one another.
        assert_eq!(bf16(0.0).difference(bf16(-0.0)), 1);
        assert_eq!(bf16(-0.0).moved(0), bf16(0.0));
        assert_eq!(
            (bf16(1.0).class(), F32(1f32.to_bits()).class(), F16(0x3c00).class()),
            (127, 127, 15)
        );
    }

    proptest! {
        #[test]
        fn every_word_leads_to_every_other(a in any::<u32>(), b in any::<u32>()) {
            check(F32(a), F32(b));
            check(Bf16(a as u16), Bf16(b as u16));
            check(F16(a as u16), F16(b as u16));
            check(Byte(a as u8), Byte(b as u8));
        }
    }
}
