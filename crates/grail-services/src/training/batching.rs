//! Cuts rollouts into micro-batches, by rows or by tokens, and pads them.
//!
//! Source: `spec/trainer.md`, batching. The trainer of this project packs rows without padding; this
//! is what the reference computes its losses over, so that its numbers can be compared.

use std::cmp::Reverse;

use grail_protocol::ids::TokenId;

use super::groups::ClaimedRollout;

/// Rows of one micro-batch, padded to the longest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PaddedBatch {
    /// Token ids, `[rows, width]`.
    pub input_ids: Vec<Vec<TokenId>>,
    /// 1 at tokens, 0 at padding, `[rows, width]`.
    pub attention_mask: Vec<Vec<u8>>,
    /// Tokens of each row's prompt.
    pub prompt_lengths: Vec<usize>,
    /// Tokens of each row's completion.
    pub completion_lengths: Vec<usize>,
    /// Log-probabilities of each row's completion under the weights that drew it; empty where the
    /// row has none, so that the loss does not see the row.
    pub behaviour: Vec<Vec<f64>>,
}

impl PaddedBatch {
    /// Cuts each rollout to `max_length` tokens and pads on the right with `pad`.
    pub fn new(rollouts: &[ClaimedRollout], max_length: usize, pad: TokenId) -> Self {
        let mut batch = Self::default();
        let cut = |rollout: &ClaimedRollout| rollout.tokens.len().min(max_length);
        let width = rollouts.iter().map(cut).max().unwrap_or(0);
        for rollout in rollouts {
            let length = cut(rollout);
            let prompt = to_length(rollout.prompt_length).min(length);
            let completion = to_length(rollout.completion_length).min(length - prompt);
            let mut ids = rollout.tokens[..length].to_vec();
            ids.resize(width, pad);
            let mut mask = vec![1; length];
            mask.resize(width, 0);
            batch.input_ids.push(ids);
            batch.attention_mask.push(mask);
            batch.prompt_lengths.push(prompt);
            batch.completion_lengths.push(completion);
            batch.behaviour.push(behaviour(rollout, prompt, completion));
        }
        batch
    }
}

fn behaviour(rollout: &ClaimedRollout, prompt: usize, completion: usize) -> Vec<f64> {
    let logprobs = rollout.logprobs.as_deref().unwrap_or_default();
    // Of all tokens, or of the completion alone.
    let of_completion = logprobs.get(prompt..prompt + completion);
    of_completion.or_else(|| logprobs.get(..completion)).unwrap_or_default().to_vec()
}

fn to_length(n: i64) -> usize {
    usize::try_from(n.max(0)).unwrap_or(usize::MAX)
}

/// Puts rows into micro-batches of at most `tokens_max` tokens: the longest row first, each into the
/// micro-batch with the fewest tokens if it fits there, else into a new one.
///
/// `lengths` are cut to `max_length` first. Of equally long rows the first goes first, of equally
/// full micro-batches the oldest is taken. Returns the rows of each micro-batch.
pub fn by_tokens(lengths: &[usize], tokens_max: usize, max_length: usize) -> Vec<Vec<usize>> {
    let length = |row: usize| lengths[row].min(max_length);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| Reverse(length(row)));
    let mut batches: Vec<(usize, Vec<usize>)> = Vec::new();
    for row in order {
        match batches.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            Some((tokens, rows)) if *tokens + length(row) <= tokens_max => {
                *tokens += length(row);
                rows.push(row);
            }
            _ => batches.push((length(row), vec![row])),
        }
    }
    batches.into_iter().map(|(_, rows)| rows).collect()
}

