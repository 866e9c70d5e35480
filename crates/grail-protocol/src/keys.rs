//! Names of all objects in the buckets, and how to read the names back.
//!
//! Source: `grail/…` keys of the reference; `grail/validated` and `grail/verdicts` are new in v6.

use crate::ids::{Hotkey, Window};

/// What all checkpoint objects start with.
pub const CHECKPOINTS_PREFIX: &str = "grail/checkpoints/";

/// What all rollout files start with.
pub const ROLLOUTS_PREFIX: &str = "grail/windows/";

/// What all files of validated rollouts start with.
pub const VALIDATED_PREFIX: &str = "grail/validated/";

/// What all verdicts start with.
pub const VERDICTS_PREFIX: &str = "grail/verdicts/";

/// File name of a checkpoint's metadata.
pub const METADATA_FILE: &str = "metadata.json";

/// File name of the trainer's signature over the metadata.
pub const MANIFEST_SIGNATURE_FILE: &str = "manifest.sig";

/// Returns the key of a miner's rollouts, in the miner's bucket.
pub fn rollout_file(hotkey: Hotkey, window: Window) -> String {
    format!("{ROLLOUTS_PREFIX}{hotkey}-window-{window}.grail")
}

/// Returns the key of a window's validated rollouts, in the validator's bucket.
pub fn validated_file(window: Window) -> String {
    format!("{VALIDATED_PREFIX}{window}.grailv")
}

/// Returns the key of the verdict on a miner, in the validator's bucket.
pub fn verdict(window: Window, hotkey: Hotkey) -> String {
    format!("{VERDICTS_PREFIX}{window}/{hotkey}.json")
}

/// Returns what the keys of a window's verdicts start with.
pub fn verdicts_of(window: Window) -> String {
    format!("{VERDICTS_PREFIX}{window}/")
}

/// Returns the key of a file of a full checkpoint, in the trainer's bucket.
pub fn checkpoint_file(checkpoint: Window, name: &str) -> String {
    format!("{CHECKPOINTS_PREFIX}checkpoint-{checkpoint}/FULL/{name}")
}

/// Returns the key of a file of a delta, in the trainer's bucket.
pub fn delta_file(checkpoint: Window, name: &str) -> String {
    format!("{CHECKPOINTS_PREFIX}checkpoint-{checkpoint}/DELTA/{name}")
}

/// Returns what the keys of everything of a checkpoint start with; the final slash keeps
/// checkpoint 30 from naming checkpoint 300 too.
pub fn checkpoint_prefix(checkpoint: Window) -> String {
    format!("{CHECKPOINTS_PREFIX}checkpoint-{checkpoint}/")
}

/// The empty object that says a checkpoint is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadyMarker {
    /// Window of the chain's head when the marker was written.
    pub ready: Window,
    /// Window of the checkpoint.
    pub checkpoint: Window,
}

impl ReadyMarker {
    /// Returns the key of the marker.
    pub fn key(&self) -> String {
        format!("{CHECKPOINTS_PREFIX}checkpoint-{}/READY-{}", self.checkpoint, self.ready)
    }

    /// Reads a key back; `None` for every other key.
    pub fn parse(key: &str) -> Option<Self> {
        let (checkpoint, ready) =
            key.strip_prefix(CHECKPOINTS_PREFIX)?.strip_prefix("checkpoint-")?.split_once('/')?;
        let checkpoint = parse_window(checkpoint)?;
        let ready = parse_window(ready.strip_prefix("READY-")?)?;
        Some(Self { ready, checkpoint })
    }
}

/// Returns the checkpoint to use for `window`, given the keys of a listing: the greatest pair of
/// ready window and checkpoint window whose ready window is *before* `window`.
pub fn latest_checkpoint<'a>(
    keys: impl IntoIterator<Item = &'a str>,
    window: Window,
) -> Option<ReadyMarker> {
    keys.into_iter().filter_map(ReadyMarker::parse).filter(|marker| marker.ready < window).max()
}

/// Reads decimal digits as they are written: no sign, no leading zeros.
fn parse_window(text: &str) -> Option<Window> {
    let start: u64 = text.parse().ok()?;
    let window = Window::from_start(start).ok()?;
    (window.to_string() == text).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: u64) -> Window {
        Window::from_start(start).unwrap()
    }

    #[test]
    fn keys_are_spelled_as_peers_expect() {
        let alice: Hotkey = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY".parse().unwrap();
        for (key, want) in [
            (
                rollout_file(alice, window(90)),
                "grail/windows/5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY-window-90.grail",
            ),
            (validated_file(window(90)), "grail/validated/90.grailv"),
            (
                verdict(window(90), alice),
                "grail/verdicts/90/5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY.json",
            ),
            (
                checkpoint_file(window(30), METADATA_FILE),
                "grail/checkpoints/checkpoint-30/FULL/metadata.json",
            ),
            (
                ReadyMarker { ready: window(60), checkpoint: window(30) }.key(),
                "grail/checkpoints/checkpoint-30/READY-60",
            ),
        ] {
            assert_eq!(key, want);
        }
        assert!(verdict(window(90), alice).starts_with(&verdicts_of(window(90))));
        assert!(!checkpoint_file(window(300), "x").starts_with(&checkpoint_prefix(window(30))));
    }

    #[test]
    fn ready_markers_round_trip_and_other_keys_are_ignored() {
        let marker = ReadyMarker { ready: window(120), checkpoint: window(90) };
        assert_eq!(ReadyMarker::parse(&marker.key()), Some(marker));
        for key in [
            "",
            "grail/checkpoints/checkpoint-90/FULL/metadata.json",
            "grail/checkpoints/checkpoint-90/READY-",
            "grail/checkpoints/checkpoint-90/READY-121",
            "grail/checkpoints/checkpoint-91/READY-120",
            "grail/checkpoints/checkpoint-+90/READY-120",
            "grail/checkpoints/checkpoint-090/READY-120",
            "grail/checkpoints/checkpoint-90/READY-120/x",
            "grail/checkpoints/checkpoint-90/FULL/READY-120",
            "grail/checkpoints/checkpoint-90/READY-99999999999999999999999",
            "other/checkpoint-90/READY-120",
        ] {
            assert_eq!(ReadyMarker::parse(key), None, "{key}");
        }
    }

    /// Decisions of the reference's consumer on the bucket of the shared vectors
    /// (`checkpoints/consumer.json`; its windows between multiples of 30 do not exist here).
    #[test]
    fn the_latest_checkpoint_is_the_references() {
        let keys = [
            "grail/checkpoints/checkpoint-9000/READY-9030",
            "grail/checkpoints/checkpoint-9030/READY-9060",
            "grail/checkpoints/checkpoint-9060/READY-9090",
            "grail/checkpoints/checkpoint-9090/READY-9180",
            "grail/checkpoints/checkpoint-9120/FULL/metadata.json",
            "grail/checkpoints/checkpoint-9150/READY-9180",
        ];
        for (before, want) in [
            (9000, None),
            (9030, None),
            (9060, Some(9000)),
            (9090, Some(9030)),
            (9120, Some(9060)),
            (9180, Some(9060)),
            (9210, Some(9150)),
            (10_020, Some(9150)),
        ] {
            let latest = latest_checkpoint(keys, window(before));
            assert_eq!(latest.map(|marker| marker.checkpoint), want.map(window), "at {before}");
        }
    }
}
