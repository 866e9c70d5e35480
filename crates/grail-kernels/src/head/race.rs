//! Chooses tokens: the seeded exponential race, and the plain largest logit.
//!
//! For a row with key words `key[0..4]`, step `t` and temperature `T`, every token `v` draws an
//! exponential `e` and the highest `score = logit / T - ln(e)` wins, ties to the lower id:
//! ```text
//! x  = word v % 4 of Philox4x32-10(counter = [v / 4, t, key[2], key[3]], key = [key[0], key[1]])
//! w  = (x >> 1) as f32                          rounded to nearest even
//! vv = min((w + 0.5) * 2^-31, 1 - 2^-24)
//! e  = -ln_1p_neg(vv)
//! ```
//! where `ln_1p_neg` and `ln` are those of [`crate::math`]. The protocol states the same rule on
//! its own, and a test compares the bits.

use crate::kernels::{Kernels, SharedMut};
use crate::math::{ln_1p_neg_lanes, ln_lanes};
use crate::simd::scalar::Scalar;
use crate::simd::{Arith, LANES, Operation, Simd};
use crate::{KernelError, math};
use std::sync::atomic::{AtomicU32, Ordering};

/// The 128-bit key of one rollout's races: words 0 and 1 key the generator, 2 and 3 its counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaceKey(pub [u32; 4]);

/// Who won a row's race.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct RaceOutcome {
    /// The winning token id.
    pub winner: u32,
    /// Its score, in nats.
    pub winner_score: f32,
    /// The score of the claimed token; the winner's if none was claimed.
    pub claimed_score: f32,
}

/// Tokens that one task scores, a multiple of sixteen: tens of microseconds.
const TOKENS_PER_TASK: usize = 8_192;
/// Values a plain scan must have before it is worth a second thread.
const SCAN_COST: usize = 1;
/// A raced token costs about this many times a scanned one.
const RACE_COST: usize = 8;

impl Kernels {
    /// Runs one race per row of `logits`, `[rows, vocab]`.
    ///
    /// `keys`, `steps` (the 0-based step of the completion), `claimed` and `out` have one entry a
    /// row. With `claimed`, the outcome also has that token's score, so that
    /// `winner_score - claimed_score` is its margin in nats.
    ///
    /// # Errors
    /// If a row holds NaN. `out` is then unspecified.
    ///
    /// # Panics
    /// If a shape does not fit, `temperature` is not positive and finite, or a claimed token is not
    /// below `vocab`.
    #[expect(clippy::too_many_arguments, reason = "one argument per input of the rule")]
    pub fn race(
        &self,
        logits: &[f32],
        vocab: usize,
        keys: &[RaceKey],
        steps: &[u32],
        temperature: f32,
        claimed: Option<&[u32]>,
        out: &mut [RaceOutcome],
    ) -> Result<(), KernelError> {
        let rows = rows_of("race", logits, vocab);
        assert!(temperature > 0.0 && temperature.is_finite(), "race: temperature {temperature}");
        assert!(
            keys.len() == rows && steps.len() == rows && out.len() == rows,
            "race: keys, steps and out must have one entry for each of {rows} rows"
        );
        if let Some(claimed) = claimed {
            let below = claimed.iter().all(|&token| (token as usize) < vocab);
            assert!(claimed.len() == rows && below, "race: one claimed token below {vocab} a row");
        }
        let scorer = |row: usize| Scorer { key: keys[row], step: steps[row], temperature };
        let best = self.best_of_rows(logits, vocab, RACE_COST, &|logits, first, row| {
            let (scorer, bar) = (scorer(row), f32::NEG_INFINITY);
            self.run(RaceScan { logits, first, scorer, bar })
        })?;
        for (row, (out, best)) in out.iter_mut().zip(best).enumerate() {
            let claimed_score = claimed.map_or(best.score, |claimed| {
                let token = claimed[row];
                scorer(row).score(logits[row * vocab + token as usize], token)
            });
            *out = RaceOutcome { winner: best.token, winner_score: best.score, claimed_score };
        }
        Ok(())
    }

    /// Writes the token with the largest logit of each row of `logits`, `[rows, vocab]`; ties go to
    /// the lower id.
    ///
    /// # Errors
    /// If a row holds NaN. `out` is then unspecified.
    ///
    /// # Panics
    /// If a shape does not fit.
    pub fn greedy(&self, logits: &[f32], vocab: usize, out: &mut [u32]) -> Result<(), KernelError> {
        let rows = rows_of("greedy", logits, vocab);
        assert_eq!(out.len(), rows, "greedy: out must have one entry for each of {rows} rows");
        let best = self.best_of_rows(logits, vocab, SCAN_COST, &|logits, first, _| {
            self.run(GreedyScan { logits, first })
        })?;
        for (out, best) in out.iter_mut().zip(best) {
            *out = best.token;
        }
        Ok(())
    }

