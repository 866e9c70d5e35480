//! Measures what this machine can do at most, to judge kernels by: multiply-adds and bytes a second.
//!
//! Both loops use the instruction set and the number of threads of the [`Kernels`] that they are
//! called on, all threads at once, and keep the best of several runs: a limit is what the machine
//! does when nothing disturbs it.

use crate::Kernels;
use crate::simd::{LANES, Operation, Simd};
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Runs of which the best counts.
const RUNS: usize = 7;
/// A run is made at least this long, so that starting the threads does not count.
const RUN_MIN: Duration = Duration::from_millis(25);

impl Kernels {
    /// Measures the multiply-adds that all threads do together, in GFLOP/s (a multiply-add is two).
    ///
    /// The chains live in registers and do not wait for each other, and no value is loaded or
    /// stored, so no kernel of this instruction set can be faster. Takes about a fifth of a second.
    pub fn measure_fma_gflops(&self) -> f64 {
        let run = |steps: usize| {
            let seconds = self.seconds_of_all(&|_| {
                black_box(self.run(FmaChains { steps: black_box(steps) }));
            });
            let chains = self.run(ChainCount);
            (seconds, 2e-9 * (self.threads() * steps * chains * LANES) as f64 / seconds)
        };
        let mut steps = 1_000;
        while run(steps).0 < RUN_MIN.as_secs_f64() {
            steps *= 2;
        }
        (0..RUNS).map(|_| run(steps).1).fold(0.0, f64::max)
    }

    /// Measures how fast all threads together read memory, in GB/s (10^9 bytes).
    ///
    /// `bytes` is what they read in one run, each thread a part of its own, front to back or in four
    /// places in turn, with and without prefetching: whichever is fastest, since one plain stream
    /// keeps too few reads under way. `bytes` must be several times larger than the last cache, and
    /// it is allocated for the time of the call.
    pub fn measure_read_gb_per_s(&self, bytes: usize) -> f64 {
        let each = (bytes / self.threads() / size_of::<f32>()).next_multiple_of(READ_STRIDE);
        let buffers: Vec<Vec<f32>> = (0..self.threads()).map(|_| vec![1.0; each]).collect();
        let total = 1e-9 * (self.threads() * each * size_of::<f32>()) as f64;
        let run = |streams: usize, ahead: usize| {
            let read = |thread: usize| {
                black_box(self.run(ReadAll { data: black_box(&buffers[thread]), streams, ahead }));
            };
            total / self.seconds_of_all(&read)
        };
        let patterns = [(1, 0), (1, AHEAD), (STREAMS, 0), (STREAMS, AHEAD)];
        let runs = patterns.into_iter().cycle().take(patterns.len() * RUNS);
        runs.map(|(streams, ahead)| run(streams, ahead)).fold(0.0, f64::max)
    }

    /// Runs `work(thread)` on as many threads as the pool has, all starting together, and returns
    /// the seconds until the last has ended. Not on the pool: it may give one thread two tasks.
    fn seconds_of_all(&self, work: &(dyn Fn(usize) + Sync)) -> f64 {
        let start_line = Barrier::new(self.threads());
        let timed = |thread: usize| {
            start_line.wait();
            let start = Instant::now();
            work(thread);
            (start, Instant::now())
        };
        let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
            let others: Vec<_> =
                (1..self.threads()).map(|thread| scope.spawn(move || timed(thread))).collect();
            let own = timed(0);
            let joined = others.into_iter().map(|other| match other.join() {
                Ok(times) => times,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(own).chain(joined).collect()
        });
        let first = times.iter().map(|(start, _)| *start).min();
        let last = times.iter().map(|(_, end)| *end).max();
        first.zip(last).map_or(f64::INFINITY, |(first, last)| (last - first).as_secs_f64())
    }
}

/// Chains of a wide instruction set: two units with a latency of four to five steps need ten. Loops
/// of twenty and more were measured to be slower on Zen 5 (210 of 270 GFLOP/s).
const CHAINS_WIDE: usize = 12;
/// Chains where a sixteen-lane vector takes two to four of sixteen to thirty-two registers.
const CHAINS_NARROW: usize = 6;

/// The number of chains that [`FmaChains`] runs.
struct ChainCount;

impl Operation for ChainCount {
    type Output = usize;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        if S::WIDE { CHAINS_WIDE } else { CHAINS_NARROW }
    }
}

