//! Decides which token is sampled: the winner of an exponential race that anyone can run again.
//!
//! Every token draws an exponential `e` from a counter generator whose key nobody chooses, and the
//! highest `logit / temperature - ln e` wins: exactly a sample from the softmax (Gumbel-max). A miner
//! therefore has one legal completion for each rollout, however it was found.

use crate::constants::COMPLETION_TOKENS_MAX;
use crate::domain::DomainHash;
use crate::ids::{Digest, Hotkey, TokenId};
use crate::math;
use crate::philox::philox4x32;
use crate::randomness::WindowRandomness;

/// How tokens are chosen, as the checkpoint publishes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits; finite, above 0.
    pub temperature: f32,
    /// Tokens of a completion without an end token, 1 to [`COMPLETION_TOKENS_MAX`].
    pub max_new_tokens: u32,
}

/// Sampler parameters that no race can use.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum UnusableSampler {
    /// Temperature is not a finite number above 0.
    #[error("temperature {0} must be a finite number above 0")]
    Temperature(f32),
    /// The token limit is 0 or beyond the protocol's.
    #[error("max_new_tokens {0} must be 1 to {COMPLETION_TOKENS_MAX}")]
    MaxNewTokens(u32),
}

impl SamplerParams {
    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), UnusableSampler> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(UnusableSampler::Temperature(self.temperature));
        }
        if !(1..=COMPLETION_TOKENS_MAX).contains(&self.max_new_tokens) {
            return Err(UnusableSampler::MaxNewTokens(self.max_new_tokens));
        }
        Ok(())
    }

    /// Returns the sampler digest that race keys depend on.
    pub fn digest(&self) -> Digest {
        DomainHash::new("sampler").f32(self.temperature).u32(self.max_new_tokens).finish()
    }
}

/// Key of one rollout's race: words 0 and 1 key the generator, 2 and 3 are part of its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaceKey(pub [u32; 4]);

/// Everything that a race depends on besides the logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaceKeyInputs {
    /// Randomness of the window.
    pub randomness: WindowRandomness,
    /// Digest of the checkpoint.
    pub checkpoint: Digest,
    /// [`EnvironmentFingerprint::digest`](crate::rollout::EnvironmentFingerprint::digest).
    pub environment: Digest,
    /// [`SamplerParams::digest`].
    pub sampler: Digest,
    /// The miner.
    pub hotkey: Hotkey,
    /// Group, 0-based.
    pub group: u32,
    /// Rollout in the group, 0-based.
    pub rollout: u32,
}

/// Returns the key of a race: the first 16 bytes of a hash over the inputs as four little-endian
/// words.
pub fn race_key(inputs: &RaceKeyInputs) -> RaceKey {
    let hash = DomainHash::new("race-key")
        .digest(&inputs.randomness.0)
        .digest(&inputs.checkpoint)
        .digest(&inputs.environment)
        .digest(&inputs.sampler)
        .hotkey(&inputs.hotkey)
        .u32(inputs.group)
        .u32(inputs.rollout)
        .finish();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.0.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    RaceKey(words)
}

/// Returns what `token` gains at completion position `step` (0-based): `-ln e`, a Gumbel draw
/// between about -2.9 and 22.2 nats.
///
/// With `x` the token's word of the generator and every operation rounded to f32:
/// `w = x >> 1; v = min((w + 0.5) * 2^-31, 1 - 2^-24); e = -ln(1 - v); result = -ln(e)`.
pub fn perturbation(key: RaceKey, step: u32, token: TokenId) -> f32 {
    let [key_0, key_1, counter_2, counter_3] = key.0;
    let words = philox4x32([token / 4, step, counter_2, counter_3], [key_0, key_1]);
    gumbel(words[token as usize % 4])
}