    /// Scans every row in pieces (in parallel) and joins the pieces in token order.
    fn best_of_rows(
        &self,
        logits: &[f32],
        vocab: usize,
        cost: usize,
        scan: &(dyn Fn(&[f32], u32, usize) -> Best + Sync),
    ) -> Result<Vec<Best>, KernelError> {
        let rows = logits.len() / vocab;
        let pieces = vocab.div_ceil(TOKENS_PER_TASK);
        let mut found = vec![Best::NONE; rows * pieces];
        let shared = SharedMut::new(&mut found);
        self.for_ranges(rows * pieces, TOKENS_PER_TASK.min(vocab) * cost, 1, &|range| {
            for task in range {
                let (row, first) = (task / pieces, task % pieces * TOKENS_PER_TASK);
                let row_logits = &logits[row * vocab..][..vocab];
                let piece = &row_logits[first..vocab.min(first + TOKENS_PER_TASK)];
                // SAFETY: each task has its own entry.
                unsafe { shared.put(task, scan(piece, first as u32, row)) };
            }
        });
        found
            .chunks_exact(pieces)
            .enumerate()
            .map(|(row, pieces)| {
                let best = pieces.iter().copied().fold(Best::NONE, Best::join);
                if best.nan {
                    return Err(KernelError::NanLogits { row });
                }
                Ok(best.or_first())
            })
            .collect()
    }
}

/// The score of one token in a race, as [`Kernels::race`] computes it.
pub fn race_score(logit: f32, token: u32, key: RaceKey, step: u32, temperature: f32) -> f32 {
    Scorer { key, step, temperature }.score(logit, token)
}

/// The exponential that `token` draws at `step`.
pub fn race_exponential(token: u32, key: RaceKey, step: u32) -> f32 {
    exponential(Scalar, token_word(token, key, step))
}

fn rows_of(what: &str, logits: &[f32], vocab: usize) -> usize {
    let fits = vocab > 0 && u32::try_from(vocab).is_ok() && logits.len().is_multiple_of(vocab);
    assert!(fits, "{what}: {} logits in rows of {vocab}", logits.len());
    logits.len() / vocab
}

/// The best of some tokens.
#[derive(Clone, Copy)]
pub(super) struct Best {
    pub(super) score: f32,
    pub(super) token: u32,
    /// Whether a logit was NaN.
    pub(super) nan: bool,
}

impl Best {
    pub(super) const NONE: Self = Self { score: f32::NEG_INFINITY, token: u32::MAX, nan: false };

    /// Nothing beats -infinity; if all are that, they tie and the lowest id wins.
    pub(super) fn or_first(self) -> Self {
        let token = if self.token == u32::MAX { 0 } else { self.token };
        Self { token, ..self }
    }

    /// The better of two: higher score, then lower token.
    pub(super) fn join(self, other: Self) -> Self {
        let better =
            other.score > self.score || (other.score == self.score && other.token < self.token);
        let best = if better { other } else { self };
        Self { nan: self.nan | other.nan, ..best }
    }
}

/// The constants of one row's race.
#[derive(Clone, Copy)]
pub(super) struct Scorer {
    pub(super) key: RaceKey,
    pub(super) step: u32,
    pub(super) temperature: f32,
}

impl Scorer {
    fn score(self, logit: f32, token: u32) -> f32 {
        let e = race_exponential(token, self.key, self.step);
        logit / self.temperature - math::ln(e)
    }
}

fn token_word(token: u32, key: RaceKey, step: u32) -> u32 {
    let words = philox(Scalar, [token / 4, step, key.0[2], key.0[3]], [key.0[0], key.0[1]]);
    words[(token % 4) as usize]
}

/// Maps a random word to an exponential, as the module says.
#[inline(always)]
fn exponential<A: Arith>(a: A, word: A::I) -> A::F {
    let w = a.to_f32(a.shr(word, 1));
    let vv = a.mul(a.add(w, a.splat(0.5)), a.splat(f32::from_bits((127 - 31) << 23)));
    let most = a.splat(1.0 - f32::EPSILON / 2.0);
    let vv = a.select(a.gt(vv, most), most, vv);
    let negative = ln_1p_neg_lanes(a, vv);
    a.neg(negative)
}

