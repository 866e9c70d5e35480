//! Finds the 16 activations of largest magnitude in about the time that reading the row takes.
//!
//! One pass takes the largest magnitude of each of 32 groups that share the row out. The sixteenth of
//! these is reached by at least 16 activations and by few more. A second pass, of a row that is in the
//! nearest cache by now, lists these, and comparing each with each orders them. Hardly a branch depends
//! on an activation: a wrong guess costs as much as 200 activations do.

use std::array::from_fn;
use std::cmp::Reverse;

use fearless_simd::prelude::*;
use fearless_simd::{f32x16, i16x32, i32x16};

use crate::v5::constants::PROOF_TOPK;

/// Values of 32 bits that are worked on together. Narrower machines take as many vectors as needed.
const LANES: usize = 16;

/// Activations whose flags fill a word.
const BLOCK: usize = 64;

/// Candidates that a block usually has at most.
const USUAL: usize = 3;

/// Above the rank of every number.
const NAN_RANK: u32 = f32::INFINITY.to_bits() + 1;

/// Magnitudes are ordered as their bits are, with NaN above infinity. All NaN are alike.
pub(super) fn rank(activation: f32) -> u32 {
    activation.abs().to_bits().min(NAN_RANK)
}

/// Memory for one row after the other, all of the same length.
pub(super) struct Largest {
    hidden: usize,
    /// Indices, ascending.
    candidates: Vec<u32>,
}

impl Largest {
    /// Makes room for rows of `hidden` activations, at least 16.
    pub(super) fn new(hidden: usize) -> Self {
        // More are written than are counted.
        let candidates = vec![0; hidden.next_multiple_of(BLOCK) + USUAL];
        Self { hidden, candidates }
    }

    /// Returns the indices of the 16 activations of largest [`rank`], ascending. Among equal ones at
    /// the boundary the lower index wins. Every `S` gives the same.
    #[inline(always)]
    pub(super) fn indices<S: Simd>(&mut self, simd: S, row: &[f32]) -> [u32; PROOF_TOPK] {
        assert_eq!(row.len(), self.hidden, "room was made for another length");
        let (whole, rest) = row.as_chunks();
        // Zeros behind the end change no maximum.
        let mut last = [0.0; BLOCK];
        if !rest.is_empty() {
            last[..rest.len()].copy_from_slice(rest);
        }
        let last = &[last][..usize::from(!rest.is_empty())];
        let enough = enough(simd, [whole, last]);
        let found = self.list_candidates(simd, [whole, last], enough);
        let candidates = &mut self.candidates[..found];
        if found <= 2 * LANES {
            largest_of_few::<_, 2>(simd, row, candidates)
        } else if found <= BLOCK {
            simd.vectorize(
                #[inline(always)]
                || largest_of_few::<_, 4>(simd, row, candidates),
            )
        } else {
            largest_of_many(row, candidates)
        }
    }

    /// Lists the activations that reach `enough`. Returns their number.
    #[inline(always)]
    fn list_candidates<S: Simd>(
        &mut self,
        simd: S,
        blocks: [&[[f32; BLOCK]]; 2],
        enough: i32,
    ) -> usize {
        // Other than "at least" this is one instruction everywhere.
        let below = i32x16::splat(simd, enough - 1);
        let (mut first, mut found) = (0, 0);
        for blocks in blocks {
            for block in blocks {
                let mut flags = flags(simd, block, below);
                let next = found + flags.count_ones() as usize;
                let slots = &mut self.candidates[found..][..USUAL];
                for slot in slots {
                    *slot = first + flags.trailing_zeros();
                    flags &= flags.wrapping_sub(1);
                }
                found += USUAL;
                while flags != 0 {
                    self.candidates[found] = first + flags.trailing_zeros();
                    flags &= flags - 1;
                    found += 1;
                }
                found = next;
                first += BLOCK as u32;
            }
        }
        // What is behind the end is a candidate where everything is.
        while found > 0 && self.candidates[found - 1] as usize >= self.hidden {
            found -= 1;
        }
        found
    }
}

