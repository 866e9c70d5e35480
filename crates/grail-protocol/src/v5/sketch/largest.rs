//! Finds the 16 activations of largest magnitude in about the time that reading the row takes.
//!
//! One pass takes the largest magnitude of each of 32 groups that share the row out. The sixteenth of
//! these is reached by at least 16 activations and by few more, so hardly anything is left to order.
//! Loops run over arrays of 16 bytes, which the vector instructions of every machine hold, and no
//! branch inside depends on an activation: a wrong guess costs as much as 60 activations do. The
//! stages are not inlined, so that the compiler vectorises each as it is written.

use std::array::from_fn;
use std::cmp::Reverse;

use crate::v5::constants::PROOF_TOPK;

/// Values of 32 bits that are worked on together.
const LANES: usize = 4;

/// Activations whose flags fill a word, in strided quarters: one for each lane.
const BLOCK: usize = 32;

/// Blocks whose flags fill a word.
const SPAN: usize = 32;

/// Blocks are dealt out to so many sets. A lane of a set is a group of activations.
const SETS: usize = 8;

/// Most candidates that are ordered by comparing each with each.
const FEW: usize = 32;

/// Magnitudes as 16-bit halves, of which only the upper ones count.
type Halves = [i16; 2 * LANES];

/// Above the rank of every number.
const NAN_RANK: u32 = f32::INFINITY.to_bits() + 1;

/// Magnitudes are ordered as their bits are, with NaN above infinity. All NaN are alike.
pub(super) fn rank(activation: f32) -> u32 {
    activation.abs().to_bits().min(NAN_RANK)
}

/// Memory for one row after the other, all of the same length.
pub(super) struct Largest {
    hidden: usize,
    /// Largest magnitude of each quarter of a block: its upper half. The lower means nothing.
    blocks: Vec<[[i32; LANES]; SPAN]>,
    /// First index of each block with candidates, and which of its activations are.
    hits: Vec<(u32, [u32; LANES])>,
    /// Indices, ascending.
    candidates: Vec<u32>,
}

impl Largest {
    /// Makes room for rows of `hidden` activations, at least 16.
    pub(super) fn new(hidden: usize) -> Self {
        let spans = hidden.div_ceil(BLOCK * SPAN);
        Self {
            hidden,
            blocks: vec![[[0; LANES]; SPAN]; spans],
            hits: vec![(0, [0; LANES]); spans * SPAN],
            // One more is written than is counted.
            candidates: vec![0; spans * SPAN * BLOCK + 1],
        }
    }

