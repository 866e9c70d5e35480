//! Weights laid out for the matrix kernels: panels of 64 columns, read front to back.
//!
//! Panel `p` holds output columns `64 p .. 64 p + 64`; inside it, the 64 values of one `k` are
//! neighbours. The last panel is padded with zeros, which no result can see.

use crate::kernels::{Kernels, SharedMut};
use crate::memory::{Buffer, Plain};

/// Columns of a panel: four vectors of sixteen.
pub(crate) const PANEL: usize = 64;

/// A matrix `[n, k]` (outputs x inputs, as in a checkpoint), packed once and multiplied often.
#[derive(Clone)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    data: Data,
}

#[derive(Clone)]
enum Data {
    F32(Buffer<f32>),
    Bf16(Buffer<u16>),
}

/// Where the kernels find the panels.
#[derive(Clone, Copy)]
pub(crate) enum Panels<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// The panels, to be written.
pub(crate) enum PanelsMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [u16]),
}

impl PackedMatrix {
    /// Packs `weights`, `[n, k]` row-major.
    ///
    /// # Panics
    /// If `weights.len() != n * k`.
    pub fn pack_f32(n: usize, k: usize, weights: &[f32]) -> Self {
        Self { n, k, data: Data::F32(pack_rows(n, k, weights)) }
    }

    /// Packs bf16 bits, `[n, k]` row-major. They stay bf16 and are widened (exactly) in the kernel.
    ///
    /// # Panics
    /// If `weights.len() != n * k`.
    pub fn pack_bf16(n: usize, k: usize, weights: &[u16]) -> Self {
        Self { n, k, data: Data::Bf16(pack_rows(n, k, weights)) }
    }

    /// Output columns (rows of the checkpoint's matrix).
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of the reduction.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Memory held, in bytes, padding included.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(panels) => size_of_val(&**panels),
            Data::Bf16(panels) => size_of_val(&**panels),
        }
    }

    /// Copies row `row` of the `[n, k]` matrix into `out` (`[k]`), widened to f32.
    ///
    /// # Panics
    /// If `row >= n` or `out.len() != k`.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "unpack_row: row {row} of {}", self.n);
        assert_eq!(out.len(), self.k, "unpack_row: {} values for k = {}", out.len(), self.k);
        let start = row / PANEL * self.k * PANEL + row % PANEL;
        match self.panels() {
            Panels::F32(packed) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = packed[start + k * PANEL];
                }
            }
            Panels::Bf16(packed) => {
                for (k, out) in out.iter_mut().enumerate() {
                    *out = widen(packed[start + k * PANEL]);
                }
            }
        }
    }

    /// Packs the transpose, `[k, n]` as a checkpoint would hold it: the matrix of `dx = dy W`.
    pub fn transposed(&self) -> Self {
        let (n, k) = (self.k, self.n);
        let data = match self.panels() {
            Panels::F32(packed) => Data::F32(transpose(self.n, self.k, packed)),
            Panels::Bf16(packed) => Data::Bf16(transpose(self.n, self.k, packed)),
        };
        Self { n, k, data }
    }

    pub(crate) fn panels_mut(&mut self) -> PanelsMut<'_> {
        match &mut self.data {
            Data::F32(panels) => PanelsMut::F32(panels),
            Data::Bf16(panels) => PanelsMut::Bf16(panels),
        }
    }

    pub(crate) fn panels(&self) -> Panels<'_> {
        match &self.data {
            Data::F32(panels) => Panels::F32(panels),
            Data::Bf16(panels) => Panels::Bf16(panels),
        }
    }
}

impl Default for PackedMatrix {
    /// The empty matrix.
    fn default() -> Self {
        Self { n: 0, k: 0, data: Data::F32(Buffer::default()) }
    }
}

impl Kernels {
    /// Packs `b`, `[k, n]` row-major, into `packed`: the right operand of `c = a b`, as weight
    /// gradients need it. The memory of `packed` is used again where the shape is the same.
    ///
    /// # Panics
    /// If `b.len() != k * n`.
    pub fn pack_columns(&self, k: usize, n: usize, b: &[f32], packed: &mut PackedMatrix) {
        assert_eq!(b.len(), k * n, "pack_columns: {} values for [{k}, {n}]", b.len());
        let same = (packed.n, packed.k) == (n, k);
        let mut panels = match std::mem::take(packed).data {
            Data::F32(panels) if same => panels,
            _ => zeroed(n, k),
        };
        let out = SharedMut::new(&mut panels);
        self.for_ranges(n.div_ceil(PANEL), k * PANEL, 1, &|panels| {
            for panel in panels {
                let columns = panel * PANEL..n.min((panel + 1) * PANEL);
                // SAFETY: each panel belongs to one task.
                let rows = unsafe { out.slice(panel * k * PANEL, k * PANEL) };
                for (row, b) in rows.chunks_exact_mut(PANEL).zip(b.chunks_exact(n)) {
                    row[..columns.len()].copy_from_slice(&b[columns.clone()]);
                }
            }
        });
        *packed = PackedMatrix { n, k, data: Data::F32(panels) };
    }
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dtype = match self.data {
            Data::F32(_) => "f32",
            Data::Bf16(_) => "bf16",
        };
        write!(f, "PackedMatrix([{}, {}], {dtype})", self.n, self.k)
    }
}

