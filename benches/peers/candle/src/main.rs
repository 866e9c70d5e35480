//! Measures candle, tuned, on one row of work; prints one JSON object.
//!
//!     peer-candle FOLDER ROW THREADS REPETITIONS
//!
//! Tuned: AVX-512 products, an allocator that keeps its memory, fused operations with gradients.

mod model;
mod ops;

use candle_core::{Device, IndexOp, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use model::Llama;
use ops::LogprobOf;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

type Error = Box<dyn std::error::Error>;
/// One call of the work; what it returns lets the caller see that engines agree.
type Work<'a> = Box<dyn FnMut() -> Result<f64, Error> + 'a>;

// The same work as work.py.
const PROMPT_TOKENS: usize = 48;
const NEW_TOKENS: usize = 64;
const GROUP: usize = 16;
const PREFILL: (usize, usize) = (16, 512);
const TRAIN: (usize, usize) = (8, 256);
/// Sequences of one forward pass: all 16 at once would need 5 GB for scores and logits.
const SEQUENCES: usize = 4;

fn token(sequence: usize, i: usize) -> u32 {
    (300 + (i * 7919 + sequence * 104_729) % 40_000) as u32
}

fn batch(sequences: std::ops::Range<usize>, len: usize) -> candle_core::Result<(Tensor, Vec<u32>)> {
    let count = sequences.len();
    let ids: Vec<u32> = sequences.flat_map(|s| (0..len).map(move |i| token(s, i))).collect();
    Ok((Tensor::from_vec(ids.clone(), (count, len), &Device::Cpu)?, ids))
}

/// The token that follows each; what follows the last of a sequence is not used.
fn next(ids: &[u32]) -> Vec<u32> {
    ids.iter().skip(1).chain(&[0]).copied().collect()
}

fn main() -> Result<(), Error> {
    // SAFETY: called before any other thread exists.
    unsafe {
        // glibc gives every large buffer back to the system: a third of a training step was page faults.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, row, threads, repetitions] = arguments.as_slice() else {
        return Err("arguments: FOLDER ROW THREADS REPETITIONS".into());
    };
    let (threads, repetitions): (usize, usize) = (threads.parse()?, repetitions.parse()?);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let train = row == "train";
    let model = Llama::load(Path::new(folder), train, PREFILL.1)?;
    let (count, mut call): (usize, Work<'_>) = match row.as_str() {
        "prefill" => (PREFILL.0 * PREFILL.1, Box::new(|| score(&model, false))),
        "verify" => (PREFILL.0 * PREFILL.1, Box::new(|| score(&model, true))),
        "decode1" => (NEW_TOKENS, Box::new(|| generate(&model, 1))),
        "decode16" => (GROUP * NEW_TOKENS, Box::new(|| generate(&model, GROUP))),
        "train" => (TRAIN.0 * TRAIN.1, train_step(&model)?),
        _ => return Err(format!("candle does not do {row}").into()),
    };
    let check = call()?;
    let mut seconds = Vec::new();
    for _ in 0..repetitions {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next()).ok_or("no VmHWM")?;
    let peak: u64 = 1024 * peak.parse::<u64>()?;
    println!("{}", json!({"tokens": count, "seconds": seconds, "peak_bytes": peak, "check": check}));
    Ok(())
}

/// Scores every sequence; with `logprobs`, returns the mean log-probability of the next tokens.
fn score(model: &Llama, logprobs: bool) -> Result<f64, Error> {
    let mut sum = 0.0;
    for start in (0..PREFILL.0).step_by(SEQUENCES) {
        let (tokens, ids) = batch(start..start + SEQUENCES, PREFILL.1)?;
        let hidden = model.hidden(&tokens, None)?;
        if logprobs {
            let op = LogprobOf { targets: Arc::new(next(&ids)) };
            let logprobs: Vec<f32> = model.logits(&hidden)?.apply_op1_no_bwd(&op)?.to_vec1()?;
            let known = logprobs.chunks(PREFILL.1).flat_map(|row| &row[..PREFILL.1 - 1]);
            sum += known.map(|&x| f64::from(x)).sum::<f64>();
        } else {
            sum += f64::from(hidden.i((0, 0))?.to_scalar::<f32>()?);
        }
    }
    Ok(sum / (PREFILL.0 * (PREFILL.1 - 1)) as f64)
}

fn generate(model: &Llama, rows: usize) -> Result<f64, Error> {
    let prompt: Vec<u32> = (0..rows).flat_map(|_| (0..PROMPT_TOKENS).map(|i| token(0, i))).collect();
    let mut cache = model.cache(rows, PROMPT_TOKENS + NEW_TOKENS)?;
    let mut tokens = Tensor::from_vec(prompt, (rows, PROMPT_TOKENS), &Device::Cpu)?;
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    for _ in 0..NEW_TOKENS {
        let len = tokens.dim(1)?;
        let hidden = model.hidden(&tokens, Some(&mut cache))?;
        let last: Vec<u32> = (1..=rows).map(|row| (row * len - 1) as u32).collect();
        let last = hidden.index_select(&Tensor::new(last, &Device::Cpu)?, 0)?;
        let drawn = ops::sample(&model.logits(&last)?, &mut uniform)?;
        tokens = Tensor::from_vec(drawn, (rows, 1), &Device::Cpu)?;
    }
    Ok(0.0)
}

/// One step: forward, backward, AdamW. Candle's AdamW has no clipping of gradients.
fn train_step(model: &Llama) -> Result<Work<'_>, Error> {
    let settings =
        ParamsAdamW { lr: 1e-6, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    let mut optimizer = AdamW::new(model.vars.clone(), settings)?;
    let (tokens, ids) = batch(0..TRAIN.0, TRAIN.1)?;
    let targets = Arc::new(next(&ids));
    let scale = -1.0 / (TRAIN.0 * (TRAIN.1 - 1)) as f32;
    let weight = |i: usize| if (i + 1) % TRAIN.1 == 0 { 0.0 } else { scale };
    let weights: Vec<f32> = (0..ids.len()).map(weight).collect();
    let weights = Tensor::new(weights, &Device::Cpu)?;
    let mut first = true;
    Ok(Box::new(move || {
        let hidden = model.hidden(&tokens, None)?;
        let op = LogprobOf { targets: Arc::clone(&targets) };
        let loss = (model.logits(&hidden)?.apply_op1(op)? * &weights)?.sum_all()?;
        let gradients = loss.backward()?;
        if std::mem::take(&mut first)
            && model.vars.iter().any(|var| gradients.get(var.as_tensor()).is_none())
        {
            return Err("a weight has no gradient".into());
        }
        optimizer.step(&gradients)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }))
}
