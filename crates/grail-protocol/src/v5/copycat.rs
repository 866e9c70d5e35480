//! Finds completions that two miners share, and who uploaded last.
//!
//! Pairs are judged in each window and, adding up, over an interval of 360 blocks. Within a pair the
//! later upload is the copy. Source: spec `validation.md`, Copycat.

use std::collections::{BTreeMap, BTreeSet};

/// Share of the smaller file at which a window's pair is a violation.
pub const WINDOW_THRESHOLD: f64 = 0.05;

/// Share of the smaller total at which an interval's pair is one.
pub const INTERVAL_THRESHOLD: f64 = 0.03;

/// A file that passed its checks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// How often each completion is in the file, by its digest.
    pub digests: BTreeMap<[u8; 32], u64>,
    /// Rollouts of the file, those without a digest too.
    pub total_rollouts: u64,
    /// When the store last saw the file change, Unix seconds.
    pub uploaded: Option<f64>,
}

/// Over what completions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One window.
    Window,
    /// All windows of the interval so far.
    Interval,
}

impl Scope {
    /// Returns the ratio at which a pair is a violation.
    pub fn threshold(self) -> f64 {
        match self {
            Self::Window => WINDOW_THRESHOLD,
            Self::Interval => INTERVAL_THRESHOLD,
        }
    }
}

/// Two miners that share completions.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Hotkeys, the smaller first.
    pub miners: [String; 2],
    /// Completions that both have, each as often as the rarer has it.
    pub shared: u64,
    /// Rollouts of the smaller.
    pub denominator: u64,
    /// `shared` by `denominator`; above 1 where a miner counts too few rollouts.
    pub ratio: f64,
    /// Over what.
    pub scope: Scope,
    /// Which of the two uploaded later, if both times are known and differ.
    pub copier: Option<usize>,
}

impl Pair {
    /// Whether the two share too much.
    pub fn is_violation(&self) -> bool {
        self.ratio >= self.scope.threshold()
    }

    /// Returns the miner to gate: the copier of a violation.
    pub fn cheater(&self) -> Option<&str> {
        let copier = self.copier.filter(|_| self.is_violation())?;
        Some(&self.miners[copier])
    }

    /// Returns the miner that was copied in a violation.
    pub fn victim(&self) -> Option<&str> {
        let copier = self.copier.filter(|_| self.is_violation())?;
        Some(&self.miners[1 - copier])
    }
}

/// What a window showed: every pair that shares something.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Pairs of this window.
    pub window: Vec<Pair>,
    /// Pairs of the interval, those of earlier windows too.
    pub interval: Vec<Pair>,
}

impl Findings {
    /// Returns the miners to gate, see [`super::metrics::gate_copiers`].
    pub fn cheaters(&self) -> BTreeSet<String> {
        let pairs = self.window.iter().chain(&self.interval);
        pairs.filter_map(Pair::cheater).map(str::to_owned).collect()
    }
}

/// Which of two uploads is the later one; nobody can tell equal or unknown times apart.
pub fn later(times: [Option<f64>; 2]) -> Option<usize> {
    let [Some(first), Some(second)] = times else { return None };
    if first > second {
        Some(0)
    } else if second > first {
        Some(1)
    } else {
        None
    }
}

/// Shared completions of all pairs, by the places of the two hotkeys in their order.
type Overlaps = BTreeMap<[String; 2], u64>;

/// Adds up an interval.
#[derive(Clone, Debug, Default)]
pub struct CopycatTracker {
    interval: Option<i64>,
    overlaps: Overlaps,
    totals: BTreeMap<String, u64>,
    /// Latest known upload of each miner within the interval.
    uploads: BTreeMap<String, f64>,
}

impl CopycatTracker {
    /// Starts an interval, see [`super::selection::copycat_interval`]; the one that runs goes on.
    pub fn set_interval(&mut self, interval: i64) {
        if self.interval != Some(interval) {
            *self = Self { interval: Some(interval), ..Self::default() };
        }
    }

