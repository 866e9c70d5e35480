//! The three float types weights are stored in, and their conversion from and to f32.

use half::{bf16, f16};

/// How a weight is stored. Computation is always f32 (contract `exact-1`); widening is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE-754 binary32.
    F32,
    /// The upper half of binary32.
    BF16,
    /// IEEE-754 binary16.
    F16,
}

impl Dtype {
    /// Every supported dtype.
    pub const ALL: [Self; 3] = [Self::F32, Self::BF16, Self::F16];

    /// Returns the bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::BF16 | Self::F16 => 2,
        }
    }

    /// Returns the name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::BF16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// Returns the name in a `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::BF16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// Widens little-endian values exactly. A trailing partial value is ignored; callers check
    /// lengths before.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => {
                bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
            }
            // By bits and not by `bf16::to_f32`, which would quieten a NaN.
            Self::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|chunk| f32::from_bits(u32::from(u16::from_le_bytes(*chunk)) << 16))
                .collect(),
            Self::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|chunk| f16::from_le_bytes(*chunk).to_f32())
                .collect(),
        }
    }

    /// Rounds to nearest, ties to even, and returns little-endian bytes.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(values.len() * self.size());
        for &value in values {
            match self {
                Self::F32 => bytes.extend(value.to_le_bytes()),
                Self::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                Self::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounding_is_to_nearest_even() {
        // bf16 keeps 8 significant bits: 1 + 2^-8 lies halfway between 1 and 1 + 2^-7.
        for (value, want) in [
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (1.0 + 1.01 / 256.0, 1.0 + 2.0 / 256.0),
            (-1.0 - 1.0 / 256.0, -1.0),
            (f32::MAX, f32::INFINITY),
            (1e-45, 0.0),
        ] {
            assert_eq!(Dtype::BF16.decode(&Dtype::BF16.encode(&[value])), [want], "{value}");
        }
        for (value, want) in [(1.0 + 1.0 / 2048.0, 1.0), (65_520.0, f32::INFINITY)] {
            assert_eq!(Dtype::F16.decode(&Dtype::F16.encode(&[value])), [want], "{value}");
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(bits in proptest::collection::vec(any::<u16>(), 0..64)) {
            for dtype in [Dtype::BF16, Dtype::F16] {
                let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
                let values = dtype.decode(&bytes);
                if values.iter().all(|value| !value.is_nan()) {
                    prop_assert_eq!(dtype.encode(&values), bytes);
                }
            }
        }

        #[test]
        fn bf16_is_the_nearest_value(value in -1e30f32..1e30) {
            let stored = Dtype::BF16.decode(&Dtype::BF16.encode(&[value]))[0];
            let truncated = f32::from_bits(value.to_bits() & 0xffff_0000);
            let above = f32::from_bits((value.to_bits() & 0xffff_0000) + 0x1_0000);
            let error = (stored - value).abs();
            prop_assert!(error <= (truncated - value).abs() && error <= (above - value).abs());
        }
    }
}
