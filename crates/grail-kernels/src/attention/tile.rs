//! The two inner loops of attention: a few chains, held in registers, continued together.
//!
//! A *line* is one output row (a query row of one head, or a position of a key gradient). Lines that
//! meet the same keys or values are taken up to six at a time, so that each load serves six chains.
//! No chain is ever split, so no choice made here can change a bit.

use super::BLOCK;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Most lines of a tile: with four vectors, 24 accumulators of 32 AVX-512 registers.
pub(super) const LINES_MAX: usize = 6;

/// Tiles of at most so many lines wait for memory, not for arithmetic: they ask for what comes next.
const LINES_WAITING: usize = 3;

/// Cuts `lines` into tiles of nearly equal height, at most [`LINES_MAX`].
pub(super) fn tiles(lines: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (start, len) = (lines.start, lines.len());
    let count = len.div_ceil(LINES_MAX);
    (0..count).map(move |tile| start + tile * len / count..start + (tile + 1) * len / count)
}

/// How many vectors to take at once of the `rest` of a row. Only a single one may be partial.
#[inline(always)]
pub(super) fn vectors<S: Simd>(rest: usize) -> usize {
    if S::WIDE && rest >= 4 * LANES {
        4
    } else if S::WIDE && rest >= 2 * LANES {
        2
    } else {
        1
    }
}

/// How many blocks of keys to take at once of the `rest` of a run.
#[inline(always)]
pub(super) fn blocks<S: Simd>(rest: usize) -> usize {
    if S::WIDE { rest.min(4) } else { 1 }
}

/// The chains over `steps` of every line of `x` with every position of the blocks: step `d` of
/// position `j` of a block is at `d * 16 + j`. The blocks at `ahead`, which need not be readable,
/// are those that will be needed soon.
///
/// # Safety
/// `steps` values must be readable at each of `x`, and `16 * steps` at each of `columns`.
#[inline(always)]
pub(super) unsafe fn products<S: Simd, const LINES: usize, const BLOCKS: usize>(
    simd: S,
    x: [*const f32; LINES],
    columns: [*const f32; BLOCKS],
    ahead: [*const f32; BLOCKS],
    steps: usize,
) -> [[S::F; BLOCKS]; LINES] {
    let mut sums = [[simd.splat(0.0); BLOCKS]; LINES];
    for step in 0..steps {
        let mut column = [simd.splat(0.0); BLOCKS];
        for (column, columns) in column.iter_mut().zip(columns) {
            // SAFETY: as the caller promises.
            *column = unsafe { simd.load_ptr(columns.add(step * BLOCK)) };
        }
        if LINES <= LINES_WAITING {
            for ahead in ahead {
                simd.prefetch(ahead.wrapping_add(step * BLOCK).cast());
            }
        }
        for (sums, x) in sums.iter_mut().zip(x) {
            // SAFETY: as the caller promises.
            let x = simd.splat(unsafe { *x.add(step) });
            for (sum, &column) in sums.iter_mut().zip(&column) {
                *sum = simd.fma(x, column, *sum);
            }
        }
    }
    sums
}

/// Weighted rows to add up: row `i` begins at `values + i * stride`, and its weight for a line is at
/// `weights[line] + i * weight_stride`.
#[derive(Clone, Copy)]
pub(super) struct Terms<const LINES: usize> {
    pub(super) weights: [*const f32; LINES],
    pub(super) weight_stride: usize,
    pub(super) values: *const f32,
    /// Where the rows that will be needed soon begin; need not be readable.
    pub(super) ahead: *const f32,
    pub(super) stride: usize,
    pub(super) count: usize,
}

/// Continues the chains of `LINES x VECTORS` vectors by `terms`; of each row the first `width`
/// values are taken.
///
/// # Safety
/// The weights and the first `width` values of every row must be readable. `width` must be
/// `16 * VECTORS`, or less than 16 with one vector.
#[inline(always)]
pub(super) unsafe fn accumulate<S: Simd, const LINES: usize, const VECTORS: usize>(
    simd: S,
    terms: Terms<LINES>,
    width: usize,
    sums: &mut [[S::F; VECTORS]; LINES],
) {
    if width < LANES {
        // SAFETY: as the caller promises.
        return unsafe { accumulate_part(simd, terms, width, sums) };
    }
    for row in 0..terms.count {
        let mut value = [simd.splat(0.0); VECTORS];
        for (vector, value) in value.iter_mut().enumerate() {
            let at = row * terms.stride + vector * LANES;
            // SAFETY: as the caller promises.
            *value = unsafe { simd.load_ptr(terms.values.add(at)) };
            if LINES <= LINES_WAITING {
                simd.prefetch(terms.ahead.wrapping_add(at).cast());
            }
        }
        for (sums, weight) in sums.iter_mut().zip(terms.weights) {
            // SAFETY: as the caller promises.
            let weight = simd.splat(unsafe { *weight.add(row * terms.weight_stride) });
            for (sum, &value) in sums.iter_mut().zip(&value) {
                *sum = simd.fma(weight, value, *sum);
            }
        }
    }
}

