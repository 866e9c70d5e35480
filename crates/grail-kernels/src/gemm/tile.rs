//! The inner kernel of a matrix product: up to six rows by 64 columns, accumulated in registers.

use crate::packed::PANEL;
use crate::simd::{LANES, Operation, Simd};

/// Most rows of a tile: six of four vectors are 24 accumulators, of 32 AVX-512 registers.
pub(super) const HEIGHT: usize = 6;
/// Vectors of a panel.
const VECTORS: usize = PANEL / LANES;
const CACHE_LINE: usize = 64;

/// Rows of the reduction of one panel, 64 values each.
#[derive(Clone, Copy)]
pub(super) enum WeightRows<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

impl WeightRows<'_> {
    /// The share of tile `tile` of `tiles`, of `steps` steps each, in asking for these rows.
    pub(super) fn share(self, tile: usize, tiles: usize, steps: usize) -> Ahead {
        let (at, bytes) = match self {
            Self::F32(rows) => (rows.as_ptr().cast::<u8>(), size_of_val(rows)),
            Self::Bf16(rows) => (rows.as_ptr().cast(), size_of_val(rows)),
        };
        let stride = bytes.div_ceil(tiles * steps.max(1));
        Ahead { at: at.wrapping_add(tile * steps * stride), stride }
    }
}

/// The left operand of a tile: row `i`, step `k` is value `i * row_stride + k * step`.
#[derive(Clone, Copy)]
pub(super) struct TileInput<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) step: usize,
}

/// Weights to ask for during a tile: from `at`, `stride` bytes each step.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    stride: usize,
}

impl Ahead {
    pub(super) const NOTHING: Self = Self { at: std::ptr::null(), stride: 0 };
}

/// Continues the chains of up to six rows of one panel.
pub(super) struct Tile<'a> {
    pub(super) input: TileInput<'a>,
    pub(super) weights: WeightRows<'a>,
    pub(super) ahead: Ahead,
    /// Whether the chains begin at zero, or at what `sums` holds.
    pub(super) fresh: bool,
    /// `[rows, 64]`, at most six rows.
    pub(super) sums: &'a mut [f32],
}

impl Operation for Tile<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.weights {
            WeightRows::F32(weights) => self.run_with(simd, weights),
            WeightRows::Bf16(weights) => self.run_with(simd, weights),
        }
    }
}

/// A stored weight that widens to f32.
trait Weight: Copy {
    /// # Safety
    /// Sixteen values must be readable at `at`.
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F;
}

impl Weight for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { simd.load_ptr(at) }
    }
}

impl Weight for u16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, at: *const Self) -> S::F {
        // SAFETY: as the caller promises.
        unsafe { simd.load_bf16_ptr(at) }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn run_with<S: Simd, W: Weight>(self, simd: S, weights: &[W]) {
        match self.sums.len() / PANEL {
            1 => self.rows::<S, W, 1>(simd, weights),
            2 => self.rows::<S, W, 2>(simd, weights),
            3 => self.rows::<S, W, 3>(simd, weights),
            4 => self.rows::<S, W, 4>(simd, weights),
            5 => self.rows::<S, W, 5>(simd, weights),
            _ => self.rows::<S, W, 6>(simd, weights),
        }
    }

    /// With as many chains at once as registers hold.
    #[inline(always)]
    fn rows<S: Simd, W: Weight, const ROWS: usize>(self, simd: S, weights: &[W]) {
        let Self { input, ahead, fresh, sums, .. } = self;
        let steps = weights.len() / PANEL;
        assert!(sums.len() == ROWS * PANEL, "gemm: a tile of {} sums", sums.len());
        if steps > 0 {
            let last = (ROWS - 1) * input.row_stride + (steps - 1) * input.step;
            assert!(last < input.data.len(), "gemm: a tile reads beyond its input");
        }
        let (input_at, weights) = (input.data.as_ptr(), weights.as_ptr());
        let chains = Chains {
            input: input_at,
            row_stride: input.row_stride,
            step: input.step,
            weights,
            steps,
            fresh,
        };
        // SAFETY: the assertions above, and `weights` holds `steps` rows of a panel.
        unsafe {
            if S::WIDE || ROWS == 1 {
                chains.advance::<S, ROWS, VECTORS>(simd, sums, 0, ahead);
            } else if ROWS <= 3 {
                for first in [0, 2] {
                    let ahead = if first == 0 { ahead } else { Ahead::NOTHING };
                    chains.advance::<S, ROWS, 2>(simd, sums, first, ahead);
                }
            } else {
                for first in 0..VECTORS {
                    let ahead = if first == 0 { ahead } else { Ahead::NOTHING };
                    chains.advance::<S, ROWS, 1>(simd, sums, first, ahead);
                }
            }
        }
    }
}

/// What the chains of a tile read.
struct Chains<W> {
    input: *const f32,
    row_stride: usize,
    step: usize,
    weights: *const W,
    steps: usize,
    fresh: bool,
}

impl<W: Weight> Chains<W> {
    /// Continues the chains of `ROWS x COUNT` vectors, columns `first * 16 ..` of the panel.
    ///
    /// # Safety
    /// `first + COUNT` must not exceed [`VECTORS`], the weights must have `steps` rows of a panel,
    /// the input `ROWS` rows and `steps` steps, and `sums` `ROWS` rows of a panel.
    #[inline(always)]
    unsafe fn advance<S: Simd, const ROWS: usize, const COUNT: usize>(
        &self,
        simd: S,
        sums: &mut [f32],
        first: usize,
        mut ahead: Ahead,
    ) {
        let mut chains = [[simd.splat(0.0); COUNT]; ROWS];
        if !self.fresh {
            for (row, chains) in chains.iter_mut().enumerate() {
                for (vector, chain) in chains.iter_mut().enumerate() {
                    let at = row * PANEL + (first + vector) * LANES;
                    // SAFETY: as the caller promises.
                    *chain = unsafe { simd.load_ptr(sums.as_ptr().add(at)) };
                }
            }
        }
        for k in 0..self.steps {
            let mut line = 0;
            while line < ahead.stride {
                simd.prefetch(ahead.at.wrapping_add(line));
                line += CACHE_LINE;
            }
            ahead.at = ahead.at.wrapping_add(ahead.stride);
            let mut weight = [simd.splat(0.0); COUNT];
            for (vector, weight) in weight.iter_mut().enumerate() {
                let at = k * PANEL + (first + vector) * LANES;
                // SAFETY: as the caller promises.
                *weight = unsafe { W::load(simd, self.weights.add(at)) };
            }
            for (row, chains) in chains.iter_mut().enumerate() {
                // SAFETY: as the caller promises.
                let x = unsafe { *self.input.add(row * self.row_stride + k * self.step) };
                let x = simd.splat(x);
                for (chain, &weight) in chains.iter_mut().zip(&weight) {
                    *chain = simd.fma(x, weight, *chain);
                }
            }
        }
        for (row, chains) in chains.iter().enumerate() {
            for (vector, &chain) in chains.iter().enumerate() {
                let at = row * PANEL + (first + vector) * LANES;
                // SAFETY: as the caller promises.
                unsafe { simd.store_ptr(chain, sums.as_mut_ptr().add(at)) };
            }
        }
    }
}
