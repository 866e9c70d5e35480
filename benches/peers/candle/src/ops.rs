//! Fused operations with gradients: candle's own fused ones have none.

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail,
};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows that one thread takes at once.
const ROWS: usize = 8;

/// A forward-only operation on contiguous f32 buffers: `f(inputs, output)`.
struct Plain<F> {
    shape: Shape,
    f: F,
}

impl<F: Fn(&[&[f32]], &mut [f32])> Plain<F> {
    fn run(&self, inputs: &[(&CpuStorage, &Layout)]) -> Result<(CpuStorage, Shape)> {
        let inputs = inputs.iter().map(|(s, l)| floats(s, l)).collect::<Result<Vec<_>>>()?;
        let mut out = vec![0.0; self.shape.elem_count()];
        (self.f)(&inputs, &mut out);
        Ok((CpuStorage::F32(out), self.shape.clone()))
    }
}

fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("not contiguous") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

impl<F: Fn(&[&[f32]], &mut [f32])> CustomOp1 for Plain<F> {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(&[(a, la)])
    }
}

impl<F: Fn(&[&[f32]], &mut [f32])> CustomOp2 for Plain<F> {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[(a, la), (b, lb)])
    }
}

impl<F: Fn(&[&[f32]], &mut [f32])> CustomOp3 for Plain<F> {
    fn name(&self) -> &'static str {
        "plain"
    }
    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
        c: &CpuStorage,
        lc: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run(&[(a, la), (b, lb), (c, lc)])
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a16, b16) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a16.remainder().iter().zip(b16.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a16.zip(b16) {
        for i in 0..16 {
            lanes[i] += x[i] * y[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// `e^x` to about seven digits, in a form that the compiler turns into vector code.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r / 720.0)))));
    p * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// Turns scores into `exp(score - max)` in place and returns `(max, sum)`.
fn exponentials(row: &mut [f32]) -> (f32, f32) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = exp(*x - max));
    let mut lanes = [0.0f32; 16];
    let chunks = row.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i];
        }
    }
    (max, lanes.iter().sum::<f32>() + rest)
}

/// Root-mean-square norm of rows, times a weight.
pub struct RmsNorm {
    pub eps: f32,
}

impl RmsNorm {
    fn inverse(&self, x: &[f32]) -> f32 {
        1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(x, lx)?, floats(w, lw)?);
        let (n, mut out) = (w.len(), vec![0.0; x.len()]);
        out.par_chunks_mut(n).zip(x.par_chunks(n)).with_min_len(ROWS).for_each(|(y, x)| {
            let inverse = self.inverse(x);
            y.iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y = x * inverse * w);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, eps) = (w.elem_count(), self.eps);
        let inverse = move |x: &[f32]| RmsNorm { eps }.inverse(x);
        let dy = dy.contiguous()?;
        let dx = Plain {
            shape: x.shape().clone(),
            f: move |inputs: &[&[f32]], out: &mut [f32]| {
                let w = inputs[2];
                out.par_chunks_mut(n)
                    .zip(inputs[0].par_chunks(n).zip(inputs[1].par_chunks(n)))
                    .with_min_len(ROWS)
                    .for_each(|(dx, (x, dy))| {
                        let r = inverse(x);
                        dx.iter_mut().zip(dy).zip(w).for_each(|((dx, dy), w)| *dx = dy * w);
                        let mean = dot(dx, x) * r * r / n as f32;
                        dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = r * (*dx - x * mean));
                    });
            },
        };
        let dw = Plain {
            shape: w.shape().clone(),
            f: move |inputs: &[&[f32]], out: &mut [f32]| {
                for (x, dy) in inputs[0].chunks(n).zip(inputs[1].chunks(n)) {
                    let r = inverse(x);
                    out.iter_mut().zip(x).zip(dy).for_each(|((w, x), dy)| *w += x * dy * r);
                }
            },
        };
        Ok((Some(x.apply_op3_no_bwd(&dy, w, &dx)?), Some(x.apply_op2_no_bwd(&dy, &dw)?)))
    }
}

