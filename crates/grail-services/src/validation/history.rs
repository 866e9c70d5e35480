//! What a validator remembers of the last windows, kept on disk after every window.
//!
//! One atomic write per window is the commit point: a crash before it repeats the window, a crash
//! after it does not, so that nothing is lost or counted twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{Hotkey, Uid, Window};
use serde::{Deserialize, Serialize};

use super::evidence::Ledger;
use super::scoring::{self, Record, ScoringRules, Tally};
use crate::state::{self, StateError};

/// Windows that are remembered at most; scoring looks back at fewer.
const WINDOWS_MAX: usize = 64;

/// What happened in one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRecord {
    /// The window.
    pub window: Window,
    /// Miners with a file in time.
    pub active: BTreeSet<Hotkey>,
    /// Miners chosen to be judged.
    pub selected: BTreeSet<Hotkey>,
    /// What came of those who were judged. A miner whose file we failed to judge has no entry.
    pub tallies: BTreeMap<Hotkey, Tally>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    /// Newest window that is done.
    last: Option<Window>,
    /// Windows processed since the validator's first start.
    processed: u64,
    /// Newest weight interval that is done.
    weights_interval: Option<u64>,
    /// Oldest first.
    windows: VecDeque<WindowRecord>,
    /// Where the miners stand after the newest window; absent in files of versions without it.
    #[serde(default)]
    evidence: Ledger,
}

/// The history of one validator.
pub struct History {
    path: PathBuf,
    memory: Memory,
}

impl History {
    /// Reads the history in `folder`; an empty one if there is none.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join("history.json");
        let memory = state::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, memory })
    }

    /// Returns the folder that the history lies in.
    pub fn folder(&self) -> &Path {
        self.path.parent().expect("the path is a file in a folder")
    }

    /// Returns the newest window that is done.
    pub fn last(&self) -> Option<Window> {
        self.memory.last
    }

    /// Returns the number of windows processed since the first start.
    pub fn processed(&self) -> u64 {
        self.memory.processed
    }

    /// Returns the newest weight interval that is done.
    pub fn weights_interval(&self) -> Option<u64> {
        self.memory.weights_interval
    }

    /// Takes note that the weights of `interval` are set, or that the interval is left out.
    pub fn close_interval(&mut self, interval: u64) -> Result<(), StateError> {
        self.replace(Memory { weights_interval: Some(interval), ..self.memory.clone() })
    }

    /// Returns where the miners stand.
    pub fn evidence(&self) -> &Ledger {
        &self.memory.evidence
    }

    /// Adds a processed window, and where the miners stand after it.
    pub fn add(&mut self, record: WindowRecord, evidence: Ledger) -> Result<(), StateError> {
        let mut memory = self.memory.clone();
        memory.evidence = evidence;
        memory.last = memory.last.max(Some(record.window));
        let before = memory.windows.len();
        memory.windows.retain(|old| old.window != record.window);
        memory.processed += u64::from(memory.windows.len() == before);
        memory.windows.push_back(record);
        while memory.windows.len() > WINDOWS_MAX {
            memory.windows.pop_front();
        }
        self.replace(memory)
    }

    /// Takes note that `window` is done without anything to remember.
    pub fn pass_over(&mut self, window: Window) -> Result<(), StateError> {
        let last = self.memory.last.max(Some(window));
        self.replace(Memory { last, ..self.memory.clone() })
    }

    /// Returns in how many of the last `windows` processed windows the miner was chosen.
    pub fn selections(&self, hotkey: Hotkey, windows: u32) -> usize {
        self.newest(windows).filter(|record| record.selected.contains(&hotkey)).count()
    }

    /// Returns whether the miner broke a rule in one of the last `windows` processed windows.
    pub fn failed_lately(&self, hotkey: Hotkey, windows: u32) -> bool {
        let failed = |record: &WindowRecord| {
            record.tallies.get(&hotkey).is_some_and(|tally| tally.had_failure)
        };
        self.newest(windows).any(failed)
    }

    /// Returns the weights of `metagraph` after the newest window; `None` before the first. Ejected
    /// miners get none, and what a miner did before its ejection does not count after it.
    pub fn weights(
        &self,
        rules: &ScoringRules,
        metagraph: &[(Uid, Hotkey)],
    ) -> Option<Vec<(Uid, f64)>> {
        let target = self.memory.last?;
        let histories: BTreeMap<Hotkey, (BTreeMap<Window, Tally>, u32)> = metagraph
            .iter()
            .map(|&(_, hotkey)| (hotkey, (self.tallies(hotkey), self.availability(hotkey, rules))))
            .collect();
        let record_of = |hotkey| {
            let (tallies, availability) = histories.get(&hotkey)?;
            Some(Record { tallies, availability: *availability })
        };
        Some(scoring::weights(rules, metagraph, record_of, target))
    }

    fn availability(&self, hotkey: Hotkey, rules: &ScoringRules) -> u32 {
        let seen = self.newest(rules.windows).filter(|record| record.active.contains(&hotkey));
        let counted = seen.filter(|record| self.counts(hotkey, record.window));
        u32::try_from(counted.count()).unwrap_or(u32::MAX)
    }

    fn counts(&self, hotkey: Hotkey, window: Window) -> bool {
        self.memory.last.is_none_or(|last| self.memory.evidence.counts(hotkey, window, last))
    }

    fn tallies(&self, hotkey: Hotkey) -> BTreeMap<Window, Tally> {
        let windows = self.memory.windows.iter();
        let windows = windows.filter(|record| self.counts(hotkey, record.window));
        windows.filter_map(|record| Some((record.window, *record.tallies.get(&hotkey)?))).collect()
    }

    fn newest(&self, windows: u32) -> impl Iterator<Item = &WindowRecord> {
        let windows = usize::try_from(windows).unwrap_or(usize::MAX);
        self.memory.windows.iter().rev().take(windows)
    }

    fn replace(&mut self, memory: Memory) -> Result<(), StateError> {
        state::write_json(&self.path, &memory)?;
        self.memory = memory;
        Ok(())
    }
}

