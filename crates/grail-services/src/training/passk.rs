//! Sums up replicates of tasks: pass@k, mean and best of the first k, and overall rates.
//!
//! Source: `spec/trainer.md`, evaluation metrics; pass@k is the unbiased estimate of Chen et al.
//! (2021).

use std::collections::{BTreeMap, BTreeSet};

use crate::math::{compensated_sum, mean};

/// One answer to a task.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replicate {
    /// Reward.
    pub reward: f64,
    /// Whether the answer was right.
    pub success: bool,
}

/// Metrics at one k, each the mean over tasks. A task with fewer than k replicates counts with all
/// it has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AtK {
    /// Chance that one of k drawn replicates is right.
    pub pass: f64,
    /// Share of tasks with a right one among the first k.
    pub pass_ordered: f64,
    /// Mean reward of the first k.
    pub mean: f64,
    /// Best reward of the first k.
    pub best: f64,
}

/// What many replicates of many tasks say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// By k.
    pub at: BTreeMap<usize, AtK>,
    /// Mean reward of all replicates.
    pub reward_mean: f64,
    /// Standard deviation of the rewards of all replicates (of a population).
    pub reward_std: f64,
    /// Share of right replicates.
    pub success_rate: f64,
    /// Tasks.
    pub tasks: usize,
    /// Replicates of all tasks.
    pub replicates: usize,
    /// Mean over tasks of the mean reward.
    pub reward_mean_of_tasks: f64,
    /// Mean over tasks of the share of right replicates.
    pub success_rate_of_tasks: f64,
}

/// Returns the values of k that are reported for this many rollouts per problem: 1, 5 and 10 as far
/// as they fit, and the number itself. Fewer than 1 counts as 1.
pub fn reported_ks(rollouts_per_problem: i64) -> Vec<usize> {
    let all = usize::try_from(rollouts_per_problem.max(1)).unwrap_or(usize::MAX);
    BTreeSet::from([1, all.min(5), all.min(10), all]).into_iter().collect()
}

/// Sums up the replicates of each task, in the order they were drawn. Tasks without any are left
/// out.
pub fn summarize(tasks: &[Vec<Replicate>], ks: &[usize]) -> Summary {
    let tasks: Vec<&[Replicate]> =
        tasks.iter().map(Vec::as_slice).filter(|it| !it.is_empty()).collect();
    let all: Vec<Replicate> = tasks.concat();
    let reward_mean = rewards_mean(&all);
    let squares = all.iter().map(|it| (it.reward - reward_mean) * (it.reward - reward_mean));
    Summary {
        at: ks.iter().map(|&k| (k, at_k(&tasks, k))).collect(),
        reward_mean,
        reward_std: mean(squares).sqrt(),
        success_rate: success_rate(&all),
        tasks: tasks.len(),
        replicates: all.len(),
        reward_mean_of_tasks: mean(tasks.iter().map(|task| rewards_mean(task))),
        success_rate_of_tasks: mean(tasks.iter().map(|task| success_rate(task))),
    }
}

fn at_k(tasks: &[&[Replicate]], k: usize) -> AtK {
    // Added up one by one: the reference's `+=` does not compensate.
    let sum = tasks.iter().fold(AtK::default(), |sum, task| {
        let first = &task[..k.min(task.len())];
        let successes = task.iter().filter(|it| it.success).count();
        let rewards = first.iter().map(|it| it.reward);
        AtK {
            pass: sum.pass + pass_at(task.len(), successes, first.len()),
            pass_ordered: sum.pass_ordered + f64::from(u8::from(first.iter().any(|it| it.success))),
            mean: sum.mean + compensated_sum(rewards.clone()) / to_f64(first.len().max(1)),
            best: sum.best + rewards.reduce(f64::max).unwrap_or(0.0),
        }
    });
    let count = to_f64(tasks.len().max(1));
    AtK {
        pass: sum.pass / count,
        pass_ordered: sum.pass_ordered / count,
        mean: sum.mean / count,
        best: sum.best / count,
    }
}

/// Returns `1 - C(n - c, k) / C(n, k)`: the chance that `k` of `n` replicates, `c` of them right,
/// hold a right one. `k` is at most `n`.
pub fn pass_at(n: usize, c: usize, k: usize) -> f64 {
    if c == 0 || k == 0 {
        return 0.0;
    }
    let (wrong, all) = (choose(n - c.min(n), k), choose(n, k));
    if let (Some(wrong), Some(all)) = (wrong, all) {
        let divisor = greatest_common_divisor(wrong, all);
        let (wrong, all) = (wrong / divisor, all / divisor);
        // One correctly rounded division, as Python divides integers.
        if all < 1 << f64::MANTISSA_DIGITS {
            #[expect(clippy::cast_precision_loss, reason = "both are below 2^53")]
            return 1.0 - wrong as f64 / all as f64;
        }
    }
    let factors = (0..k).map(|i| to_f64((n - c.min(n)).saturating_sub(i)) / to_f64(n - i));
    1.0 - factors.product::<f64>()
}

