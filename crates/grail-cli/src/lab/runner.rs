//! Runs rows chunk by chunk, keeps each chunk at once, and goes on where a killed run stopped.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use grail_ports::model::{Model, ModelError};
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use indicatif::{ProgressBar, ProgressStyle};

use super::adversary::{Maker, forge_file};
use super::examine;
use super::results::{Chunk, Store};
use super::rows::{Act, Honest, Profile, Row};
use super::v5;
use super::world::World;

/// Groups in a chunk: as many rollouts as an engine decodes at once.
const GROUPS_PER_CHUNK: u32 = 4;

/// Variants of a rollout from which on one group must do.
const GRIND_DEEP: u32 = 16;

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Rollouts of an attack; rounded up to whole groups.
    pub rollouts: u32,
    /// Honest rollouts of a profile, all honest rows together.
    pub honest_rollouts: u32,
}

impl Sizes {
    /// Returns the groups of a row: of the honest rollouts, the plain row takes half and the
    /// variations share the rest; the portable kernels and v5 take one group or a chunk.
    pub fn groups(&self, row: &Row, profile: Profile) -> u32 {
        let groups = |rollouts: u32| rollouts.div_ceil(ROLLOUTS_PER_GROUP).max(1);
        match (row.act, profile) {
            (Act::Honest(Honest::Portable), _) => 1,
            (Act::Honest(_), Profile::V5) => groups(self.honest_rollouts / 8),
            (Act::Honest(Honest::Decode), _) => groups(self.honest_rollouts / 2),
            (Act::Honest(_), _) => groups(self.honest_rollouts / 8),
            (Act::Grind(variants), _) if variants >= GRIND_DEEP => 1,
            _ => groups(self.rollouts),
        }
    }

    /// Returns the groups of each chunk of a row.
    fn chunks(&self, row: &Row, profile: Profile) -> Vec<u32> {
        let groups = self.groups(row, profile);
        let full = groups / GROUPS_PER_CHUNK;
        let rest = groups % GROUPS_PER_CHUNK;
        let mut chunks = vec![GROUPS_PER_CHUNK; full as usize];
        chunks.extend((rest > 0).then_some(rest));
        chunks
    }
}

/// A row under a profile with everything that the verifier said.
pub struct RowResults {
    /// The row.
    pub row: &'static Row,
    /// The profile.
    pub profile: Profile,
    /// Every chunk, in order; none of a row that is not run.
    pub chunks: Vec<Chunk>,
    /// Why the lab itself could not run the row to its end.
    pub trouble: Option<String>,
}

/// Runs rows under profiles.
pub struct Runner<'a> {
    world: &'a World,
    store: Store,
    sizes: Sizes,
}

impl<'a> Runner<'a> {
    /// Keeps chunks in the folder `out`.
    pub fn new(world: &'a World, out: &Path, sizes: Sizes) -> Self {
        Self { world, store: Store::new(out), sizes }
    }

    /// Runs every row under every profile that it is run under; `told` is called after
    /// each, with those before it.
    ///
    /// # Errors
    /// When the run was stopped, or nothing can be kept; chunks that were finished stay. A row that
    /// cannot be run says so, and the others go on.
    pub fn run(
        &self,
        rows: &[&'static Row],
        profiles: &[Profile],
        told: &mut dyn FnMut(&RowResults, &[RowResults]) -> Result<()>,
    ) -> Result<Vec<RowResults>> {
        let pairs: Vec<(Profile, &'static Row)> =
            profiles.iter().flat_map(|profile| rows.iter().map(|row| (*profile, *row))).collect();
        let all: usize = pairs
            .iter()
            .filter(|(profile, row)| row.runs(*profile))
            .map(|(profile, row)| self.sizes.chunks(row, *profile).len())
            .sum();
        let bar = progress(all as u64);
        let mut results = Vec::with_capacity(pairs.len());
        for (profile, row) in pairs {
            bar.set_message(format!("{profile} {}", row.id));
            let mut chunks = Vec::new();
            let ran = self.row(profile, row, &bar, &mut chunks);
            if self.world.stop().is_stopped() {
                return Err(ModelError::Stopped.into());
            }
            let trouble = ran.err().map(|error| crate::message(&error));
            let result = RowResults { row, profile, chunks, trouble };
            bar.suspend(|| told(&result, &results))?;
            results.push(result);
        }
        bar.finish_and_clear();
        Ok(results)
    }

    fn row(
        &self,
        profile: Profile,
        row: &'static Row,
        bar: &ProgressBar,
        chunks: &mut Vec<Chunk>,
    ) -> Result<()> {
        if !row.runs(profile) {
            return Ok(());
        }
        let mut other: Option<Arc<dyn Model>> = None;
        let sizes = self.sizes.chunks(row, profile);
        for (chunk, groups) in (0u32..).zip(sizes) {
            let kept = self.store.get(profile, row.id, chunk);
            let data = match kept {
                Some(data) => data,
                None => {
                    let data = self.chunk(profile, row, chunk, groups, &mut other)?;
                    self.store
                        .put(profile, row.id, chunk, &data)
                        .context("while keeping a chunk")?;
                    data
                }
            };
            chunks.push(data);
            bar.inc(1);
        }
        Ok(())
    }

    fn chunk(
        &self,
        profile: Profile,
        row: &Row,
        chunk: u32,
        groups: u32,
        other: &mut Option<Arc<dyn Model>>,
    ) -> Result<Chunk> {
        let mut maker = Maker { world: self.world, profile, chunk, groups, other };
        match row.act {
            act if profile == Profile::V5 => {
                v5::submission(self.world, chunk, act, &maker.make(row)?)
            }
            Act::File(forgery) => examine::file(self.world, &forge_file(&mut maker, forgery)?),
            act => examine::submission(self.world, chunk, act, &maker.make(row)?),
        }
    }
}

/// Returns a bar of `all` pieces; nothing shows where standard error is no terminal.
pub fn progress(all: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}");
    ProgressBar::new(all).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::rows;

    #[test]
    fn honest_rows_share_the_honest_rollouts() {
        let sizes = Sizes { rollouts: 64, honest_rollouts: 2_048 };
        let honest: u32 = rows::ALL
            .iter()
            .filter(|row| row.is_honest() && row.act != Act::Honest(Honest::Portable))
            .map(|row| sizes.groups(row, Profile::Exact) * ROLLOUTS_PER_GROUP)
            .sum();
        assert_eq!(honest, 2_048);
        let greedy = rows::find("greedy").unwrap();
        assert_eq!(sizes.chunks(greedy, Profile::Exact), [4]);
        let sizes = Sizes { rollouts: 90, honest_rollouts: 0 };
        assert_eq!(sizes.chunks(greedy, Profile::Exact), [4, 2]);
        let honest = rows::find("honest").unwrap();
        assert_eq!(sizes.chunks(honest, Profile::Exact), [1]);
    }
}
