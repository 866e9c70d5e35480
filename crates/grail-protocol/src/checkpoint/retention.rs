//! Which checkpoints stay in a bucket or a cache: rules of the reference, on plain window numbers.
//!
//! Windows are signed here as in Python, because names in a bucket may say anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::constants::WINDOW_BLOCKS;

/// Windows between two anchors; an anchor has a full checkpoint.
pub const ANCHOR_INTERVAL: i64 = 10;

/// First windows of a network, whose checkpoints always stay.
const BOOTSTRAP_WINDOWS: i64 = 10;

/// Newest checkpoints without a delta that a publisher keeps.
pub const FULL_KEPT: usize = 3;

/// Newest deltas that a publisher keeps.
pub const DELTA_KEPT: usize = 15;

/// Most milestones that are kept: names in a bucket may claim any window.
const MILESTONES_MAX: i64 = 10_000;

/// Most links of a chain that are followed; an honest one has [`ANCHOR_INTERVAL`].
pub const CHAIN_LINKS_MAX: usize = 64;

#[expect(clippy::cast_possible_wrap, reason = "30")]
const WINDOW: i64 = WINDOW_BLOCKS as i64;
const STRIDE: i64 = ANCHOR_INTERVAL * WINDOW;

/// Returns the newest anchor at or before `window`.
pub fn anchor(window: i64) -> i64 {
    window.div_euclid(STRIDE).saturating_mul(STRIDE)
}

/// Returns whether a full checkpoint is due at `window`.
pub fn is_anchor(window: i64) -> bool {
    window.rem_euclid(STRIDE) == 0
}

/// Returns the windows whose checkpoints stay at window `current`: the first ones, those since the
/// anchor before the current one, and with `milestone` every such many windows.
pub fn keep_windows(current: i64, milestone: Option<u32>) -> BTreeSet<i64> {
    let step = usize::try_from(WINDOW).expect("30 is a size");
    let range = |first: i64, last: i64| (first..=last).step_by(step);
    let recent = anchor(current).saturating_sub(STRIDE).max(0);
    let mut keep: BTreeSet<i64> = range(0, current.min((BOOTSTRAP_WINDOWS - 1) * WINDOW)).collect();
    keep.extend(range(recent, current));
    if let Some(every) = milestone.filter(|every| *every > 0 && current >= 0) {
        let every = i64::from(every) * WINDOW;
        let newest = current / every;
        keep.extend((newest.saturating_sub(MILESTONES_MAX)..=newest).map(|nth| nth.max(0) * every));
    }
    keep
}

/// Returns the window in a key or prefix: that of its first part that starts with `checkpoint-`.
pub fn window_of(prefix: &str) -> Option<i64> {
    let part = prefix.split('/').find_map(|part| part.strip_prefix("checkpoint-"))?;
    python_integer(part)
}

/// A READY marker as Python reads it: any two integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ready {
    /// Window in which the checkpoint became ready.
    pub ready: i64,
    /// Window of the checkpoint.
    pub checkpoint: i64,
}

impl Ready {
    /// Reads the key of a marker; other keys are none.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.split('/').skip(2);
        let checkpoint = python_integer(parts.next()?.strip_prefix("checkpoint-")?)?;
        let ready = python_integer(parts.next()?.strip_prefix("READY-")?)?;
        Some(Self { ready, checkpoint })
    }

    /// Returns the marker that counts for `window`: the greatest pair that was ready before it.
    pub fn latest<'a>(keys: impl IntoIterator<Item = &'a str>, window: i64) -> Option<Self> {
        keys.into_iter().filter_map(Self::parse).filter(|marker| marker.ready < window).max()
    }

    /// Returns the same among the checkpoints that stand alone.
    pub fn latest_full<'a>(
        keys: impl IntoIterator<Item = &'a str> + Clone,
        window: i64,
    ) -> Option<Self> {
        let full: BTreeSet<i64> = Inventory::of(keys.clone()).full.into_iter().collect();
        let markers = keys.into_iter().filter_map(Self::parse);
        markers.filter(|it| it.ready < window && full.contains(&it.checkpoint)).max()
    }
}

/// What a bucket holds, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every window with some object.
    pub all: Vec<i64>,
    /// Those without a delta.
    pub full_only: Vec<i64>,
    /// Those with a delta.
    pub delta: Vec<i64>,
    /// Those with a full checkpoint, also beside a delta: the reference does not look.
    pub full: Vec<i64>,
}

impl Inventory {
    /// Reads the keys of a listing.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut all, mut delta, mut full) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for key in keys {
            let mut parts = key.split('/').skip(2);
            let name = parts.next().and_then(|name| name.strip_prefix("checkpoint-"));
            let Some(window) = name.and_then(python_integer) else { continue };
            all.insert(window);
            match parts.next() {
                Some("DELTA") => delta.insert(window),
                Some("FULL") => full.insert(window),
                _ => false,
            };
        }
        let full_only = all.iter().rev().filter(|it| !delta.contains(it)).copied().collect();
        let newest_first = |set: BTreeSet<i64>| set.into_iter().rev().collect();
        Self {
            full_only,
            all: newest_first(all),
            delta: newest_first(delta),
            full: newest_first(full),
        }
    }
}

/// What the metadata of deltas say, by window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Base of each delta.
    pub prev: BTreeMap<i64, i64>,
    /// Full checkpoint that each delta goes back to.
    pub anchor: BTreeMap<i64, i64>,
}

impl Links {
    /// Returns what the deltas `retained` need: each with a known anchor needs that, and every base
    /// down to it.
    pub fn needed(&self, retained: &[i64]) -> BTreeSet<i64> {
        let mut needed = BTreeSet::new();
        for tip in retained {
            let Some(anchor) = self.anchor.get(tip) else { continue };
            needed.insert(*anchor);
            let mut window = *tip;
            // A chain that names one window twice goes round; what it needs is known by then.
            for _ in 0..self.prev.len() {
                let Some(base) = self.prev.get(&window) else { break };
                needed.insert(*base);
                if base == anchor {
                    break;
                }
                window = *base;
            }
        }
        needed
    }
}

/// Returns the windows that a publisher keeps; nothing for an empty bucket, in which nothing is to
/// be deleted.
pub fn publisher_keeps(
    inventory: &Inventory,
    links: &Links,
    milestone: Option<u32>,
) -> BTreeSet<i64> {
    let Some(current) = inventory.all.first() else { return BTreeSet::new() };
    let mut keep = keep_windows(*current, milestone);
    keep.extend(inventory.full_only.iter().take(FULL_KEPT));
    let retained = &inventory.delta[..inventory.delta.len().min(DELTA_KEPT)];
    keep.extend(retained);
    keep.extend(links.needed(retained));
    for delta in retained.iter().filter(|delta| !links.anchor.contains_key(delta)) {
        keep.extend(inventory.full_only.iter().find(|full| *full < delta));
    }
    keep
}

/// Reads `int(text)` of names in a bucket.
fn python_integer(text: &str) -> Option<i64> {
    let value = crate::v5::python::print::to_int(&text.into())?;
    i64::try_from(value).ok()
}