/// Continues independent chains of multiply-adds by `steps`.
struct FmaChains {
    steps: usize,
}

impl Operation for FmaChains {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        if S::WIDE {
            chains::<S, CHAINS_WIDE>(simd, self.steps)
        } else {
            chains::<S, CHAINS_NARROW>(simd, self.steps)
        }
    }
}

#[inline(always)]
fn chains<S: Simd, const COUNT: usize>(simd: S, steps: usize) -> f32 {
    // Different starts, or the compiler may run one chain for all. They tend to 1: no value becomes
    // subnormal or infinite, which could be slower.
    let mut values = [simd.splat(0.0); COUNT];
    for (start, value) in values.iter_mut().enumerate() {
        *value = simd.splat(black_box(start as f32));
    }
    let (factor, term) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
    for _ in 0..steps {
        for value in &mut values {
            *value = simd.fma(*value, factor, term);
        }
    }
    let mut sum = simd.splat(0.0);
    for value in values {
        sum = simd.add(sum, value);
    }
    simd.tree_sum(sum)
}

/// Vectors loaded in one step of [`ReadAll`].
const READ_VECTORS: usize = 8;
/// Places that a thread reads from in turn, where it reads from several.
const STREAMS: usize = 4;
/// Values from one part of a thread's buffer to the next that every number of streams divides.
const READ_STRIDE: usize = STREAMS * READ_VECTORS * LANES;
/// How far ahead of its use a value is prefetched, in values: 2 KiB.
const AHEAD: usize = 512;

/// Adds all values, so that each must be loaded.
struct ReadAll<'a> {
    data: &'a [f32],
    /// Equal parts of the data that are read in turn; divides the length in steps.
    streams: usize,
    /// How many values ahead to prefetch; 0 does not.
    ahead: usize,
}

impl Operation for ReadAll<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let Self { data, streams, ahead } = self;
        let mut sums = [simd.splat(0.0); READ_VECTORS];
        let part = data.len() / streams;
        for start in (0..part).step_by(READ_VECTORS * LANES) {
            for stream in 0..streams {
                let step = &data[stream * part + start..][..READ_VECTORS * LANES];
                for (sum, vector) in sums.iter_mut().zip(step.chunks_exact(LANES)) {
                    if ahead > 0 {
                        simd.prefetch(vector.as_ptr().wrapping_add(ahead).cast());
                    }
                    *sum = simd.add(*sum, simd.load_part(vector, 0.0));
                }
            }
        }
        let mut sum = simd.splat(0.0);
        for part in sums {
            sum = simd.add(sum, part);
        }
        simd.tree_sum(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn the_loops_do_what_they_are_measured_for() {
        for isa in Isa::available() {
            let kernels = Kernels::with_isa(isa, 1).unwrap();
            // Chains start at 0, 1, ... and stay there without a step.
            let count = kernels.run(ChainCount);
            let start = (LANES * count * (count - 1) / 2) as f32;
            assert_eq!(kernels.run(FmaChains { steps: 0 }), start, "{isa}");
            // One step maps x to 0.999 x + 0.001.
            let one = kernels.run(FmaChains { steps: 1 });
            let want = 0.999 * start + 0.001 * (LANES * count) as f32;
            assert!((one - want).abs() < 1e-3 * want, "{isa}: {one}, expected {want}");
            let data: Vec<f32> = (0..3 * READ_STRIDE).map(|i| (i % 7) as f32).collect();
            for (streams, ahead) in [(1, 0), (1, AHEAD), (STREAMS, 0), (STREAMS, AHEAD)] {
                let sum = kernels.run(ReadAll { data: &data, streams, ahead });
                assert_eq!(sum, data.iter().sum::<f32>(), "{isa}, {streams} streams");
            }
        }
    }

    #[test]
    fn every_thread_takes_part_once() {
        let kernels = Kernels::new(3).unwrap();
        let calls = std::sync::Mutex::new(Vec::new());
        let seconds = kernels.seconds_of_all(&|thread| calls.lock().unwrap().push(thread));
        let mut calls = calls.into_inner().unwrap();
        calls.sort_unstable();
        assert_eq!(calls, [0, 1, 2]);
        assert!(seconds >= 0.0 && seconds.is_finite());
    }
}