    /// Takes the files of a window that passed. Without any, nothing is judged.
    pub fn ingest(&mut self, submissions: &BTreeMap<String, Submission>) -> Findings {
        if submissions.is_empty() {
            return Findings::default();
        }
        let overlaps = overlaps(submissions);
        for (pair, shared) in &overlaps {
            let total = self.overlaps.entry(pair.clone()).or_default();
            *total = total.saturating_add(*shared);
        }
        for (miner, submission) in submissions {
            let total = self.totals.entry(miner.clone()).or_default();
            *total = total.saturating_add(submission.total_rollouts);
            if let Some(uploaded) = submission.uploaded {
                self.uploads.insert(miner.clone(), uploaded);
            }
        }
        let of_window = |miner: &String| submissions.get(miner);
        let total = |miner: &String| of_window(miner).map_or(0, |file| file.total_rollouts);
        let uploaded = |miner: &String| of_window(miner).and_then(|file| file.uploaded);
        let window = pairs(&overlaps, Scope::Window, total, uploaded);

        let total = |miner: &String| self.totals.get(miner).copied().unwrap_or(0);
        let uploaded = |miner: &String| self.uploads.get(miner).copied();
        let interval = pairs(&self.overlaps, Scope::Interval, total, uploaded);
        Findings { window, interval }
    }
}

/// Counts what every pair of files shares.
fn overlaps(submissions: &BTreeMap<String, Submission>) -> Overlaps {
    let mut owners: BTreeMap<&[u8; 32], Vec<(&String, u64)>> = BTreeMap::new();
    for (miner, submission) in submissions {
        for (digest, &count) in &submission.digests {
            owners.entry(digest).or_default().push((miner, count));
        }
    }
    let mut overlaps = Overlaps::new();
    // Owners are in the order of hotkeys, and so is each pair.
    for owners in owners.into_values() {
        for (place, &(first, count)) in owners.iter().enumerate() {
            for &(second, other_count) in &owners[place + 1..] {
                let shared = overlaps.entry([first.clone(), second.clone()]).or_default();
                *shared += count.min(other_count);
            }
        }
    }
    overlaps.retain(|_, shared| *shared > 0);
    overlaps
}

fn pairs(
    overlaps: &Overlaps,
    scope: Scope,
    total: impl Fn(&String) -> u64,
    uploaded: impl Fn(&String) -> Option<f64>,
) -> Vec<Pair> {
    let judged = overlaps.iter().filter_map(|(miners, &shared)| {
        let [first, second] = miners;
        let denominator = total(first).min(total(second));
        (denominator > 0).then(|| Pair {
            miners: miners.clone(),
            shared,
            denominator,
            ratio: shared as f64 / denominator as f64,
            scope,
            copier: later([uploaded(first), uploaded(second)]),
        })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(digests: &[(u8, u64)], total_rollouts: u64, uploaded: f64) -> Submission {
        let digests = digests.iter().map(|&(digest, count)| ([digest; 32], count)).collect();
        Submission { digests, total_rollouts, uploaded: Some(uploaded) }
    }

    fn window(files: [Submission; 2]) -> BTreeMap<String, Submission> {
        ["a", "b"].map(str::to_owned).into_iter().zip(files).collect()
    }

    #[test]
    fn the_later_upload_of_a_pair_that_shares_enough_is_gated() {
        let mut tracker = CopycatTracker::default();
        tracker.set_interval(1);
        let files =
            window([submission(&[(1, 5), (2, 1)], 100, 2.0), submission(&[(1, 9)], 90, 1.0)]);
        let findings = tracker.ingest(&files);
        assert_eq!((findings.window[0].shared, findings.window[0].denominator), (5, 90));
        assert_eq!(findings.cheaters().into_iter().collect::<Vec<_>>(), ["a"]);
        assert_eq!(findings.window[0].victim(), Some("b"));
    }

    #[test]
    fn an_interval_adds_up_and_ends() {
        let mut tracker = CopycatTracker::default();
        tracker.set_interval(1);
        let files = window([submission(&[(1, 3)], 100, 1.0), submission(&[(1, 3)], 100, 2.0)]);
        // 3 of 100 is below the window's threshold and at the interval's.
        assert_eq!(tracker.ingest(&files).cheaters().len(), 1);
        let alone: BTreeMap<_, _> = [("c".to_owned(), submission(&[], 1, 0.0))].into();
        assert_eq!(tracker.ingest(&alone).cheaters().len(), 1, "judged again without the two");
        assert_eq!(tracker.ingest(&BTreeMap::new()), Findings::default());
        tracker.set_interval(1);
        assert_eq!(tracker.ingest(&alone).cheaters().len(), 1, "the same interval goes on");
        tracker.set_interval(2);
        assert_eq!(tracker.ingest(&alone).interval, []);
    }
}