/// Rotary embedding of `[batch, heads, len, head_dim]`; row `i` of `len` has position `start + i`.
#[derive(Clone)]
pub struct Rope {
    /// Cosines, then sines, of each position: `[positions, head_dim]`.
    pub table: Arc<Vec<f32>>,
    pub start: usize,
    pub sign: f32,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(x, lx)?;
        let (_, _, len, dim) = lx.shape().dims4()?;
        let (half, mut out) = (dim / 2, vec![0.0; x.len()]);
        let rows = out.par_chunks_mut(dim).zip(x.par_chunks(dim)).enumerate();
        rows.with_min_len(ROWS).for_each(|(row, (y, x))| {
            let position = self.start + row % len;
            let (cos, sin) = self.table[position * dim..][..dim].split_at(half);
            for i in 0..half {
                let (a, b, s) = (x[i], x[half + i], self.sign * sin[i]);
                y[i] = a * cos[i] - b * s;
                y[half + i] = b * cos[i] + a * s;
            }
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = Self { sign: -self.sign, ..self.clone() };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// Softmax of `scale * scores`; row `i` of the last-but-one dimension sees `start + i % len` and before.
#[derive(Clone, Copy)]
pub struct CausalSoftmax {
    pub scale: f32,
    pub start: usize,
    pub len: usize,
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal-softmax"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, width) = (floats(x, lx)?, *lx.dims().last().unwrap_or(&1));
        let mut out = vec![0.0; x.len()];
        let rows = out.par_chunks_mut(width).zip(x.par_chunks(width)).enumerate();
        rows.with_min_len(ROWS).for_each(|(row, (y, x))| {
            let seen = self.start + row % self.len + 1;
            y[..seen].iter_mut().zip(x).for_each(|(y, x)| *y = x * self.scale);
            let inverse = 1.0 / exponentials(&mut y[..seen]).1;
            y[..seen].iter_mut().for_each(|y| *y *= inverse);
        });
        Ok((CpuStorage::F32(out), lx.shape().clone()))
    }
    fn bwd(&self, _: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (width, this) = (*y.dims().last().unwrap_or(&1), *self);
        let back = Plain {
            shape: y.shape().clone(),
            f: move |inputs: &[&[f32]], out: &mut [f32]| {
                let rows = inputs[0].par_chunks(width).zip(inputs[1].par_chunks(width));
                let all = out.par_chunks_mut(width).zip(rows).enumerate();
                all.with_min_len(ROWS).for_each(|(row, (dx, (y, dy)))| {
                    let seen = this.start + row % this.len + 1;
                    let mean = dot(&y[..seen], &dy[..seen]);
                    for ((dx, y), dy) in dx[..seen].iter_mut().zip(y).zip(dy) {
                        *dx = this.scale * y * (dy - mean);
                    }
                });
            },
        };
        Ok(Some(y.apply_op2_no_bwd(&dy.contiguous()?, &back)?))
    }
}

/// `silu(gate) * up`.
pub struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu-mul"
    }
    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        lg: &Layout,
        up: &CpuStorage,
        lu: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let f = |inputs: &[&[f32]], out: &mut [f32]| {
            map2(inputs[0], inputs[1], out, |g, u| g * u / (1.0 + exp(-g)));
        };
        Plain { shape: lg.shape().clone(), f }.run(&[(gate, lg), (up, lu)])
    }
    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let shape = gate.shape();
        let dgate = Plain {
            shape: shape.clone(),
            f: |inputs: &[&[f32]], out: &mut [f32]| {
                map2(inputs[0], inputs[1], out, |g, u| {
                    let s = 1.0 / (1.0 + exp(-g));
                    u * s * (1.0 + g * (1.0 - s))
                });
                let third = inputs[2];
                out.par_iter_mut().zip(third).with_min_len(4096).for_each(|(x, dy)| *x *= dy);
            },
        };
        let dup = Plain {
            shape: shape.clone(),
            f: |inputs: &[&[f32]], out: &mut [f32]| {
                map2(inputs[0], inputs[1], out, |g, dy| dy * g / (1.0 + exp(-g)));
            },
        };
        let dgate = gate.apply_op3_no_bwd(up, &dy, &dgate)?;
        Ok((Some(dgate), Some(gate.apply_op2_no_bwd(&dy, &dup)?)))
    }
}

fn map2(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    let chunks = out.par_chunks_mut(4096).zip(a.par_chunks(4096).zip(b.par_chunks(4096)));
    chunks.for_each(|(out, (a, b))| {
        out.iter_mut().zip(a).zip(b).for_each(|((out, &a), &b)| *out = f(a, b));
    });
}

/// The log-probability of one target per row of logits `[rows, vocab]`.
#[derive(Clone)]
pub struct LogprobOf {
    pub targets: Arc<Vec<u32>>,
}

impl CustomOp1 for LogprobOf {
    fn name(&self) -> &'static str {
        "logprob-of"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, (rows, vocab)) = (floats(x, lx)?, lx.shape().dims2()?);
        let mut out = vec![0.0; rows];
        let all = out.par_iter_mut().zip(x.par_chunks(vocab)).zip(self.targets.par_iter());
        all.for_each(|((out, x), &target)| {
            let (max, sum) = exponentials(&mut x.to_vec());
            *out = x[target as usize] - max - sum.ln();
        });
        Ok((CpuStorage::F32(out), Shape::from(rows)))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, targets) = (x.dim(1)?, Arc::clone(&self.targets));
        let back = Plain {
            shape: x.shape().clone(),
            f: move |inputs: &[&[f32]], out: &mut [f32]| {
                let rows = inputs[0].par_chunks(vocab).zip(inputs[1].par_iter());
                let all = out.par_chunks_mut(vocab).zip(rows).zip(targets.par_iter());
                all.for_each(|((dx, (x, dy)), &target)| {
                    dx.copy_from_slice(x);
                    let scale = -dy / exponentials(dx).1;
                    dx.iter_mut().for_each(|dx| *dx *= scale);
                    dx[target as usize] += dy;
                });
            },
        };
        Ok(Some(x.apply_op2_no_bwd(&dy.contiguous()?, &back)?))
    }
}

/// Draws one token per row of logits `[rows, vocab]` at temperature 1, `uniform` in [0, 1) each.
pub fn sample(logits: &Tensor, uniform: &mut impl FnMut() -> f32) -> Result<Vec<u32>> {
    let vocab = logits.dim(1)?;
    let rows: Vec<f32> = logits.flatten_all()?.to_vec1()?;
    let draws: Vec<f32> = (0..rows.len() / vocab).map(|_| uniform()).collect();
    let pick = |(row, draw): (&[f32], &f32)| {
        let mut row = row.to_vec();
        let mut left = draw * exponentials(&mut row).1;
        let found = row.iter().position(|x| {
            left -= x;
            left < 0.0
        });
        found.unwrap_or(vocab - 1) as u32
    };
    Ok(rows.par_chunks(vocab).zip(draws.par_iter()).map(pick).collect())
}
