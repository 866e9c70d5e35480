//! Normally distributed numbers that are the same on every machine.

use grail_kernels::math::ln;
use sha2::{Digest, Sha256};

/// Draws from the standard normal distribution: Marsaglia's polar method on SplitMix64, with the
/// contract's own logarithm, so that a seed gives the same bits everywhere.
#[derive(Debug)]
pub(crate) struct Normal {
    state: u64,
    /// The second number of a pair.
    spare: Option<f32>,
}

impl Normal {
    /// Starts the stream of one tensor. Streams of different purposes, seeds or names are
    /// independent, so the order in which tensors are drawn does not matter.
    pub(crate) fn new(purpose: &str, seed: u64, name: &str) -> Self {
        let mut hasher = Sha256::new();
        for part in [purpose.as_bytes(), &[0], &seed.to_le_bytes(), name.as_bytes()] {
            hasher.update(part);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        let (head, _) = digest.split_first_chunk().expect("a digest has 32 bytes");
        Self { state: u64::from_le_bytes(*head), spare: None }
    }

    /// Returns the next number.
    pub(crate) fn draw(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (self.uniform(), self.uniform());
            let square = x * x + y * y;
            // A point outside the disc would not have a uniform direction.
            if square < 1.0 && square > 0.0 {
                let factor = (-2.0 * ln(square) / square).sqrt();
                self.spare = Some(y * factor);
                return x * factor;
            }
        }
    }

    /// A multiple of `2^-23` in `[-1, 1)`.
    fn uniform(&mut self) -> f32 {
        // Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 24 bits are exact in f32.
        (bits >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_moments_of_the_normal_distribution() {
        let mut normal = Normal::new("test", 1, "weights");
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(normal.draw())).collect();
        let moment = |power: i32| draws.iter().map(|x| x.powi(power)).sum::<f64>() / 1e5;
        // Standard errors are 0.003, 0.0045, 0.012 and 0.03.
        for (power, want, tolerance) in
            [(1, 0.0, 0.02), (2, 1.0, 0.03), (3, 0.0, 0.06), (4, 3.0, 0.2)]
        {
            let got = moment(power);
            assert!((got - want).abs() < tolerance, "moment {power} is {got}");
        }
    }

    #[test]
    fn streams_differ_by_purpose_seed_and_name() {
        let first = |purpose, seed, name| Normal::new(purpose, seed, name).draw();
        let base = first("a", 1, "w");
        assert_eq!(base, first("a", 1, "w"));
        for other in [first("b", 1, "w"), first("a", 2, "w"), first("a", 1, "v")] {
            assert_ne!(base, other);
        }
    }
}
