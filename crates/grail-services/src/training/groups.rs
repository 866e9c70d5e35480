//! Makes groups of the rows of many miners' files and keeps those that are worth training on.
//!
//! Source: `spec/trainer.md`, data. Rows are claims: rewards and log-probabilities are what the miner
//! wrote, and whoever trains on them should have had them checked first.

use std::collections::BTreeMap;

use grail_protocol::ids::TokenId;

use super::advantages::{Estimator, advantages, has_zero_variance};
use crate::math::{compensated_sum, mean};

/// A row of a file, as far as the trainer cares.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedRow {
    /// Who uploaded the file.
    pub hotkey: String,
    /// The row's group, as Python's `str` gives it; rows with an empty one are left out.
    pub group: String,
    /// What the row claims; `None` for one that cannot be read, which spoils its group.
    pub rollout: Option<ClaimedRollout>,
}

/// A rollout with what its miner says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimedRollout {
    /// The row's nonce.
    pub nonce: i64,
    /// Prompt and completion.
    pub tokens: Vec<TokenId>,
    /// Tokens of the prompt.
    pub prompt_length: i64,
    /// Tokens of the completion.
    pub completion_length: i64,
    /// Reward.
    pub reward: f64,
    /// Advantage.
    pub advantage: f64,
    /// Whether the answer was right.
    pub success: bool,
    /// Log-probabilities of all tokens or of the completion; `None` if missing or no list of numbers.
    pub logprobs: Option<Vec<f64>>,
}

impl ClaimedRollout {
    /// Whether there is a finite log-probability for each token that needs one.
    pub fn has_usable_logprobs(&self) -> bool {
        let Some(logprobs) = &self.logprobs else { return false };
        let needed = self.prompt_length.max(0).saturating_add(self.completion_length.max(0));
        let given = i64::try_from(logprobs.len()).unwrap_or(i64::MAX);
        !logprobs.is_empty()
            && logprobs.iter().all(|logprob| logprob.is_finite())
            && (given >= needed || given == self.completion_length)
    }

    /// Returns reward per token of the completion.
    fn efficiency(&self) -> f64 {
        self.reward / to_f64(self.completion_length.max(1))
    }
}

/// What makes rows one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupKey {
    /// Miner and group.
    #[default]
    HotkeyAndGroup,
    /// The group alone, as in the reference: there groups of the same number of two miners become
    /// one of twice the size, which the filter drops.
    Group,
}

/// The rollouts of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedGroup {
    /// Who uploaded the first row.
    pub hotkey: String,
    /// The group of its rows.
    pub id: String,
    /// In the order of the rows.
    pub rollouts: Vec<ClaimedRollout>,
}

impl ClaimedGroup {
    /// Replaces the claimed advantages by those of the claimed rewards.
    pub fn estimate(&mut self, estimator: Estimator) {
        let estimated = advantages(estimator, &self.rewards());
        for (rollout, advantage) in self.rollouts.iter_mut().zip(estimated) {
            rollout.advantage = advantage;
        }
    }

    /// Returns the mean of reward per completion token.
    pub fn reward_per_token(&self) -> f64 {
        mean(self.rollouts.iter().map(ClaimedRollout::efficiency))
    }

    /// Returns the population variance of the advantages.
    pub fn advantage_variance(&self) -> f64 {
        let all = || self.rollouts.iter().map(|rollout| rollout.advantage);
        let centre = mean(all());
        mean(all().map(|advantage| (advantage - centre) * (advantage - centre)))
    }

    fn rewards(&self) -> Vec<f64> {
        self.rollouts.iter().map(|rollout| rollout.reward).collect()
    }

    fn success_share(&self) -> f64 {
        mean(self.rollouts.iter().map(|rollout| f64::from(u8::from(rollout.success))))
    }
}

/// Returns the groups of `rows` in the order of their first rows. One row that cannot be used takes
/// its whole group with it: advantages of what is left would be wrong.
pub fn group_rows(rows: impl IntoIterator<Item = ClaimedRow>, key: GroupKey) -> Vec<ClaimedGroup> {
    let mut places: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut groups: Vec<(ClaimedGroup, bool)> = Vec::new();
    for row in rows.into_iter().filter(|row| !row.group.is_empty()) {
        let miner = if key == GroupKey::Group { String::new() } else { row.hotkey.clone() };
        let place = *places.entry((miner, row.group.clone())).or_insert(groups.len());
        if place == groups.len() {
            let group = ClaimedGroup { hotkey: row.hotkey, id: row.group, rollouts: Vec::new() };
            groups.push((group, true));
        }
        let (group, is_whole) = &mut groups[place];
        match row.rollout.filter(ClaimedRollout::has_usable_logprobs) {
            Some(rollout) => group.rollouts.push(rollout),
            None => *is_whole = false,
        }
    }
    groups.into_iter().filter_map(|(group, is_whole)| is_whole.then_some(group)).collect()
}