/// Returns magnitude bits, the lower half 0, that at least 16 activations reach: 16 groups do.
#[inline(always)]
fn enough<S: Simd>(simd: S, blocks: [&[[f32; BLOCK]]; 2]) -> i32 {
    // A lane is a group. Only upper halves of magnitudes count, which 16 bits hold: every machine
    // knows the larger of these.
    let mut groups = [i16x32::splat(simd, 0); 2];
    for blocks in blocks {
        for block in blocks {
            let (vectors, _) = block.as_chunks::<LANES>();
            for (at, vector) in vectors.iter().enumerate() {
                let halves: i16x32<S> = f32x16::load_array_ref(simd, vector).bitcast();
                groups[at % 2] = groups[at % 2].max(halves & i16::MAX);
            }
        }
    }
    let [even, odd] = groups.map(Bytes::bitcast::<i32x16<S>>);
    let upper = !i32::from(u16::MAX);
    i32::from(sixteenth(simd, (even >> 16 | odd & upper).bitcast())) << 16
}

/// Returns the sixteenth largest, or the upper half of infinity where NaN are above.
#[inline(always)]
fn sixteenth<S: Simd>(simd: S, groups: i16x32<S>) -> i16 {
    let mut larger = i16x32::splat(simd, 0);
    for other in groups.to_array() {
        let is_larger = i16x32::splat(simd, other).simd_gt(groups);
        larger = is_larger.select(larger + 1, larger);
    }
    let infinity = i16x32::splat(simd, (NAN_RANK >> 16) as i16);
    larger.simd_lt(PROOF_TOPK as i16).select(groups.min(infinity), infinity).reduce_min()
}

/// Tells which magnitudes are above `below`.
#[inline(always)]
fn flags<S: Simd>(simd: S, block: &[f32; BLOCK], below: i32x16<S>) -> u64 {
    let (vectors, _) = block.as_chunks::<LANES>();
    let mut flags = 0;
    for (at, vector) in vectors.iter().enumerate() {
        let bits: i32x16<S> = f32x16::load_array_ref(simd, vector).bitcast();
        flags |= (bits & i32::MAX).simd_gt(below).to_bitmask() << (at * LANES);
    }
    flags
}

/// Chooses from 16 to `16 VECTORS` candidates.
#[inline(always)]
fn largest_of_few<S: Simd, const VECTORS: usize>(
    simd: S,
    row: &[f32],
    candidates: &[u32],
) -> [u32; PROOF_TOPK] {
    // Empty slots are below everything.
    let mut ranks = [[-1; LANES]; VECTORS];
    for (slot, &index) in ranks.as_flattened_mut().iter_mut().zip(candidates) {
        *slot = rank(row[index as usize]) as i32;
    }
    let own: [i32x16<S>; VECTORS] = from_fn(|at| i32x16::load_array(simd, ranks[at]));
    let mut larger = [i32x16::splat(simd, 0); VECTORS];
    for &other in &ranks.as_flattened()[..candidates.len()] {
        let other = i32x16::splat(simd, other);
        for (larger, own) in larger.iter_mut().zip(own) {
            *larger = other.simd_gt(own).select(*larger + 1, *larger);
        }
    }
    let mut chosen = 0;
    for (at, larger) in larger.into_iter().enumerate() {
        chosen |= larger.simd_lt(PROOF_TOPK as i32).to_bitmask() << (at * LANES);
    }
    if chosen.count_ones() as usize > PROOF_TOPK {
        chosen = without_last_of_smallest(chosen, ranks.as_flattened());
    }
    from_fn(|_| {
        let index = candidates[chosen.trailing_zeros() as usize];
        chosen &= chosen.wrapping_sub(1);
        index
    })
}

/// Leaves 16 of the `chosen`, of which too many share the smallest rank.
fn without_last_of_smallest(mut chosen: u64, ranks: &[i32]) -> u64 {
    let is_chosen = |slot: usize| chosen >> slot & 1 != 0;
    let chosen_ones = || (0..ranks.len()).filter(|&slot| is_chosen(slot));
    let smallest = chosen_ones().map(|slot| ranks[slot]).min();
    let mut equal = 0u64;
    for slot in chosen_ones().filter(|&slot| Some(ranks[slot]) == smallest) {
        equal |= 1 << slot;
    }
    for _ in PROOF_TOPK..chosen.count_ones() as usize {
        let last = 1 << equal.ilog2();
        equal ^= last;
        chosen ^= last;
    }
    chosen
}