/// Returns the binomial coefficient, if it fits.
fn choose(n: usize, k: usize) -> Option<u128> {
    if k > n {
        return Some(0);
    }
    let (n, k) = (u128::try_from(n).ok()?, u128::try_from(k.min(n - k)).ok()?);
    // Each product is itself a binomial coefficient after the division, which is exact.
    (0..k).try_fold(1u128, |product, i| Some(product.checked_mul(n - i)? / (i + 1)))
}

fn greatest_common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

fn rewards_mean(replicates: &[Replicate]) -> f64 {
    mean(replicates.iter().map(|it| it.reward))
}

fn success_rate(replicates: &[Replicate]) -> f64 {
    mean(replicates.iter().map(|it| f64::from(u8::from(it.success))))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, every_entry, floats, list, same, sizes};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn task(group: &Value) -> Vec<Replicate> {
        let rewards = floats(&group["rewards"]).into_iter();
        let successes = list(&group["successes"]).iter().map(|success| *success == true);
        rewards.zip(successes).map(|(reward, success)| Replicate { reward, success }).collect()
    }

    #[test]
    fn metrics_match_the_reference() {
        every_case("passk", "kmetrics.json", |case| {
            let tasks: Vec<Vec<Replicate>> = list(&case["groups"]).iter().map(task).collect();
            let summary = summarize(&tasks, &sizes(&case["report_ks"]));
            let mut got: BTreeMap<String, f64> = BTreeMap::new();
            for (k, at) in &summary.at {
                got.insert(format!("pass@{k}"), at.pass);
                got.insert(format!("pass_ordered@{k}"), at.pass_ordered);
                got.insert(format!("mean@{k}"), at.mean);
                got.insert(format!("best@{k}"), at.best);
            }
            got.extend([
                ("reward_mean_all".to_owned(), summary.reward_mean),
                ("reward_std_all".to_owned(), summary.reward_std),
                ("success_rate_all".to_owned(), summary.success_rate),
                ("tasks".to_owned(), summary.tasks as f64),
                ("replicates".to_owned(), summary.replicates as f64),
                ("reward_mean_taskavg_all".to_owned(), summary.reward_mean_of_tasks),
                ("success_rate_taskavg_all".to_owned(), summary.success_rate_of_tasks),
            ]);
            let expected = case["summary"].as_object().unwrap();
            // Without any task the reference reports nothing at all.
            assert!(expected.is_empty() || expected.len() == got.len(), "{case}");
            for (name, expected) in expected {
                let expected = expected.as_f64().unwrap();
                // Python's `x ** 2` and `x ** 0.5` may err in the last place.
                let ulps = if name == "reward_std_all" { 4 } else { 0 };
                let off = got[name].to_bits().abs_diff(expected.to_bits());
                assert!(off <= ulps || same(got[name], expected), "{name}: {} {case}", got[name]);
            }
        });
    }

    #[test]
    fn the_values_of_k_are_those_of_the_reference() {
        every_entry("passk", "kmetrics.json", "derive_k", 11, |entry| {
            let ks = reported_ks(entry["rpp"].as_i64().unwrap());
            assert_eq!(ks, sizes(&entry["ks"]), "{entry}");
        });
    }

    #[test]
    fn many_replicates_do_not_overflow() {
        // C(200, 100) has 60 digits.
        let (few, many) = (pass_at(200, 1, 100), pass_at(200, 199, 100));
        assert!((few - 0.5).abs() < 1e-12 && many == 1.0, "{few} {many}");
        assert_eq!(pass_at(5, 7, 2), 1.0);
        assert_eq!(pass_at(0, 0, 0), 0.0);
    }

    proptest! {
        #[test]
        fn more_tries_and_more_successes_pass_more(n in 1usize..40, c in 0usize..40, k in 1usize..40) {
            let (c, k) = (c.min(n), k.min(n));
            let pass = pass_at(n, c, k);
            prop_assert!((0.0..=1.0).contains(&pass));
            prop_assert!(k == n || pass_at(n, c, k + 1) >= pass);
            prop_assert!(c == n || pass_at(n, c + 1, k) >= pass);
            // Each of n replicates is drawn with the same chance.
            prop_assert!((pass_at(n, c, 1) - c as f64 / n as f64).abs() < 1e-15);
        }
    }
}
