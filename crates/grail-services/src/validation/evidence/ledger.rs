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
        let since = self.miners.get(&hotkey).and_then(|standing| standing.counts_since());
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
        let away_since = self.ejected_until.map_or(self.registered, |it| it.max(self.registered));
        window <= later(away_since, rules.ejection_windows)
    }
}

fn later(window: Window, windows: u32) -> Window {
    let start = window.start().0.saturating_add(u64::from(windows) * WINDOW_BLOCKS);
    // Beyond any chain: as good as never.
    Window::from_start(start).unwrap_or(window)
}
