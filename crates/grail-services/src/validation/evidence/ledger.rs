//! Where every miner stands: its evidence, its ejection, its lives.
//!
//! A miner is **ejected** in the window in which its wealth reaches the bound, and stays out for
//! [`EvidenceRules::ejection_windows`] windows after it: no weight, no new evidence. Then it comes
//! back to a **new life**: fresh evidence, and nothing it earned before counts.
//!
//! Life `n` (from 0) ends at the wealth `2^(n + 1) / bound`, so by Ville it ends with probability
//! `bound × 2^-(n + 1)` at most for an honest miner; all lives together with `bound` at most. That is
//! the promise: an honest miner that stays registered is ever ejected, even once, with probability
//! `bound` at most.
//!
//! A miner that left the metagraph is remembered for as long as an ejection lasts, and longer if it
//! is ejected: leaving and registering the same hotkey again is never quicker than waiting. Another
//! hotkey is another miner; what that costs is up to the chain. So the ledger holds at most the
//! registered miners and those judged within one ejection's time before they left.

use std::collections::{BTreeMap, BTreeSet};

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{Hotkey, Window};
use serde::{Deserialize, Serialize};

use super::wealth::Wealth;
use super::{EvidenceRules, EvidenceSummary, WindowEvidence};

/// Where the miners stand after some window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ledger {
    miners: BTreeMap<Hotkey, Standing>,
}

/// Where one miner stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Standing {
    /// Newest window in which the miner was registered.
    registered: Window,
    /// Newest window that is in the evidence: none counts twice.
    newest: Option<Window>,
    /// Ejections that the miner came back from.
    life: u32,
    /// First window of this life; `None` in the first life.
    since: Option<Window>,
    /// First window in which an ejected miner is judged again.
    ejected_until: Option<Window>,
    /// Evidence of this life; that of the ejection while it lasts.
    wealth: Wealth,
}

impl Ledger {
    /// Returns where the miners stand after `window`, and who was ejected in it.
    ///
    /// Evidence of a window that is already in, or against a miner that is out, is left alone, so
    /// that a window done again changes nothing.
    pub fn after(
        &self,
        rules: &EvidenceRules,
        window: Window,
        evidence: &BTreeMap<Hotkey, WindowEvidence>,
        registered: &BTreeSet<Hotkey>,
    ) -> (Self, Vec<Hotkey>) {
        let mut miners = self.miners.clone();
        let mut ejected = Vec::new();
        for standing in miners.values_mut() {
            standing.come_back(window);
        }
        for (&hotkey, evidence) in evidence {
            let standing = miners.entry(hotkey).or_insert_with(|| Standing::new(window));
            if standing.take(rules, evidence) {
                ejected.push(hotkey);
            }
        }
        for hotkey in registered {
            if let Some(standing) = miners.get_mut(hotkey) {
                standing.registered = standing.registered.max(window);
            }
        }
        miners.retain(|_, standing| standing.is_remembered(rules, window));
        (Self { miners }, ejected)
    }

    /// Returns whether the miner is out in `window`.
    pub fn is_ejected(&self, hotkey: Hotkey, window: Window) -> bool {
        let until = self.miners.get(&hotkey).and_then(|standing| standing.ejected_until);
        until.is_some_and(|until| window < until)
    }

    /// Returns whether what the miner did in `past` still earns it something in `window`.
    pub fn counts(&self, hotkey: Hotkey, past: Window, window: Window) -> bool {
        let since = self.miners.get(&hotkey).and_then(Standing::counts_since);
        !self.is_ejected(hotkey, window) && since.is_none_or(|since| past >= since)
    }

