//! Which miners of a window are checked, and which groups of a miner's file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sha2::{Digest as _, Sha256};

use super::python::json::Value;
use super::python::print::{Keys, to_json};
use super::python::random::Random;

/// Files of at most this many rows are checked whole.
const CHECK_ALL_ROWS_MAX: usize = 20;

/// Most groups that are checked: 64 rows of groups of 16.
const GROUPS_MAX: usize = 4;

/// Returns how many of the eligible miners are checked: a quarter, 2 to 35.
pub fn sample_size(eligible: usize) -> usize {
    eligible.div_ceil(4).clamp(2, 35).min(eligible)
}

/// Returns the miners to check: those checked least in the last windows, ties by hash.
///
/// - `window_hash`: of the target window, with `0x`; known when the window starts, so a miner can tell
///   whether it will be checked.
/// - `selection_counts`: how often each was selected in the last 12 windows; absent means never.
pub fn select_miners(
    eligible: &[String],
    window_hash: &str,
    selection_counts: &BTreeMap<String, u64>,
) -> Vec<String> {
    let mut order: Vec<&String> = eligible.iter().collect();
    order.sort_by_cached_key(|&hotkey| {
        let count = selection_counts.get(hotkey).copied().unwrap_or(0);
        (count, leading_word(&[window_hash, ":", hotkey]))
    });
    order.into_iter().take(sample_size(eligible.len())).cloned().collect()
}

/// Returns the seed of a file's group sampling.
pub fn group_seed(hotkey: &str, randomness: &str) -> u64 {
    leading_word(&[hotkey, ":", randomness])
}

/// Returns SHA-256 over the hashes of a group's commits, each as Python prints it with sorted keys.
pub fn group_digest<'a>(commits: impl IntoIterator<Item = &'a Value>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for commit in commits {
        hash.update(Sha256::digest(to_json(commit, Keys::Sorted)));
    }
    hash.finalize().into()
}

/// Returns how many of a file's groups are checked: a tenth, 1 to 4.
pub fn groups_to_check(groups: usize) -> usize {
    let tenth = (groups as f64 * 0.10) as usize;
    tenth.clamp(1, GROUPS_MAX)
}

/// Returns the rows of a file to check, in file order.
///
/// - `row_groups`: for every row the place of its group among the digests.
/// - `digests`: one per group in the order of first appearance, see [`group_digest`].
///
/// # Panics
/// When a row names a group without a digest.
pub fn rows_to_check(
    hotkey: &str,
    randomness: &str,
    row_groups: &[usize],
    digests: &[[u8; 32]],
) -> Vec<usize> {
    if row_groups.len() <= CHECK_ALL_ROWS_MAX {
        return (0..row_groups.len()).collect();
    }
    let mut sorted: Vec<usize> = (0..digests.len()).collect();
    // Stable, as Python's sort: equal groups keep their order.
    sorted.sort_by_key(|&group| digests[group]);
    let mut rng = Random::from_integer(i128::from(group_seed(hotkey, randomness)));
    let chosen: BTreeSet<usize> = rng
        .sample(sorted.len(), groups_to_check(sorted.len()))
        .into_iter()
        .map(|place| sorted[place])
        .collect();
    (0..row_groups.len()).filter(|&row| chosen.contains(&row_groups[row])).collect()
}

/// Returns the first 8 bytes of the SHA-256 of texts, big-endian.
fn leading_word(texts: &[&str]) -> u64 {
    let digest = Sha256::digest(texts.concat());
    let (head, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_be_bytes(*head)
}

/// How often each hotkey was in the last windows.
#[derive(Clone, Debug)]
pub struct RollingHistory {
    windows: VecDeque<BTreeSet<String>>,
    windows_max: usize,
    counts: BTreeMap<String, u64>,
}

impl RollingHistory {
    /// Starts an empty history of at most `windows_max` windows.
    pub fn new(windows_max: usize) -> Self {
        Self { windows: VecDeque::new(), windows_max, counts: BTreeMap::new() }
    }

    /// Adds a window; the oldest leaves when there are too many.
    pub fn push(&mut self, hotkeys: BTreeSet<String>) {
        if self.windows.len() == self.windows_max
            && let Some(oldest) = self.windows.pop_front()
        {
            for hotkey in oldest {
                if let Some(count) = self.counts.get_mut(&hotkey) {
                    *count = count.saturating_sub(1);
                }
            }
        }
        for hotkey in &hotkeys {
            *self.counts.entry(hotkey.clone()).or_default() += 1;
        }
        self.windows.push_back(hotkeys);
    }

    /// Returns the counts of all hotkeys ever seen that are above 0.
    pub fn counts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.counts
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(key, count)| (key.as_str(), *count))
    }
}

/// Blocks of a window.
const WINDOW_BLOCKS: i64 = 30;

/// Returns the first block of the window that a validator judges at `block`: the last complete one.
/// Negative before there is one.
pub fn target_window(block: i64) -> i64 {
    miner_window(block) - WINDOW_BLOCKS
}

/// Returns the first block of the window that a miner works for at `block`.
pub fn miner_window(block: i64) -> i64 {
    block.div_euclid(WINDOW_BLOCKS) * WINDOW_BLOCKS
}

/// Returns the interval of 360 blocks that a block is in; a validator asks for its target window's.
pub fn copycat_interval(block: i64) -> i64 {
    block.div_euclid(360)
}
