//! What a run found, as JSON (`docs/bench.md` explains every field) and as lines of a table.

use serde::Serialize;

use super::measure::{median, tenths};
use crate::memory;

/// Version of the JSON; it changes when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the command.
    pub grail_version: &'static str,
    /// What it ran on.
    pub machine: &'a Machine,
    /// What it ran.
    pub model: ModelShape,
    /// Measurements.
    pub rows: &'a [Row],
    /// Comparisons.
    pub ratios: &'a [Ratio],
}

/// The machine and its limits with the instruction set and threads of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name, if the system tells.
    pub cpu: String,
    /// Instruction set of the kernels.
    pub isa: &'static str,
    /// Compute threads.
    pub threads: usize,
    /// Multiply-adds from registers, all threads, GFLOP/s.
    pub fma_gflops: f64,
    /// Reading memory front to back, all threads, GB/s.
    pub read_gb_per_s: f64,
}

/// The model of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelShape {
    /// Folder or file, `embedded` for the model that comes with the command.
    pub source: String,
    /// Number of parameters, a tied head counted once.
    pub parameters: u64,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
}

/// What one repetition of a row does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Tokens that count for the speed; 0 where tokens are no measure.
    pub tokens: u64,
    /// Floating-point operations, a multiply-add being two; 0 where they are no measure.
    pub flop: f64,
    /// Bytes that must come from memory; 0 where they are no measure.
    pub bytes: f64,
}

/// One measurement.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Stays the same from version to version.
    pub id: String,
    /// What one repetition does.
    pub what: String,
    /// Number of repetitions.
    pub repetitions: usize,
    /// Seconds of the median repetition,
    pub seconds: f64,
    /// seconds that a tenth of the repetitions stays below (of fewer than ten, the least),
    pub seconds_p10: f64,
    /// and that a tenth is above (of fewer than ten, the most).
    pub seconds_p90: f64,
    /// Tokens of one repetition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Tokens per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// GFLOP/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gflops: Option<f64>,
    /// Share of [`Machine::fma_gflops`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fma_share: Option<f64>,
    /// Bytes per second that must come from memory, GB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// Share of [`Machine::read_gb_per_s`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_share: Option<f64>,
    /// The process's largest resident size so far, earlier rows included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

impl Row {
    /// Makes the row of `work` repeated in `seconds` each, at least one.
    pub fn new(id: &str, what: String, work: Work, seconds: &[f64], machine: &Machine) -> Self {
        let (middle, (low, high)) = (median(seconds), tenths(seconds));
        let positive = |amount: f64| (amount > 0.0).then_some(1e-9 * amount / middle);
        let (gflops, gb_per_s) = (positive(work.flop), positive(work.bytes));
        let tokens = (work.tokens > 0).then_some(work.tokens);
        Self {
            id: id.to_owned(),
            what,
            repetitions: seconds.len(),
            seconds: middle,
            seconds_p10: low,
            seconds_p90: high,
            tokens,
            tokens_per_s: tokens.map(|tokens| tokens as f64 / middle),
            gflops,
            fma_share: gflops.map(|gflops| gflops / machine.fma_gflops),
            gb_per_s,
            read_share: gb_per_s.map(|gb_per_s| gb_per_s / machine.read_gb_per_s),
            peak_bytes: memory::peak_bytes(),
        }
    }
}

/// A comparison of two kinds of work that were measured in turn.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// Stays the same from version to version.
    pub id: &'static str,
    /// What is compared.
    pub what: String,
    /// The ratio: the median over the rounds.
    pub value: f64,
}

/// The line of a row in the table; `None` is the header.
pub fn row_line(row: Option<&Row>) -> String {
    let Some(row) = row else {
        return line(
            ["row", "time", "spread", "tokens/s", "GFLOP/s", "of FMA", "GB/s", "of read", "peak"]
                .map(str::to_owned),
        );
    };
    let spread = 100.0 * (row.seconds_p90 - row.seconds_p10) / row.seconds;
    let share = |share: Option<f64>| cell(share.map(|share| 100.0 * share), 1, " %");
    line([
        row.id.clone(),
        time(row.seconds),
        format!("{spread:.0} %"),
        cell(row.tokens_per_s, 0, ""),
        cell(row.gflops, 1, ""),
        share(row.fma_share),
        cell(row.gb_per_s, 1, ""),
        share(row.read_share),
        cell(row.peak_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)), 0, " MiB"),
    ])
}

fn line([id, cells @ ..]: [String; 9]) -> String {
    let cells: String = cells.iter().map(|cell| format!(" {cell:>10}")).collect();
    format!("{id:<26}{cells}").trim_end().to_owned()
}

fn cell(value: Option<f64>, digits: usize, unit: &str) -> String {
    value.map_or(String::new(), |value| format!("{value:.digits$}{unit}"))
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} us", 1e6 * s),
        s if s < 1.0 => format!("{:.2} ms", 1e3 * s),
        s => format!("{s:.2} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let cpu = "test".to_owned();
        Machine { cpu, isa: "portable", threads: 1, fma_gflops: 4.0, read_gb_per_s: 10.0 }
    }

    #[test]
    fn speeds_follow_from_the_median() {
        let work = Work { tokens: 100, flop: 4e9, bytes: 1e10 };
        let row = Row::new("a.1", "work".into(), work, &[4.0, 2.0, 1.0], &machine());
        assert_eq!((row.seconds, row.seconds_p10, row.seconds_p90), (2.0, 1.0, 4.0));
        assert_eq!(row.tokens_per_s, Some(50.0));
        assert_eq!((row.gflops, row.fma_share), (Some(2.0), Some(0.5)));
        assert_eq!((row.gb_per_s, row.read_share), (Some(5.0), Some(0.5)));
    }

    #[test]
    fn what_is_no_measure_is_left_out() {
        let row = Row::new("a.1", "work".into(), Work::default(), &[0.5], &machine());
        let json = serde_json::to_value(&row).unwrap();
        for absent in ["tokens", "tokens_per_s", "gflops", "fma_share", "gb_per_s", "read_share"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        assert_eq!(json["seconds"], 0.5);
        assert!(row_line(Some(&row)).starts_with("a.1"));
    }

    #[test]
    fn times_are_readable() {
        for (seconds, want) in [(2e-6, "2.0 us"), (0.0125, "12.50 ms"), (3.0, "3.00 s")] {
            assert_eq!(time(seconds), want);
        }
    }
}
