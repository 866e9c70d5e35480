//! Keeps the problems of evaluation apart from those of training.
//!
//! A seed says which split it belongs to. Training seeds are 64-bit hashes; the seeds of evaluation
//! carry a mark in their upper half, which a training seed has with probability 2^-32. And since
//! different seeds can give the same small problem, problems are split too: an eighth of them, by
//! the hash of their statement, come up under held-out seeds only. What training never showed the
//! model is what evaluation asks.

use grail_protocol::ids::Digest;

use crate::rng::SplitMix64;

/// The upper half of every held-out seed.
const MARK: u32 = 0xe7a1_5eed;

/// Problems whose statement hashes below this, of 256, are held out: an eighth.
const HELD_OUT_BELOW: u8 = 32;

/// Draws after which a problem of the wrong split is taken. Only parameters with next to no
/// problems come near: an eighth is missed 256 times in a row with probability 1e-15.
const ATTEMPTS: u32 = 256;

/// Returns the seed of held-out problem `index` in the evaluation that `base` names. Different
/// indices give different seeds.
pub fn held_out_seed(base: u64, index: u32) -> u64 {
    let base = SplitMix64::new(base).next_u64();
    let low = scramble(index ^ u32::try_from(base >> 32).expect("the upper half has 32 bits"));
    u64::from(MARK) << 32 | u64::from(low)
}

/// Returns whether `seed` asks for held-out problems.
pub fn is_held_out(seed: u64) -> bool {
    seed >> 32 == u64::from(MARK)
}

/// Draws problems of `seed` until one belongs to the seed's split. `statement` writes one down.
pub(crate) fn draw<P>(
    seed: u64,
    mut draw: impl FnMut(&mut SplitMix64) -> P,
    statement: impl Fn(&P) -> String,
) -> P {
    let mut rng = SplitMix64::new(seed);
    let mut problem = draw(&mut rng);
    for _ in 1..ATTEMPTS {
        let hash = Digest::of(statement(&problem).as_bytes());
        if (hash.0[0] < HELD_OUT_BELOW) == is_held_out(seed) {
            break;
        }
        problem = draw(&mut rng);
    }
    problem
}

/// A one-to-one map of 32-bit numbers that looks random: the finaliser of MurmurHash3.
fn scramble(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85eb_ca6b);
    x ^= x >> 13;
    x = x.wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn held_out_seeds_are_distinct_and_marked() {
        let seeds: BTreeSet<u64> = (0..10_000).map(|index| held_out_seed(7, index)).collect();
        assert_eq!(seeds.len(), 10_000);
        assert!(seeds.iter().all(|&seed| is_held_out(seed)));
        let others: BTreeSet<u64> = (0..10_000).map(|index| held_out_seed(8, index)).collect();
        assert!(seeds.intersection(&others).count() < 10, "another base, other problems");
    }

    #[test]
    fn training_seeds_are_not_marked() {
        let mut rng = SplitMix64::new(1);
        assert!((0..100_000).all(|_| !is_held_out(rng.next_u64())));
        assert!((0..100_000).all(|seed| !is_held_out(seed)), "nor are small numbers");
    }

    #[test]
    fn held_out_seeds_are_fixed_for_ever() {
        assert_eq!(held_out_seed(0, 0), 16_690_726_068_796_163_108);
        assert_eq!(held_out_seed(42, 199), 16_690_726_066_025_546_067);
    }

    #[test]
    fn a_hopeless_draw_ends() {
        let mut draws = 0;
        let count = |_: &mut SplitMix64| {
            draws += 1;
            "the only problem"
        };
        draw(3, count, |problem| (*problem).to_owned());
        let mut held_out_draws = 0;
        let count = |_: &mut SplitMix64| {
            held_out_draws += 1;
            "the only problem"
        };
        draw(held_out_seed(0, 0), count, |problem| (*problem).to_owned());
        assert_eq!(draws.min(held_out_draws), 1, "one split has it");
        assert_eq!(draws.max(held_out_draws), ATTEMPTS, "the other gives up");
    }
}
