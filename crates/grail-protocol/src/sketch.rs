//! Fingerprints of hidden states that survive rounding: signs of keyed random projections.
//!
//! Engines that are not bit-exact cannot hash their hidden states. They send, once for every
//! [`STRIDE`] completion tokens, [`SKETCH_BITS`] signs of random projections of the LM-head input,
//! 2 bytes per token. Honest engines differ in few signs, and other states in half of them. States
//! are whitened first: raw ones share a large common direction, so that even unrelated states would
//! agree in most signs.

use std::sync::Arc;

use crate::domain::DomainHash;
use crate::ids::Digest;
use crate::philox::philox4x32;
use crate::sampler::RaceKey;

/// Completion tokens per sketch: the sketched positions are 0, 4, 8 …, the first of each stride.
pub const STRIDE: usize = 4;

/// Signs in a sketch.
pub const SKETCH_BITS: usize = 64;

/// Smallest deviation that whitening divides by: a dimension that never moves says nothing.
const DEVIATION_MIN: f64 = 1e-6;

/// One sketch; bit `i` is set where projection `i` is below 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sketch(pub u64);

impl Sketch {
    /// Returns the number of signs that differ, 0 to 64.
    pub fn distance(self, other: Self) -> u32 {
        (self.0 ^ other.0).count_ones()
    }
}

/// Returns the number of sketches of a completion of `tokens` tokens: one for every whole stride, so
/// that they take at most 2 bytes a token, and at least one unless there is no token.
pub const fn sketches_of(tokens: usize) -> usize {
    match tokens / STRIDE {
        0 if tokens > 0 => 1,
        strides => strides,
    }
}

/// Centre and spread of the LM-head inputs of a checkpoint, dimension by dimension.
#[derive(Clone, Debug, PartialEq)]
pub struct Whitening {
    mean: Vec<f32>,
    /// One over the deviation.
    scale: Vec<f32>,
}

/// Statistics that nothing can be whitened with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableWhitening {
    /// Means and scales are not as many, or none.
    #[error("{means} means and {scales} scales; both must be one per hidden dimension")]
    Lengths {
        /// Number of means.
        means: usize,
        /// Number of scales.
        scales: usize,
    },
    /// A mean is not finite, or a scale not a positive finite number.
    #[error("dimension {0} has a mean that is not finite or a scale that is not above 0")]
    Value(usize),
}

impl Whitening {
    /// Takes the mean and one over the deviation of each dimension.
    ///
    /// # Errors
    /// When the lists differ in length or hold what cannot be used.
    pub fn new(mean: Vec<f32>, scale: Vec<f32>) -> Result<Self, UnusableWhitening> {
        let (means, scales) = (mean.len(), scale.len());
        if means != scales || means == 0 {
            return Err(UnusableWhitening::Lengths { means, scales });
        }
        let usable =
            |(mean, scale): (&f32, &f32)| mean.is_finite() && scale.is_finite() && *scale > 0.0;
        match mean.iter().zip(&scale).position(|pair| !usable(pair)) {
            Some(dim) => Err(UnusableWhitening::Value(dim)),
            None => Ok(Self { mean, scale }),
        }
    }

    /// Measures `rows`, `[n, hidden]` row by row, summed in f64 in that order.
    ///
    /// # Errors
    /// When there is no row, or a value is not finite.
    pub fn measure(rows: &[f32], hidden: usize) -> Result<Self, UnusableWhitening> {
        let n = rows.chunks_exact(hidden.max(1)).len();
        if hidden == 0 || n == 0 {
            return Err(UnusableWhitening::Lengths { means: 0, scales: 0 });
        }
        #[expect(clippy::cast_precision_loss, reason = "a text has far fewer than 2^53 tokens")]
        let n = n as f64;
        let mut sums = vec![0.0f64; hidden];
        for row in rows.chunks_exact(hidden) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let means: Vec<f64> = sums.iter().map(|sum| sum / n).collect();
        let mut squares = vec![0.0f64; hidden];
        for row in rows.chunks_exact(hidden) {
            for ((square, mean), &x) in squares.iter_mut().zip(&means).zip(row) {
                let off = f64::from(x) - mean;
                *square += off * off;
            }
        }
        // Statistics are published as f32; both sides read them from there.
        #[expect(clippy::cast_possible_truncation, reason = "rounds to nearest, as meant")]
        let narrow = |x: f64| x as f32;
        let scales = squares.iter().map(|square| 1.0 / (square / n).sqrt().max(DEVIATION_MIN));
        Self::new(means.iter().copied().map(narrow).collect(), scales.map(narrow).collect())
    }

