//! The generator that problems are drawn with: the same numbers on every machine.
//!
//! SplitMix64 of Steele, Lea and Flood (OOPSLA 2014): a counter in steps of the golden ratio,
//! scrambled by two multiplications. It is quick, has no bad seeds, and needs no table. It is not
//! cryptographic and need not be: seeds come from public randomness that nobody chooses.

const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// Starts the stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_RATIO);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Returns a number below `bound`, each equally likely.
    ///
    /// # Panics
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "there is no number below 0");
        let bound = u64::from(bound);
        // The top of the range that would make some numbers likelier than others is drawn again.
        let fair = u64::MAX - u64::MAX % bound;
        loop {
            let word = self.next_u64();
            if word < fair {
                return u32::try_from(word % bound).expect("a remainder is below its 32-bit bound");
            }
        }
    }

    /// Returns a number from `low` to `high`, both included, each equally likely.
    ///
    /// # Panics
    /// When `low` is above `high`, or the range has 2^32 numbers.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        assert!(low <= high, "{low} is above {high}");
        low + self.below(high - low + 1)
    }

    /// Returns `true` or `false`, equally likely.
    pub fn coin(&mut self) -> bool {
        // The high bit; all of SplitMix64's are good.
        self.next_u64() >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // From the authors' reference code, seed 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        for want in [
            6_457_827_717_110_365_317u64,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ] {
            assert_eq!(rng.next_u64(), want);
        }
    }

    #[test]
    fn numbers_below_a_bound_are_equally_likely() {
        for bound in [1, 2, 3, 7, 10] {
            let mut rng = SplitMix64::new(u64::from(bound));
            let mut counts = vec![0u32; bound as usize];
            let draws = 20_000;
            for _ in 0..draws {
                counts[rng.below(bound) as usize] += 1;
            }
            let expected = f64::from(draws) / f64::from(bound);
            let chi_square: f64 =
                counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // 9 degrees of freedom at most: above 33.7 with probability 1e-4; the draws are fixed.
            assert!(chi_square < 33.7, "bound {bound}: {counts:?}");
        }
        let mut rng = SplitMix64::new(0);
        assert!((0..100).all(|_| (5..=6).contains(&rng.between(5, 6))));
        let heads = (0..10_000).filter(|_| rng.coin()).count();
        assert!((4_800..5_200).contains(&heads), "{heads}");
    }
}
