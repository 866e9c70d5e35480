//! The LM head: logits, their softmax and the choice of a token, one block of the vocabulary at a
//! time, so that no `[rows, vocab]` buffer exists.
//!
//! A task multiplies some rows with the weights of [`SOFTMAX_BLOCK`] tokens and, while the logits
//! are in its core's cache, takes from them all that the row's result will need.

mod logits;
mod race;
mod softmax;

pub use race::{RaceKey, RaceOutcome, race_exponential, race_score};
pub use softmax::{EntropyTerm, SOFTMAX_BLOCK, SoftmaxStats};

use crate::KernelError;
use crate::elementwise::SoftCap;
use crate::gemm::ColumnsProduct;
use crate::kernels::{Kernels, SharedMut};
use crate::packed::PackedMatrix;
use race::{Bar, Best, GreedyScan, RaceScan, Scorer};
use softmax::{BlockStats, Blocks};
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a task: their logits of one block are 192 KiB, a part of L2.
const ROWS_EACH: usize = 48;

/// How the token of a row is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pick {
    /// Not at all.
    #[default]
    None,
    /// The largest logit; ties go to the lower id.
    Greedy,
    /// The race of [`Kernels::race`].
    Race {
        /// Key of the rollout.
        key: RaceKey,
        /// 0-based step of the completion.
        step: u32,
        /// Divides the logits; positive and finite.
        temperature: f32,
    },
}

/// What is asked about a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadQuery {
    /// How a token is to be chosen.
    pub pick: Pick,
    /// A token to be looked at, below the size of the vocabulary.
    pub claimed: Option<u32>,
}

/// What is asked about all rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeadOptions {
    /// Replaces each logit `x` by `cap * tanh(x / cap)` first; positive and finite.
    pub soft_cap: Option<f32>,
    /// Whether the entropy is wanted.
    pub entropy: bool,
}

/// A token of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadToken {
    /// Its id.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
    /// What [`Pick`] compares: the score in the race, else the logit.
    pub score: f32,
}

/// The answer for a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadRow {
    /// The chosen token; `None` for [`Pick::None`].
    pub winner: Option<HeadToken>,
    /// The claimed token.
    pub claimed: Option<HeadToken>,
    /// For log-probabilities and gradients.
    pub stats: SoftmaxStats,
    /// Entropy of the softmax, nats, if asked for.
    pub entropy: Option<f32>,
}

impl Kernels {
    /// Computes the logits `x weight^T` of each row of `x`, `[rows, k]`, and answers `queries`, one
    /// a row, without keeping them. The same bits as [`Kernels::linear`] and then
    /// [`Kernels::soft_cap`], [`Kernels::softmax_stats`], [`Kernels::race`] and
    /// [`Kernels::greedy`].
    ///
    /// # Errors
    /// If a row has no softmax: a logit is NaN or +infinity, or none is above -infinity.
    ///
    /// # Panics
    /// If a shape does not fit, a temperature or the soft-cap is not positive and finite, or a
    /// claimed token is not below the vocabulary.
    pub fn head(
        &self,
        x: &[f32],
        weight: &PackedMatrix,
        queries: &[HeadQuery],
        options: HeadOptions,
    ) -> Result<Vec<HeadRow>, KernelError> {
        let (rows, k, vocab) = (queries.len(), weight.k(), weight.n());
        assert_eq!(x.len(), rows * k, "head: x has {} values for [{rows}, {k}]", x.len());
        check(queries, options, vocab);
        let n_blocks = vocab.div_ceil(SOFTMAX_BLOCK);
        let mut blocks = Blocks::new(rows * n_blocks);
        let mut found = vec![Found::NOTHING; rows * n_blocks];
        let row_tasks = rows.div_ceil(ROWS_EACH);
        let rows_each = rows.div_ceil(row_tasks.max(1)).max(1);
        let row_tasks = rows.div_ceil(rows_each);
        let pass = Pass {
            kernels: self,
            x,
            weight,
            queries,
            options,
            bars: queries.iter().map(|_| Bar::default()).collect(),
            blocks: Blocks {
                max: SharedMut::new(&mut blocks.max),
                sum: SharedMut::new(&mut blocks.sum),
                moment: SharedMut::new(&mut blocks.moment),
            },
            found: SharedMut::new(&mut found),
        };
        // The tasks of a block are neighbours: its weights pass through the cache once.
        self.parallel(n_blocks * row_tasks, &|task| {
            let (block, first) = (task / row_tasks, task % row_tasks * rows_each);
            pass.run(block, first..rows.min(first + rows_each));
        });
        let joined = self.join_blocks(&blocks, rows).into_iter().enumerate();
        joined
            .map(|(row, joined)| {
                let (stats, entropy) = joined?;
                let of_row = found.iter().skip(row).step_by(rows);
                let found = of_row.copied().fold(Found::NOTHING, Found::join);
                let query = queries[row];
                let winner = (query.pick != Pick::None).then(|| found.winner());
                let claimed = query.claimed.map(|token| {
                    let logit = found.claimed_logit;
                    let score = match (winner, query.pick) {
                        (Some(winner), _) if winner.token == token => winner.score,
                        (_, Pick::Race { key, step, temperature }) => {
                            race_score(logit, token, key, step, temperature)
                        }
                        _ => logit,
                    };
                    HeadToken { token, logit, score }
                });
                let entropy = options.entropy.then_some(entropy);
                Ok(HeadRow { winner, claimed, stats, entropy })
            })
            .collect()
    }
}

