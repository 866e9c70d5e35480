//! Near-tie grinding: many runs that differ only where two tokens nearly tie, the best one kept.
//!
//! Engines that round disagree on near ties, so a tolerant verifier must let them pass. A cheater
//! may choose: it runs each rollout at temperatures that are off by less than rounding matters, with
//! the legal keys, and hands in the variant with the highest reward.

use std::time::Instant;

use anyhow::Result;
use grail_ports::model::{GenerateRequest, Sampling};
use grail_services::mining::pipeline;

use super::sampling::keep_better;
use super::{Maker, Submission};

/// Largest relative change of the temperature.
const SPREAD: f32 = 0.002;

pub fn make(maker: &mut Maker<'_>, variants: u32) -> Result<Submission> {
    let job = maker.job()?;
    let tasks = maker.world.plans(&job, maker.groups)?;
    let started = Instant::now();
    let published = job.checkpoint.sampler.temperature;
    let mut best = None;
    for variant in 0..variants {
        let temperature = published * (1.0 + offset(variant, variants));
        let requests: Vec<GenerateRequest> = tasks
            .iter()
            .map(|task| GenerateRequest {
                sampling: Sampling::Race { temperature },
                ..pipeline::request(&job, task)
            })
            .collect();
        let tried = maker.world.generate(&*job.checkpoint.model, &requests)?;
        let best = best.get_or_insert_with(|| tried.clone());
        for ((task, best), tried) in tasks.iter().zip(best).zip(tried) {
            keep_better(&job, task, best, tried)?;
        }
    }
    let completions = best.unwrap_or_default();
    maker.submit(&job, &tasks, completions, started.elapsed().as_secs_f64())
}

/// Offsets alternate in sign and are spread evenly up to [`SPREAD`]; one variant alone is half-way.
#[expect(clippy::cast_precision_loss, reason = "a few dozen variants")]
fn offset(variant: u32, variants: u32) -> f32 {
    let size = SPREAD * (variant + 1) as f32 / (variants + 1) as f32;
    if variant.is_multiple_of(2) { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_distinct_and_near() {
        let offsets: Vec<f32> = (0..64).map(|variant| offset(variant, 64)).collect();
        assert!(offsets.iter().all(|offset| *offset != 0.0 && offset.abs() < SPREAD));
        assert!((0..64).all(|a| (0..a).all(|b| offsets[a] != offsets[b])));
        assert_eq!(offset(0, 1), SPREAD / 2.0);
    }
}
