//! What a validator remembers of the weights that it handed in, kept on disk.
//!
//! Weights on their way are written down before they are handed in and after the chain took them,
//! so that whoever is killed in between looks for them first and sets no others.

use std::path::{Path, PathBuf};

use grail_ports::chain::{SentWeights, WeightSubmission};
use grail_protocol::ids::{BlockNumber, Uid};
use serde::{Deserialize, Serialize};

use super::schedule::retry_at;
use crate::state::{self, StateError};

/// Weights that were handed in and are not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flight {
    /// The interval that they are for.
    pub interval: u64,
    /// Uids and the bits of their weights: as decimal numbers they could come back a little off.
    pub(super) weights: Vec<(Uid, u64)>,
    /// Version of the scoring rules.
    pub(super) version_key: u64,
    /// Our last update before they were handed in.
    pub updated_before: BlockNumber,
    /// Block that includes them, once that is known.
    pub included: Option<BlockNumber>,
    /// Head at which they were first seen to count, until they are seen not to.
    pub landed_at: Option<BlockNumber>,
    /// While the block is not known: the first one at which they count as never included.
    pub given_up_at: BlockNumber,
}

impl Flight {
    /// Takes note of weights that are about to be handed in.
    pub fn new(
        interval: u64,
        submission: &WeightSubmission,
        updated_before: BlockNumber,
        given_up_at: BlockNumber,
    ) -> Self {
        let weights = submission.weights.iter().map(|(uid, weight)| (*uid, weight.to_bits()));
        Self {
            interval,
            weights: weights.collect(),
            version_key: submission.version_key,
            updated_before,
            included: None,
            landed_at: None,
            given_up_at,
        }
    }

    /// Returns the weights.
    pub fn weights(&self) -> Vec<(Uid, f64)> {
        self.weights.iter().map(|(uid, bits)| (*uid, f64::from_bits(*bits))).collect()
    }

    /// Returns what to look for on the chain; `block` includes it.
    pub fn sent(&self, block: BlockNumber) -> SentWeights {
        let (weights, version_key) = (self.weights(), self.version_key);
        SentWeights { submission: WeightSubmission { weights, version_key }, block }
    }
}

/// Failed attempts of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failures {
    /// The interval.
    pub interval: u64,
    /// How many, at least 1.
    pub count: u32,
    /// First block of the next attempt.
    pub again_at: BlockNumber,
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Weights on their way; at most these.
    pub flight: Option<Flight>,
    /// What went wrong lately.
    pub failures: Option<Failures>,
    /// Why the newest weights are not on the chain, for a person, until they are.
    pub alarm: Option<String>,
}

impl Memory {
    /// Returns whether an attempt for `interval` at `block` would come too soon after the last one.
    pub fn must_pause(&self, interval: u64, block: BlockNumber) -> bool {
        self.failures.is_some_and(|it| it.interval == interval && block < it.again_at)
    }

    /// Returns the failures of `interval` with one more at `block`.
    pub fn one_more_failure(&self, interval: u64, block: BlockNumber) -> Failures {
        let before = self.failures.filter(|it| it.interval == interval).map_or(0, |it| it.count);
        let count = before.saturating_add(1);
        Failures { interval, count, again_at: retry_at(block, count) }
    }
}

/// The memory with its file.
pub struct Kept {
    path: PathBuf,
    memory: Memory,
}

impl Kept {
    /// Reads the memory in `folder`; an empty one if there is none.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join("weights.json");
        let memory = state::read_json(&path)?.unwrap_or_default();
        Ok(Self { path, memory })
    }

    /// Returns what is remembered.
    pub fn get(&self) -> &Memory {
        &self.memory
    }

    /// Replaces it, on disk first.
    pub fn replace(&mut self, memory: Memory) -> Result<(), StateError> {
        if memory != self.memory {
            state::write_json(&self.path, &memory)?;
            self.memory = memory;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_finds_every_bit_of_what_was_handed_in() {
        let folder = tempfile::tempdir().unwrap();
        let weights = vec![(Uid(0), 0.1 + 0.2), (Uid(7), f64::MIN_POSITIVE), (Uid(9), 1.0 / 3.0)];
        let submission = WeightSubmission { weights, version_key: 6 };
        let flight = Flight::new(3, &submission, BlockNumber(5), BlockNumber(99));
        let mut kept = Kept::open(folder.path()).unwrap();
        assert_eq!(*kept.get(), Memory::default());
        let memory = Memory { flight: Some(flight), ..Memory::default() };
        kept.replace(memory.clone()).unwrap();

        let again = Kept::open(folder.path()).unwrap();
        assert_eq!(*again.get(), memory);
        let sent = again.get().flight.as_ref().unwrap().sent(BlockNumber(1081));
        assert_eq!(sent, SentWeights { submission, block: BlockNumber(1081) });
    }

    #[test]
    fn failures_count_within_their_interval() {
        let mut memory = Memory::default();
        assert!(!memory.must_pause(3, BlockNumber(90)));
        for again_at in [91, 92, 94] {
            memory.failures = Some(memory.one_more_failure(3, BlockNumber(90)));
            assert!(memory.must_pause(3, BlockNumber(again_at - 1)));
            assert!(!memory.must_pause(3, BlockNumber(again_at)));
        }
        assert!(!memory.must_pause(4, BlockNumber(91)), "a new interval starts afresh");
        assert_eq!(memory.one_more_failure(4, BlockNumber(120)).count, 1);
    }
}