/// Philox4x32-10 (Salmon et al., 2011): ten rounds over a counter of four words.
#[inline(always)]
fn philox<A: Arith>(a: A, counter: [A::I; 4], key: [u32; 2]) -> [A::I; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let (high_0, low_0) = a.mul_wide(c0, a.splat_bits(MULTIPLIERS[0]));
        let (high_1, low_1) = a.mul_wide(c2, a.splat_bits(MULTIPLIERS[1]));
        c0 = a.xor_bits(a.xor_bits(high_1, c1), a.splat_bits(k0));
        c2 = a.xor_bits(a.xor_bits(high_0, c3), a.splat_bits(k1));
        (c1, c3) = (low_1, low_0);
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// The running best of each lane.
#[derive(Clone, Copy)]
struct LaneBest<S: Simd> {
    score: S::F,
    token: S::I,
    nan: S::M,
}

impl<S: Simd> LaneBest<S> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let score = simd.splat(f32::NEG_INFINITY);
        Self { score, token: simd.splat_bits(u32::MAX), nan: simd.is_nan(score) }
    }

    /// Takes sixteen scores; within a lane an earlier token wins a tie.
    #[inline(always)]
    fn take(&mut self, simd: S, score: S::F, token: S::I) {
        self.nan = simd.or(self.nan, simd.is_nan(score));
        let better = simd.gt(score, self.score);
        self.score = simd.select(better, score, self.score);
        self.token = simd.select_bits(better, token, self.token);
    }

    #[inline(always)]
    fn finish(self, simd: S) -> Best {
        let (mut scores, mut tokens) = ([0.0; LANES], [0; LANES]);
        simd.store(self.score, &mut scores);
        simd.store_bits(self.token, &mut tokens);
        let nan = simd.any(self.nan);
        let lanes = scores.into_iter().zip(tokens);
        lanes.fold(Best { nan, ..Best::NONE }, |best, (score, token)| {
            best.join(Best { score, token, nan: false })
        })
    }
}

/// The counter of each lane, such that transposing quads puts the words in token order.
const QUAD_COUNTERS: [u32; LANES] = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
const LANE_NUMBERS: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Finds the best of neighbouring tokens by their logits.
pub(super) struct GreedyScan<'a> {
    pub(super) logits: &'a [f32],
    /// Token of `logits[0]`.
    pub(super) first: u32,
}

impl Operation for GreedyScan<'_> {
    type Output = Best;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Best {
        let mut best = LaneBest::new(simd);
        let lanes = simd.load_bits(&LANE_NUMBERS);
        for (index, logits) in self.logits.chunks(LANES).enumerate() {
            let first = simd.splat_bits(self.first + (index * LANES) as u32);
            best.take(simd, simd.load_part(logits, f32::NEG_INFINITY), simd.add_bits(first, lanes));
        }
        best.finish(simd)
    }
}

/// Finds the best of neighbouring tokens by their scores in a race.
pub(super) struct RaceScan<'a> {
    pub(super) logits: &'a [f32],
    /// Token of `logits[0]`, a multiple of sixteen.
    pub(super) first: u32,
    pub(super) scorer: Scorer,
    /// A score that some token of the row has reached. Tokens that cannot reach it are left out,
    /// so that the result is the best only if the row's best is among these tokens.
    pub(super) bar: f32,
}

/// Tokens whose words come from sixteen counters: word `j` of counter `c` is token `4 c + j`.
const GROUP: usize = 4 * LANES;

impl Operation for RaceScan<'_> {
    type Output = Best;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Best {
        let mut best = LaneBest::new(simd);
        let mut bound = Bound::new(simd, self.scorer.temperature, self.bar);
        let lanes = simd.load_bits(&LANE_NUMBERS);
        let counters = simd.load_bits(&QUAD_COUNTERS);
        let [k0, k1, k2, k3] = self.scorer.key.0;
        let fixed = [simd.splat_bits(self.scorer.step), simd.splat_bits(k2), simd.splat_bits(k3)];
        let temperature = simd.splat(self.scorer.temperature);
        for (group, logits) in self.logits.chunks(GROUP).enumerate() {
            let mut largest = simd.splat(f32::NEG_INFINITY);
            for part in logits.chunks(LANES) {
                let logit = simd.load_part(part, f32::NEG_INFINITY);
                best.nan = simd.or(best.nan, simd.is_nan(logit));
                largest = simd.max(logit, largest);
            }
            if !bound.any_can_win(simd, largest) {
                continue;
            }
            let first = self.first + (group * GROUP) as u32;
            let counter = simd.add_bits(simd.splat_bits(first / 4), counters);
            let words = philox(simd, [counter, fixed[0], fixed[1], fixed[2]], [k0, k1]);
            let words = simd.transpose_quads(words);
            for (part, logits) in logits.chunks(LANES).enumerate() {
                let logit = simd.load_part(logits, f32::NEG_INFINITY);
                if !bound.any_with_can_win(simd, logit, words[part]) {
                    continue;
                }
                let token = simd.add_bits(simd.splat_bits(first + (part * LANES) as u32), lanes);
                let scaled = simd.div(logit, temperature);
                let score = simd.sub(scaled, ln_lanes(simd, exponential(simd, words[part])));
                best.take(simd, score, token);
                bound.raise(simd, simd.max_lane(best.score));
            }
        }
        best.finish(simd)
    }
}