/// The f32 of a bf16: the same number.
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Zeroed panels for `[n, k]`.
fn zeroed<T: Plain>(n: usize, k: usize) -> Buffer<T> {
    Buffer::zeroed(n.div_ceil(PANEL) * PANEL * k)
}

fn pack_rows<T: Plain>(n: usize, k: usize, weights: &[T]) -> Buffer<T> {
    assert_eq!(weights.len(), n * k, "pack: {} values for [{n}, {k}]", weights.len());
    let mut panels = zeroed(n, k);
    if k > 0 {
        for (panel, rows) in panels.chunks_exact_mut(k * PANEL).zip(weights.chunks(k * PANEL)) {
            transpose_into(rows, k, panel, PANEL);
        }
    }
    panels
}

fn transpose<T: Plain>(n: usize, k: usize, packed: &[T]) -> Buffer<T> {
    let mut out = zeroed(k, n);
    if k == 0 {
        return out;
    }
    // Panel p of the source is rows 64 p.. of the target's reduction, whose panels lie n * 64 apart.
    for row in 0..n {
        let source = &packed[row / PANEL * k * PANEL + row % PANEL..];
        for (panel, columns) in (0..k).step_by(PANEL).enumerate() {
            let target = &mut out[(panel * n + row) * PANEL..][..PANEL.min(k - columns)];
            for (offset, target) in target.iter_mut().enumerate() {
                *target = source[(columns + offset) * PANEL];
            }
        }
    }
    out
}

/// Writes `rows` (`[_, k]` row-major) as columns of `out`, whose rows are `stride` apart.
fn transpose_into<T: Copy>(rows: &[T], k: usize, out: &mut [T], stride: usize) {
    // Sixteen columns at a time: their cache lines stay in L1 while all rows pass.
    for start in (0..k).step_by(16) {
        let width = 16.min(k - start);
        for (column, row) in rows.chunks_exact(k).enumerate() {
            for (offset, &value) in row[start..start + width].iter().enumerate() {
                out[(start + offset) * stride + column] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| i as f32 + 0.5).collect()
    }

    fn row(matrix: &PackedMatrix, row: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; matrix.k()];
        matrix.unpack_row(row, &mut out);
        out
    }

    #[test]
    fn rows_come_back_in_every_layout() {
        let kernels = Kernels::new(2).unwrap();
        for (n, k) in [(1, 1), (63, 17), (64, 16), (65, 3), (130, 70), (3, 0)] {
            let weights = values(n * k);
            let bf16: Vec<u16> = weights.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
            let columns: Vec<f32> = (0..k * n).map(|i| weights[i % n * k + i / n]).collect();
            let packed = PackedMatrix::pack_f32(n, k, &weights);
            let mut from_columns = PackedMatrix::default();
            kernels.pack_columns(k, n, &columns, &mut from_columns);
            let packed_bf16 = PackedMatrix::pack_bf16(n, k, &bf16);
            let twice = packed.transposed().transposed();
            for index in 0..n {
                let want = &weights[index * k..][..k];
                assert_eq!(row(&packed, index), want, "[{n}, {k}] row {index}");
                assert_eq!(row(&from_columns, index), want);
                assert_eq!(row(&twice, index), want);
                let want: Vec<f32> =
                    bf16[index * k..][..k].iter().map(|&bits| widen(bits)).collect();
                assert_eq!(row(&packed_bf16, index), want);
            }
            for index in 0..k {
                let want: Vec<f32> = (0..n).map(|i| weights[i * k + index]).collect();
                assert_eq!(row(&packed.transposed(), index), want);
                assert_eq!(row(&packed_bf16.transposed(), index).len(), n);
            }
        }
    }

    #[test]
    fn bytes_count_the_padding() {
        assert_eq!(PackedMatrix::pack_f32(65, 2, &values(130)).bytes(), 2 * 64 * 2 * 4);
        assert_eq!(PackedMatrix::pack_bf16(64, 2, &[0; 128]).bytes(), 64 * 2 * 2);
    }
}
