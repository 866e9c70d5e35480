//! Which prompt tokens the next step computes.

use grail_protocol::ids::TokenId;

use super::counters::Counters;
use super::prompt::{PromptId, Prompts};
use crate::engine::blocks::{BlockPool, Prefix};
use crate::engine::cache::BLOCK_POSITIONS;

/// Consecutive tokens of one prompt, up to position `end` (exclusive).
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) prompt: PromptId,
    pub(super) end: usize,
}

/// Divides `budget` rows among the unfinished prompts, takes the blocks that their tokens need, and
/// lets the prompts that were served go to the end of the line.
///
/// Two prompts that begin alike do not compute the same block twice: one waits until the other has
/// it. All get an equal share, at least one block as long as the budget lasts, so that a short
/// prompt does not wait for a long one.
pub(super) fn plan(
    prompts: &mut Prompts,
    pool: &mut BlockPool,
    budget: usize,
    counters: &Counters,
) -> Vec<Chunk> {
    if prompts.unfinished.is_empty() {
        return Vec::new();
    }
    for idx in 0..prompts.unfinished.len() {
        let id = prompts.unfinished[idx];
        counters.prompt_cached(prompts.get_mut(id).catch_up(pool));
    }
    let able = without_duplicates(prompts);
    let wants: Vec<usize> =
        able.iter().map(|&id| prompts.get(id).tokens.len() - prompts.get(id).computed).collect();
    let mut chunks = Vec::with_capacity(able.len());
    for (&id, rows) in able.iter().zip(divide(budget, &wants)) {
        if rows > 0 {
            let prompt = prompts.get_mut(id);
            let end = prompt.computed + rows;
            prompt.make_room(end, pool);
            chunks.push(Chunk { prompt: id, end });
            // The order in line changes even if the step is abandoned, which harms nobody.
            prompts.unfinished.retain(|&other| other != id);
            prompts.unfinished.push_back(id);
        }
    }
    chunks
}

/// Returns the unfinished prompts in line, without those whose next block another one computes.
fn without_duplicates(prompts: &Prompts) -> Vec<PromptId> {
    let line = || prompts.unfinished.iter().copied();
    if prompts.unfinished.len() == 1 {
        return line().collect();
    }
    let begun = line().filter(|&id| prompts.get(id).has_begun_block());
    let mut claimed: Vec<(Prefix, &[TokenId])> =
        begun.filter_map(|id| prompts.get(id).next_content()).collect();
    line()
        .filter(|&id| {
            let prompt = prompts.get(id);
            match prompt.next_content() {
                Some(content) if !prompt.has_begun_block() => {
                    let is_new = !claimed.contains(&content);
                    if is_new {
                        claimed.push(content);
                    }
                    is_new
                }
                _ => true,
            }
        })
        .collect()
}

/// Divides `budget` rows: first an equal share for each, at least a block, then what is left to
/// the first that want more.
fn divide(budget: usize, wants: &[usize]) -> Vec<usize> {
    let share = (budget / wants.len().max(1)).max(BLOCK_POSITIONS);
    let mut left = budget;
    let mut rows = vec![0; wants.len()];
    for bound in [share, usize::MAX] {
        for (rows, &want) in rows.iter_mut().zip(wants) {
            let more = (want.min(bound).saturating_sub(*rows)).min(left);
            *rows += more;
            left -= more;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_divided_fairly_and_all_are_used() {
        for (budget, wants, expected) in [
            (64, vec![4000, 20], vec![44, 20]),
            (64, vec![4000, 4000], vec![32, 32]),
            (64, vec![10, 4000, 10], vec![10, 44, 10]),
            (32, vec![100, 100, 100], vec![16, 16, 0]),
            (1, vec![5, 5], vec![1, 0]),
            (512, vec![48, 48, 48], vec![48, 48, 48]),
            (7, vec![], vec![]),
        ] {
            assert_eq!(divide(budget, &wants), expected, "{budget} rows for {wants:?}");
        }
    }
}
