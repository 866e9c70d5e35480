//! Counts and times of the server, as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::limits::Limits;
use crate::inference::engine::ServiceStats;

/// Upper ends of the buckets, seconds. A token takes from a millisecond to, behind a long prompt, a
/// second or so; a first token may have waited for a queue.
const TOKEN_BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const REQUEST_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// Longest and shortest advice of when to try again, seconds.
const RETRY_MAX_S: f64 = 60.0;
const RETRY_MIN_S: f64 = 1.0;

/// What the server counts by itself; the engine has its own numbers.
#[derive(Debug)]
pub struct Metrics {
    /// Answers by route and status.
    answers: Mutex<BTreeMap<(String, u16), u64>>,
    /// Requests whose client went away before the end.
    pub disconnected: AtomicU64,
    /// From a sequence's submission to its first token.
    pub first_token: Histogram,
    /// From one token of a sequence to the next.
    pub next_token: Histogram,
    /// From a request to its last byte.
    pub request: Histogram,
    /// From a sequence's first token to its end.
    pub running: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            disconnected: AtomicU64::default(),
            first_token: Histogram::new(REQUEST_BUCKETS),
            next_token: Histogram::new(TOKEN_BUCKETS),
            request: Histogram::new(REQUEST_BUCKETS),
            running: Histogram::new(REQUEST_BUCKETS),
        }
    }
}

impl Metrics {
    /// Counts an answer. Routes are those of the server, so they are few.
    pub fn answered(&self, route: &str, status: u16) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Returns the seconds until half of a queue of `waiting` sequences is likely gone.
    pub fn retry_after_s(&self, waiting: usize, running_max: usize) -> u32 {
        let mean = self.running.mean().unwrap_or(RETRY_MIN_S);
        let turns = float(waiting) / (2.0 * float(running_max.max(1)));
        let seconds = (mean * turns).ceil().clamp(RETRY_MIN_S, RETRY_MAX_S);
        // Formatting is the conversion without a lossy cast.
        format!("{seconds:.0}").parse().unwrap_or(1)
    }

    /// Writes everything in the text format of Prometheus, version 0.0.4.
    pub fn render(&self, engine: &ServiceStats, limits: &Limits, in_flight: usize) -> String {
        let mut page = Page(String::new());
        page.gauge("running_sequences", "Sequences that are being generated.", engine.running);
        page.gauge(
            "running_sequences_max",
            "Most sequences generated at once.",
            limits.running_max,
        );
        page.gauge("queue_depth", "Sequences that wait to start.", engine.waiting);
        page.gauge("queue_depth_max", "Most sequences that may wait.", limits.queue_max);
        page.gauge("requests_in_flight", "Requests being read or answered.", in_flight);
        page.gauge("kv_blocks_used", "Blocks of 16 positions in use.", engine.kv_blocks_used);
        page.gauge("kv_blocks_total", "Blocks of 16 positions there are.", engine.kv_blocks_total);
        page.gauge(
            "kv_blocks_cached",
            "Blocks of prompts that are kept for the next request that begins alike.",
            engine.kv_blocks_cached,
        );
        page.counter("generated_tokens", "Tokens generated.", engine.tokens_generated);
        page.counter(
            "prompt_tokens_computed",
            "Prompt tokens that went through the model.",
            engine.prompt_tokens_computed,
        );
        page.counter(
            "prompt_tokens_cached",
            "Prompt tokens that were in the prompt cache.",
            engine.prompt_tokens_cached,
        );
        page.gauge("kv_block_bytes", "Bytes of a block.", engine.kv_block_bytes);
        page.counter("finished_sequences", "Sequences that ran to their end.", engine.finished);
        page.counter("failed_sequences", "Sequences that failed.", engine.failed);
        page.counter("refused_sequences", "Sequences refused by a full queue.", engine.refused);
        page.counter("cancelled_sequences", "Sequences ended early.", engine.cancelled);
        page.counter(
            "disconnected_requests",
            "Requests whose client left before the end.",
            self.disconnected.load(Relaxed),
        );
        page.head("requests_total", "counter", "Answers by route and HTTP status.");
        for ((route, status), count) in
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            page.line(&format!("requests_total{{route=\"{route}\",status=\"{status}\"}}"), count);
        }
        for (name, help, histogram) in [
            (
                "first_token_seconds",
                "From a sequence's submission to its first token.",
                &self.first_token,
            ),
            ("next_token_seconds", "From one token of a sequence to the next.", &self.next_token),
            ("sequence_seconds", "From a sequence's first token to its end.", &self.running),
            ("request_seconds", "From a request to its last byte.", &self.request),
        ] {
            page.histogram(name, help, histogram);
        }
        page.0
    }
}

/// Counts how long something took.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One for each bound, and one beyond the last.
    counts: Vec<AtomicU64>,
    sum_us: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self { bounds, counts, sum_us: AtomicU64::default() }
    }

    /// Adds one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Returns the mean, seconds.
    pub fn mean(&self) -> Option<f64> {
        let count: u64 = self.counts.iter().map(|count| count.load(Relaxed)).sum();
        (count > 0).then(|| self.sum_s() / count as f64)
    }

    fn sum_s(&self) -> f64 {
        self.sum_us.load(Relaxed) as f64 / 1e6
    }
}

fn float(count: usize) -> f64 {
    count as f64
}

/// The page being written.
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!(
            "# HELP grail_serve_{name} {help}\n# TYPE grail_serve_{name} {kind}\n"
        ));
    }

    fn line(&mut self, series: &str, value: impl Display) {
        self.write(format_args!("grail_serve_{series} {value}\n"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        let name = format!("{name}_total");
        self.head(&name, "counter", help);
        self.line(&name, value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut below = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            below += count.load(Relaxed);
            self.line(&format!("{name}_bucket{{le=\"{bound}\"}}"), below);
        }
        below += histogram.counts[histogram.bounds.len()].load(Relaxed);
        self.line(&format!("{name}_bucket{{le=\"+Inf\"}}"), below);
        self.line(&format!("{name}_sum"), histogram.sum_s());
        self.line(&format!("{name}_count"), below);
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a text takes any text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_what_is_at_most_a_bound() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for millis in [100, 101, 5000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page(String::new());
        page.histogram("x", "Help.", &histogram);
        let want = "\
# HELP grail_serve_x Help.
# TYPE grail_serve_x histogram
grail_serve_x_bucket{le=\"0.1\"} 1
grail_serve_x_bucket{le=\"1\"} 2
grail_serve_x_bucket{le=\"+Inf\"} 3
grail_serve_x_sum 5.201
grail_serve_x_count 3
";
        assert_eq!(page.0, want);
    }

    #[test]
    fn a_longer_queue_asks_for_more_patience_within_bounds() {
        let metrics = Metrics::default();
        assert_eq!(metrics.retry_after_s(0, 16), 1);
        metrics.running.observe(Duration::from_secs(8));
        assert_eq!(metrics.retry_after_s(32, 16), 8);
        assert_eq!(metrics.retry_after_s(64, 16), 16);
        assert_eq!(metrics.retry_after_s(1 << 20, 1), 60);
    }
}
