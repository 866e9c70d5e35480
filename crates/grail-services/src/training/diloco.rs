//! Outer steps of workers that train alone in between: DiLoCo, and PULSE-DiLoCo, which sends little.
//!
//! Source: `spec/trainer.md`, distributed; Douillard et al. (2023). All in f32, one value after the
//! other; a worker's model is a flat slice of its parameters.

/// Stochastic gradient descent with momentum over the mean of the workers' moves.
#[derive(Clone, Debug, PartialEq)]
pub struct OuterOptimizer {
    /// Learning rate.
    pub rate: f32,
    /// Decay of the momentum, 0 for none.
    pub momentum: f32,
    /// Whether the step looks ahead along the momentum.
    pub nesterov: bool,
    /// Momentum of each parameter; empty before the first step.
    velocity: Vec<f32>,
}

impl OuterOptimizer {
    /// Makes an optimiser that has not stepped yet.
    pub fn new(rate: f32, momentum: f32, nesterov: bool) -> Self {
        Self { rate, momentum, nesterov, velocity: Vec::new() }
    }

    /// The reference's settings.
    pub fn reference() -> Self {
        Self::new(0.7, 0.9, true)
    }

    /// Moves `global` by the mean of the workers' `deltas` and returns the norm of that mean.
    /// Afterwards every worker goes on from `global`.
    ///
    /// # Panics
    /// If there is no worker, or the lengths differ.
    pub fn step<D: AsRef<[f32]>>(&mut self, global: &mut [f32], deltas: &[D]) -> f64 {
        assert!(!deltas.is_empty(), "an outer step takes at least one worker");
        let is_first = self.velocity.is_empty();
        self.velocity.resize(global.len(), 0.0);
        for deltas in deltas {
            assert_eq!(deltas.as_ref().len(), global.len(), "one delta for each parameter");
        }
        #[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^24 workers")]
        let workers = deltas.len() as f32;
        let mut square = 0.0;
        for (place, parameter) in global.iter_mut().enumerate() {
            let sum: f32 = deltas.iter().map(|deltas| deltas.as_ref()[place]).sum();
            let mean = sum / workers;
            square += f64::from(mean) * f64::from(mean);
            let velocity = &mut self.velocity[place];
            *velocity = if is_first { mean } else { self.momentum * *velocity + mean };
            let ahead = if self.nesterov { mean + self.momentum * *velocity } else { *velocity };
            *parameter -= self.rate * ahead;
        }
        square.sqrt()
    }
}

/// Returns how far a worker is behind the global model: what it would add to a gradient.
///
/// # Panics
/// If the lengths differ.
pub fn delta(global: &[f32], local: &[f32]) -> Vec<f32> {
    assert_eq!(global.len(), local.len(), "one local value for each parameter");
    global.iter().zip(local).map(|(global, local)| global - local).collect()
}

/// A worker that sends a delta only where it would change a parameter in bf16, and keeps the rest
/// for later.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PulseWorker {
    /// What is left to send; empty before the first step.
    residual: Vec<f32>,
}

/// What a worker sends: places, ascending, and values.
pub type SparseDelta = Vec<(u64, f32)>;

impl PulseWorker {
    /// Returns what is left to send, one value for each parameter; empty before the first step.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Returns what to send of the worker's delta and of what was left, and keeps the rest.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn send(&mut self, global: &[f32], local: &[f32]) -> SparseDelta {
        self.residual.resize(global.len(), 0.0);
        let mut sent = Vec::new();
        let delta = delta(global, local).into_iter();
        for ((place, delta), (&global, left)) in
            (0..).zip(delta).zip(global.iter().zip(&mut self.residual))
        {
            let sum = *left + delta;
            if bf16(global) == bf16(global - sum) {
                *left = sum;
            } else {
                *left = 0.0;
                sent.push((place, sum));
            }
        }
        sent
    }
}

/// Returns a delta with zeros where nothing was sent.
///
/// # Panics
/// If a place is not below `len`.
pub fn dense(sent: &SparseDelta, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    for &(place, value) in sent {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        values[place] = value;
    }
    values
}