/// Returns the windows that are to be processed, oldest first: those after `last` up to the newest
/// one that is complete at `current`, at most `catch_up` of them.
pub fn outstanding(last: Option<Window>, current: Window, catch_up: u32) -> Vec<Window> {
    let Some(newest) = current.previous() else {
        return Vec::new();
    };
    let reach = u64::from(catch_up.saturating_sub(1)) * WINDOW_BLOCKS;
    let oldest = newest.start().0.saturating_sub(reach);
    // A validator without memory has nothing to catch up with.
    let first = match last {
        None => newest.start().0,
        Some(last) => oldest.max(last.end().0),
    };
    let step = usize::try_from(WINDOW_BLOCKS).unwrap_or(usize::MAX);
    (first..=newest.start().0)
        .step_by(step)
        .filter_map(|start| Window::from_start(start).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors::{every_case, list, size, text};

    use super::super::evidence::{EvidenceRules, WindowEvidence};
    use super::*;

    fn window(start: u64) -> Window {
        Window::from_start(start).unwrap()
    }

    const MINER: Hotkey = Hotkey([1; 32]);
    const OTHER: Hotkey = Hotkey([2; 32]);

    fn record(start: u64, rollouts: u64, had_failure: bool) -> WindowRecord {
        WindowRecord {
            window: window(start),
            active: [MINER].into(),
            selected: [MINER].into(),
            tallies: [(MINER, Tally { rollouts, had_failure })].into(),
        }
    }

    #[test]
    fn a_restart_remembers_everything_and_repeats_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        assert_eq!(history.weights(&ScoringRules::default(), &[(Uid(1), MINER)]), None);
        history.add(record(30, 64, false), Ledger::default()).unwrap();
        history.add(record(60, 64, false), Ledger::default()).unwrap();
        history.close_interval(7).unwrap();
        // The same window once more, as after a crash: it replaces what was there.
        history.add(record(60, 64, false), Ledger::default()).unwrap();
        history.pass_over(window(90)).unwrap();

        let reopened = History::open(folder.path()).unwrap();
        assert_eq!(reopened.memory, history.memory);
        assert_eq!(reopened.processed(), 2);
        assert_eq!(reopened.last(), Some(window(90)));
        assert_eq!(reopened.weights_interval(), Some(7));
        assert_eq!(reopened.selections(MINER, 12), 2);
        assert_eq!(reopened.availability(MINER, &ScoringRules::default()), 2);
        assert_eq!(reopened.tallies(MINER).len(), 2);
        assert_eq!(reopened.selections(OTHER, 12), 0);
    }

    #[test]
    fn a_failure_is_forgotten_after_the_lookback() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        history.add(record(0, 0, true), Ledger::default()).unwrap();
        for start in [30, 60] {
            history.add(record(start, 64, false), Ledger::default()).unwrap();
        }
        assert!(history.failed_lately(MINER, 3));
        assert!(!history.failed_lately(MINER, 2));
        assert!(!history.failed_lately(MINER, 0));
        assert!(!history.failed_lately(OTHER, 3));
        for start in (90..).step_by(30).take(2 * WINDOWS_MAX) {
            history.add(record(start, 1, false), Ledger::default()).unwrap();
        }
        assert_eq!(history.memory.windows.len(), WINDOWS_MAX);
    }

    /// What version 0.1 wrote before there was evidence.
    const WITHOUT_EVIDENCE: &str = r#"{"last":60,"processed":2,"weights_interval":7,"windows":[]}"#;

    #[test]
    fn a_file_without_evidence_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("history.json"), WITHOUT_EVIDENCE).unwrap();
        let history = History::open(folder.path()).unwrap();
        assert_eq!((history.last(), history.processed()), (Some(window(60)), 2));
        assert!(history.evidence().is_empty());
    }

    #[test]
    fn an_ejected_miner_has_no_weight_and_starts_from_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut history = History::open(folder.path()).unwrap();
        let rules = EvidenceRules { ejection_windows: 2, ..EvidenceRules::default() };
        let registered = BTreeSet::from([MINER]);
        let mut run = |start: u64, violations: u32| {
            let rollouts = if violations > 0 { 0 } else { 64 };
            let said = WindowEvidence {
                window: window(start),
                groups: Vec::new(),
                violations,
                rollouts: 64,
            };
            let evidence = BTreeMap::from([(MINER, said)]);
            let ledger = history.evidence().after(&rules, window(start), &evidence, &registered).0;
            history.add(record(start, rollouts, violations > 0), ledger).unwrap();
            history = History::open(folder.path()).unwrap();
            history.weights(&ScoringRules::default(), &[(Uid(1), MINER)]).unwrap()[0].1
        };
        let full = run(30, 0);
        assert!(full > 0.0);
        // A bad window earns nothing, but takes away nothing of the others.
        let diluted = run(60, 1);
        assert!(diluted > 0.0 && diluted <= full, "{diluted} of {full}");
        run(90, 1);
        assert_eq!(run(120, 1), 0.0, "ejected");
        assert_eq!(run(150, 0), 0.0);
        assert_eq!(run(180, 0), 0.0);
        let back = run(210, 0);
        // One window of work in one window of life, as at the very start.
        assert!((back - full).abs() < 1e-15, "{back}, not {full}");
    }

    #[test]
    fn memory_of_the_last_windows_matches_the_reference() {
        every_case("miner_sampling", "rolling_history.json", |case| {
            let maxlen = u32::try_from(size(&case["maxlen"])).unwrap();
            let steps = list(&case["steps"]);
            let names = steps.iter().flat_map(|step| list(&step["add"])).map(text);
            let miners: BTreeSet<&str> = names.collect();
            // The names of the vectors are no addresses.
            let hotkey = |name: &str| {
                let mut key = [0; 32];
                key[..name.len()].copy_from_slice(name.as_bytes());
                Hotkey(key)
            };
            let folder = tempfile::tempdir().unwrap();
            let mut history = History::open(folder.path()).unwrap();
            for (start, step) in (0..).step_by(30).zip(steps) {
                let set: BTreeSet<Hotkey> =
                    list(&step["add"]).iter().map(|name| hotkey(text(name))).collect();
                let failed = |it: &Hotkey| (*it, Tally { rollouts: 0, had_failure: true });
                let tallies = set.iter().map(failed).collect();
                let record = WindowRecord {
                    window: window(start),
                    active: set.clone(),
                    selected: set,
                    tallies,
                };
                history.add(record, Ledger::default()).unwrap();
                for name in &miners {
                    let expected = step["counts"][name].as_u64().unwrap_or(0);
                    assert_eq!(history.selections(hotkey(name), maxlen) as u64, expected);
                    assert_eq!(history.failed_lately(hotkey(name), maxlen), expected > 0);
                }
            }
        });
    }

    #[test]
    fn windows_are_caught_up_with_in_order_and_in_bounds() {
        let check = |last: Option<u64>, current: u64, expected: &[u64]| {
            let starts: Vec<u64> = outstanding(last.map(window), window(current), 3)
                .into_iter()
                .map(|window| window.start().0)
                .collect();
            assert_eq!(starts, expected, "last {last:?}, current {current}");
        };
        check(None, 0, &[]);
        check(None, 30, &[0]);
        check(None, 300, &[270]);
        check(Some(240), 300, &[270]);
        check(Some(270), 300, &[]);
        check(Some(210), 300, &[240, 270]);
        check(Some(0), 300, &[210, 240, 270]);
        check(Some(0), 60, &[30]);
        // The chain was reset under us.
        check(Some(900), 60, &[]);
    }
}
