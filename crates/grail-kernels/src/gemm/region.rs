//! One task of a product: which weights meet which rows, in which order.

use super::MatRef;
use super::finish::{BeginPanel, FinishPanel, Place, To};
use super::tile::{Ahead, HEIGHT, Tile, TileInput, WeightRows};
use crate::gate::GateFunction;
use crate::kernels::{Kernels, SharedMut};
use crate::packed::{PANEL, PackedMatrix, Panels};
use std::cell::RefCell;
use std::ops::Range;

/// Most reduction steps per block: a panel's 256 KiB of bf16 then stay in L2 beside the next ones,
/// and the tiles after the first find them there.
const K_BLOCK: usize = 2048;
/// The same where rows are copied first, all of a block's at once.
const COPIED_K_BLOCK: usize = 512;

/// A matrix, or a rectangle of it, as a product uses it.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    panels: Panels<'a>,
    n: usize,
    k: usize,
    /// Of the matrix: where the rectangle begins, and the steps of a whole panel.
    first_panel: usize,
    first_step: usize,
    panel_steps: usize,
    bias: Option<&'a [f32]>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(what: &str, matrix: &'a PackedMatrix, bias: Option<&'a [f32]>) -> Self {
        let (n, k) = (matrix.n(), matrix.k());
        let fits = bias.is_none_or(|bias| bias.len() == n);
        assert!(fits, "{what}: the bias must have n = {n} values");
        let panels = matrix.panels();
        Self { panels, n, k, first_panel: 0, first_step: 0, panel_steps: k, bias }
    }

    /// The rectangle of `columns`, whose start is a multiple of 64, and `steps`.
    pub(super) fn part(
        what: &str,
        matrix: &'a PackedMatrix,
        columns: Range<usize>,
        steps: Range<usize>,
    ) -> Self {
        let inside = columns.start <= columns.end && columns.end <= matrix.n();
        assert!(
            inside && columns.start.is_multiple_of(PANEL),
            "{what}: columns {columns:?} of {matrix:?}"
        );
        let inside = steps.start <= steps.end && steps.end <= matrix.k();
        assert!(inside, "{what}: steps {steps:?} of {matrix:?}");
        Self {
            n: columns.len(),
            k: steps.len(),
            first_panel: columns.start / PANEL,
            first_step: steps.start,
            ..Self::new(what, matrix, None)
        }
    }

    /// The steps `steps` of the reduction of a panel.
    fn rows(&self, panel: usize, steps: Range<usize>) -> WeightRows<'a> {
        let first = (self.first_panel + panel) * self.panel_steps + self.first_step;
        let values = (first + steps.start) * PANEL..(first + steps.end) * PANEL;
        match self.panels {
            Panels::F32(all) => WeightRows::F32(&all[values]),
            Panels::Bf16(all) => WeightRows::Bf16(&all[values]),
        }
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Steps of each block but the last: nearly equal blocks, so that each leaves as much time to
    /// fetch the next.
    fn block_steps(&self) -> usize {
        self.k.div_ceil(self.k.div_ceil(K_BLOCK).max(1)).max(1)
    }

    /// The steps of the block from `start` on.
    fn block(&self, start: usize) -> Range<usize> {
        start..self.k.min(start + self.block_steps())
    }
}

/// What becomes of a chain. Buffers are `[m, n]`.
pub(super) enum Finish<'a> {
    /// It is the result.
    Write { c: SharedMut<'a, f32> },
    /// It is the result, and begins at what the buffer holds.
    Continue { c: SharedMut<'a, f32> },
    /// It is added to the result.
    Add { c: SharedMut<'a, f32> },
    /// The function of it times the same element of the product with `up` is the result.
    Gate {
        function: GateFunction,
        up: Weights<'a>,
        gated: SharedMut<'a, f32>,
        /// Receive both.
        kept: Option<(SharedMut<'a, f32>, SharedMut<'a, f32>)>,
    },
}

/// One matrix of a product, and what becomes of its results.
pub(super) struct Part<'a> {
    pub(super) weights: Weights<'a>,
    pub(super) finish: Finish<'a>,
}

impl Part<'_> {
    pub(super) fn k(&self) -> usize {
        self.weights.k
    }

    pub(super) fn panels(&self) -> usize {
        self.weights.panels()
    }

    /// Columns to compute.
    pub(super) fn columns(&self) -> usize {
        match self.finish {
            Finish::Gate { .. } => 2 * self.weights.n,
            _ => self.weights.n,
        }
    }
}

pub(super) struct Product<'a> {
    pub(super) a: MatRef<'a>,
    pub(super) parts: &'a [Part<'a>],
}

