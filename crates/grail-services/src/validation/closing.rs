//! What a validator leaves of a window: verdicts, validated rollouts, events, a record.

use std::sync::Arc;

use bytes::Bytes;
use grail_ports::events::Event;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use tracing::warn;

use super::ValidationError;
use super::config::{JudgementMode, ValidationConfig};
use super::discovery::Candidate;
use super::evidence::{EvidenceSummary, Ledger};
use super::history::{History, WindowRecord};
use super::pipeline::{Bench, Judgement};
use super::progress::{Finished, Progress};
use super::publishing::{publish_verdict, seal_validated, verdict};
use super::scoring::Tally;
use crate::blocking::blocking;
use crate::context::RunContext;
use crate::math::mean;

/// A window that is about to be left.
pub(super) struct Closing<'a> {
    pub(super) ctx: &'a RunContext,
    pub(super) config: &'a ValidationConfig,
    pub(super) bench: &'a Arc<Bench>,
}

impl Closing<'_> {
    /// Publishes the window, tells about it, then commits it to the history.
    pub(super) async fn close(
        &self,
        finished: Finished<'_, Judgement>,
        history: &mut History,
    ) -> Result<(), ValidationError> {
        let Finished { candidates, selected, progress } = finished;
        let bucket = self.ctx.buckets.own();
        let (validator, window) = (self.ctx.hotkey(), self.bench.window);
        let (ledger, ejected) = self.weigh(progress, history);
        for (hotkey, (judgement, _)) in &progress.judged {
            let standing =
                ledger.knows(*hotkey).then(|| ledger.summary(&self.config.evidence, *hotkey));
            let verdict = verdict(self.bench, validator, *hotkey, judgement, standing);
            publish_verdict(&*bucket, &verdict).await?;
        }
        // What an ejected miner sends is not trained on either.
        let usable = progress.judged.iter().filter(|(it, _)| !ledger.is_ejected(**it, window));
        let groups = usable.flat_map(|(_, (judged, _))| judged.validated.clone());
        let (bench, groups, signer) =
            (self.bench.clone(), groups.collect(), self.ctx.signer.clone());
        let sealed = blocking(move || seal_validated(&bench, groups, &*signer)).await?;
        bucket.put(&keys::validated_file(window), Bytes::from(sealed)).await?;

        let active = finished.active();
        // Told before it is committed: a crash in between tells it twice, never not at all.
        self.tell(u32::try_from(active.len()).unwrap_or(u32::MAX), candidates, progress);
        if self.config.judgement == JudgementMode::Sequential {
            self.tell_evidence(window, candidates, &ledger, &ejected);
        }
        let judged = progress.judged.iter();
        let record = WindowRecord {
            window,
            active: active.into_iter().collect(),
            selected: selected.iter().map(|it| it.hotkey).collect(),
            tallies: judged.filter_map(|(hotkey, (it, _))| Some((*hotkey, tally(it)?))).collect(),
        };
        history.add(record, ledger)?;
        Ok(())
    }

    /// Returns where the miners stand after this window, and who was ejected in it.
    fn weigh(&self, progress: &Progress<Judgement>, history: &History) -> (Ledger, Vec<Hotkey>) {
        let (config, window) = (self.config, self.bench.window);
        if config.judgement == JudgementMode::Reference {
            // Evidence that nobody adds to would only grow old.
            return (Ledger::default(), Vec::new());
        }
        let judged = progress.judged.iter();
        let evidence =
            judged.filter_map(|(hotkey, (judged, _))| Some((*hotkey, judged.evidence(window)?)));
        let before = history.evidence();
        before.after(&config.evidence, window, &evidence.collect(), &progress.registered)
    }

    /// Tells where those stand who are judged or out.
    fn tell_evidence(
        &self,
        window: Window,
        candidates: &[Candidate],
        ledger: &Ledger,
        ejected: &[Hotkey],
    ) {
        for &Candidate { uid, hotkey, .. } in candidates.iter().filter(|it| ledger.knows(it.hotkey))
        {
            let summary = ledger.summary(&self.config.evidence, hotkey);
            let EvidenceSummary { wealth_log10, bound_log10, ejected_until, life } = summary;
            if let Some(until) = ejected_until.filter(|_| ejected.contains(&hotkey)) {
                warn!(%window, %hotkey, %uid, %until, wealth_log10, bound_log10, life, "ejected a miner");
            }
            self.ctx.emit(Event::MinerEvidence {
                window,
                hotkey,
                uid,
                wealth_log10,
                bound_log10,
                ejected_until,
                life,
            });
        }
    }

    fn tell(&self, active: u32, candidates: &[Candidate], progress: &Progress<Judgement>) {
        let window = self.bench.window;
        for candidate in candidates {
            let Some((judgement, seconds)) = progress.judged.get(&candidate.hotkey) else {
                continue;
            };
            self.ctx.emit(Event::MinerJudged {
                window,
                hotkey: candidate.hotkey,
                uid: candidate.uid,
                rollouts: judgement.rollouts,
                checked: judgement.checked,
                accepted: judgement.accepted,
                rejection: judgement.rejection.as_ref().map(|found| found.code().to_owned()),
                reward_mean: judgement.reward_mean(),
                seconds: *seconds,
            });
        }
        let judgements = || progress.judged.values().map(|(judgement, _)| judgement);
        let groups = judgements().flat_map(|judgement| &judgement.validated);
        let rewards = groups.flat_map(|group| &group.rollouts).map(|it| f64::from(it.reward));
        self.ctx.emit(Event::WindowValidated {
            window,
            active,
            judged: u32::try_from(progress.judged.len()).unwrap_or(u32::MAX),
            accepted: judgements().map(|judgement| judgement.accepted).sum(),
            reward_mean: mean(rewards),
        });
    }
}

/// Returns what a judgement counts for, or nothing if we could decide on none of the rollouts.
///
/// The rollouts of one group of one hotkey are different races, so each accepted one counts; what
/// was not checked counts as what was.
fn tally(judgement: &Judgement) -> Option<Tally> {
    if judgement.rejection.is_some() {
        return Some(Tally { rollouts: 0, had_failure: true });
    }
    let decided = judgement.checked > 0 || judgement.unverified == 0;
    decided.then(|| Tally { rollouts: judgement.rollouts.into(), had_failure: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_failure_leaves_no_tally() {
        let judgement = Judgement { groups: 1, rollouts: 16, ..Judgement::default() };
        assert_eq!(tally(&Judgement { unverified: 16, ..judgement.clone() }), None);
        let half = Judgement { groups: 2, rollouts: 32, checked: 16, unverified: 16, ..judgement };
        assert_eq!(tally(&half), Some(Tally { rollouts: 32, had_failure: false }));
        let empty = Judgement::default();
        assert_eq!(tally(&empty), Some(Tally { rollouts: 0, had_failure: false }));
    }
}