/// Returns the bits of the nearest bf16, ties to even; NaN is one NaN.
fn bf16(x: f32) -> u32 {
    if x.is_nan() {
        return 0x7fc0;
    }
    let bits = x.to_bits();
    // At most 0xff80_0000 + 0x8000, which does not overflow.
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    // The reference compares values, and 0 equals −0.
    if rounded == 0x8000 { 0 } else { rounded }
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, float, list, size};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// The values of nested lists, in order.
    fn flat(value: &Value) -> Vec<f32> {
        match value {
            Value::Array(values) => values.iter().flat_map(flat).collect(),
            value => vec![float(value) as f32],
        }
    }

    /// PyTorch may fuse a product with a sum: a rounding of f32 of values near 1.
    fn check_values(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            let gap = (got - expected).abs();
            assert!(gap <= 2.0 * f32::EPSILON * expected.abs().max(0.5), "{got} {expected}");
        }
    }

    #[test]
    fn outer_steps_match_the_reference() {
        every_case("diloco", "outer_step.json", |case| {
            let mut optimizer = OuterOptimizer::new(
                float(&case["outer_lr"]) as f32,
                float(&case["outer_momentum"]) as f32,
                case["nesterov"] == true,
            );
            let is_pulse = case["pulse"] == true;
            let mut global = flat(&case["init"]);
            let mut workers = vec![PulseWorker::default(); size(&case["workers"])];
            let steps = list(&case["steps_per_worker"][0]).len();
            for step in 0..steps {
                let of_step: Vec<&Value> =
                    list(&case["steps_per_worker"]).iter().map(|worker| &worker[step]).collect();
                assert_eq!(of_step.len(), workers.len());
                let mut deltas = Vec::new();
                for (worker, said) in workers.iter_mut().zip(&of_step) {
                    let local = flat(&said["local_before"]);
                    if !is_pulse {
                        deltas.push(delta(&global, &local));
                        continue;
                    }
                    let sent = worker.send(&global, &local);
                    let (sent_share, metrics) =
                        (sent.len() as f64 / global.len() as f64, &said["metrics"]);
                    assert_eq!(sent.len() as f64, float(&metrics["pulse/nnz"]));
                    assert_eq!(global.len() as f64, float(&metrics["pulse/total_numel"]));
                    assert_eq!(1.0 - sent_share, float(&metrics["pulse/comm_sparsity"]));
                    check_values(worker.residual(), &flat(&said["residual"]));
                    deltas.push(dense(&sent, global.len()));
                }
                let norm = optimizer.step(&mut global, &deltas);
                for said in &of_step {
                    check_values(&global, &flat(&said["params_after"]));
                    if !is_pulse {
                        let expected = float(&said["metrics"]["diloco/pseudo_grad_norm"]);
                        assert!((norm - expected).abs() <= 1e-6 * expected, "{norm} {expected}");
                    }
                }
                // Each step is judged for itself.
                global = flat(&of_step[0]["params_after"]);
            }
        });
    }

    #[test]
    fn the_reference_has_these_settings() {
        assert_eq!(OuterOptimizer::reference(), OuterOptimizer::new(0.7, 0.9, true));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_that_is_not_sent(
            pairs in prop::collection::vec((-2.0f32..2.0, -2.0f32..2.0), 1..30),
            steps in 1usize..4,
        ) {
            let (global, local): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let mut worker = PulseWorker::default();
            for _ in 0..steps {
                let before = if worker.residual().is_empty() {
                    vec![0.0; global.len()]
                } else {
                    worker.residual().to_vec()
                };
                let sent = dense(&worker.send(&global, &local), global.len());
                let moved = delta(&global, &local);
                for place in 0..global.len() {
                    prop_assert!(sent[place] == 0.0 || worker.residual()[place] == 0.0);
                    prop_assert_eq!(sent[place] + worker.residual()[place], before[place] + moved[place]);
                }
            }
        }

        #[test]
        fn any_bits_round_to_a_bf16(bits: u32) {
            let rounded = bf16(f32::from_bits(bits));
            prop_assert!(rounded <= 0xffff);
        }
    }
}
