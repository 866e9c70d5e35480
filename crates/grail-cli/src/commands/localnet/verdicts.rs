//! Folds published verdicts into the report: what another process judged, or a kill kept untold.

use grail_infrastructure::local::network::Node;
use grail_ports::chain::Metagraph;
use grail_ports::events::Event;
use grail_ports::object_store::ObjectStore;
use grail_protocol::constants::{VALIDATED_FILE_BYTES_MAX, VERDICT_BYTES_MAX};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_protocol::validated::ValidatedFile;
use grail_protocol::verdict::VerdictRecord;
use tracing::warn;

use super::recorder::Recorder;
use crate::report::RoleTag;

/// Records every verdict in the validator's bucket that is not in the report yet.
///
/// Trouble is told and leaves the report as it is: the validator's own events come all the same.
pub async fn catch_up(recorder: &Recorder, node: &Node) {
    if let Err(reason) = try_catch_up(recorder, node).await {
        warn!(reason, "could not read the published verdicts");
    }
}

async fn try_catch_up(recorder: &Recorder, node: &Node) -> Result<(), String> {
    let bucket = node.buckets.own();
    let objects = bucket.list(keys::VALIDATED_PREFIX).await.map_err(|error| error.to_string())?;
    let report = recorder.report();
    let is_known = |window: Window| {
        report.windows.iter().any(|row| row.window == u64::from(window) && row.validated)
    };
    let windows = objects.iter().filter_map(|object| validated_window(&object.key));
    let unknown: Vec<Window> = windows.filter(|window| !is_known(*window)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let metagraph = node.chain.metagraph().await.map_err(|error| error.to_string())?;
    for window in unknown {
        for event in events_of(&*bucket, node.entry.hotkey, &metagraph, window).await? {
            recorder.record(&tag(node), event);
        }
    }
    Ok(())
}

fn tag(node: &Node) -> RoleTag {
    let entry = &node.entry;
    RoleTag { name: entry.name.clone(), uid: entry.uid, hotkey: entry.hotkey }
}

/// Returns what the validator would have told about `window`, as far as it is published.
async fn events_of(
    bucket: &dyn ObjectStore,
    validator: Hotkey,
    metagraph: &Metagraph,
    window: Window,
) -> Result<Vec<Event>, String> {
    let key = keys::validated_file(window);
    let Some(bytes) = read(bucket, &key, VALIDATED_FILE_BYTES_MAX).await? else {
        return Ok(Vec::new());
    };
    let validated = ValidatedFile::open(&bytes, validator).map_err(|error| error.to_string())?;
    let mut events = Vec::new();
    for neuron in &metagraph.neurons {
        let key = keys::verdict(window, neuron.hotkey);
        let Some(bytes) = read(bucket, &key, VERDICT_BYTES_MAX).await? else { continue };
        let verdict = VerdictRecord::from_json(&bytes).map_err(|error| error.to_string())?;
        events.push(Event::MinerJudged {
            window,
            hotkey: neuron.hotkey,
            uid: neuron.uid,
            rollouts: verdict.rollouts,
            checked: verdict.checked,
            accepted: verdict.accepted,
            rejection: verdict.rejected.keys().next().cloned(),
            reward_mean: reward_mean(&validated, Some(neuron.hotkey)),
            // A verdict does not say how long it took.
            seconds: 0.0,
        });
    }
    let judged = u32::try_from(events.len()).unwrap_or(u32::MAX);
    let accepted = validated.groups.iter().map(|group| group.rollouts.len()).sum::<usize>();
    events.push(Event::WindowValidated {
        window,
        active: judged,
        judged,
        accepted: u32::try_from(accepted).unwrap_or(u32::MAX),
        reward_mean: reward_mean(&validated, None),
    });
    Ok(events)
}

async fn read(
    bucket: &dyn ObjectStore,
    key: &str,
    bytes_max: u64,
) -> Result<Option<bytes::Bytes>, String> {
    bucket.get(key, bytes_max).await.map_err(|error| error.to_string())
}

fn validated_window(key: &str) -> Option<Window> {
    let start = key.strip_prefix(keys::VALIDATED_PREFIX)?.strip_suffix(".grailv")?;
    Window::from_start(start.parse().ok()?).ok()
}

/// Returns the mean reward of the rollouts of `hotkey`, or of all; 0 without any.
fn reward_mean(file: &ValidatedFile, hotkey: Option<Hotkey>) -> f64 {
    let groups =
        file.groups.iter().filter(|group| hotkey.is_none_or(|hotkey| group.hotkey == hotkey));
    let rewards: Vec<f64> =
        groups.flat_map(|group| &group.rollouts).map(|it| f64::from(it.reward)).collect();
    if rewards.is_empty() {
        return 0.0;
    }
    let count = u64::try_from(rewards.len()).unwrap_or(u64::MAX);
    rewards.iter().sum::<f64>() / crate::report::as_f64(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_validated_windows_are_read_back() {
        let window = Window::from_start(60).unwrap();
        assert_eq!(validated_window(&keys::validated_file(window)), Some(window));
        for key in ["grail/validated/61.grailv", "grail/validated/60", "grail/validated/x.grailv"] {
            assert_eq!(validated_window(key), None, "{key}");
        }
    }
}
