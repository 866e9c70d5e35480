//! Rows of training: a whole step, and its two halves.

use std::time::Instant;

use anyhow::{Context, Result};
use grail_model::{ModelTrainer, TrainerConfig};
use grail_ports::model::{OptimizerConfig, StopFlag, Trainer};

use super::record::Work;
use super::work::{TRAIN, forward_flop, trained};
use super::{Bench, Row};

/// Measures the rows that are selected.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<()> {
    if !bench.selection.touches("train") || TRAIN.1 > bench.model.max_position_embeddings {
        return Ok(());
    }
    let sequences = trained(bench.model, TRAIN);
    let mut trainer =
        ModelTrainer::load(bench.dir, bench.kernels.clone(), TrainerConfig::default())
            .with_context(|| format!("while loading {}", bench.dir.display()))?;
    let settings = OptimizerConfig {
        lr: 1e-6,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        grad_clip: 1.0,
    };
    let mut halves = (Vec::new(), Vec::new());
    let [whole] = bench.effort.of_tasks([&mut || {
        let start = Instant::now();
        // The derivative of the mean negative log-probability.
        let mut loss = |_: usize, logprobs: &[f32]| {
            vec![-1.0 / (TRAIN.0 * logprobs.len()) as f32; logprobs.len()]
        };
        trainer.accumulate(&sequences, &mut loss, &StopFlag::default())?;
        halves.0.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        trainer.step(&settings, &StopFlag::default())?;
        halves.1.push(start.elapsed().as_secs_f64());
        Ok(())
    }])?;
    let (n_sequences, len) = TRAIN;
    let tokens = (n_sequences * len) as u64;
    // A backward pass has twice the products of a forward pass.
    let flop = 3.0 * forward_flop(bench.model, TRAIN, n_sequences * (len - 1));
    let shape = format!("{n_sequences} sequences of {len} tokens");
    // Of the halves, the warm-up is the first entry.
    for (id, what, work, seconds) in [
        (
            "train",
            format!("a training step on {shape}: forward, backward, clipping, AdamW"),
            Work { tokens, flop, ..Work::default() },
            &whole[..],
        ),
        (
            "train.gradients",
            format!("forward and backward of {shape}"),
            Work { tokens, flop, ..Work::default() },
            &halves.0[1..],
        ),
        (
            "train.optimizer",
            "clipping, AdamW and the new weights of the forward pass; bytes are weights, gradients \
             and moments read once"
                .to_owned(),
            Work { bytes: 16.0 * bench.model.n_parameters() as f64, ..Work::default() },
            &halves.1[1..],
        ),
    ] {
        if bench.selection.wants(id) {
            bench.push(Row::new(id, what, work, seconds, &bench.machine))?;
        }
    }
    Ok(())
}
