//! The packed matrices that follow from parameters, and how an update of both is cut into tasks.

use std::ops::Range;

use crate::kernels::SharedMut;
use crate::math::f32_to_bf16;
use crate::packed::{PANEL, PackedMatrix, PanelsMut};
use crate::simd::{Operation, Simd};

/// Parameters of a task that has no panel to write.
const PLAIN: usize = 1 << 15;
/// Columns that are written to a panel at a time: their cache lines stay in L1 while all rows pass.
const COLUMNS: usize = 16;

/// A matrix `[n, k]` that the engine computes with, in both of its layouts.
#[derive(Debug)]
pub struct WeightCopy<'a> {
    /// The parameters, in order, that its rows are made of; each a whole number of rows.
    pub parts: Vec<Range<usize>>,
    /// `[n, k]`, rounded to bf16 where that is what it stores.
    pub packed: &'a mut PackedMatrix,
    /// Its transpose, of the same kind.
    pub transposed: &'a mut PackedMatrix,
}

/// Tasks that touch every parameter once and every panel of the copies once.
pub(super) struct Work<'a> {
    targets: Vec<Target<'a>>,
    /// The parameters of each row of each target.
    rows: Vec<Vec<usize>>,
    /// Target and panel.
    panels: Vec<(usize, usize)>,
    plain: Vec<Range<usize>>,
}

pub(super) enum Task<'a> {
    Panel { target: &'a Target<'a>, rows: Rows<'a> },
    Plain(Range<usize>),
}

impl<'a> Work<'a> {
    /// Cuts the update of `len` parameters and of `copies`.
    pub(super) fn new<'b>(len: usize, copies: &'a mut [WeightCopy<'b>]) -> Self
    where
        'b: 'a,
    {
        let plain = uncovered(len, copies).into_iter().flat_map(|range| {
            let end = range.end;
            range.step_by(PLAIN).map(move |start| start..end.min(start + PLAIN))
        });
        let plain = plain.collect();
        let (mut targets, mut rows, mut panels) = (Vec::new(), Vec::new(), Vec::new());
        for (idx, copy) in copies.iter_mut().enumerate() {
            let (n, k) = (copy.packed.n(), copy.packed.k());
            let starts: Vec<usize> =
                copy.parts.iter().flat_map(|part| part.clone().step_by(k.max(1))).collect();
            let whole = copy.parts.iter().all(|part| part.len().is_multiple_of(k.max(1)));
            assert!(whole && starts.len() == n, "a weight copy's parts are not [{n}, {k}]");
            let transposed = (copy.transposed.n(), copy.transposed.k());
            assert_eq!(transposed, (k, n), "a weight copy's transpose has another shape");
            targets.push(Target::new(n, k, copy.packed, copy.transposed));
            rows.push(starts);
            panels.extend((0..n.div_ceil(PANEL)).map(|panel| (idx, panel)));
        }
        Self { targets, rows, panels, plain }
    }

    pub(super) fn tasks(&self) -> usize {
        self.panels.len() + self.plain.len()
    }

    pub(super) fn task(&self, task: usize) -> Task<'_> {
        match self.panels.get(task) {
            Some(&(idx, panel)) => {
                let (target, starts) = (&self.targets[idx], &self.rows[idx]);
                let first = panel * PANEL;
                let starts = &starts[first..starts.len().min(first + PANEL)];
                Task::Panel { target, rows: Rows { first, starts, k: target.k } }
            }
            None => Task::Plain(self.plain[task - self.panels.len()].clone()),
        }
    }
}

/// Returns what of `0..len` is in no copy.
///
/// # Panics
/// If two parts overlap or one is out of bounds.
fn uncovered(len: usize, copies: &[WeightCopy<'_>]) -> Vec<Range<usize>> {
    let mut parts: Vec<_> = copies.iter().flat_map(|copy| copy.parts.iter().cloned()).collect();
    parts.sort_by_key(|part| part.start);
    let mut free = Vec::new();
    let mut end = 0;
    for part in parts {
        assert!(part.start >= end && part.end <= len, "the parts of weight copies overlap");
        free.push(end..part.start);
        end = end.max(part.end);
    }
    free.push(end..len);
    free
}

/// Some rows of a matrix, at most a panel's.
pub(super) struct Rows<'a> {
    /// Index of the first one; a multiple of [`PANEL`].
    first: usize,
    /// Where the parameters of each begin.
    starts: &'a [usize],
    k: usize,
}

