//! Measures how long running sequences wait for a token while a long prompt arrives.
//!
//!     cargo run --release -p grail-model --example latency -- FOLDER [PROMPT_TOKENS] [ROWS]...
//!
//! Eight sequences stream; then a prompt of `PROMPT_TOKENS` (4000) tokens arrives. Once for each
//! `ROWS`, the most prompt tokens that a step computes while somebody streams (64 and 512), the table
//! has the gaps between two tokens of a running sequence before the prompt, until its first token,
//! and after.

#![expect(clippy::print_stdout, reason = "a table is what the example is for")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use grail_kernels::Kernels;
use grail_model::{
    Engine, EngineConfig, EngineService, SequenceEvent, SequenceRequest, ServiceConfig, Ticket,
};
use grail_ports::model::Sampling;

const RUNNING: u32 = 8;
const RUNNING_PROMPT_TOKENS: u32 = 48;
/// Tokens of each running sequence before and after the long prompt.
const STEPS: usize = 60;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("name a model folder")?;
    let prompt_tokens = arguments.get(1).map_or(Ok(4000), |text| text.parse())?;
    let mut rows: Vec<usize> =
        arguments.iter().skip(2).map(|text| text.parse()).collect::<Result<_, _>>()?;
    if rows.is_empty() {
        rows = vec![64, 512];
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let kernels = Kernels::new(threads)?;
    println!("{kernels:?}, {RUNNING} sequences stream, a prompt of {prompt_tokens} tokens arrives");
    println!(
        "{:>6} {:>22} {:>22} {:>22} {:>12}",
        "rows", "before (median/max)", "during (median/max)", "after (median/max)", "first token"
    );
    for rows in rows {
        let config =
            EngineConfig { prefill_rows_while_streaming_max: rows, ..EngineConfig::default() };
        let engine =
            Arc::new(Engine::load(Path::new(folder), Vec::new(), kernels.clone(), config)?);
        let service = EngineService::start(engine, ServiceConfig::default())?;
        measure(&service, rows, prompt_tokens)?;
        service.drain(Duration::ZERO);
    }
    Ok(())
}

fn measure(service: &EngineService, rows: usize, prompt_tokens: u32) -> Result<(), Box<dyn Error>> {
    let streams: Vec<_> = (0..RUNNING)
        .map(|idx| submit(service, RUNNING_PROMPT_TOKENS, idx, 4000))
        .collect::<Result<_, _>>()?;
    let mut arrivals = Vec::new();
    for (_, times) in &streams {
        arrivals.push(take(times, STEPS)?);
    }
    let before = gaps(&arrivals[0][STEPS / 4..]);
    drop(arrivals);
    let times = &streams[0].1;
    let start = Instant::now();
    let (_ticket, first) = submit(service, prompt_tokens, 99, 1)?;
    let first = first.recv()?;
    let mut all: Vec<Instant> = times.try_iter().collect();
    let mut after = take(times, STEPS)?;
    let last_before = all.iter().rposition(|&at| at < start).unwrap_or(0);
    all.drain(..last_before);
    let n_late = all.iter().rev().take_while(|&&at| at > first).count();
    after.splice(0..0, all.split_off(all.len() - n_late));
    all.extend(after.first());
    println!(
        "{rows:>6} {:>22} {:>22} {:>22} {:>10.0} ms",
        show(before),
        show(gaps(&all)),
        show(gaps(&after)),
        (first - start).as_secs_f64() * 1e3,
    );
    Ok(())
}

fn submit(
    service: &EngineService,
    prompt_tokens: u32,
    seed: u32,
    max_new_tokens: u32,
) -> Result<(Ticket, Receiver<Instant>), Box<dyn Error>> {
    let (sender, receiver) = channel();
    let request = SequenceRequest {
        prompt: (0..prompt_tokens).map(|i| (i * 31 + seed * 17) % 300).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        race_key: [seed; 4],
        max_new_tokens,
        top_logprobs: 0,
        capture_digest: false,
        whitening: None,
        ignore_eos: true,
    };
    let ticket = service.submit(
        request,
        Box::new(move |event| {
            if matches!(event, SequenceEvent::Token { .. }) {
                // The receiver is gone when the measurement is over.
                let _ = sender.send(Instant::now());
            }
        }),
    )?;
    Ok((ticket, receiver))
}

fn take(times: &Receiver<Instant>, n: usize) -> Result<Vec<Instant>, Box<dyn Error>> {
    (0..n).map(|_| Ok(times.recv()?)).collect()
}

/// Median and maximum of the times between neighbours.
fn gaps(times: &[Instant]) -> (Duration, Duration) {
    let mut gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    gaps.sort_unstable();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    (median, gaps.last().copied().unwrap_or_default())
}

fn show((median, max): (Duration, Duration)) -> String {
    format!("{:.1} / {:.1} ms", median.as_secs_f64() * 1e3, max.as_secs_f64() * 1e3)
}