impl<'a> Product<'a> {
    /// The part that panel number `panel` of all belongs to, and its number there.
    fn locate(&self, mut panel: usize) -> Option<(&'a Part<'a>, usize)> {
        for part in self.parts {
            if panel < part.panels() {
                return Some((part, panel));
            }
            panel -= part.panels();
        }
        None
    }
}

thread_local! {
    /// Chains of a panel, then gates that wait for their other half, `[rows, 64]` each. Kept, so
    /// that a product allocates nothing.
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Copied rows. Kept likewise.
    static COPIES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// One task: a block of output rows and a run of panels, numbered through all parts.
pub(super) struct Region<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) product: &'a Product<'a>,
    pub(super) rows: Range<usize>,
    pub(super) panels: Range<usize>,
    /// Which of how many tasks with the same panels this is. Together they fetch what follows.
    pub(super) turn: (usize, usize),
    /// Weights, and a panel of them, that are needed after the last panel.
    pub(super) then: Option<(Weights<'a>, usize)>,
}

/// What a pass over a panel fetches for the one after it.
#[derive(Clone, Copy)]
struct Next<'a> {
    weights: Option<(&'a Weights<'a>, usize)>,
    turn: (usize, usize),
}

impl Region<'_> {
    pub(super) fn run(&self) {
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let mut room = ROOM.take();
        let len = self.rows.len() * PANEL;
        if room.len() < 2 * len {
            room.resize(2 * len, 0.0);
        }
        let (sums, gates) = room.split_at_mut(len);
        if self.product.a.col_stride == 1 {
            self.run_direct(sums, &mut gates[..len]);
        } else {
            let mut copies = COPIES.take();
            self.run_copied(sums, &mut copies);
            COPIES.set(copies);
        }
        ROOM.set(room);
    }

    /// Panel by panel, all of the reduction: the weights stream by once, in order.
    fn run_direct(&self, sums: &mut [f32], gates: &mut [f32]) {
        for number in self.panels.clone() {
            let Some((part, panel)) = self.product.locate(number) else { return };
            let then = self.then.as_ref().map(|(weights, panel)| (weights, *panel));
            let (next, turn) = match then.filter(|_| number + 1 == self.panels.end) {
                Some(then) => (Some(then), (0, 1)),
                None => {
                    let next = self.product.locate(number + 1);
                    (next.map(|(part, panel)| (&part.weights, panel)), self.turn)
                }
            };
            let next = Next { weights: next, turn };
            let weights = &part.weights;
            let place = self.place(weights.n, panel);
            let (bias, gate_bias, to) = match &part.finish {
                Finish::Write { c } => {
                    self.chains(weights, panel, next, sums, true);
                    (weights.bias, None, To::Write(*c))
                }
                Finish::Continue { c } => {
                    self.kernels.run(BeginPanel { sums, place, from: *c });
                    self.chains(weights, panel, next, sums, false);
                    (weights.bias, None, To::Write(*c))
                }
                Finish::Add { c } => {
                    self.chains(weights, panel, next, sums, true);
                    (weights.bias, None, To::Add(*c))
                }
                Finish::Gate { function, up, gated, kept } => {
                    let other_half = Next { weights: Some((up, panel)), turn: self.turn };
                    self.chains(weights, panel, other_half, gates, true);
                    self.chains(up, panel, next, sums, true);
                    (up.bias, weights.bias, To::Gated(*function, *gated, *kept))
                }
            };
            self.kernels.run(FinishPanel { sums, gates, bias, gate_bias, place, to });
        }
    }

    fn place(&self, n: usize, panel: usize) -> Place {
        Place { first_row: self.rows.start, column: panel * PANEL, n }
    }

    /// Computes the chains of a panel in `sums`, `[rows, 64]`, from zero or from what they are.
    /// Meanwhile the weights that are needed `next` are asked for.
    fn chains(
        &self,
        weights: &Weights<'_>,
        panel: usize,
        next: Next<'_>,
        sums: &mut [f32],
        fresh: bool,
    ) {
        let (a, k) = (self.product.a, weights.k);
        let tiles = Tiles { rows: self.rows.len() };
        // Without steps, too, fresh chains must become zero: one block.
        for start in (0..k.max(1)).step_by(weights.block_steps()) {
            let steps = weights.block(start);
            let (following, (turn, turns)) = if steps.end < k {
                (Some(weights.rows(panel, weights.block(steps.end))), (0, 1))
            } else {
                (next.weights.map(|(next, panel)| next.rows(panel, next.block(0))), next.turn)
            };
            for (index, (first, height)) in tiles.iter().enumerate() {
                let at = (self.rows.start + first) * a.row_stride + start;
                self.kernels.run(Tile {
                    input: TileInput {
                        // Empty only where there are no steps.
                        data: a.data.get(at..).unwrap_or_default(),
                        row_stride: a.row_stride,
                        step: 1,
                    },
                    weights: weights.rows(panel, steps.clone()),
                    ahead: following.map_or(Ahead::NOTHING, |following| {
                        let tile = turn * tiles.count() + index;
                        following.share(tile, turns * tiles.count(), steps.len())
                    }),
                    fresh: fresh && start == 0,
                    sums: &mut sums[first * PANEL..][..height * PANEL],
                });
            }
        }
    }

    /// Block by block of the reduction, each with its rows copied to where tiles find them side by
    /// side. Only [`Kernels::gemm`] has such operands; it writes or continues.
    fn run_copied(&self, sums: &mut [f32], copies: &mut Vec<f32>) {
        let [part] = self.product.parts else { return };
        let weights = &part.weights;
        let (c, fresh) = match part.finish {
            Finish::Write { c } => (c, true),
            Finish::Continue { c } => (c, false),
            Finish::Add { .. } | Finish::Gate { .. } => return,
        };
        let tiles = Tiles { rows: self.rows.len() };
        for start in (0..weights.k.max(1)).step_by(COPIED_K_BLOCK) {
            let steps = start..weights.k.min(start + COPIED_K_BLOCK);
            let last = steps.end == weights.k;
            tiles.copy(self.product.a, self.rows.start, steps.clone(), copies);
            for panel in self.panels.clone() {
                let place = self.place(weights.n, panel);
                let fresh = fresh && start == 0;
                if !fresh {
                    self.kernels.run(BeginPanel { sums, place, from: c });
                }
                for (first, height) in tiles.iter() {
                    self.kernels.run(Tile {
                        input: TileInput {
                            data: &copies[first * steps.len()..],
                            row_stride: 1,
                            step: height,
                        },
                        weights: weights.rows(panel, steps.clone()),
                        ahead: Ahead::NOTHING,
                        fresh,
                        sums: &mut sums[first * PANEL..][..height * PANEL],
                    });
                }
                let bias = if last { weights.bias } else { None };
                let to = To::Write(c);
                self.kernels.run(FinishPanel {
                    sums,
                    gates: &[],
                    bias,
                    gate_bias: None,
                    place,
                    to,
                });
            }
        }
    }
}