#[cold]
fn largest_of_many(row: &[f32], candidates: &mut [u32]) -> [u32; PROOF_TOPK] {
    let order = |&index: &u32| (Reverse(rank(row[index as usize])), index);
    candidates.select_nth_unstable_by_key(PROOF_TOPK - 1, order);
    let mut chosen = *candidates.first_chunk().expect("16 of a row reach what is enough");
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use fearless_simd::{Level, dispatch};
    use proptest::prelude::*;

    use super::*;

    fn by_sorting(row: &[f32]) -> Vec<usize> {
        let mut sorted: Vec<usize> = (0..row.len()).collect();
        // Stable: the lower of equal ones stays before.
        sorted.sort_by_key(|&index| Reverse(rank(row[index])));
        let mut chosen = sorted[..PROOF_TOPK].to_vec();
        chosen.sort_unstable();
        chosen
    }

    /// Values that tie in all bits, in the upper half or not at all, and those that are no numbers.
    fn activation() -> impl Strategy<Value = f32> {
        let few = [0.0, 1.0, 1.5, f32::from_bits(0x3f80_0001), f32::MIN_POSITIVE, f32::MAX];
        let odd = [f32::INFINITY, f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(1)];
        let magnitude = prop_oneof![
            8 => -4.0f32..4.0,
            4 => (-4.0f32..4.0).prop_map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)),
            4 => prop::sample::select(few.to_vec()),
            1 => prop::sample::select(odd.to_vec()),
            1 => any::<f32>(),
        ];
        (magnitude, any::<bool>()).prop_map(|(x, negative)| if negative { -x } else { x })
    }

    fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
        let row = |length: usize| {
            prop_oneof![
                prop::collection::vec(activation(), length),
                prop::collection::vec(-1.0f32..1.0, length),
                activation().prop_map(move |x| vec![x; length]),
                (0..length, activation()).prop_map(move |(zeros, x)| {
                    (0..length).map(|at| if at < zeros { 0.0 } else { x }).collect()
                }),
            ]
        };
        (16usize..2_200).prop_flat_map(move |length| prop::collection::vec(row(length), 1..4))
    }

    /// What every kind of vectors that this machine has gives.
    fn of_each_kind(largest: &mut Largest, row: &[f32]) -> Vec<(&'static str, Vec<usize>)> {
        let mut chosen = Vec::new();
        macro_rules! on {
            ($simd:expr) => {
                if let Some(simd) = $simd {
                    let row = simd.vectorize(|| largest.indices(simd, row));
                    let row = row.iter().map(|&index| index as usize).collect();
                    chosen.push((stringify!($simd), row));
                }
            };
        }
        let level = Level::new();
        #[cfg(target_arch = "x86_64")]
        {
            on!(level.as_sse2());
            on!(level.as_sse4_2());
            on!(level.as_avx2());
            on!(level.as_avx512());
        }
        #[cfg(target_arch = "aarch64")]
        on!(level.as_neon());
        let row = dispatch!(level, simd => largest.indices(simd, row));
        chosen.push(("the best", row.iter().map(|&index| index as usize).collect()));
        chosen
    }

    proptest! {
        #[test]
        fn they_are_those_of_a_sort_in_any_order_of_rows(rows in rows()) {
            let mut largest = Largest::new(rows[0].len());
            for row in &rows {
                let want = by_sorting(row);
                for (kind, chosen) in of_each_kind(&mut largest, row) {
                    prop_assert_eq!(&chosen, &want, "{}", kind);
                }
            }
        }
    }

    #[test]
    fn the_last_of_equal_ones_are_left_out() {
        for (length, large) in [(16, 0), (17, 3), (64, 15), (2_048, 7), (2_049, 16), (4_100, 12)] {
            let mut row = vec![-0.5; length];
            row[length - large..].fill(2.0);
            row[0] = 0.5;
            for (kind, chosen) in of_each_kind(&mut Largest::new(length), &row) {
                assert_eq!(chosen, by_sorting(&row), "{length}, {kind}");
            }
        }
    }
}