/// Which groups are worth training on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupFilter {
    /// Rollouts that a group must have.
    pub rollouts: usize,
    /// The absolute sum of the advantages is below this.
    pub advantage_sum_bound: f64,
    /// Most tokens of a completion; 0 for no limit.
    pub completion_tokens_max: u32,
    /// Least share of right answers; 0 for no limit.
    pub success_share_min: f64,
    /// Least mean of reward per completion token; 0 for no limit.
    pub reward_per_token_min: f64,
    /// Share of the groups, those with the least reward per token, that is dropped, below 1; 0 for
    /// none.
    pub drop_quantile: f64,
    /// Most groups.
    pub groups_max: usize,
    /// Weights of reward per token and of the variance of advantages in the choice of the best.
    pub ranking: (f64, f64),
}

impl Default for GroupFilter {
    /// The reference's settings.
    fn default() -> Self {
        Self {
            rollouts: 16,
            advantage_sum_bound: 0.01,
            completion_tokens_max: 0,
            success_share_min: 0.0,
            reward_per_token_min: 0.0,
            drop_quantile: 0.0,
            groups_max: 32,
            ranking: (0.7, 0.3),
        }
    }
}

impl GroupFilter {
    /// Returns the groups to train on: in their order, with a quantile dropped by rising reward per
    /// token, and with more than `groups_max` by falling [`GroupFilter::score`].
    pub fn apply(&self, groups: Vec<ClaimedGroup>) -> Vec<ClaimedGroup> {
        let mut kept: Vec<ClaimedGroup> =
            groups.into_iter().filter(|group| self.is_fit(group)).collect();
        let dropped = self.dropped(kept.len());
        // Where none is dropped, the order stays.
        if dropped > 0 {
            kept.sort_by(|a, b| a.reward_per_token().total_cmp(&b.reward_per_token()));
            kept.drain(..dropped);
        }
        if kept.len() > self.groups_max {
            kept.sort_by(|a, b| self.score(b).total_cmp(&self.score(a)));
            kept.truncate(self.groups_max);
        }
        kept
    }

    /// Returns how much is expected of training on a group.
    pub fn score(&self, group: &ClaimedGroup) -> f64 {
        let (per_token, variance) = self.ranking;
        per_token * group.reward_per_token() + variance * group.advantage_variance()
    }

