//! What the verifier said of every rollout, kept in one file a chunk, so that a killed run goes on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rows::Profile;
use crate::files::{read_bounded, write_atomically};

/// Largest chunk that is read: thousands of rollouts of the longest kind.
const BYTES_MAX: u64 = 256 << 20;

/// One rollout as the verifier judged it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Completion tokens.
    pub tokens: u32,
    /// Code of the rejection; absent when nothing was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Whether the cheat changed anything: a greedy rollout that happens to be the sampled one,
    /// or a text without a digit to edit, is an honest rollout.
    pub counted: bool,
    /// Positions (0-based) whose token lost its race, and by how many nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<(u32, f32)>,
    /// Bits that differ in each sketch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distances: Vec<u8>,
    /// Recomputed reward; absent where nothing was recomputed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f32>,
    /// Bits of the honest tails that the rollout lies in, one a tail level.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tails: u8,
    /// Codes of soft checks that the rollout failed: v5 flags these and rejects nothing at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub soft: Vec<String>,
}

impl Record {
    /// Returns the margin at every position, nats.
    pub fn margins(&self) -> Vec<f32> {
        let mut margins = vec![0.0; self.tokens as usize];
        for &(position, margin) in &self.lost {
            if let Some(slot) = margins.get_mut(position as usize) {
                *slot = margin;
            }
        }
        margins
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(tails: &u8) -> bool {
    *tails == 0
}

/// The rollouts of one chunk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// In order: group by group.
    pub records: Vec<Record>,
    /// Bytes of proof of all rollouts; root and signature are 96 more a file.
    pub proof_bytes: u64,
    /// Seconds of generation, 0 where the tokens were there already.
    pub generate_s: f64,
    /// Seconds of verification.
    pub verify_s: f64,
    /// Why nothing was judged, where so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The folder with all chunks.
#[derive(Clone, Debug)]
pub struct Store {
    out: PathBuf,
}

impl Store {
    /// Uses the folder `out`.
    pub fn new(out: &Path) -> Self {
        Self { out: out.to_owned() }
    }

    fn path(&self, profile: Profile, row: &str, chunk: u32) -> PathBuf {
        let folder = self.out.join("rows").join(profile.name()).join(row);
        folder.join(format!("{chunk:04}.json"))
    }

    /// Returns a chunk that was kept; one that cannot be read is computed again.
    pub fn get(&self, profile: Profile, row: &str, chunk: u32) -> Option<Chunk> {
        let bytes = read_bounded(&self.path(profile, row, chunk), BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps a chunk.
    pub fn put(&self, profile: Profile, row: &str, chunk: u32, data: &Chunk) -> io::Result<()> {
        let path = self.path(profile, row, chunk);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        write_atomically(&path, &serde_json::to_vec(data)?)
    }
}

/// Returns how often each code occurs among the counted records.
pub fn codes<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for record in records.into_iter().filter(|record| record.counted) {
        if let Some(code) = &record.code {
            *counts.entry(code.clone()).or_insert(0) += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_comes_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let record = Record {
            tokens: 4,
            code: Some("race_lost".to_owned()),
            counted: true,
            lost: vec![(1, 0.1), (3, f32::MIN_POSITIVE)],
            distances: vec![3],
            reward: Some(0.1),
            ..Record::default()
        };
        assert_eq!(record.margins(), [0.0, 0.1, 0.0, f32::MIN_POSITIVE]);
        let chunk = Chunk { records: vec![record], proof_bytes: 32, ..Chunk::default() };
        assert_eq!(store.get(Profile::Exact, "greedy", 3), None);
        store.put(Profile::Exact, "greedy", 3, &chunk).unwrap();
        assert_eq!(store.get(Profile::Exact, "greedy", 3), Some(chunk));
        assert_eq!(store.get(Profile::Tolerant, "greedy", 3), None);
        let path = store.path(Profile::Exact, "greedy", 3);
        std::fs::write(path, b"{\"records\":[").unwrap();
        assert_eq!(store.get(Profile::Exact, "greedy", 3), None, "half a file is no result");
    }

    #[test]
    fn only_counted_rollouts_have_a_say() {
        let record = |code: &str, counted| Record {
            code: Some(code.to_owned()),
            counted,
            ..Record::default()
        };
        let records = [record("a", true), record("a", true), record("b", false)];
        assert_eq!(codes(&records), BTreeMap::from([("a".to_owned(), 2)]));
    }
}