    /// Returns the width of the states.
    pub fn hidden_size(&self) -> usize {
        self.mean.len()
    }

    /// Returns the mean of each dimension.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// Returns one over the deviation of each dimension.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Returns the digest that names the statistics.
    pub fn digest(&self) -> Digest {
        let hash = DomainHash::new("whitening").u64(self.mean.len() as u64);
        self.mean.iter().chain(&self.scale).fold(hash, |hash, &value| hash.f32(value)).finish()
    }
}

/// Chooses the projections of one rollout: nobody knows them before the window's randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SketchKey([u32; 4]);

impl SketchKey {
    /// Returns the key of the rollout whose race has `key`.
    pub fn of(key: RaceKey) -> Self {
        let hash = key.0.iter().fold(DomainHash::new("sketch-key"), |hash, &word| hash.u32(word));
        let digest = hash.finish();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.0.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }

    /// Returns the signs of all projections in dimension `dim`: bit `i` set means -1 in projection
    /// `i`.
    fn signs(self, dim: u32) -> u64 {
        let [key_0, key_1, counter_2, counter_3] = self.0;
        let [a, b, _, _] = philox4x32([dim, 0, counter_2, counter_3], [key_0, key_1]);
        u64::from(a) | u64::from(b) << 32
    }
}

/// Makes the sketches of one rollout while its tokens come.
#[derive(Clone, Debug)]
pub struct Sketcher {
    whitening: Arc<Whitening>,
    /// [`SketchKey::signs`] of every dimension.
    signs: Vec<u64>,
    position: usize,
    sketches: Vec<Sketch>,
}

impl Sketcher {
    /// Starts the sketches of a rollout.
    pub fn new(key: SketchKey, whitening: Arc<Whitening>) -> Self {
        let dims = u32::try_from(whitening.hidden_size()).unwrap_or(u32::MAX);
        let signs = (0..dims).map(|dim| key.signs(dim)).collect();
        Self { whitening, signs, position: 0, sketches: Vec::new() }
    }

    /// Adds a completion token: `row` is the LM-head input (`[hidden_size]`, after the final norm)
    /// at the position before the token.
    pub fn push(&mut self, row: &[f32]) {
        if self.position.is_multiple_of(STRIDE) {
            self.sketches.push(project(row, &self.whitening, &self.signs));
        }
        self.position += 1;
    }

    /// Returns the sketches; a stride that the completion did not fill has none.
    pub fn finish(mut self) -> Vec<Sketch> {
        self.sketches.truncate(sketches_of(self.position));
        self.sketches
    }
}

/// Returns the signs of the projections of `row`: each a sum in f32 over the dimensions in order.
fn project(row: &[f32], whitening: &Whitening, signs: &[u64]) -> Sketch {
    let half = |shift| u64::from(project_half(row, whitening, signs, shift)) << shift;
    Sketch(half(0) | half(HALF_BITS))
}

/// Projections that are summed together: as many as the registers of any vector unit hold.
const HALF: usize = SKETCH_BITS / 2;
const HALF_BITS: u32 = 32;

/// Bit `i` of a word, by `i`.
const BIT: [u32; HALF] = {
    let mut bits = [0; HALF];
    let mut i = 0;
    while i < HALF {
        bits[i] = 1 << i;
        i += 1;
    }
    bits
};

/// Returns the signs of the projections `shift..shift + 32`.
fn project_half(row: &[f32], whitening: &Whitening, signs: &[u64], shift: u32) -> u32 {
    let mut sums = [0.0f32; HALF];
    let whitened = row.iter().zip(&whitening.mean).zip(&whitening.scale);
    for (((x, mean), scale), signs) in whitened.zip(signs) {
        let value = ((x - mean) * scale).to_bits();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = signs.to_le_bytes();
        let low = [b0, b1, b2, b3];
        let signs = u32::from_le_bytes(if shift == 0 { low } else { [b4, b5, b6, b7] });
        // A comparison with each bit, because not every vector unit shifts lanes by different
        // counts.
        for (sum, bit) in sums.iter_mut().zip(BIT) {
            let sign = u32::from(signs & bit == bit) << 31;
            *sum += f32::from_bits(value ^ sign);
        }
    }
    let below = BIT.iter().zip(sums).filter(|(_, sum)| *sum < 0.0);
    below.fold(0, |bits, (bit, _)| bits | bit)
}

#[cfg(test)]
mod tests;