/// Returns how many micro-batches an optimiser step takes when their number depends on the tokens.
///
/// - `rows`: of the epoch; `rows_per_step`: of a step if micro-batches were of a fixed size, 0 to
///   divide by `accumulation`, the number of micro-batches in a step then.
pub fn micro_batches_per_step(
    micro_batches: usize,
    rows: usize,
    rows_per_step: usize,
    accumulation: usize,
) -> usize {
    let steps = match rows_per_step {
        0 => micro_batches / accumulation.max(1),
        per_step => rows / per_step,
    };
    micro_batches.div_ceil(steps.max(1))
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{
        every_case, every_entry, float, floats, list, size, sizes, tokens,
    };
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn rollout(value: &Value) -> ClaimedRollout {
        ClaimedRollout {
            nonce: value["nonce"].as_i64().unwrap(),
            tokens: tokens(&value["tokens"]),
            prompt_length: value["prompt_length"].as_i64().unwrap(),
            completion_length: value["completion_length"].as_i64().unwrap(),
            reward: float(&value["reward"]),
            advantage: float(&value["advantage"]),
            success: value["success"] == true,
            logprobs: value["token_logprobs"].is_array().then(|| floats(&value["token_logprobs"])),
        }
    }

    /// What stands where the mask is 0.
    fn pad(case: &Value) -> u32 {
        let rows = list(&case["input_ids"]).iter().zip(list(&case["attention_mask"]));
        let padding = rows.flat_map(|(ids, mask)| tokens(ids).into_iter().zip(tokens(mask)));
        padding.into_iter().find(|(_, mask)| *mask == 0).map_or(0, |(id, _)| id)
    }

    #[test]
    fn rollouts_are_cut_and_padded_as_in_the_reference() {
        every_case("grpo_loss", "batching.json", |case| {
            let rollouts: Vec<ClaimedRollout> =
                list(&case["rollouts"]).iter().map(rollout).collect();
            let got = PaddedBatch::new(&rollouts, size(&case["max_length"]), pad(case));
            let expected = PaddedBatch {
                input_ids: list(&case["input_ids"]).iter().map(tokens).collect(),
                attention_mask: list(&case["attention_mask"])
                    .iter()
                    .map(|row| tokens(row).into_iter().map(|bit| bit as u8).collect())
                    .collect(),
                prompt_lengths: sizes(&case["prompt_lens"]),
                completion_lengths: sizes(&case["completion_lens"]),
                behaviour: list(&case["behavior_logprobs"]).iter().map(floats).collect(),
            };
            assert_eq!(got, expected);
        });
    }

    #[test]
    fn rows_share_a_token_budget_as_in_the_reference() {
        every_entry("grpo_loss", "batching.json", "token_budget", 12, |case| {
            let lengths = sizes(&case["lengths"]);
            let got = by_tokens(&lengths, size(&case["max_tokens"]), size(&case["max_length"]));
            let expected: Vec<Vec<usize>> =
                list(&case["micro_batches"]).iter().map(sizes).collect();
            assert_eq!(got, expected, "{case}");
        });
    }

    #[test]
    fn a_step_takes_as_many_micro_batches_as_keep_its_size() {
        // 512 rows at 128 a step are 4 steps, whatever the number of micro-batches.
        assert_eq!(micro_batches_per_step(32, 512, 128, 8), 8);
        assert_eq!(micro_batches_per_step(41, 512, 128, 8), 11);
        assert_eq!(micro_batches_per_step(41, 512, 0, 8), 9);
        assert_eq!(micro_batches_per_step(3, 5, 128, 8), 3);
        assert_eq!(micro_batches_per_step(0, 0, 0, 0), 0);
    }

    proptest! {
        #[test]
        fn each_row_is_in_one_micro_batch_within_the_budget(
            lengths in prop::collection::vec(0usize..60, 0..20),
            tokens_max in 1usize..100,
            max_length in 1usize..50,
        ) {
            let batches = by_tokens(&lengths, tokens_max, max_length);
            let mut rows: Vec<usize> = batches.concat();
            rows.sort_unstable();
            prop_assert!(rows.iter().copied().eq(0..lengths.len()));
            for batch in batches {
                let tokens: usize = batch.iter().map(|&row| lengths[row].min(max_length)).sum();
                prop_assert!(tokens <= tokens_max || batch.len() == 1);
            }
        }
    }
}
