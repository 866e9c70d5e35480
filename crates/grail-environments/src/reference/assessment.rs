//! What an answer is worth: weighted components, added in double precision in a fixed order.

use grail_protocol::v5::python::sum::sum;

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct Assessment {
    /// The reward.
    pub reward: f64,
    /// What was added, before weighting, in the order of the specification.
    pub components: Vec<f64>,
    /// Whether the answer is right.
    pub success: bool,
}

impl Assessment {
    /// Adds from left to right, as the text environments do.
    pub(super) fn added<const N: usize>(
        weights: [f64; N],
        components: [f64; N],
        success: bool,
    ) -> Self {
        // From 0.0 on: `Iterator::sum` of floats begins with -0.0.
        let reward = weighted(weights, components).fold(0.0, |total, term| total + term);
        Self { reward, components: components.to_vec(), success }
    }

    /// Adds by Python's compensated `sum`, as the code environments do.
    pub(super) fn summed<const N: usize>(
        weights: [f64; N],
        components: [f64; N],
        success: bool,
    ) -> Self {
        let reward = sum(weighted(weights, components));
        Self { reward, components: components.to_vec(), success }
    }
}

fn weighted<const N: usize>(weights: [f64; N], components: [f64; N]) -> impl Iterator<Item = f64> {
    weights.into_iter().zip(components).map(|(weight, component)| weight * component)
}

/// Returns 1.0 for true.
pub(super) fn one_if(condition: bool) -> f64 {
    if condition { 1.0 } else { 0.0 }
}