    /// Returns how many of `groups` groups the quantile takes.
    fn dropped(&self, groups: usize) -> usize {
        if self.drop_quantile > 0.0 && self.drop_quantile < 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "cut off towards 0, as in the reference; below the number of groups"
            )]
            let dropped = (groups as f64 * self.drop_quantile) as usize;
            dropped
        } else {
            0
        }
    }

    fn is_fit(&self, group: &ClaimedGroup) -> bool {
        let sum = compensated_sum(group.rollouts.iter().map(|rollout| rollout.advantage));
        let tokens_max = i64::from(self.completion_tokens_max);
        // Written so that what is not a number is not fit.
        group.rollouts.len() == self.rollouts
            && sum.abs() < self.advantage_sum_bound
            && !has_zero_variance(&group.rewards())
            && (tokens_max == 0
                || group.rollouts.iter().all(|rollout| rollout.completion_length <= tokens_max))
            && (self.success_share_min <= 0.0 || group.success_share() >= self.success_share_min)
            && (self.reward_per_token_min <= 0.0
                || group.reward_per_token() >= self.reward_per_token_min)
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^53")]
fn to_f64(n: i64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{
        every_case, every_entry, float, floats, integer, list, size, sizes, text, tokens,
    };
    use serde_json::Value;

    use super::*;

    /// What NumPy makes of the list: numbers, and texts of numbers, but no lists.
    fn logprobs(value: &Value) -> Option<Vec<f64>> {
        let number = |it: &Value| it.as_f64().or_else(|| it.as_str()?.parse().ok());
        value.as_array()?.iter().map(number).collect()
    }

    fn row(value: &Value) -> ClaimedRow {
        let (commit, group) = (&value["commit"], &value["rollout_group"]);
        let claims = &commit["rollout"];
        ClaimedRow {
            hotkey: text(&value["hotkey"]).to_owned(),
            group: match group {
                Value::Null => "None".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
            rollout: Some(ClaimedRollout {
                nonce: value["nonce"].as_i64().unwrap(),
                tokens: tokens(&commit["tokens"]),
                prompt_length: claims["prompt_length"].as_i64().unwrap(),
                completion_length: claims["completion_length"].as_i64().unwrap(),
                reward: float(&claims["total_reward"]),
                advantage: float(&claims["advantage"]),
                success: claims["success"] == true,
                logprobs: logprobs(&claims["token_logprobs"]),
            }),
        }
    }

    #[test]
    fn rows_become_the_groups_of_the_reference() {
        every_entry("trainer_data", "filter_groups.json", "grouping", 16, |case| {
            let rows: Vec<ClaimedRow> = list(&case["rows"]).iter().map(row).collect();
            let expected = case["groups"].as_object().unwrap();
            let groups = group_rows(rows.clone(), GroupKey::Group);
            assert_eq!(groups.len(), expected.len(), "{case}");
            for group in &groups {
                let nonces = group.rollouts.iter().map(|it| i128::from(it.nonce));
                let wanted = list(&expected[&group.id]).iter().map(integer);
                assert!(nonces.eq(wanted), "{case}");
            }
            // Our own key parts what the reference mixes up, and is otherwise the same.
            let miners: std::collections::BTreeSet<&str> =
                rows.iter().map(|row| row.hotkey.as_str()).collect();
            let parted = group_rows(rows.clone(), GroupKey::HotkeyAndGroup);
            assert!(miners.len() > 1 || parted == groups, "{case}");
            assert!(parted.len() >= groups.len());
        });
    }

    fn group(value: &Value) -> ClaimedGroup {
        let [rewards, advantages] = ["rewards", "advantages"].map(|key| floats(&value[key]));
        let lengths = sizes(&value["completion_lengths"]);
        let rollouts = (0..rewards.len()).map(|idx| ClaimedRollout {
            reward: rewards[idx],
            advantage: advantages[idx],
            completion_length: lengths[idx] as i64,
            success: value["success"][idx] == true,
            ..ClaimedRollout::default()
        });
        let id = text(&value["id"]).to_owned();
        ClaimedGroup { hotkey: String::new(), id, rollouts: rollouts.collect() }
    }

    fn check_near(got: f64, expected: f64) {
        assert!((got - expected).abs() <= 1e-15 * expected.abs(), "{got} {expected}");
    }

    #[test]
    fn groups_are_chosen_as_in_the_reference() {
        every_case("trainer_data", "filter_groups.json", |case| {
            let config = &case["config"];
            let ranking = floats(&case["ranking_weights"]);
            let filter = GroupFilter {
                completion_tokens_max: size(&config["grpo_max_completion_tokens"]) as u32,
                success_share_min: float(&config["grpo_min_success_fraction"]),
                reward_per_token_min: float(&config["grpo_min_reward_per_token"]),
                drop_quantile: float(&config["grpo_reward_per_token_drop_quantile"]),
                groups_max: size(&config["grpo_max_groups"]),
                ranking: (ranking[0], ranking[1]),
                ..GroupFilter::default()
            };
            let groups: Vec<ClaimedGroup> = list(&case["groups"]).iter().map(group).collect();
            for (group, value) in groups.iter().zip(list(&case["groups"])) {
                assert_eq!(group.reward_per_token(), float(&value["reward_per_token"]), "{value}");
                // Python's `x ** 2` may err in the last place.
                check_near(group.advantage_variance(), float(&value["advantage_variance"]));
                check_near(filter.score(group), float(&value["efficiency"]));
            }
            let kept = filter.apply(groups);
            let kept: Vec<&str> = kept.iter().map(|group| group.id.as_str()).collect();
            let expected: Vec<&str> = list(&case["kept_in_order"]).iter().map(text).collect();
            assert_eq!(kept, expected);
        });
    }

    #[test]
    fn two_miners_with_equal_numbers_keep_their_groups() {
        let rollout = ClaimedRollout {
            prompt_length: 1,
            completion_length: 1,
            logprobs: Some(vec![0.0, -1.0]),
            ..ClaimedRollout::default()
        };
        let row = |hotkey: &str, reward: f64| ClaimedRow {
            hotkey: hotkey.to_owned(),
            group: "0".to_owned(),
            rollout: Some(ClaimedRollout { reward, ..rollout.clone() }),
        };
        let rows = || ["A", "B"].iter().flat_map(|it| (0..16).map(|n| row(it, f64::from(n % 2))));
        let kept = |key| {
            let mut groups = group_rows(rows(), key);
            groups.iter_mut().for_each(|group| group.estimate(Estimator::Grpo));
            GroupFilter::default().apply(groups)
        };
        assert_eq!(kept(GroupKey::HotkeyAndGroup).len(), 2);
        assert_eq!(kept(GroupKey::Group).len(), 0);
        assert_eq!(kept(GroupKey::HotkeyAndGroup)[1].rollouts[1].advantage, 1.0);
    }

    #[test]
    fn what_is_not_a_number_is_never_trained_on() {
        let rollout = |reward| ClaimedRollout { reward, ..ClaimedRollout::default() };
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for estimator in [Estimator::Grpo, Estimator::DrGrpo, Estimator::Dapo] {
                let mut rollouts = vec![rollout(0.0); 15];
                rollouts.push(rollout(bad));
                let mut group =
                    ClaimedGroup { hotkey: String::new(), id: "0".to_owned(), rollouts };
                group.estimate(estimator);
                let filter = GroupFilter { reward_per_token_min: 1e-9, ..GroupFilter::default() };
                let kept = filter.apply(vec![group]);
                assert!(kept.is_empty() || estimator == Estimator::Dapo, "{bad} {estimator}");
            }
        }
    }
}