    /// Returns how the evidence stands; a miner without any has that of an honest one.
    pub fn summary(&self, rules: &EvidenceRules, hotkey: Hotkey) -> EvidenceSummary {
        let standing = self.miners.get(&hotkey);
        let life = standing.map_or(0, |it| it.life);
        EvidenceSummary {
            wealth_log10: standing.map_or(0.0, |it| it.wealth.log()) / std::f64::consts::LN_10,
            bound_log10: rules.log_bound(life) / std::f64::consts::LN_10,
            ejected_until: standing.and_then(|it| it.ejected_until),
            life,
        }
    }

    /// Returns whether there is anything to say about the miner.
    pub fn knows(&self, hotkey: Hotkey) -> bool {
        self.miners.contains_key(&hotkey)
    }

    /// Returns the number of miners that are remembered.
    pub fn len(&self) -> usize {
        self.miners.len()
    }

    /// Returns whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.miners.is_empty()
    }
}

impl Standing {
    fn new(window: Window) -> Self {
        Self {
            registered: window,
            newest: None,
            life: 0,
            since: None,
            ejected_until: None,
            wealth: Wealth::default(),
        }
    }

    /// Starts a new life if the ejection is over in `window`.
    fn come_back(&mut self, window: Window) {
        if let Some(until) = self.ejected_until.filter(|&until| until <= window) {
            self.life = self.life.saturating_add(1);
            self.since = Some(until);
            self.ejected_until = None;
            self.wealth = Wealth::default();
        }
    }

    /// Takes the evidence of a window; returns whether it ejects the miner.
    fn take(&mut self, rules: &EvidenceRules, evidence: &WindowEvidence) -> bool {
        let is_known = self.newest.is_some_and(|newest| evidence.window <= newest);
        if is_known || self.ejected_until.is_some() {
            return false;
        }
        self.newest = Some(evidence.window);
        self.wealth.add(evidence);
        if self.wealth.log() < rules.log_bound(self.life) {
            return false;
        }
        self.ejected_until = Some(later(evidence.window.next(), rules.ejection_windows));
        true
    }

    /// An ejection that is over starts a new life before anybody was judged in it.
    fn counts_since(&self) -> Option<Window> {
        self.ejected_until.or(self.since)
    }

    fn is_remembered(&self, rules: &EvidenceRules, window: Window) -> bool {
        let away_since = self.counts_since().map_or(self.registered, |it| it.max(self.registered));
        window <= later(away_since, rules.ejection_windows)
    }
}

