//! What a validator of the profile leaves of a window: a trust list, events, a record.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::v5::copycat::Submission;
use grail_protocol::v5::metrics::{WindowMetrics, gate_copiers};
use grail_protocol::v5::selection::copycat_interval;
use grail_protocol::v5::trust::{TrustList, trust_list_key};
use tracing::warn;

use super::judging::Judged;
use super::{FAILURE_WINDOWS, ReferenceProfile, Target};
use crate::math::mean;
use crate::v5::examine::Fault;
use crate::validation::ValidationError;
use crate::validation::discovery::Candidate;
use crate::validation::evidence::Ledger;
use crate::validation::history::{History, WindowRecord};
use crate::validation::progress::{Finished, Progress};
use crate::validation::scoring::Tally;

impl ReferenceProfile {
    /// Gates copiers, publishes whom we trust, tells about the window, then commits it.
    pub(super) async fn close(
        &mut self,
        target: &Target,
        finished: Finished<'_, Judged>,
        history: &mut History,
    ) -> Result<(), ValidationError> {
        let Finished { candidates, selected, progress } = finished;
        let mut copycat = self.copycat.clone();
        let interval = copycat_interval(i64::try_from(target.window.start().0).unwrap_or(i64::MAX));
        let copiers = copycat.ingest(interval, &submissions(progress));
        let mut metrics: BTreeMap<String, WindowMetrics> = progress
            .judged
            .iter()
            .map(|(hotkey, (judged, _))| (hotkey.to_ss58(), judged.examined.metrics))
            .collect();
        gate_copiers(&mut metrics, &copiers);
        let tallies: BTreeMap<Hotkey, Tally> = metrics
            .iter()
            .filter_map(|(name, metrics)| Some((name.parse().ok()?, tally(metrics))))
            .collect();

        let active = finished.active();
        self.publish_trust(target, &active, &tallies, history).await;
        self.tell(target.window, candidates, progress, &metrics, &copiers, active.len());
        let record = WindowRecord {
            window: target.window,
            active: active.into_iter().collect(),
            selected: selected.iter().map(|it| it.hotkey).collect(),
            tallies,
        };
        // Nobody adds evidence in this profile.
        history.add(record, Ledger::default())?;
        self.copycat = copycat;
        Ok(())
    }

    /// Publishes the active miners without a failure, this window's included. Trouble is reported and
    /// ignored: trainers take an older list.
    async fn publish_trust(
        &self,
        target: &Target,
        active: &[Hotkey],
        tallies: &BTreeMap<Hotkey, Tally>,
        history: &History,
    ) {
        let has_failed = |hotkey: &Hotkey| {
            tallies.get(hotkey).is_some_and(|tally| tally.had_failure)
                || history.failed_lately(*hotkey, FAILURE_WINDOWS - 1)
        };
        let eligible = active.iter().filter(|hotkey| !has_failed(hotkey));
        let eligible_hotkeys: Vec<String> = eligible.map(|hotkey| hotkey.to_ss58()).collect();
        let list = TrustList {
            window: target.window.start().0,
            timestamp: target.ended,
            validator_hotkey: self.ctx.hotkey().to_ss58(),
            active_count: active.len() as u64,
            excluded_failure_count: (active.len() - eligible_hotkeys.len()) as u64,
            eligible_hotkeys,
        };
        let key = trust_list_key(list.window);
        let bucket = self.ctx.buckets.own();
        if let Err(error) = bucket.put(&key, Bytes::from(list.to_json())).await {
            warn!(%error, key, "could not publish the trust list");
        }
    }

    fn tell(
        &self,
        window: Window,
        candidates: &[Candidate],
        progress: &Progress<Judged>,
        metrics: &BTreeMap<String, WindowMetrics>,
        copiers: &BTreeSet<String>,
        active: usize,
    ) {
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        for candidate in candidates {
            let Some((judged, seconds)) = progress.judged.get(&candidate.hotkey) else { continue };
            let name = candidate.hotkey.to_ss58();
            let metrics = metrics.get(&name).copied().unwrap_or_default();
            let fault = match copiers.contains(&name) {
                true => Some(Fault::Copied),
                false => judged.examined.fault.clone(),
            };
            self.ctx.emit(Event::MinerJudged {
                window,
                hotkey: candidate.hotkey,
                uid: candidate.uid,
                rollouts: count(metrics.total),
                checked: count(metrics.checked),
                accepted: count(metrics.valid),
                rejection: fault.map(|fault| fault.code()),
                reward_mean: mean(judged.examined.rewards.iter().copied()),
                seconds: *seconds,
            });
        }
        let rewards =
            progress.judged.values().flat_map(|(judged, _)| judged.examined.rewards.clone());
        self.ctx.emit(Event::WindowValidated {
            window,
            active: u32::try_from(active).unwrap_or(u32::MAX),
            judged: u32::try_from(progress.judged.len()).unwrap_or(u32::MAX),
            accepted: count(metrics.values().map(|metrics| metrics.valid).sum()),
            reward_mean: mean(rewards),
        });
    }
}

/// Returns the files that take part in the copycat check.
fn submissions(progress: &Progress<Judged>) -> BTreeMap<String, Submission> {
    let passed = |(hotkey, (judged, _)): (&Hotkey, &(Judged, f64))| {
        Some((hotkey.to_ss58(), judged.submission.clone()?))
    };
    progress.judged.iter().filter_map(passed).collect()
}

/// What a window counts for in the weights: the different completions, as estimated.
fn tally(metrics: &WindowMetrics) -> Tally {
    Tally { rollouts: metrics.estimated_unique, had_failure: metrics.had_failure }
}