/// As [`accumulate`] for rows of less than one vector.
///
/// # Safety
/// The weights and the first `width` values of every row must be readable.
#[inline(always)]
unsafe fn accumulate_part<S: Simd, const LINES: usize, const VECTORS: usize>(
    simd: S,
    terms: Terms<LINES>,
    width: usize,
    sums: &mut [[S::F; VECTORS]; LINES],
) {
    for row in 0..terms.count {
        // SAFETY: as the caller promises.
        let value =
            unsafe { std::slice::from_raw_parts(terms.values.add(row * terms.stride), width) };
        let value = simd.load_part(value, 0.0);
        for (sums, weight) in sums.iter_mut().zip(terms.weights) {
            // SAFETY: as the caller promises.
            let weight = simd.splat(unsafe { *weight.add(row * terms.weight_stride) });
            sums[0] = simd.fma(weight, value, sums[0]);
        }
    }
}

/// Loads a row of at most `16 * VECTORS` values; the lanes beyond are zero.
#[inline(always)]
pub(super) fn load<S: Simd, const VECTORS: usize>(simd: S, x: &[f32]) -> [S::F; VECTORS] {
    let mut out = [simd.splat(0.0); VECTORS];
    for (out, x) in out.iter_mut().zip(x.chunks(LANES)) {
        *out = simd.load_part(x, 0.0);
    }
    out
}

/// Stores the first `x.len()` values.
#[inline(always)]
pub(super) fn store<S: Simd, const VECTORS: usize>(simd: S, a: &[S::F; VECTORS], x: &mut [f32]) {
    for (&a, x) in a.iter().zip(x.chunks_mut(LANES)) {
        simd.store_part(a, x);
    }
}

/// Cuts what the lines of a tile see of `whole` into (lines, span) pieces: the span that all see,
/// and before and after it what each line sees alone. Each line meets its spans in ascending order.
pub(super) fn pieces(
    whole: Range<usize>,
    lines: Range<usize>,
    seen: impl Fn(usize) -> Range<usize> + Copy,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let both = |a: Range<usize>, b: Range<usize>| a.start.max(b.start)..a.end.min(b.end);
    let all = lines.clone().map(seen).fold(whole.clone(), both);
    // Without a common span, every line takes all it sees before an empty one.
    let all = if all.is_empty() { whole.end..whole.end } else { all };
    let alone = move |part: Range<usize>| {
        move |line: usize| (line..line + 1, both(part.clone(), seen(line)))
    };
    let before = lines.clone().map(alone(whole.start..all.start));
    let after = lines.clone().map(alone(all.end..whole.end));
    before.chain(std::iter::once((lines, all))).chain(after).filter(|(_, span)| !span.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_lines_and_are_even() {
        for len in 0..40 {
            let cut: Vec<Range<usize>> = tiles(5..5 + len).collect();
            let mut next = 5;
            for tile in &cut {
                assert_eq!(tile.start, next);
                next = tile.end;
            }
            assert_eq!(next, 5 + len);
            let heights = || cut.iter().map(Range::len);
            assert!(heights().all(|height| (1..=LINES_MAX).contains(&height)), "{cut:?}");
            assert!(heights().max().unwrap_or(0) <= heights().min().unwrap_or(0) + 1, "{cut:?}");
        }
    }

    #[test]
    fn pieces_are_what_the_lines_see_in_order() {
        let seen = [0..9, 2..9, 4..12, 3..11];
        let of = |whole: Range<usize>, lines: Range<usize>| -> Vec<_> {
            pieces(whole, lines, |line| seen[line].clone()).collect()
        };
        assert_eq!(
            of(1..20, 0..3),
            [(0..1, 1..4), (1..2, 2..4), (0..3, 4..9), (2..3, 9..12)],
            "a common span"
        );
        assert_eq!(of(9..20, 1..4), [(2..3, 9..12), (3..4, 9..11)], "none");
        assert_eq!(of(5..8, 0..4), [(0..4, 5..8)], "nothing else");
        assert_eq!(of(14..20, 0..4), []);
    }
}