    /// Returns the indices of the 16 activations of largest [`rank`], ascending. Among equal ones at
    /// the boundary the lower index wins.
    #[inline]
    pub(super) fn indices(&mut self, row: &[f32]) -> [usize; PROOF_TOPK] {
        assert_eq!(row.len(), self.hidden, "room was made for another length");
        let (whole, rest) = row.as_chunks();
        // Zeros behind the end change no maximum.
        let mut last = [0.0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let enough = self.enough(whole, (!rest.is_empty()).then_some(&last));
        let hits = self.find_hits(whole, &last, enough);
        let found = self.list_candidates(hits);
        let candidates = &mut self.candidates[..found];
        let chosen = match found {
            0..=FEW => largest_of_few(row, candidates),
            _ => largest_of_many(row, candidates),
        };
        chosen.map(|index| index as usize)
    }

    /// Returns magnitude bits, the lower half 0, that at least 16 activations reach: 16 groups do.
    #[inline(never)]
    fn enough(&mut self, whole: &[[f32; BLOCK]], last: Option<&[f32; BLOCK]>) -> i32 {
        let mut sets = [[0; 2 * LANES]; SETS];
        let blocks = self.blocks.as_flattened_mut();
        for (at, (block, largest)) in whole.iter().zip(&mut *blocks).enumerate() {
            *largest = add_to(&mut sets[at % SETS], block);
        }
        if let (Some(last), Some(largest)) = (last, blocks.get_mut(whole.len())) {
            *largest = add_to(&mut sets[whole.len() % SETS], last);
        }
        let sets: [[i32; LANES]; SETS] = bytemuck::cast(sets);
        let groups = sets.as_flattened();
        i32::from(sixteenth(&from_fn(|group| (groups[group] >> 16) as i16))) << 16
    }

    /// Looks at the blocks of which a quarter reaches `enough`. Returns their number.
    #[inline(never)]
    fn find_hits(&mut self, whole: &[[f32; BLOCK]], last: &[f32; BLOCK], enough: i32) -> usize {
        let mut hits = 0;
        for (at, span) in self.blocks.iter().enumerate() {
            let any = reached(span, enough).map(|[a, b, c, d]| a | b | c | d);
            let mut blocks = interleaved(any);
            while blocks != 0 {
                let block = at * SPAN + blocks.trailing_zeros() as usize;
                let activations = whole.get(block).unwrap_or(last);
                let fours: &[[i32; LANES]; BLOCK / LANES] = bytemuck::cast_ref(activations);
                let [reached] = reached(fours, enough);
                self.hits[hits] = ((block * BLOCK) as u32, reached);
                hits += 1;
                blocks &= blocks - 1;
            }
        }
        hits
    }

    /// Lists the activations that `hits` name. Returns their number.
    #[inline(never)]
    fn list_candidates(&mut self, hits: usize) -> usize {
        let mut found = 0;
        for &(first, reached) in &self.hits[..hits] {
            let mut mask = interleaved(reached);
            // A block has one, often two and seldom more.
            self.candidates[found] = first + mask.trailing_zeros();
            mask &= mask.wrapping_sub(1);
            self.candidates[found + 1] = first + mask.trailing_zeros();
            found += 1 + usize::from(mask != 0);
            mask &= mask.wrapping_sub(1);
            while mask != 0 {
                self.candidates[found] = first + mask.trailing_zeros();
                found += 1;
                mask &= mask - 1;
            }
        }
        // What is behind the end is a candidate where everything is.
        while found > 0 && self.candidates[found - 1] as usize >= self.hidden {
            found -= 1;
        }
        found
    }
}

/// Returns the largest magnitude of each quarter of a block, and raises its set to it.
#[inline(always)]
fn add_to(set: &mut Halves, block: &[f32; BLOCK]) -> [i32; LANES] {
    let parts: &[Halves; BLOCK / LANES] = bytemuck::cast_ref(block);
    let larger = |a: Halves, b: &Halves| from_fn(|lane| a[lane].max(b[lane] & i16::MAX));
    let largest = parts.iter().fold([0; 2 * LANES], larger);
    *set = larger(*set, &largest);
    bytemuck::cast(largest)
}

/// Returns the sixteenth largest, or the upper half of infinity where NaN are above.
#[inline(never)]
fn sixteenth(groups: &[i16; SETS * LANES]) -> i16 {
    let (own, _) = groups.as_chunks::<{ 2 * LANES }>();
    // Minus the number of larger ones.
    let mut larger = [[0i16; 2 * LANES]; SETS / 2];
    // None is negative. A loop that might end early is not turned inside out by the compiler.
    for &other in groups.iter().take_while(|&&group| group >= 0) {
        for (count, own) in larger.iter_mut().zip(own) {
            *count = from_fn(|lane| count[lane] - i16::from(other > own[lane]));
        }
    }
    let mut smallest = [(NAN_RANK >> 16) as i16; 2 * LANES];
    for (count, own) in larger.iter().zip(own) {
        // All ones, less the sign, where 16 or more are larger.
        let beyond = count.map(|count| !((-(PROOF_TOPK as i16) - count) >> 15) & i16::MAX);
        smallest = from_fn(|lane| smallest[lane].min(own[lane] | beyond[lane]));
    }
    smallest.into_iter().fold(i16::MAX, i16::min)
}

/// Tells which of 32 fours, dealt out to `PARTS`, reach `enough` but for their sign. The `i`th of a
/// part is bit `4 i` of each of its lanes.
#[inline(always)]
fn reached<const PARTS: usize>(fours: &[[i32; LANES]], enough: i32) -> [[u32; LANES]; PARTS] {
    let (dealt, _) = fours.as_chunks::<PARTS>();
    let mut reached = [[0; LANES]; PARTS];
    for (at, fours) in dealt.iter().enumerate() {
        for (reached, four) in reached.iter_mut().zip(fours) {
            let flag = |lane: usize| u32::from((four[lane] & i32::MAX) >= enough);
            *reached = from_fn(|lane| reached[lane] | flag(lane) << (at * LANES));
        }
    }
    reached
}

/// Merges words of which every fourth bit is used.
fn interleaved([a, b, c, d]: [u32; 4]) -> u32 {
    a | b << 1 | c << 2 | d << 3
}

#[inline(never)]
fn largest_of_few(row: &[f32], candidates: &[u32]) -> [u32; PROOF_TOPK] {
    // Empty slots are below everything.
    let mut ranks = [[-1i32; LANES]; FEW / LANES];
    for (slot, &index) in ranks.as_flattened_mut().iter_mut().zip(candidates) {
        *slot = rank(row[index as usize]) as i32;
    }
    let mut larger = [[0i32; LANES]; FEW / LANES];
    for &other in ranks.as_flattened().iter().take_while(|&&rank| rank >= 0) {
        for (count, own) in larger.iter_mut().zip(&ranks) {
            *count = from_fn(|lane| count[lane] + i32::from(other > own[lane]));
        }
    }
    let mut chosen = [0; FEW];
    let mut count = 0;
    for (&larger, &index) in larger.as_flattened().iter().zip(candidates) {
        chosen[count % FEW] = index;
        count += usize::from(larger < PROOF_TOPK as i32);
    }
    if count > PROOF_TOPK {
        return largest_of_many(row, &mut chosen[..count]);
    }
    *chosen.first_chunk().expect("it is longer")
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

    proptest! {
        #[test]
        fn they_are_those_of_a_sort_in_any_order_of_rows(rows in rows()) {
            let mut largest = Largest::new(rows[0].len());
            for row in &rows {
                prop_assert_eq!(largest.indices(row).to_vec(), by_sorting(row));
            }
        }
    }

    #[test]
    fn the_last_of_equal_ones_are_left_out() {
        for (length, large) in [(16, 0), (17, 3), (64, 15), (2_048, 7), (2_049, 16), (4_100, 12)] {
            let mut row = vec![-0.5; length];
            row[length - large..].fill(2.0);
            row[0] = 0.5;
            assert_eq!(Largest::new(length).indices(&row).to_vec(), by_sorting(&row), "{length}");
        }
    }
}