impl Rows<'_> {
    /// The parameters of each row.
    pub(super) fn spans(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.iter().map(|&start| start..start + self.k)
    }
}

/// Both layouts of one matrix, to be written panel by panel.
pub(super) struct Target<'a> {
    n: usize,
    k: usize,
    panels: TargetPanels<'a>,
}

enum TargetPanels<'a> {
    F32 { packed: SharedMut<'a, f32>, transposed: SharedMut<'a, f32> },
    Bf16 { packed: SharedMut<'a, u16>, transposed: SharedMut<'a, u16> },
}

impl<'a> Target<'a> {
    fn new(
        n: usize,
        k: usize,
        packed: &'a mut PackedMatrix,
        transposed: &'a mut PackedMatrix,
    ) -> Self {
        let panels = match (packed.panels_mut(), transposed.panels_mut()) {
            (PanelsMut::F32(packed), PanelsMut::F32(transposed)) => TargetPanels::F32 {
                packed: SharedMut::new(packed),
                transposed: SharedMut::new(transposed),
            },
            (PanelsMut::Bf16(packed), PanelsMut::Bf16(transposed)) => TargetPanels::Bf16 {
                packed: SharedMut::new(packed),
                transposed: SharedMut::new(transposed),
            },
            _ => panic!("a weight copy and its transpose store different types"),
        };
        Self { n, k, panels }
    }
}

/// Writes some rows, whose values `values` gives by range, to both layouts.
pub(super) struct Store<'a, V> {
    pub(super) target: &'a Target<'a>,
    pub(super) rows: &'a Rows<'a>,
    pub(super) values: V,
}

impl<'v, V: Fn(Range<usize>) -> &'v [f32]> Operation for Store<'_, V> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match &self.target.panels {
            TargetPanels::F32 { packed, transposed } => self.store(packed, transposed),
            TargetPanels::Bf16 { packed, transposed } => self.store(packed, transposed),
        }
    }
}

impl<'v, V: Fn(Range<usize>) -> &'v [f32]> Store<'_, V> {
    #[inline(always)]
    fn store<T: Stored>(&self, packed: &SharedMut<'_, T>, transposed: &SharedMut<'_, T>) {
        let Target { n, k, .. } = *self.target;
        // SAFETY: `Work` gives each panel to one task.
        let panel = unsafe { packed.slice(self.rows.first * k, k * PANEL) };
        for columns in (0..k).step_by(PANEL) {
            let width = PANEL.min(k - columns);
            let mut block = [[T::default(); PANEL]; PANEL];
            let spans = self.rows.starts.iter().zip(&mut block).enumerate();
            for (offset, (&start, block)) in spans {
                let values = (self.values)(start + columns..start + columns + width);
                for (stored, &value) in block.iter_mut().zip(values) {
                    *stored = T::of(value);
                }
                // The rows of the matrix are the steps of the transpose's reduction.
                let at = columns * n + (self.rows.first + offset) * PANEL;
                // SAFETY: each row belongs to one task.
                let out = unsafe { transposed.slice(at, width) };
                out.copy_from_slice(&block[..width]);
            }
            let height = self.rows.starts.len();
            for part in (0..width).step_by(COLUMNS) {
                let outs = panel[(columns + part) * PANEL..].chunks_exact_mut(PANEL);
                for (column, out) in (part..width.min(part + COLUMNS)).zip(outs) {
                    for (out, block) in out[..height].iter_mut().zip(&block) {
                        *out = block[column];
                    }
                }
            }
        }
    }
}

/// What a packed matrix stores of a parameter.
trait Stored: Copy + Default {
    fn of(value: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
}

impl Stored for u16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        f32_to_bf16(value)
    }
}
