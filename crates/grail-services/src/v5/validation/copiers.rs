//! Who copies whom over an interval: decided once for each pair.
//!
//! The reference compares the latest uploads that it knows. A gated copier is not looked at any more,
//! so the miner that it copied soon has the later one and would be gated in its place.

use std::collections::{BTreeMap, BTreeSet};

use grail_protocol::v5::copycat::{CopycatTracker, Findings, Submission};

/// Adds up an interval and remembers who copied first.
#[derive(Clone, Debug, Default)]
pub struct Copiers {
    tracker: CopycatTracker,
    interval: Option<i64>,
    /// Place of the copier in each pair that shared too much.
    decided: BTreeMap<[String; 2], usize>,
}

impl Copiers {
    /// Takes the files of a window of `interval` that passed, and returns the miners to gate.
    pub fn ingest(
        &mut self,
        interval: i64,
        submissions: &BTreeMap<String, Submission>,
    ) -> BTreeSet<String> {
        if self.interval != Some(interval) {
            self.interval = Some(interval);
            self.decided.clear();
        }
        self.tracker.set_interval(interval);
        let Findings { window, interval } = self.tracker.ingest(submissions);
        let mut copiers = BTreeSet::new();
        for pair in window.iter().chain(&interval).filter(|pair| pair.is_violation()) {
            let Some(copier) = pair.copier else { continue };
            let copier = *self.decided.entry(pair.miners.clone()).or_insert(copier);
            copiers.insert(pair.miners[copier].clone());
        }
        copiers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(uploaded: f64) -> Submission {
        let digests = [([1; 32], 16)].into();
        Submission { digests, total_rollouts: 16, uploaded: Some(uploaded) }
    }

    #[test]
    fn a_victim_that_goes_on_uploading_is_not_gated_for_it() {
        let named = |files: &[(&str, f64)]| -> BTreeMap<String, Submission> {
            files.iter().map(|&(name, uploaded)| (name.to_owned(), file(uploaded))).collect()
        };
        let gated = |copiers: BTreeSet<String>| copiers.into_iter().collect::<Vec<_>>();
        let mut copiers = Copiers::default();
        let first = copiers.ingest(0, &named(&[("victim", 1.0), ("copier", 2.0)]));
        assert_eq!(gated(first), ["copier"]);
        // The copier is excluded now, and the finding of the interval is renewed.
        let later = copiers.ingest(0, &named(&[("victim", 100.0)]));
        assert_eq!(gated(later), ["copier"]);
        // Another interval decides anew.
        let reversed = copiers.ingest(1, &named(&[("victim", 202.0), ("copier", 201.0)]));
        assert_eq!(gated(reversed), ["victim"]);
    }
}
