//! Which rows are computed together: those that share blocks of keys and values.
//!
//! Rows are put in the lexicographic order of their block tables, so that rows of one sequence, and
//! sequences with a common prefix, are neighbours. The work is cut into *lines*: the query rows, in
//! that order, times the heads of one key-value head.

use super::tile::tiles;
use super::{AttentionOptions, AttentionRow, AttentionShape, BLOCK};
use std::cmp::Ordering;
use std::iter::zip;
use std::ops::Range;

/// Most lines of a task: more would share the loads of keys and values no better.
const LINES_PER_TASK: usize = 48;
/// Scores that a task holds, in f32: a quarter of a usual L2 cache. Long rows make tasks smaller,
/// down to one tile of lines.
const SCORES_PER_TASK: usize = 64 * 1_024;
/// Blocks of keys, or of values, that the tiles of a task visit before the next blocks: at a
/// head_dim of 64 they fill a third of a usual L1 cache.
pub(super) const CHUNK_BLOCKS: usize = 4;

/// The order of the rows of a call, and its tasks.
pub(super) struct Plan {
    /// Row numbers.
    order: Vec<usize>,
    /// The first block in which a row of `order` differs from the one before it; the largest number
    /// if it has all that the other uses.
    apart: Vec<usize>,
    /// Lines of the tasks of one key-value head, the most expensive first.
    tasks: Vec<Range<usize>>,
    kv_heads: usize,
}

/// The part of a row's table that its context needs.
fn used<'a>(row: &AttentionRow<'a>) -> &'a [u32] {
    &row.blocks[..(row.context_len as usize).div_ceil(BLOCK)]
}

/// Compares two tables; rows of one sequence usually point to the same one.
fn compare(a: &[u32], b: &[u32]) -> Ordering {
    if std::ptr::eq(a.as_ptr(), b.as_ptr()) { a.len().cmp(&b.len()) } else { a.cmp(b) }
}

/// The first block of which `a` and `b` have different ones, if there is one.
fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    if std::ptr::eq(a.as_ptr(), b.as_ptr()) { None } else { zip(a, b).position(|(a, b)| a != b) }
}

impl Plan {
    pub(super) fn new(
        rows: &[AttentionRow<'_>],
        shape: AttentionShape,
        options: AttentionOptions,
        threads: usize,
    ) -> Self {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&a, &b| compare(used(&rows[a]), used(&rows[b])));
        let mut apart = vec![usize::MAX; rows.len()];
        for (rank, pair) in order.windows(2).enumerate() {
            let difference = first_difference(used(&rows[pair[0]]), used(&rows[pair[1]]));
            apart[rank + 1] = difference.unwrap_or(usize::MAX);
        }
        let seen = |row: &AttentionRow<'_>| options.seen(row.context_len as usize).len();
        let longest = rows.iter().map(seen).max().unwrap_or(0);
        let lines_each = lines_per_task(rows.len(), longest, shape, threads);
        let lines = rows.len() * shape.group();
        let mut tasks: Vec<Range<usize>> = (0..lines)
            .step_by(lines_each)
            .map(|start| start..lines.min(start + lines_each))
            .collect();
        let cost = |lines: &Range<usize>| -> usize {
            lines.clone().map(|line| seen(&rows[order[line / shape.group()]])).sum()
        };
        // The cheapest last, so that no thread is left with a long one.
        tasks.sort_by_cached_key(|lines| std::cmp::Reverse(cost(lines)));
        Self { order, apart, tasks, kv_heads: shape.kv_heads }
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.len() * self.kv_heads
    }

    /// The key-value head and the lines of a task. Neighbouring tasks find the same keys in cache.
    pub(super) fn task(&self, task: usize) -> (usize, Range<usize>) {
        (task / self.tasks.len(), self.tasks[task % self.tasks.len()].clone())
    }

    /// The number of the row at a place of the order.
    pub(super) fn row(&self, rank: usize) -> usize {
        self.order[rank]
    }

    /// Fills `steps` with the tiles that meet all blocks of `lines`; each line meets its blocks in
    /// ascending order.
    pub(super) fn steps(&self, lines: &[Line], steps: &mut Vec<Step>) {
        steps.clear();
        self.add_steps(lines, 0..lines.len(), 0, steps);
    }

