//! The AdamW update, one fixed order of operations per value.

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

impl Kernels {
    /// Updates `params`, and their moments `m` and `v`, by one step.
    ///
    /// Constants of the step, in f64 rounded to f32 once: `keep = 1 - lr * weight_decay`,
    /// `c1 = 1 - beta1`, `c2 = 1 - beta2`, `rate = lr / (1 - beta1^step)`,
    /// `root = sqrt(1 - beta2^step)`. Then per value, each operation rounded:
    /// ```text
    /// p = p * keep
    /// m = fma(c1, g - m, m)
    /// v = fma(c2 * g, g, v * beta2)
    /// p = p - rate * (m / (sqrt(v) / root + eps))
    /// ```
    ///
    /// # Panics
    /// If the lengths differ or `step` is 0.
    pub fn adamw(
        &self,
        params: &mut [f32],
        grads: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        settings: AdamW,
    ) {
        let len = grads.len();
        assert!(
            params.len() == len && m.len() == len && v.len() == len,
            "adamw: params, grads, m and v have different lengths"
        );
        let constants = Constants::of(settings);
        let (params, m, v) = (SharedMut::new(params), SharedMut::new(m), SharedMut::new(v));
        self.for_ranges(len, 4, LANES, &|range| {
            // SAFETY: ranges are disjoint.
            let (params, m, v) = unsafe {
                (params.range(range.clone()), m.range(range.clone()), v.range(range.clone()))
            };
            self.run(Update { params, grads: &grads[range], m, v, constants });
        });
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
}

impl Constants {
    fn of(settings: AdamW) -> Self {
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
        }
    }
}

struct Update<'a> {
    params: &'a mut [f32],
    grads: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
    constants: Constants,
}

impl Operation for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let c = self.constants;
        let state = self.m.chunks_mut(LANES).zip(self.v.chunks_mut(LANES));
        let values = self.params.chunks_mut(LANES).zip(self.grads.chunks(LANES));
        for ((params, grads), (m_out, v_out)) in values.zip(state) {
            let g = simd.load_part(grads, 0.0);
            let p = simd.mul(simd.load_part(params, 0.0), simd.splat(c.keep));
            let m = simd.load_part(m_out, 0.0);
            let m = simd.fma(simd.splat(c.c1), simd.sub(g, m), m);
            let v = simd.mul(simd.load_part(v_out, 0.0), simd.splat(c.beta2));
            let v = simd.fma(simd.mul(simd.splat(c.c2), g), g, v);
            let bottom = simd.add(simd.div(simd.sqrt(v), simd.splat(c.root)), simd.splat(c.eps));
            let p = simd.sub(p, simd.mul(simd.splat(c.rate), simd.div(m, bottom)));
            simd.store_part(m, m_out);
            simd.store_part(v, v_out);
            simd.store_part(p, params);
        }
    }
}