fn check(queries: &[HeadQuery], options: HeadOptions, vocab: usize) {
    assert!(vocab > 0 && u32::try_from(vocab).is_ok(), "head: a vocabulary of {vocab}");
    let positive = |x: f32| x > 0.0 && x.is_finite();
    assert!(options.soft_cap.is_none_or(positive), "head: soft-cap {:?}", options.soft_cap);
    for query in queries {
        if let Pick::Race { temperature, .. } = query.pick {
            assert!(positive(temperature), "head: temperature {temperature}");
        }
        let below = query.claimed.is_none_or(|token| (token as usize) < vocab);
        assert!(below, "head: claimed token {:?} of {vocab}", query.claimed);
    }
}

/// What one block of a row, or several, have shown.
#[derive(Clone, Copy)]
struct Found {
    best: Best,
    best_logit: f32,
    /// NaN before the block of the claimed token.
    claimed_logit: f32,
}

impl Found {
    const NOTHING: Self =
        Self { best: Best::NONE, best_logit: f32::NEG_INFINITY, claimed_logit: f32::NAN };

    fn join(self, later: Self) -> Self {
        let best = self.best.join(later.best);
        let from_later = best.token == later.best.token;
        let best_logit = if from_later { later.best_logit } else { self.best_logit };
        let claimed_logit =
            if self.claimed_logit.is_nan() { later.claimed_logit } else { self.claimed_logit };
        Self { best, best_logit, claimed_logit }
    }

    fn winner(self) -> HeadToken {
        let Best { token, score, .. } = self.best.or_first();
        HeadToken { token, logit: self.best_logit, score }
    }
}

/// One call of [`Kernels::head`].
struct Pass<'a> {
    kernels: &'a Kernels,
    x: &'a [f32],
    weight: &'a PackedMatrix,
    queries: &'a [HeadQuery],
    options: HeadOptions,
    /// Scores that each row's winner must reach.
    bars: Vec<Bar>,
    /// `[blocks, rows]`.
    blocks: Blocks<SharedMut<'a, f32>>,
    /// `[blocks, rows]`.
    found: SharedMut<'a, Found>,
}

thread_local! {
    /// Logits of a task. Kept, so that a decoded token allocates nothing.
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Pass<'_> {
    /// Looks at one block of the vocabulary for some rows.
    fn run(&self, block: usize, rows: Range<usize>) {
        let vocab = self.weight.n();
        let tokens = block * SOFTMAX_BLOCK..vocab.min((block + 1) * SOFTMAX_BLOCK);
        // Taken, not borrowed: a panic or a nested call then only costs an allocation.
        let mut logits = LOGITS.take();
        let len = rows.len() * tokens.len();
        if logits.len() < len {
            logits.resize(len, 0.0);
        }
        let k = self.weight.k();
        let x = &self.x[rows.start * k..rows.end * k];
        let product = ColumnsProduct { x, b: self.weight, columns: tokens.clone() };
        product.run(self.kernels, &mut logits[..len]);
        for (row, logits) in rows.zip(logits.chunks_exact_mut(tokens.len())) {
            self.look(block, row, tokens.start, logits);
        }
        LOGITS.set(logits);
    }

    /// Takes what is needed from the logits of one row and block.
    fn look(&self, block: usize, row: usize, first_token: usize, logits: &mut [f32]) {
        let Self { kernels, queries, options, .. } = self;
        if let Some(cap) = options.soft_cap {
            kernels.run(SoftCap { x: logits, cap });
        }
        let (max, sum, moment) = kernels.run(BlockStats { logits, entropy: options.entropy });
        let query = queries[row];
        let first = first_token as u32;
        let best = match query.pick {
            Pick::None => Best::NONE,
            Pick::Greedy => kernels.run(GreedyScan { logits, first }),
            Pick::Race { key, step, temperature } => {
                let scorer = Scorer { key, step, temperature };
                let bar = &self.bars[row];
                let best = kernels.run(RaceScan { logits, first, scorer, bar: bar.get() });
                bar.raise(best.score);
                best
            }
        };
        let logit_of = |token: u32| {
            (token as usize).checked_sub(first_token).and_then(|at| logits.get(at)).copied()
        };
        let found = Found {
            best,
            best_logit: logit_of(best.token).unwrap_or(f32::NEG_INFINITY),
            claimed_logit: query.claimed.and_then(logit_of).unwrap_or(f32::NAN),
        };
        let at = block * self.queries.len() + row;
        // SAFETY: each (block, row) belongs to one task.
        unsafe {
            self.blocks.max.put(at, max);
            self.blocks.sum.put(at, sum);
            self.blocks.moment.put(at, moment);
            self.found.put(at, found);
        }
    }
}