/// A block of rows cut into tiles of nearly equal height, at most six.
#[derive(Clone, Copy)]
struct Tiles {
    rows: usize,
}

impl Tiles {
    fn count(self) -> usize {
        self.rows.div_ceil(HEIGHT)
    }

    /// The (first row, height) of each tile.
    fn iter(self) -> impl Iterator<Item = (usize, usize)> {
        let count = self.count();
        (0..count).map(move |tile| {
            let start = tile * self.rows / count;
            (start, (tile + 1) * self.rows / count - start)
        })
    }

    /// Copies steps of `a` so that the rows of a tile are neighbours for each step.
    fn copy(self, a: MatRef<'_>, first_row: usize, steps: Range<usize>, out: &mut Vec<f32>) {
        out.resize(self.rows * steps.len(), 0.0);
        for (first, height) in self.iter() {
            let out = &mut out[first * steps.len()..][..height * steps.len()];
            let row = first_row + first;
            match height {
                6 => copy_tile::<6>(a, row, steps.start, out),
                5 => copy_tile::<5>(a, row, steps.start, out),
                4 => copy_tile::<4>(a, row, steps.start, out),
                3 => copy_tile::<3>(a, row, steps.start, out),
                2 => copy_tile::<2>(a, row, steps.start, out),
                _ => copy_tile::<1>(a, row, steps.start, out),
            }
        }
    }
}

/// Copies `ROWS` rows of `a` from (`row`, `start`), step by step, until `out` is full.
fn copy_tile<const ROWS: usize>(a: MatRef<'_>, row: usize, start: usize, out: &mut [f32]) {
    for (k, out) in out.chunks_exact_mut(ROWS).enumerate() {
        let source = &a.data[row * a.row_stride + (start + k) * a.col_stride..];
        match source.first_chunk::<ROWS>() {
            // A transposed view: the rows are neighbours already.
            Some(neighbours) if a.row_stride == 1 => out.copy_from_slice(neighbours),
            _ => {
                for (row, out) in out.iter_mut().enumerate() {
                    *out = source[row * a.row_stride];
                }
            }
        }
    }
}