/// Returns the Gumbel draw of a random word.
fn gumbel(word: u32) -> f32 {
    /// 2^-31.
    const UNIT: f32 = f32::from_bits((127 - 31) << 23);
    /// 1 - 2^-24, the largest f32 below 1.
    const BELOW_ONE: f32 = f32::from_bits(0x3f7f_ffff);
    // `as` rounds to nearest even; 31 bits, so that signed conversions of any CPU do as well.
    let v = (((word >> 1) as f32 + 0.5) * UNIT).min(BELOW_ONE);
    -math::ln(-math::ln_1p_neg(v))
}

/// Returns the score of `token`: `logit / temperature` plus its [`perturbation`], each operation
/// rounded to f32.
pub fn race_score(logit: f32, temperature: f32, key: RaceKey, step: u32, token: TokenId) -> f32 {
    logit / temperature + perturbation(key, step, token)
}

/// Returns the token with the highest [`race_score`], ties to the lower id; `logits` has one entry
/// per token of the vocabulary, f32.
///
/// `None` if there are no logits or one of them is not a number: nobody wins such a race.
pub fn race_winner(logits: &[f32], temperature: f32, key: RaceKey, step: u32) -> Option<TokenId> {
    let mut best: Option<(f32, TokenId)> = None;
    for (token, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return None;
        }
        let score = race_score(logit, temperature, key, step, token);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, token));
        }
    }
    best.map(|(_, token)| token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const KEY: RaceKey = RaceKey([1, 2, 3, 4]);

    fn inputs() -> RaceKeyInputs {
        RaceKeyInputs {
            randomness: WindowRandomness(Digest([1; 32])),
            checkpoint: Digest([2; 32]),
            environment: Digest([3; 32]),
            sampler: SamplerParams { temperature: 1.0, max_new_tokens: 64 }.digest(),
            hotkey: Hotkey([4; 32]),
            group: 5,
            rollout: 6,
        }
    }

    #[test]
    fn a_race_key_is_the_documented_hash() {
        let sampler = Digest::of(
            &[b"grail/v6/sampler\0".as_slice(), &[0, 0, 0x80, 0x3f], &[64, 0, 0, 0]].concat(),
        );
        let bytes = [
            b"grail/v6/race-key\0".as_slice(),
            &[1; 32],
            &[2; 32],
            &[3; 32],
            &sampler.0,
            &[4; 32],
            &[5, 0, 0, 0],
            &[6, 0, 0, 0],
        ]
        .concat();
        let hash = Digest::of(&bytes).0;
        let word = |at: usize| u32::from_le_bytes(hash[at..at + 4].try_into().unwrap());
        assert_eq!(race_key(&inputs()), RaceKey([word(0), word(4), word(8), word(12)]));
    }

    #[test]
    fn every_input_changes_the_key() {
        let key = race_key(&inputs());
        let other = Digest([9; 32]);
        for changed in [
            RaceKeyInputs { randomness: WindowRandomness(other), ..inputs() },
            RaceKeyInputs { checkpoint: other, ..inputs() },
            RaceKeyInputs { environment: other, ..inputs() },
            RaceKeyInputs { sampler: other, ..inputs() },
            RaceKeyInputs { hotkey: Hotkey([9; 32]), ..inputs() },
            RaceKeyInputs { group: 6, rollout: 5, ..inputs() },
            RaceKeyInputs { rollout: 7, ..inputs() },
        ] {
            assert_ne!(race_key(&changed), key, "{changed:?}");
        }
    }

    /// The race in exact rational arithmetic, each operation rounded once; the engine passes the
    /// same vectors.
    #[test]
    fn perturbations_have_the_bits_of_the_vectors() {
        let vectors: Value =
            serde_json::from_str(include_str!("../tests/vectors/race.json")).unwrap();
        let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let minus = |bits: u32| (-f32::from_bits(bits)).to_bits();
        let cases = vectors["cases"].as_array().unwrap();
        for case in cases {
            let key = RaceKey(std::array::from_fn(|word| number(&case["key"][word])));
            let got = perturbation(key, number(&case["step"]), number(&case["token"]));
            assert_eq!(got.to_bits(), minus(number(&case["ln_e_bits"])), "{case}");
        }
        let words = vectors["words"].as_array().unwrap();
        for case in words {
            let got = gumbel(number(&case["word"]));
            assert_eq!(got.to_bits(), minus(number(&case["ln_e_bits"])), "{case}");
        }
        assert!(cases.len() > 200 && words.len() >= 10, "{} + {}", cases.len(), words.len());
    }

    #[test]
    fn the_ends_of_the_range_are_finite() {
        let (least, most) = (gumbel(u32::MAX), gumbel(0));
        assert!((-2.82..-2.80).contains(&least), "{least}");
        assert!((22.18..22.19).contains(&most), "{most}");
        // The lowest bit of the word is not used.
        assert_eq!(gumbel(1), gumbel(0));
    }

    #[test]
    fn each_token_and_step_has_its_own_draw() {
        let draws = |step| (0..64).map(move |token| perturbation(KEY, step, token).to_bits());
        let mut all: Vec<u32> = (0..64).flat_map(draws).collect();
        all.sort_unstable();
        all.dedup();
        // 4,096 draws of about 31 bits: a collision among them would be one in 250.
        assert_eq!(all.len(), 4_096);
    }

    #[test]
    fn winners_are_distributed_as_the_softmax() {
        let logits = [2.0f32, 0.0, 1.0, -1.0, 0.5, -30.0];
        for (temperature, seed) in [(1.0f32, 11), (0.5, 12), (2.0, 13)] {
            let weights = logits.map(|logit| f64::from(logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            let mut counts = [0u32; 6];
            let draws = 20_000;
            for step in 0..draws {
                let key = RaceKey([seed, 7, step % 13, 0]);
                let winner = race_winner(&logits, temperature, key, step).unwrap();
                counts[winner as usize] += 1;
            }
            assert_eq!(counts[5], 0, "a token of probability 1e-13 (or 1e-7) won");
            let chi_square: f64 = (0..5)
                .map(|token| {
                    let expected = f64::from(draws) * weights[token] / total;
                    (f64::from(counts[token]) - expected).powi(2) / expected
                })
                .sum();
            // 4 degrees of freedom: above 23.5 with probability 1e-4; the draws are fixed.
            assert!(chi_square < 23.5, "T = {temperature}: chi square {chi_square}, {counts:?}");
        }
    }

    #[test]
    fn ties_go_to_the_lower_id_and_bad_logits_to_nobody() {
        // Perturbations vanish next to logits this large, so all scores are equal.
        assert_eq!(race_winner(&[1e30; 5], 1.0, KEY, 0), Some(0));
        assert_eq!(race_winner(&[], 1.0, KEY, 0), None);
        assert_eq!(race_winner(&[0.0, f32::NAN], 1.0, KEY, 0), None);
        assert_eq!(race_winner(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY], 1.0, KEY, 0), Some(1));
    }

    #[test]
    fn unusable_parameters_are_refused() {
        let params = |temperature, max_new_tokens| SamplerParams { temperature, max_new_tokens };
        assert_eq!(params(0.7, 8_192).validate(), Ok(()));
        for temperature in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(params(temperature, 1).validate().is_err(), "{temperature}");
        }
        assert_eq!(params(1.0, 0).validate(), Err(UnusableSampler::MaxNewTokens(0)));
        assert_eq!(params(1.0, 8_193).validate(), Err(UnusableSampler::MaxNewTokens(8_193)));
    }

    proptest! {
        #[test]
        fn a_winner_beats_every_other_token(
            logits in prop::collection::vec(-20.0f32..20.0, 1..40),
            temperature in 0.1f32..3.0,
            words: [u32; 4],
            step in 0u32..8_192,
        ) {
            let key = RaceKey(words);
            let winner = race_winner(&logits, temperature, key, step).unwrap();
            let score = |token: TokenId| {
                race_score(logits[token as usize], temperature, key, step, token)
            };
            for token in (0..).take(logits.len()) {
                prop_assert!(score(token) < score(winner) || token == winner
                    || (score(token) == score(winner) && token > winner));
            }
        }
    }
}
