//! Folds published verdicts into the report: what another process judged, or a kill kept untold.

use grail_infrastructure::local::network::{NetworkFile, Node};
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
pub async fn catch_up(recorder: &Recorder, node: &Node, file: &NetworkFile) {
    if let Err(reason) = try_catch_up(recorder, node, file).await {
        warn!(reason, "could not read the published verdicts");
    }
}

async fn try_catch_up(recorder: &Recorder, node: &Node, file: &NetworkFile) -> Result<(), String> {
    let bucket = node.buckets.own();
    let tag =
        RoleTag { name: node.entry.name.clone(), uid: node.entry.uid, hotkey: node.entry.hotkey };
    let objects = bucket.list(keys::VALIDATED_PREFIX).await.map_err(|error| error.to_string())?;
    let report = recorder.report();
    let done = |window: Window| {
        report.windows.iter().any(|row| row.window == u64::from(window) && row.validated)
    };
    let windows = objects.iter().filter_map(|object| validated_window(&object.key));
    for window in windows.filter(|window| !done(*window)) {
        let Some(bytes) =
            read(&*bucket, &keys::validated_file(window), VALIDATED_FILE_BYTES_MAX).await?
        else {
            continue;
        };
        let validated =
            ValidatedFile::open(&bytes, tag.hotkey).map_err(|error| error.to_string())?;
        let mut judged = 0;
        for neuron in &file.neurons {
            let key = keys::verdict(window, neuron.hotkey);
            let Some(bytes) = read(&*bucket, &key, VERDICT_BYTES_MAX).await? else { continue };
            let verdict = VerdictRecord::from_json(&bytes).map_err(|error| error.to_string())?;
            judged += 1;
            recorder.record(
                &tag,
                Event::MinerJudged {
                    window,
                    hotkey: neuron.hotkey,
                    uid: neuron.uid,
                    rollouts: verdict.rollouts,
                    checked: verdict.checked,
                    accepted: verdict.accepted,
                    rejection: verdict.rejected.keys().next().cloned(),
                    reward_mean: reward_mean(&validated, Some(neuron.hotkey)),
                    seconds: 0.0,
                },
            );
        }
        let accepted = validated.groups.iter().map(|group| group.rollouts.len()).sum::<usize>();
        recorder.record(
            &tag,
            Event::WindowValidated {
                window,
                active: judged,
                judged,
                accepted: u32::try_from(accepted).unwrap_or(u32::MAX),
                reward_mean: reward_mean(&validated, None),
            },
        );
    }
    Ok(())
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
