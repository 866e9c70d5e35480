//! Tables of rotary angles, scaled as the configuration asks.
//!
//! All of it is f64 made of the project's own functions and rounded once, in the table. `transformers`
//! computes the same formulae in f32.

use std::f64::consts::TAU;

use grail_kernels::RopeTable;
use grail_kernels::math::{ln_f64, pow_f64};

use crate::formats::config::{Llama3Scaling, RopeScaling, YarnScaling};

/// Fills the table of positions `0..positions` for heads of width `head_dim`.
pub(super) fn rope_table(
    head_dim: usize,
    theta: f64,
    scaling: &RopeScaling,
    positions: usize,
) -> RopeTable {
    let (frequencies, scale) = frequencies(head_dim, theta, scaling);
    RopeTable::from_frequencies(head_dim, &frequencies, scale, positions)
}

/// Returns the angle per position of each pair, `[head_dim / 2]`, and the factor of cosines and sines.
fn frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> (Vec<f64>, f64) {
    let plain = (0..head_dim / 2)
        .map(|pair| pow_f64(theta, -((2 * pair) as f64 / head_dim as f64)))
        .collect::<Vec<f64>>();
    match scaling {
        RopeScaling::None => (plain, 1.0),
        RopeScaling::Linear(factor) => {
            (plain.iter().map(|frequency| frequency / factor).collect(), 1.0)
        }
        RopeScaling::Llama3(scaling) => {
            (plain.iter().map(|&frequency| llama3(scaling, frequency)).collect(), 1.0)
        }
        RopeScaling::Yarn(scaling) => {
            (yarn(scaling, head_dim, theta, &plain), scaling.attention_scale())
        }
    }
}

/// Divides an angle that turns seldom within the original context, keeps one that turns often, and
/// mixes both in between.
fn llama3(scaling: &Llama3Scaling, frequency: f64) -> f64 {
    let Llama3Scaling { factor, low_freq_factor: low, high_freq_factor: high, .. } = *scaling;
    let turns = scaling.original_max_position_embeddings as f64 * frequency / TAU;
    if turns < low {
        frequency / factor
    } else if turns > high {
        frequency
    } else {
        let keep = (turns - low) / (high - low);
        mix(frequency / factor, frequency, keep)
    }
}

/// The same idea by dimension: a linear ramp between the pair that turns `beta_fast` times within the
/// original context and the one that turns `beta_slow` times.
fn yarn(scaling: &YarnScaling, head_dim: usize, theta: f64, plain: &[f64]) -> Vec<f64> {
    let positions = scaling.original_max_position_embeddings as f64;
    // The (fractional) pair whose angle turns that often. Like `transformers`, counted in pairs and
    // bounded by the number of dimensions.
    let pair_of =
        |turns: f64| head_dim as f64 * ln_f64(positions / (turns * TAU)) / (2.0 * ln_f64(theta));
    let (mut low, mut high) = (pair_of(scaling.beta_fast), pair_of(scaling.beta_slow));
    if scaling.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min((head_dim - 1) as f64));
    if low == high {
        // A step instead of a ramp.
        high += 0.001;
    }
    let frequencies = plain.iter().enumerate().map(|(pair, &frequency)| {
        let divided = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        mix(frequency / scaling.factor, frequency, 1.0 - divided)
    });
    frequencies.collect()
}

/// Returns `divided` where `keep` is 0, `kept` where it is 1.
fn mix(divided: f64, kept: f64, keep: f64) -> f64 {
    // The bound undoes a rounding up: a mean is not above the larger value.
    ((1.0 - keep) * divided + keep * kept).min(kept)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::formats::config::ModelConfig;

    /// The frequencies of `transformers` are f32: `base^(2 i / dim)` and its inverse are each rounded.
    const TOLERANCE: f64 = 4e-7;

    #[test]
    fn frequencies_are_those_of_transformers() {
        let text = include_str!("../../tests/vectors/golden/rope.json");
        let cases: Value = serde_json::from_str(text).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 15);
        for case in cases {
            let config = ModelConfig::from_json(case["config"].to_string().as_bytes()).unwrap();
            let (got, scale) =
                frequencies(config.head_dim, config.rope_theta, &config.rope_scaling);
            let want: Vec<f64> =
                case["inv_freq"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            let name = &case["config"]["rope_parameters"];
            assert_eq!(got.len(), want.len(), "{name}");
            for (pair, (got, want)) in got.iter().zip(&want).enumerate() {
                let error = (got / want - 1.0).abs();
                assert!(error < TOLERANCE, "{name} pair {pair}: {got:e}, expected {want:e}");
            }
            let want = case["attention_factor"].as_f64().unwrap();
            assert!((scale / want - 1.0).abs() < 1e-14, "{name}: {scale}, expected {want}");
        }
    }

    #[test]
    fn a_factor_of_one_changes_nothing() {
        let plain = frequencies(64, 1e4, &RopeScaling::None);
        assert_eq!(frequencies(64, 1e4, &RopeScaling::Linear(1.0)), plain);
        let original_max_position_embeddings = 256;
        let llama3 = Llama3Scaling {
            factor: 1.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings,
        };
        let yarn = YarnScaling {
            factor: 1.0,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
        };
        for scaling in [RopeScaling::Llama3(llama3), RopeScaling::Yarn(yarn)] {
            let (scaled, scale) = frequencies(64, 1e4, &scaling);
            assert_eq!(scale, 1.0);
            for (scaled, plain) in scaled.iter().zip(&plain.0) {
                assert!((scaled / plain - 1.0).abs() < 1e-15 && *scaled <= 1.0);
            }
        }
    }
}