fn later(window: Window, windows: u32) -> Window {
    let start = window.start().0.saturating_add(u64::from(windows) * WINDOW_BLOCKS);
    // Beyond any chain: as good as never.
    Window::from_start(start).unwrap_or(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEATER: Hotkey = Hotkey([1; 32]);
    const HONEST: Hotkey = Hotkey([2; 32]);
    const RULES: EvidenceRules =
        EvidenceRules { bound: 1e-6, ejection_windows: 10, judge_ejected: false };

    fn window(index: u64) -> Window {
        Window::from_start(index * WINDOW_BLOCKS).unwrap()
    }

    fn said(index: u64, violations: u32) -> WindowEvidence {
        WindowEvidence { window: window(index), groups: Vec::new(), violations, rollouts: 64 }
    }

    fn step(ledger: &mut Ledger, index: u64, violations: u32, registered: &[Hotkey]) -> bool {
        let evidence = [(CHEATER, said(index, violations)), (HONEST, said(index, 0))];
        let registered = registered.iter().copied().collect();
        let (after, ejected) = ledger.after(&RULES, window(index), &evidence.into(), &registered);
        assert!(!ejected.contains(&HONEST));
        *ledger = after;
        ejected.contains(&CHEATER)
    }

    const BOTH: &[Hotkey] = &[CHEATER, HONEST];

    /// Three bad windows: out from window 3 on, back in 13.
    fn ejected() -> Ledger {
        let mut ledger = Ledger::default();
        let bad = |index| step(&mut ledger, index, 1, BOTH);
        assert_eq!((1..=3).map(bad).collect::<Vec<_>>(), [false, false, true]);
        ledger
    }

    #[test]
    fn an_ejection_takes_effect_at_once_and_ends() {
        let mut ledger = ejected();
        for index in 3..=13 {
            assert_eq!(ledger.is_ejected(CHEATER, window(index)), index < 14, "{index}");
        }
        assert!(!ledger.is_ejected(CHEATER, window(14)));
        assert!(!ledger.is_ejected(HONEST, window(3)));
        let summary = ledger.summary(&RULES, CHEATER);
        assert!(summary.wealth_log10 >= summary.bound_log10);
        assert_eq!((summary.ejected_until, summary.life), (Some(window(14)), 0));
        assert!(!ledger.counts(CHEATER, window(2), window(3)), "what it earned before is gone");
        // Evidence against one who is out is left alone.
        for index in 4..14 {
            assert!(!step(&mut ledger, index, 1, BOTH));
        }
        assert!(!step(&mut ledger, 14, 0, BOTH), "a new life");
        let summary = ledger.summary(&RULES, CHEATER);
        assert!(summary.wealth_log10 < 0.0);
        assert_eq!((summary.ejected_until, summary.life), (None, 1));
        assert!((summary.bound_log10 - 4e6f64.log10()).abs() < 1e-9, "half of what is left");
        assert!(!ledger.counts(CHEATER, window(13), window(14)));
        assert!(ledger.counts(CHEATER, window(14), window(15)));
        // And it ends like the first.
        let bad = |index| step(&mut ledger, index, 1, BOTH);
        assert_eq!((15..=17).map(bad).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_window_counts_once() {
        let mut ledger = Ledger::default();
        for _ in 0..5 {
            assert!(!step(&mut ledger, 2, 1, BOTH));
            // Older than what is in: the validator caught up in another order, or not at all.
            assert!(!step(&mut ledger, 1, 1, BOTH));
        }
        let mut once = Ledger::default();
        step(&mut once, 2, 1, BOTH);
        assert_eq!(ledger, once);
    }

    #[test]
    fn leaving_and_coming_back_does_not_shorten_an_ejection() {
        let mut ledger = ejected();
        let honest = |ledger: &mut Ledger, index| {
            let evidence = [(HONEST, said(index, 0))].into();
            *ledger = ledger.after(&RULES, window(index), &evidence, &[HONEST].into()).0;
        };
        for index in 4..=13 {
            honest(&mut ledger, index);
            assert!(ledger.is_ejected(CHEATER, window(index)), "{index}");
        }
        honest(&mut ledger, 14);
        assert_eq!(ledger.summary(&RULES, CHEATER).life, 1, "still known");
        (15..=25).for_each(|index| honest(&mut ledger, index));
        assert_eq!(ledger.len(), 1, "and forgotten in the end");
    }

    #[test]
    fn evidence_outlives_a_short_absence() {
        let mut ledger = Ledger::default();
        step(&mut ledger, 1, 1, BOTH);
        step(&mut ledger, 2, 1, BOTH);
        let empty = BTreeMap::new();
        for index in 3..=12 {
            ledger = ledger.after(&RULES, window(index), &empty, &[HONEST].into()).0;
        }
        assert!(step(&mut ledger, 13, 1, BOTH), "the third bad window after ten away");
        // Registered, but never judged: known for ever.
        for index in 14..=200 {
            ledger = ledger.after(&RULES, window(index), &empty, &BOTH.iter().copied().collect()).0;
        }
        assert_eq!(ledger.len(), 2);
        for index in 201..=211 {
            ledger = ledger.after(&RULES, window(index), &empty, &BTreeSet::new()).0;
        }
        assert!(ledger.is_empty());
    }

    #[test]
    fn a_ledger_survives_the_disk() {
        let ledger = ejected();
        let text = serde_json::to_string(&ledger).unwrap();
        assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
        assert!(text.len() < 1_000, "{text}");
    }
}
