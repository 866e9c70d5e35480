//! Unpacks the block formats of ggml into f32.
//!
//! Each block holds a scale and small integers: a value is `scale * integer`, some with an offset.
//! Products and sums are rounded one by one, as the reference implementations (ggml's C and
//! gguf-py) do, so results equal theirs bit for bit. Source: `ggml-quants.c`.

use half::{bf16, f16};

/// How a tensor's values are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GgmlType {
    /// One f32 a value.
    F32,
    /// One binary16 a value.
    F16,
    /// One bfloat16 a value.
    BF16,
    /// 32 values: 4 bits and a scale.
    Q4_0,
    /// 32 values: 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 values: 5 bits and a scale.
    Q5_0,
    /// 32 values: 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 values: 8 bits and a scale.
    Q8_0,
    /// 256 values: 4 bits, eight 6-bit scales and minima.
    Q4K,
    /// 256 values: 5 bits, eight 6-bit scales and minima.
    Q5K,
    /// 256 values: 6 bits, sixteen 8-bit scales.
    Q6K,
}

impl GgmlType {
    /// Every supported type.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Returns the type a file calls `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ggml_type| ggml_type.id() == id)
    }

    /// Returns the number a file writes (`enum ggml_type`).
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
        }
    }

    /// Returns ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Returns the values of one block.
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Returns the bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 4 + 12 + 128,
            Self::Q5K => 4 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Unpacks whole blocks into `values`.
    ///
    /// # Panics
    ///
    /// If `bytes` and `values` are not the same number of whole blocks.
    pub fn dequantise(self, bytes: &[u8], values: &mut [f32]) {
        let n_blocks = values.len() / self.block_len();
        assert_eq!(values.len(), n_blocks * self.block_len(), "values are not whole blocks");
        assert_eq!(bytes.len(), n_blocks * self.block_bytes(), "bytes do not match values");
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (block, values) in blocks.zip(values.chunks_exact_mut(self.block_len())) {
            match self {
                Self::F32 => {
                    values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                }
                Self::F16 => values[0] = f16_at(block, 0),
                Self::BF16 => values[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q4_0 => nibbles(&block[2..], |i, q| values[i] = f16_at(block, 0) * (q - 8.0)),
                Self::Q4_1 => {
                    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
                    nibbles(&block[4..], |i, q| values[i] = scale * q + min);
                }
                Self::Q5_0 => {
                    let scale = f16_at(block, 0);
                    let high = fifth_bits(&block[2..]);
                    nibbles(&block[6..], |i, q| values[i] = scale * (q + high(i) - 16.0));
                }
                Self::Q5_1 => {
                    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
                    let high = fifth_bits(&block[4..]);
                    nibbles(&block[8..], |i, q| values[i] = scale * (q + high(i)) + min);
                }
                Self::Q8_0 => {
                    let scale = f16_at(block, 0);
                    for (value, &q) in values.iter_mut().zip(&block[2..]) {
                        *value = scale * f32::from(i8::from_le_bytes([q]));
                    }
                }
                Self::Q4K => q4_k(block, values),
                Self::Q5K => q5_k(block, values),
                Self::Q6K => q6_k(block, values),
            }
        }
    }
}

fn f16_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Visits 32 4-bit integers: the low halves of 16 bytes, then the high halves.
fn nibbles(bytes: &[u8], mut visit: impl FnMut(usize, f32)) {
    for (i, &byte) in bytes[..16].iter().enumerate() {
        visit(i, f32::from(byte & 15));
        visit(i + 16, f32::from(byte >> 4));
    }
}

/// Returns the fifth bit of each of 32 integers, worth 16.
fn fifth_bits(bytes: &[u8]) -> impl Fn(usize) -> f32 {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    move |i| if bits >> i & 1 == 1 { 16.0 } else { 0.0 }
}

/// Returns the 6-bit scale and minimum of group `group` (0 to 7) out of 12 packed bytes: the first
/// four groups lie in the low six bits, the others' top bits in the high two of those bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        (
            packed[group + 4] & 15 | packed[group - 4] >> 6 << 4,
            packed[group + 4] >> 4 | packed[group] >> 6 << 4,
        )
    };
    (f32::from(scale), f32::from(min))
}

/// Groups of 32; groups `2 p` and `2 p + 1` share 32 bytes, low and high halves.
fn q4_k(block: &[u8], values: &mut [f32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (group_scale, group_min) = scale_and_min(packed, group);
        let (scale, min) = (scale * group_scale, min * group_min);
        let shift = 4 * (group % 2);
        for (value, &byte) in values.iter_mut().zip(&quants[32 * (group / 2)..]) {
            *value = scale * f32::from(byte >> shift & 15) - min;
        }
    }
}

/// As [`q4_k`]; the fifth bit of group `g` is bit `g` of 32 further bytes.
fn q5_k(block: &[u8], values: &mut [f32]) {
    let (scale, min) = (f16_at(block, 0), f16_at(block, 2));
    let (packed, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (group_scale, group_min) = scale_and_min(packed, group);
        let (scale, min) = (scale * group_scale, min * group_min);
        let shift = 4 * (group % 2);
        let bytes = quants[32 * (group / 2)..].iter().zip(high);
        for (value, (&byte, &high)) in values.iter_mut().zip(bytes) {
            let q = byte >> shift & 15 | (high >> group & 1) << 4;
            *value = scale * f32::from(q) - min;
        }
    }
}

/// Two halves of 128 values; in each, value `32 s + i` has its low four bits in one of 64 bytes
/// and its high two at `2 s` of one of 32 bytes. A scale serves 16 values.
fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = f16_at(block, 208);
    for (idx, value) in values.iter_mut().enumerate() {
        let (half, s, i) = (idx / 128, idx / 32 % 4, idx % 32);
        let low = low[64 * half + 32 * (s % 2) + i] >> (4 * (s / 2)) & 15;
        let high = high[32 * half + i] >> (2 * s) & 3;
        let group_scale = f32::from(i8::from_le_bytes([scales[idx / 16]]));
        *value = scale * group_scale * (f32::from(low | high << 4) - 32.0);
    }
}
