//! Rotary position embedding in the half-split layout of Hugging Face models.

use crate::kernels::{Kernels, SharedMut};
use crate::math::{cos_sin, pow_f64};
use crate::simd::{LANES, Operation, Simd};

/// Cosines and sines of every angle a model can need.
///
/// The angle of position `p` and pair `i` is `p * theta^(-2 i / head_dim)`, computed in f64 and
/// rounded to f32 once, after the cosine.
#[derive(Clone, Debug)]
pub struct RopeTable {
    half: usize,
    positions: usize,
    /// `[positions, half]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Which way to rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the angle, as the model does.
    Forward,
    /// By minus the angle, as its gradient does.
    Backward,
}

impl RopeTable {
    /// Fills a table for positions `0..max_positions`.
    ///
    /// # Panics
    /// If `head_dim` is odd or zero, `theta` is not at least 1, or `max_positions` exceeds a million.
    pub fn new(head_dim: usize, theta: f64, max_positions: usize) -> Self {
        assert!(theta >= 1.0, "rope: theta {theta} is below 1");
        let exponent = |pair: usize| -((2 * pair) as f64 / head_dim as f64);
        let frequencies: Vec<f64> =
            (0..head_dim / 2).map(|pair| pow_f64(theta, exponent(pair))).collect();
        Self::from_frequencies(head_dim, &frequencies, 1.0, max_positions)
    }

    /// As [`RopeTable::new`] with the angle per position of each pair given, for scaled variants.
    /// Cosines and sines are multiplied by `scale` in f64, before they are rounded.
    ///
    /// # Panics
    /// If there are not `head_dim / 2` frequencies in `[0, 1]`, `scale` is not a normal positive f32,
    /// or as for `new`.
    pub fn from_frequencies(
        head_dim: usize,
        frequencies: &[f64],
        scale: f64,
        max_positions: usize,
    ) -> Self {
        assert!(
            head_dim > 0 && head_dim.is_multiple_of(2),
            "rope: head_dim {head_dim} is not even"
        );
        assert!(max_positions <= 1_000_000, "rope: {max_positions} positions are over a million");
        let half = head_dim / 2;
        let in_range = frequencies.iter().all(|frequency| (0.0..=1.0).contains(frequency));
        assert!(
            frequencies.len() == half && in_range,
            "rope: {half} frequencies in [0, 1] expected"
        );
        assert!(scale > 0.0 && (scale as f32).is_normal(), "rope: scale {scale} is no normal f32");
        let mut table = Self {
            half,
            positions: max_positions,
            cos: Vec::with_capacity(max_positions * half),
            sin: Vec::with_capacity(max_positions * half),
        };
        for position in 0..max_positions {
            for frequency in frequencies {
                let (cos, sin) = cos_sin(position as f64 * frequency);
                table.cos.push((cos * scale) as f32);
                table.sin.push((sin * scale) as f32);
            }
        }
        table
    }

    /// The `head_dim` this table was made for.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }

    /// One more than the largest position.
    pub fn max_positions(&self) -> usize {
        self.positions
    }

    /// The (cosines, sines) of a position, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// If the table ends before `position`.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        assert!(position < self.positions, "rope: position {position} of {}", self.positions);
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

impl Kernels {
    /// Rotates `x`, `[rows, heads, head_dim]`, in place; row `r` by the angles of `positions[r]`.
    ///
    /// With `a` and `b` the first and second half of a head:
    /// `(a cos - b sin, b cos + a sin)` forward, `(a cos + b sin, b cos - a sin)` backward, each of
    /// the three operations rounded.
    ///
    /// # Panics
    /// If a shape does not fit, or a position is beyond the table.
    pub fn rope(
        &self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: &RopeTable,
        direction: Direction,
    ) {
        let width = heads * head_dim;
        assert_eq!(head_dim, table.head_dim(), "rope: the table is for another head_dim");
        assert_eq!(x.len(), positions.len() * width, "rope: x is not [rows, heads, head_dim]");
        let x = SharedMut::new(x);
        self.for_ranges(positions.len(), width, 1, &|range| {
            for row in range {
                let (cos, sin) = table.at(positions[row] as usize);
                // SAFETY: each row belongs to one task.
                let row = unsafe { x.slice(row * width, width) };
                self.run(RotateRow { row, cos, sin, direction });
            }
        });
    }
}

struct RotateRow<'a> {
    row: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    direction: Direction,
}

impl Operation for RotateRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.cos.len();
        for head in self.row.chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for start in (0..half).step_by(LANES) {
                let range = start..half.min(start + LANES);
                let cos = simd.load_part(&self.cos[range.clone()], 0.0);
                let sin = simd.load_part(&self.sin[range.clone()], 0.0);
                // Rounding is symmetric, so negating the sine equals swapping the signs above.
                let sin = if self.direction == Direction::Forward { sin } else { simd.neg(sin) };
                let a = simd.load_part(&first[range.clone()], 0.0);
                let b = simd.load_part(&second[range.clone()], 0.0);
                let rotated_a = simd.sub(simd.mul(a, cos), simd.mul(b, sin));
                let rotated_b = simd.add(simd.mul(b, cos), simd.mul(a, sin));
                simd.store_part(rotated_a, &mut first[range.clone()]);
                simd.store_part(rotated_b, &mut second[range]);
            }
        }
    }
}