    /// Adds the steps of the lines `part`, which have all blocks before `start` in common: those of
    /// the other blocks that they have in common, then those of each group that stays together.
    fn add_steps(&self, lines: &[Line], part: Range<usize>, start: usize, steps: &mut Vec<Step>) {
        let apart = |line: usize| {
            let same_row = lines[line].rank == lines[line - 1].rank;
            if same_row { usize::MAX } else { self.apart[lines[line].rank] }
        };
        let end = part.clone().skip(1).map(apart).min().unwrap_or(usize::MAX);
        add_chunks(lines, part.clone(), start..end, steps);
        if end == usize::MAX {
            return;
        }
        let mut first = part.start;
        for line in part.start + 1..=part.end {
            if line == part.end || apart(line) == end {
                self.add_steps(lines, first..line, end, steps);
                first = line;
            }
        }
    }
}

/// Adds the steps of the lines `part` for those of `blocks` that they see, chunk by chunk. The lines
/// have these blocks in common, as far as they use them.
fn add_chunks(lines: &[Line], part: Range<usize>, blocks: Range<usize>, steps: &mut Vec<Step>) {
    let seen = union(&lines[part.clone()]);
    // In lexicographic order, a table that is the beginning of another comes before it.
    let table = lines[part.end - 1].row;
    let blocks = blocks.start.max(seen.start)..blocks.end.min(seen.end);
    for start in blocks.clone().step_by(CHUNK_BLOCKS) {
        let chunk = start..blocks.end.min(start + CHUNK_BLOCKS);
        let sees = |line: usize| {
            let blocks = lines[line].blocks();
            blocks.start < chunk.end && chunk.start < blocks.end
        };
        let mut next = part.start;
        while next < part.end {
            let run = next..(next..part.end).find(|&line| !sees(line)).unwrap_or(part.end);
            for tile in tiles(run.clone()) {
                let seen = union(&lines[tile.clone()]);
                let blocks = seen.start.max(chunk.start)..seen.end.min(chunk.end);
                let whole = lines[tile.clone()].iter().all(|line| {
                    let seen = line.blocks();
                    seen.start <= blocks.start && blocks.end <= seen.end
                });
                steps.push(Step { lines: tile, blocks, whole, table });
            }
            next = run.end.max(next + 1);
        }
    }
}

/// From the first to the last block that one of the lines sees.
fn union(lines: &[Line]) -> Range<usize> {
    let blocks = lines.iter().map(Line::blocks);
    blocks.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

/// One query row of one head.
pub(super) struct Line {
    /// Place of the row in the order.
    pub(super) rank: usize,
    /// Number of the row.
    pub(super) row: usize,
    /// Number of the head.
    pub(super) head: usize,
    /// Index of its first value in the queries and in the output.
    pub(super) at: usize,
    /// The positions it sees.
    pub(super) seen: Range<usize>,
    /// Where the scores of its first block begin.
    pub(super) scores: usize,
    /// The sum of its exponentials, once they are computed.
    pub(super) sum: f32,
}

impl Line {
    /// The blocks that it sees, some of them in part.
    pub(super) fn blocks(&self) -> Range<usize> {
        self.seen.start / BLOCK..self.seen.end.div_ceil(BLOCK)
    }

    /// Where its score of `position` is.
    #[inline(always)]
    pub(super) fn score(&self, position: usize) -> usize {
        self.scores + position - self.seen.start / BLOCK * BLOCK
    }
}

/// A tile of lines that meet the same blocks.
pub(super) struct Step {
    /// At most [`LINES_MAX`](super::tile::LINES_MAX).
    pub(super) lines: Range<usize>,
    /// Block numbers of the sequence.
    pub(super) blocks: Range<usize>,
    /// Whether every line sees something of every block.
    pub(super) whole: bool,
    /// Number of a row whose table has these blocks.
    pub(super) table: usize,
}

/// How many lines a task takes, so that its scores fit and all threads have work.
fn lines_per_task(rows: usize, longest: usize, shape: AttentionShape, threads: usize) -> usize {
    let group = shape.group();
    let whole_rows = |lines: usize| if lines > group { lines - lines % group } else { lines };
    let most = (SCORES_PER_TASK / longest.max(1)).clamp(super::tile::LINES_MAX, LINES_PER_TASK);
    let most = whole_rows(most);
    if threads == 1 {
        return most;
    }
    // Two tasks a thread at least, in equal numbers for all threads.
    let mut parts = (2 * threads).div_ceil(shape.kv_heads);
    while !(parts * shape.kv_heads).is_multiple_of(threads) {
        parts += 1;
    }
    let each = (rows * group).div_ceil(parts);
    most.min(each.next_multiple_of(group)).max(1)
}
