//! CPython's `random.Random`, bit for bit: seeding (version 2) and the draws that the protocol uses.

use sha2::{Digest as _, Sha512};

use super::mersenne::MersenneTwister;

/// Below this many, CPython samples from a copy of the population instead of by rejection.
const POOL_SIZE: usize = 21;

/// A generator that gives what Python's gives.
#[derive(Clone)]
pub struct Random {
    generator: MersenneTwister,
    /// The second value of the last pair of normal draws.
    spare_gauss: Option<f64>,
}

impl Random {
    /// Seeds as `Random(bytes)`; text is seeded by its UTF-8 bytes.
    pub fn from_bytes(seed: &[u8]) -> Self {
        let mut integer = seed.to_vec();
        integer.extend_from_slice(&Sha512::digest(seed));
        Self::from_magnitude(&integer)
    }

    /// Seeds as `Random(int)`.
    pub fn from_integer(seed: i128) -> Self {
        Self::from_magnitude(&seed.unsigned_abs().to_be_bytes())
    }

    /// Seeds as `Random(int)` of any size, given as big-endian bytes. The sign does not matter.
    pub fn from_magnitude(big_endian: &[u8]) -> Self {
        let mut key: Vec<u32> = big_endian
            .rchunks(4)
            .map(|word| word.iter().fold(0, |high, &byte| high << 8 | u32::from(byte)))
            .collect();
        while key.len() > 1 && key.last() == Some(&0) {
            key.pop();
        }
        if key.is_empty() {
            key.push(0);
        }
        Self { generator: MersenneTwister::from_key(&key), spare_gauss: None }
    }

    /// Returns the generator's words.
    pub fn state(&self) -> &[u32] {
        self.generator.state()
    }

    /// Draws `bits` random bits as 32-bit words, the least significant first.
    pub fn bits(&mut self, bits: usize) -> Vec<u32> {
        let mut words: Vec<u32> =
            (0..bits.div_ceil(32)).map(|_| self.generator.next_word()).collect();
        if let (Some(last), 1..) = (words.last_mut(), bits % 32) {
            *last >>= 32 - bits % 32;
        }
        words
    }

    /// Draws from [0, 1), 53 bits.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.generator.next_word() >> 5);
        let low = f64::from(self.generator.next_word() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// Draws from `0..n`, by rejection from as many bits as `n` has.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "nothing is below 0");
        let bits = n.ilog2() + 1;
        loop {
            let drawn = self.word_of(bits);
            if drawn < n {
                return drawn;
            }
        }
    }

    /// Draws from `low..=high`.
    ///
    /// # Panics
    /// When `high` is below `low`, or the range has more than 2^63 integers.
    pub fn randint(&mut self, low: i64, high: i64) -> i64 {
        let n = i128::from(high) - i128::from(low) + 1;
        let n = u64::try_from(n).expect("randint draws from a range that is not empty");
        let drawn = i64::try_from(self.below(n)).expect("randint draws from at most 2^63 integers");
        low + drawn
    }

    /// Shuffles in place, from the end.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.index(i + 1);
            items.swap(i, j);
        }
    }

    /// Draws `k` of the indices `0..n` without replacement, in the order drawn.
    ///
    /// # Panics
    /// When `k` is above `n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Vec<usize> {
        assert!(k <= n, "a sample of {k} from {n}");
        if n <= pool_limit(k) {
            let mut pool: Vec<usize> = (0..n).collect();
            return (0..k)
                .map(|i| {
                    let j = self.index(n - i);
                    let last = pool[n - i - 1];
                    std::mem::replace(&mut pool[j], last)
                })
                .collect();
        }
        let mut used = std::collections::BTreeSet::new();
        (0..k)
            .map(|_| {
                loop {
                    let j = self.index(n);
                    if used.insert(j) {
                        break j;
                    }
                }
            })
            .collect()
    }

    /// Draws `k` indices with replacement, index `i` with probability proportional to `weights[i]`.
    ///
    /// # Panics
    /// When there are no weights.
    pub fn choices(&mut self, weights: &[f64], k: usize) -> Vec<usize> {
        let cumulative: Vec<f64> = weights
            .iter()
            .scan(0.0, |total, weight| {
                *total += weight;
                Some(*total)
            })
            .collect();
        let total = *cumulative.last().expect("choices are made among at least one");
        (0..k)
            .map(|_| {
                let drawn = self.random() * total;
                // The last is never skipped, whatever rounding does.
                cumulative[..weights.len() - 1].partition_point(|&edge| edge <= drawn)
            })
            .collect()
    }

    /// Draws from [a, b].
    pub fn uniform(&mut self, a: f64, b: f64) -> f64 {
        a + (b - a) * self.random()
    }

    /// Draws from a normal distribution; every second draw is the partner of the one before.
    ///
    /// Nothing on the wire uses it: its sine and cosine are those of the machine's library.
    pub fn gauss(&mut self, mu: f64, sigma: f64) -> f64 {
        let z = self.spare_gauss.take().unwrap_or_else(|| {
            let angle = self.random() * std::f64::consts::TAU;
            let radius = (-2.0 * (1.0 - self.random()).ln()).sqrt();
            self.spare_gauss = Some(angle.sin() * radius);
            angle.cos() * radius
        });
        mu + z * sigma
    }

    /// Draws 1 to 64 bits.
    fn word_of(&mut self, bits: u32) -> u64 {
        if bits <= 32 {
            return u64::from(self.generator.next_word() >> (32 - bits));
        }
        let low = u64::from(self.generator.next_word());
        low | u64::from(self.generator.next_word() >> (64 - bits)) << 32
    }

    fn index(&mut self, n: usize) -> usize {
        let drawn = self.below(u64::try_from(n).expect("a length fits 64 bits"));
        usize::try_from(drawn).expect("an index below a length is one")
    }
}

/// Returns the largest population that CPython copies for a sample of `k`.
fn pool_limit(k: usize) -> usize {
    if k <= 5 {
        return POOL_SIZE;
    }
    // 4 to the ceiling of the logarithm of 3 k to base 4, which has no ties: 3 k is no power of 4.
    let wanted = k.saturating_mul(3);
    let mut power = 1usize;
    while power < wanted {
        power = power.saturating_mul(4);
    }
    POOL_SIZE.saturating_add(power)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sample_has_no_repeats(seed in any::<i128>(), n in 1usize..600, part in 0.0f64..=1.0) {
            let k = (n as f64 * part) as usize;
            let mut sample = Random::from_integer(seed).sample(n, k);
            prop_assert!(sample.iter().all(|&index| index < n));
            sample.sort_unstable();
            sample.dedup();
            prop_assert_eq!(sample.len(), k);
        }

        #[test]
        fn draws_stay_in_range(seed in any::<[u8; 8]>(), n in 1u64.., low in -9i64..9) {
            let mut rng = Random::from_bytes(&seed);
            prop_assert!(rng.below(n) < n);
            prop_assert!((low..=low + 3).contains(&rng.randint(low, low + 3)));
            prop_assert!((0.0..1.0).contains(&rng.random()));
        }
    }
}
