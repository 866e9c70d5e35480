//! What a role is doing, in a few words for the status screen.

use grail_ports::events::Event;

/// Returns the words for an event, or `None` if it says nothing about what a role is doing.
pub fn describe(event: &Event) -> Option<String> {
    Some(match event {
        // Where everybody stands is for the metrics; who is out is news.
        Event::BlockSeen { .. } | Event::MinerEvidence { ejected_until: None, .. } => return None,
        Event::CheckpointLoaded { checkpoint, .. } => format!("loaded checkpoint {checkpoint}"),
        Event::GroupMined { window, group, tokens, reward_mean } => format!(
            "window {window}: group {}, {tokens} tokens, reward {reward_mean:.2}",
            u64::from(*group) + 1
        ),
        Event::RolloutsUploaded { window, rollouts, tokens, seconds, .. } => {
            let rate = if *seconds > 0.0 { crate::report::as_f64(*tokens) / seconds } else { 0.0 };
            format!("window {window}: uploaded {rollouts} rollouts, {rate:.0} tokens/s")
        }
        Event::WindowSkipped { window, reason } => format!("window {window} skipped: {reason}"),
        Event::MinerJudged { window, uid, checked, accepted, rejection, .. } => {
            let reason = rejection.as_deref().map(|code| format!(" ({code})")).unwrap_or_default();
            format!("window {window}: uid {uid}, {accepted} of {checked} accepted{reason}")
        }
        Event::MinerEvidence { window, uid, ejected_until: Some(until), .. } => {
            format!("window {window}: uid {uid} is ejected until {until}")
        }
        Event::WindowValidated { window, judged, accepted, reward_mean, .. } => format!(
            "window {window}: {judged} miners judged, {accepted} rollouts accepted, reward \
             {reward_mean:.2}"
        ),
        Event::WeightsSet { block, .. } => format!("set weights in block {block}"),
        Event::WeightsLanded { block } => format!("the weights of block {block} have landed"),
        Event::WeightsFailed { reason, .. } => format!("ALARM: no weights: {reason}"),
        Event::WindowTrained { window, steps, rollouts, loss, .. } => {
            format!(
                "trained {steps} steps on {rollouts} rollouts of window {window}, loss {loss:.4}"
            )
        }
        Event::Evaluated { checkpoint, problems, pass_at_1, .. } => format!(
            "checkpoint {checkpoint}: {:.1} % of {problems} held-out problems",
            pass_at_1 * 100.0
        ),
        Event::CheckpointPublished { checkpoint, .. } => {
            format!("published checkpoint {checkpoint}")
        }
    })
}
