//! Chooses which groups of a file are checked, by public randomness that came after the deadline.

use std::collections::BTreeSet;

use crate::domain::DomainHash;
use crate::ids::Hotkey;
use crate::randomness::ValidationChallenge;

/// Returns `n_check` of the groups `0..n_groups` of `hotkey`'s file, ascending; all of them if there
/// are no more. Every subset of that size is equally likely, and everybody draws the same one.
pub fn choose_groups(
    challenge: ValidationChallenge,
    hotkey: Hotkey,
    n_groups: u32,
    n_check: u32,
) -> Vec<u32> {
    if n_check >= n_groups {
        return (0..n_groups).collect();
    }
    let mut draws = Draws { challenge, hotkey, counter: 0 };
    let mut chosen = BTreeSet::new();
    // Floyd's algorithm: one draw for each member of the sample, none is thrown away.
    for last in n_groups - n_check..n_groups {
        let drawn = draws.at_most(last);
        if !chosen.insert(drawn) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

/// Uniform integers: the hashes of a counter.
struct Draws {
    challenge: ValidationChallenge,
    hotkey: Hotkey,
    counter: u64,
}

impl Draws {
    /// Draws from `0..=max`.
    fn at_most(&mut self, max: u32) -> u32 {
        let choices = u64::from(max) + 1;
        // The largest multiple of `choices` that 64 bits hold; draws above it would favour some.
        let fair = u64::MAX - u64::MAX % choices;
        loop {
            let draw = self.next();
            if draw < fair {
                return u32::try_from(draw % choices).expect("a remainder is at most max");
            }
        }
    }

    fn next(&mut self) -> u64 {
        let hash = DomainHash::new("choose-groups")
            .digest(&self.challenge.0)
            .hotkey(&self.hotkey)
            .u64(self.counter)
            .finish();
        self.counter += 1;
        let (head, _) = hash.0.split_first_chunk().expect("a digest has 32 bytes");
        u64::from_le_bytes(*head)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Digest;

    fn choose(seed: u8, n_groups: u32, n_check: u32) -> Vec<u32> {
        let challenge = ValidationChallenge(Digest([seed; 32]));
        choose_groups(challenge, Hotkey([7; 32]), n_groups, n_check)
    }

    #[test]
    fn a_choice_is_fixed_for_ever() {
        assert_eq!(choose(1, 100, 4), GOLDEN);
        assert_eq!(choose(1, 3, 4), [0, 1, 2]);
        assert_eq!(choose(1, 3, 0), [0; 0]);
        assert_eq!(choose(1, 0, 4), [0; 0]);
    }

    const GOLDEN: [u32; 4] = [31, 49, 67, 92];

    proptest! {
        #[test]
        fn a_choice_is_ascending_distinct_and_in_range(
            seed: u8, n_groups in 0u32..200, n_check in 0u32..220,
        ) {
            let chosen = choose(seed, n_groups, n_check);
            prop_assert_eq!(chosen.len() as u32, n_check.min(n_groups));
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.iter().all(|&group| group < n_groups));
        }
    }

    #[test]
    fn every_pair_is_equally_likely() {
        // 4,000 draws of 2 out of 5: each of the 10 pairs expects 400, variance 360.
        let mut counts = BTreeMap::new();
        for seed in 0u32..4_000 {
            let challenge = ValidationChallenge(Digest::of(&seed.to_le_bytes()));
            let pair = choose_groups(challenge, Hotkey([7; 32]), 5, 2);
            *counts.entry(pair).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 10);
        let chi_square: f64 =
            counts.values().map(|&count| (f64::from(count) - 400.0).powi(2) / 400.0).sum();
        // 9 degrees of freedom: above 33.7 with probability 1e-4; the draws are fixed.
        assert!(chi_square < 33.7, "chi square {chi_square}, counts {counts:?}");
    }

    #[test]
    fn another_miner_or_challenge_gets_another_choice() {
        let challenge = ValidationChallenge(Digest([1; 32]));
        assert_ne!(choose(1, 1000, 8), choose(2, 1000, 8));
        assert_ne!(choose(1, 1000, 8), choose_groups(challenge, Hotkey([8; 32]), 1000, 8));
    }
}
