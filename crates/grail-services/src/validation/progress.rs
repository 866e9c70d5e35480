//! What is settled of a window that is not finished.

use std::collections::{BTreeMap, BTreeSet};

use grail_protocol::ids::{Hotkey, Window};

use super::discovery::Candidate;

/// What came of one miner's file.
pub enum Settled<J> {
    /// It was judged.
    Judged(Box<J>),
    /// It does not count after all: late, gone, or of a size that none has.
    Gone,
    /// It is there, but nobody can read it: no fault and no score.
    Unread,
    /// Our own failure; the reason is for a person.
    Unknown(String),
}

/// What is settled of a window.
pub struct Progress<J> {
    /// The window.
    pub window: Window,
    /// Tries so far.
    pub attempts: u32,
    /// Everybody in the metagraph.
    pub registered: BTreeSet<Hotkey>,
    /// Whether a miner's file was there in time; those we could not see have no entry.
    pub in_time: BTreeMap<Hotkey, bool>,
    /// Miners whose file nobody can read.
    pub unread: BTreeSet<Hotkey>,
    /// Judged files, and the seconds that each took.
    pub judged: BTreeMap<Hotkey, (J, f64)>,
}

impl<J> Progress<J> {
    /// Starts a window.
    pub fn new(window: Window) -> Self {
        Self {
            window,
            attempts: 0,
            registered: BTreeSet::new(),
            in_time: BTreeMap::new(),
            unread: BTreeSet::new(),
            judged: BTreeMap::new(),
        }
    }

    /// Returns whether a miner has a file in time.
    pub fn is_active(&self, hotkey: Hotkey) -> bool {
        self.in_time.get(&hotkey) == Some(&true)
    }

    /// Returns how many miners we owe an answer.
    pub fn unsettled(&self, candidates: &[Candidate], selected: &[Candidate]) -> usize {
        let unseen = candidates.iter().filter(|it| !self.in_time.contains_key(&it.hotkey));
        let unjudged = selected.iter().filter(|it| {
            self.is_active(it.hotkey)
                && !self.judged.contains_key(&it.hotkey)
                && !self.unread.contains(&it.hotkey)
        });
        unseen.count() + unjudged.count()
    }
}

/// A window of which all is settled that will be.
pub struct Finished<'a, J> {
    /// Miners with a bucket, in metagraph order.
    pub candidates: &'a [Candidate],
    /// Those chosen to be judged.
    pub selected: &'a [Candidate],
    /// What came of them.
    pub progress: &'a Progress<J>,
}

impl<J> Finished<'_, J> {
    /// Returns the miners with a file in time, in metagraph order.
    pub fn active(&self) -> Vec<Hotkey> {
        let hotkeys = self.candidates.iter().map(|it| it.hotkey);
        hotkeys.filter(|hotkey| self.progress.is_active(*hotkey)).collect()
    }
}
