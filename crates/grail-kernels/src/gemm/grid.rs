//! How the output of a product is cut into tasks: blocks of rows times runs of panels.

use crate::packed::PANEL;
use std::ops::Range;

/// Rows that share one pass over a panel; their inputs stay in L2 for a reduction of a thousand.
pub(super) const ROW_BLOCK: usize = 96;
/// Rows below which a panel is not divided between threads.
const MIN_ROWS_EACH: usize = 4;
/// Multiply-adds of a task, at least: some microseconds, far more than it costs to claim it.
const MIN_TASK_MULTIPLIES: usize = 250_000;
/// A task of few rows waits for its weights, so it takes as long as one of this many.
const MIN_ROWS_OF_TASK: usize = 8;
/// Parts of a block of rows that are tried to even out what the threads get.
const DIVISIONS_MAX: usize = 4;

/// Rows and panels of every task.
pub(super) struct Grid {
    m: usize,
    panels: usize,
    rows_each: usize,
    panels_each: usize,
    row_tasks: usize,
    panel_tasks: usize,
    /// Whether the tasks of one panel are neighbours, or those of one block of rows.
    panel_by_panel: bool,
}

impl Grid {
    /// Cuts `[m, panels * 64]` for `threads`. Without `direct`, every task copies its rows of the
    /// left operand first, so tasks are as large as an even load allows.
    pub(super) fn new(m: usize, panels: usize, k: usize, threads: usize, direct: bool) -> Self {
        let row_blocks = m.div_ceil(ROW_BLOCK).max(1);
        if !direct || threads == 1 {
            let wanted = if threads == 1 { 1 } else { 4 * threads };
            let panel_tasks = wanted.div_ceil(row_blocks).clamp(1, panels.max(1));
            let panels_each = panels.div_ceil(panel_tasks).max(1);
            return Self::of(m, panels, m.div_ceil(row_blocks), panels_each, false);
        }
        let panel_cost = m.clamp(MIN_ROWS_OF_TASK, ROW_BLOCK) * k.max(1) * PANEL;
        let panels_each = MIN_TASK_MULTIPLIES.div_ceil(panel_cost);
        if row_blocks > 1 {
            // Whole tiles: all but the last block are full.
            let rows_each = m.div_ceil(row_blocks).next_multiple_of(6);
            return Self::of(m, panels, rows_each, panels_each, false);
        }
        let divisions = divisions(m, panels.div_ceil(panels_each), threads);
        Self::of(m, panels, m.div_ceil(divisions), panels_each, true)
    }

    fn of(m: usize, panels: usize, rows_each: usize, panels_each: usize, by_panel: bool) -> Self {
        let rows_each = rows_each.max(1);
        Self {
            m,
            panels,
            rows_each,
            panels_each,
            row_tasks: m.div_ceil(rows_each),
            panel_tasks: panels.div_ceil(panels_each),
            panel_by_panel: by_panel,
        }
    }

    pub(super) fn tasks(&self) -> usize {
        self.row_tasks * self.panel_tasks
    }

    /// Which of how many neighbouring tasks with the same panels a task is.
    pub(super) fn turn(&self, task: usize) -> (usize, usize) {
        if self.panel_by_panel { (task % self.row_tasks, self.row_tasks) } else { (0, 1) }
    }

    /// The rows and panels of a task.
    pub(super) fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (row, panel) = if self.panel_by_panel {
            (task % self.row_tasks, task / self.row_tasks)
        } else {
            (task / self.panel_tasks, task % self.panel_tasks)
        };
        let (row, panel) = (row * self.rows_each, panel * self.panels_each);
        (row..self.m.min(row + self.rows_each), panel..self.panels.min(panel + self.panels_each))
    }
}

/// Into how many parts `m` rows are cut so that `tasks` times as many keep all threads busy to the
/// end: the fewest that waste less than a twentieth, else those that waste least.
fn divisions(m: usize, tasks: usize, threads: usize) -> usize {
    let most = (m / MIN_ROWS_EACH).clamp(1, DIVISIONS_MAX);
    // Turns of all threads, over what an even load needs.
    let waste = |parts: usize| {
        let tasks = (tasks * parts).max(1);
        (tasks.div_ceil(threads) * threads) as f64 / tasks as f64
    };
    let mut best = 1;
    for parts in 1..=most {
        if waste(parts) < waste(best) {
            best = parts;
        }
        if waste(best) < 1.05 {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_output_has_one_task() {
        for m in [0, 1, 3, 8, 16, 95, 96, 97, 300] {
            for panels in [0, 1, 2, 9, 15, 48] {
                for (threads, direct) in [(1, true), (2, true), (2, false), (16, true)] {
                    let grid = Grid::new(m, panels, 300, threads, direct);
                    let mut seen = vec![0; m * panels];
                    for task in 0..grid.tasks() {
                        let (rows, panels_of) = grid.task(task);
                        for row in rows {
                            for panel in panels_of.clone() {
                                seen[row * panels + panel] += 1;
                            }
                        }
                    }
                    assert!(seen.iter().all(|&n| n == 1), "[{m}, {panels}], {threads} threads");
                }
            }
        }
    }

    #[test]
    fn an_odd_panel_is_divided_by_rows() {
        // Nine panels for two threads: eighteen halves are nine each.
        let grid = Grid::new(16, 9, 576, 2, true);
        assert_eq!(grid.tasks(), 18);
        assert_eq!(grid.task(8), (0..8, 4..5));
        assert_eq!(grid.task(9), (8..16, 4..5));
        // One row cannot be divided, and an even number need not be.
        assert_eq!(Grid::new(1, 9, 576, 2, true).tasks(), 9);
        assert_eq!(Grid::new(16, 48, 576, 2, true).tasks(), 48);
    }
}