/// Rules out tokens that cannot reach a score, at a fraction of what a score costs.
///
/// With `v` the uniform number of a token, its exponential is `e = -ln(1 - v) >= v`, so its score
/// is at most `logit / T - ln(v)`; and `ln(v) >= ln 2 * (bits(v) / 2^23 - 127)`, since the bits of
/// an f32 interpolate its logarithm from below. A token is left out only if that bound plus
/// [`MARGIN`] is *below* the bar, so neither a winner nor a token that ties with it is lost. NaN
/// leaves nothing out.
///
/// The margin covers every rounding on both sides. In the score: the division (2^-24 of its
/// result), the exponential (1.44 ulp), its logarithm (0.84 ulp of at most 22.2) and the
/// subtraction (2^-24 of the result). In the bound: the reciprocal and the product (2^-23), the
/// constants and sums of at most `110 + |logit / T|`, the conversion of the bits (32 of 2^23).
/// Together they are below `5e-5 + 2^-21 * |logit / T|`.
struct Bound<S: Simd> {
    bar: S::F,
    reciprocal: S::F,
}

/// Absolute and relative part of what the bounds of a score are raised by.
const MARGIN: (f32, f32) = (1e-3, 1.0 / (1 << 20) as f32);
/// More than `-ln(v)` of the smallest `v`, 2^-32: 32 ln 2 = 22.18.
const GUMBEL_MAX: f32 = 22.2;
const LN_2: f32 = std::f32::consts::LN_2;

impl<S: Simd> Bound<S> {
    #[inline(always)]
    fn new(simd: S, temperature: f32, bar: f32) -> Self {
        Self { bar: simd.splat(bar), reciprocal: simd.splat(1.0 / temperature) }
    }

    /// Raises the bar to a score that was reached.
    #[inline(always)]
    fn raise(&mut self, simd: S, score: f32) {
        self.bar = simd.max(simd.splat(score), self.bar);
    }

    /// Whether one of sixteen logits could win with the luckiest draw.
    #[inline(always)]
    fn any_can_win(&self, simd: S, logit: S::F) -> bool {
        let scaled = simd.mul(logit, self.reciprocal);
        self.any_reaches(simd, scaled, simd.add(scaled, simd.splat(GUMBEL_MAX)))
    }

    /// Whether one of sixteen logits could win with its random word.
    #[inline(always)]
    fn any_with_can_win(&self, simd: S, logit: S::F, word: S::I) -> bool {
        let scaled = simd.mul(logit, self.reciprocal);
        // As in `exponential`, before the power of two, which goes into the constant; there the
        // largest `v` is lowered by an ulp, which the margin covers too.
        let v = simd.add(simd.to_f32(simd.shr(word, 1)), simd.splat(0.5));
        let bits = simd.to_f32(simd.to_bits(v));
        let slope = simd.splat(-LN_2 / (1 << 23) as f32);
        let start = simd.add(scaled, simd.splat((127 + 31) as f32 * LN_2));
        self.any_reaches(simd, scaled, simd.fma(bits, slope, start))
    }

    #[inline(always)]
    fn any_reaches(&self, simd: S, scaled: S::F, bound: S::F) -> bool {
        let size = simd.of_bits(simd.and_bits(simd.to_bits(scaled), simd.splat_bits(!(1 << 31))));
        let bound = simd.fma(size, simd.splat(MARGIN.1), simd.add(bound, simd.splat(MARGIN.0)));
        let out = simd.gt(self.bar, bound);
        !simd.all(out)
    }
}

/// The best score of a row that any thread has seen: a hint that saves work.
#[derive(Debug)]
pub(super) struct Bar(AtomicU32);

impl Default for Bar {
    fn default() -> Self {
        Self(AtomicU32::new(ordered(f32::NEG_INFINITY)))
    }
}

impl Bar {
    pub(super) fn get(&self) -> f32 {
        let bits = self.0.load(Ordering::Relaxed);
        f32::from_bits(if bits >> 31 == 1 { bits ^ (1 << 31) } else { !bits })
    }

    /// Raises the bar to `score`, which must not be NaN.
    pub(super) fn raise(&self, score: f32) {
        self.0.fetch_max(ordered(score), Ordering::Relaxed);
    }
}

/// Maps scores to integers of the same order.
fn ordered(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 0 { bits | (1 << 31) } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_only_rises() {
        let bar = Bar::default();
        for (score, want) in [
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-3.5, -3.5),
            (-4.0, -3.5),
            (0.25, 0.25),
            (-0.0, 0.25),
            (1e30, 1e30),
            (f32::INFINITY, f32::INFINITY),
            (7.0, f32::INFINITY),
        ] {
            bar.raise(score);
            assert_eq!(bar.get(), want, "after {score}");
        }
    }
}
