//! Measures a training step by its parts: tokens per second, GFLOP/s of the products, peak memory.
//!
//!     cargo run --release -p grail-model --example training -- \
//!         FOLDER [SEQUENCES] [TOKENS] [STEPS] [LORA_RANK] [EXPORTS]
//!
//! With EXPORTS, a folder that does not exist, the model before and after each step is written to
//! `EXPORTS/0`, `EXPORTS/1` and so on: real steps to measure deltas on.
//!
//! A step is forward, backward and AdamW over random tokens, every position but the first a
//! target, as in the usual language-model loss.

#![expect(clippy::print_stdout, reason = "a table is what the example is for")]

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use grail_kernels::{Init, Kernels, MatRef, PackedMatrix};
use grail_model::formats::config::ModelConfig;
use grail_model::{LoraConfig, ModelTrainer, TrainerConfig};
use grail_ports::model::{OptimizerConfig, StopFlag, Trainer, TrainingSequence};

const ADAMW: OptimizerConfig = OptimizerConfig {
    lr: 1e-6,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.0,
    grad_clip: 1.0,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: training FOLDER [SEQUENCES] [TOKENS] [STEPS] [LORA_RANK] [EXPORTS]")?,
    );
    let mut number = |default: u32| arguments.next().map_or(Ok(default), |text| text.parse());
    let (n_sequences, n_tokens, steps) = (number(8)?, number(256)?, number(2)?);
    let rank = usize::try_from(number(0)?)?;
    let exports = arguments.next().map(PathBuf::from);
    let lora = (rank > 0).then_some(LoraConfig { rank, ..LoraConfig::default() });
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = Kernels::new(threads)?;
    println!("{kernels:?}, {n_sequences} sequences of {n_tokens} tokens");

    let config = ModelConfig::load(&dir)?;
    products(&kernels, &config, TrainerConfig::default().micro_batch_tokens);

    let mut trainer =
        ModelTrainer::load(&dir, kernels, TrainerConfig { lora, ..TrainerConfig::default() })?;
    println!("{:<24} {:>10}", "peak memory, loaded", peak_memory());
    let vocab = u32::try_from(config.vocab_size)?;
    let sequences: Vec<TrainingSequence> = (0..n_sequences)
        .map(|sequence| TrainingSequence {
            tokens: (0..n_tokens).map(|i| (i * 7919 + sequence * 104_729) % vocab).collect(),
            prompt_len: 1,
        })
        .collect();
    let all = u64::from(n_sequences) * u64::from(n_tokens);
    let stop = StopFlag::default();
    let mut times = Vec::new();
    let export = |trainer: &ModelTrainer, step: u32| -> Result<(), Box<dyn Error>> {
        if let Some(exports) = &exports {
            std::fs::create_dir_all(exports)?;
            trainer.export(&exports.join(step.to_string()))?;
        }
        Ok(())
    };
    export(&trainer, 0)?;
    for step in 1..=steps {
        let start = Instant::now();
        trainer.accumulate(&sequences, &mut |_, logprobs| vec![-1.0; logprobs.len()], &stop)?;
        let accumulated = start.elapsed();
        trainer.step(&ADAMW, &stop)?;
        let total = start.elapsed();
        report("forward and backward", all, accumulated);
        println!("{:<24} {:>10.1} ms", "AdamW", (total - accumulated).as_secs_f64() * 1e3);
        report("step", all, total);
        times.push(total);
        export(&trainer, step)?;
    }
    times.sort();
    if let Some(&median) = times.get(times.len() / 2) {
        report("median step", all, median);
    }
    println!("{:<24} {:>10}", "peak memory", peak_memory());
    Ok(())
}

/// Measures the three products of each projection, on `rows` rows.
fn products(kernels: &Kernels, config: &ModelConfig, rows: usize) {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    for (name, n, k) in [
        ("q, o", config.q_size(), hidden),
        ("k, v", config.kv_size(), hidden),
        ("gate, up", ffn, hidden),
        ("down", hidden, ffn),
    ] {
        let values = |count: usize| (0..count).map(|i| (i % 61) as f32 / 64.0 - 0.4).collect();
        let (x, dy, weights): (Vec<f32>, Vec<f32>, Vec<f32>) =
            (values(rows * k), values(rows * n), values(n * k));
        let weights: Vec<u16> = weights.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let weight = PackedMatrix::pack_bf16(n, k, &weights);
        let transposed = weight.transposed();
        let (mut y, mut dx) = (vec![0.0; rows * n], vec![0.0; rows * k]);
        let mut dweight = vec![0.0; n * k];
        let flops = 2.0 * (rows * n * k) as f64;
        let forward = median(|| kernels.linear(&x, &weight, None, &mut y));
        let backward = median(|| kernels.linear(&dy, &transposed, None, &mut dx));
        let mut packed = PackedMatrix::default();
        let pack = median(|| kernels.pack_columns(rows, k, &x, &mut packed));
        let dy = MatRef::row_major(&dy, rows, n).transposed();
        let gradient = median(|| kernels.gemm(dy, &packed, &mut dweight, Init::Carry, None));
        let rate = |time: Duration| flops / time.as_secs_f64() / 1e9;
        println!(
            "{name:<10} [{n:>5}, {k:>5}] x {rows} rows: forward {:>5.0}, dx {:>5.0}, dw {:>5.0} \
             GFLOP/s; packing x {:.2} ms (dw {:.2} ms)",
            rate(forward),
            rate(backward),
            rate(gradient),
            pack.as_secs_f64() * 1e3,
            gradient.as_secs_f64() * 1e3,
        );
    }
}

fn median(mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn report(what: &str, tokens: u64, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let rate = tokens as f64 / seconds;
    println!("{what:<24} {rate:>10.0} tokens/s   ({tokens} in {seconds:.3} s)");
}

/// The largest resident size so far, where the system tells.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.map_or("unknown".to_owned(), |line| line.trim_start_matches("VmHWM:").trim().to_owned())
}
