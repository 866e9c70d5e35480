//! The AdamW update, one fixed order of operations per value.

mod copies;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::copies::WeightCopy;
use self::copies::{Store, Task, Work};
use crate::kernels::{Kernels, SharedMut};
use crate::math::powi_f64;
use crate::simd::{LANES, Operation, Simd};

/// The settings of one AdamW step (decoupled weight decay, as PyTorch's `AdamW`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment, in `[0, 1)`.
    pub beta1: f32,
    /// Decay of the second moment, in `[0, 1)`.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// 1-based number of this step.
    pub step: u64,
}

/// What an optimiser works on: one value per parameter in each buffer.
#[derive(Debug)]
pub struct TrainingState<'a> {
    /// Parameters.
    pub params: &'a mut [f32],
    /// Gradients; a step uses them up and leaves zeros.
    pub grads: &'a mut [f32],
    /// First moments.
    pub exp_avg: &'a mut [f32],
    /// Second moments.
    pub exp_avg_sq: &'a mut [f32],
}

impl TrainingState<'_> {
    fn assert_valid(&self) {
        let len = self.params.len();
        let others = [self.grads.len(), self.exp_avg.len(), self.exp_avg_sq.len()];
        assert!(others == [len; 3], "adamw: params, grads and moments have different lengths");
    }
}

/// Gradients are squared and summed this many at a time in f32.
const NORM_PART: usize = 1 << 16;

impl Kernels {
    /// Updates all parameters and their moments by one step, and brings `copies` up to date, in one
    /// pass over memory. Returns whether all parameters are finite afterwards.
    ///
    /// Constants of the step, in f64 rounded to f32 once: `keep = 1 - lr * weight_decay`,
    /// `c1 = 1 - beta1`, `c2 = 1 - beta2`, `rate = lr / (1 - beta1^step)`,
    /// `root = sqrt(1 - beta2^step)`. Then per value, each operation rounded:
    /// ```text
    /// g = grad * grad_scale
    /// p = p * keep
    /// m = fma(c1, g - m, m)
    /// v = fma(c2 * g, g, v * beta2)
    /// p = p - rate * (m / (sqrt(v) / root + eps))
    /// ```
    /// Parameters that are in no copy are updated all the same.
    ///
    /// # Panics
    /// If lengths differ, a copy's parts overlap another's or do not make up its matrix, or `step`
    /// is 0.
    pub fn adamw(
        &self,
        state: TrainingState<'_>,
        grad_scale: f32,
        settings: AdamW,
        copies: &mut [WeightCopy<'_>],
    ) -> bool {
        state.assert_valid();
        let constants = Constants::of(settings, grad_scale);
        let work = Work::new(state.params.len(), copies);
        let [params, grads, exp_avg, exp_avg_sq] =
            [state.params, state.grads, state.exp_avg, state.exp_avg_sq].map(SharedMut::new);
        let finite = AtomicBool::new(true);
        let update = |range: Range<usize>| {
            // SAFETY: `Work` gives each parameter to one task, once.
            let [params, grads, m, v] = [&params, &grads, &exp_avg, &exp_avg_sq]
                .map(|buffer| unsafe { buffer.range(range.clone()) });
            if !self.run(Update { params, grads, m, v, constants }) {
                finite.store(false, Ordering::Relaxed);
            }
        };
        self.parallel(work.tasks(), &|task| match work.task(task) {
            Task::Plain(range) => update(range),
            Task::Panel { target, rows } => {
                rows.spans().for_each(&update);
                let values = |range: Range<usize>| {
                    // SAFETY: this task owns these parameters and is done with the last borrow.
                    &*unsafe { params.range(range) }
                };
                self.run(Store { target, rows: &rows, values });
            }
        });
        finite.into_inner()
    }

    /// Brings `copies` up to date with `params`.
    ///
    /// # Panics
    /// If a copy's parts overlap another's or do not make up its matrix.
    pub fn store_weights(&self, params: &[f32], copies: &mut [WeightCopy<'_>]) {
        let work = Work::new(params.len(), copies);
        self.parallel(work.tasks(), &|task| {
            if let Task::Panel { target, rows } = work.task(task) {
                self.run(Store {
                    target,
                    rows: &rows,
                    values: |range: Range<usize>| &params[range],
                });
            }
        });
    }

    /// Returns the norm of `x`: the squares of each 65,536 values are summed by rule 3, and these
    /// sums are joined in f64, in order. A single f32 chain would lose the small values.
    pub fn norm(&self, x: &[f32]) -> f32 {
        let mut sums = vec![0.0; x.len().div_ceil(NORM_PART)];
        let shared = SharedMut::new(&mut sums);
        self.for_ranges(x.len().div_ceil(NORM_PART), NORM_PART, 1, &|parts| {
            for part in parts {
                let values = &x[part * NORM_PART..x.len().min((part + 1) * NORM_PART)];
                // SAFETY: each part belongs to one task.
                unsafe { shared.put(part, self.sum_squares(values)) };
            }
        });
        sums.into_iter().map(f64::from).sum::<f64>().sqrt() as f32
    }
}

#[derive(Clone, Copy)]
struct Constants {
    keep: f32,
    c1: f32,
    c2: f32,
    beta2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    grad_scale: f32,
}

impl Constants {
    fn of(settings: AdamW, grad_scale: f32) -> Self {
        assert!(settings.step > 0, "adamw: steps count from 1");
        let [lr, beta1, beta2, decay] =
            [settings.lr, settings.beta1, settings.beta2, settings.weight_decay].map(f64::from);
        Self {
            keep: (1.0 - lr * decay) as f32,
            c1: (1.0 - beta1) as f32,
            c2: (1.0 - beta2) as f32,
            beta2: settings.beta2,
            rate: (lr / (1.0 - powi_f64(beta1, settings.step))) as f32,
            root: (1.0 - powi_f64(beta2, settings.step)).sqrt() as f32,
            eps: settings.eps,
            grad_scale,
        }
    }
}

struct Update<'a> {
    params: &'a mut [f32],
    grads: &'a mut [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    constants: Constants,
}

impl Operation for Update<'_> {
    /// Whether all parameters are finite.
    type Output = bool;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let c = self.constants;
        let zero = simd.splat(0.0);
        let mut broken = simd.is_nan(zero);
        let state = self.m.chunks_mut(LANES).zip(self.v.chunks_mut(LANES));
        let values = self.params.chunks_mut(LANES).zip(self.grads.chunks_mut(LANES));
        for ((params, grads), (m_out, v_out)) in values.zip(state) {
            let g = simd.mul(simd.load_part(grads, 0.0), simd.splat(c.grad_scale));
            let p = simd.mul(simd.load_part(params, 0.0), simd.splat(c.keep));
            let m = simd.load_part(m_out, 0.0);
            let m = simd.fma(simd.splat(c.c1), simd.sub(g, m), m);
            let v = simd.mul(simd.load_part(v_out, 0.0), simd.splat(c.beta2));
            let v = simd.fma(simd.mul(simd.splat(c.c2), g), g, v);
            let bottom = simd.add(simd.div(simd.sqrt(v), simd.splat(c.root)), simd.splat(c.eps));
            let p = simd.sub(p, simd.mul(simd.splat(c.rate), simd.div(m, bottom)));
            // Infinity minus itself is NaN, as is everything with NaN.
            broken = simd.or(broken, simd.is_nan(simd.sub(p, p)));
            simd.store_part(m, m_out);
            simd.store_part(v, v_out);
            simd.store_part(p, params);
            simd.store_part(zero, grads);
        }
        !simd.any(broken)
    }
}
