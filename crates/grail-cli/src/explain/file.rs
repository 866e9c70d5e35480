//! What `grail verify` answers about a whole file.

use std::path::Path;

use anyhow::Result;
use grail_protocol::ids::{Digest, Hotkey, Window};
use grail_services::validation::examine::{
    CheckOutcome, CheckReport, ExaminedGroup, Fault, FileReport, ProfileName, RolloutReport,
};
use serde::Serialize;

use super::advice;
use super::checks::{self, CheckAnswer};
use super::text::{one_line, print};
use crate::report::table::{self, Align};

/// Version of the JSON.
pub const VERSION: u32 = 2;
/// Longest text of a reason on a screen, characters.
const EVIDENCE_CHARS_MAX: usize = 1000;

/// Everything that `grail verify` found.
#[derive(Debug, Serialize)]
pub struct FileAnswer {
    version: u32,
    file: String,
    /// `accepted`, `rejected` or `undecided`.
    pub verdict: &'static str,
    /// Code of the rejection.
    reason: Option<String>,
    /// The rejection with its evidence, or why nothing could be decided.
    evidence: Option<String>,
    /// What the miner should do.
    next_step: Option<&'static str>,
    window: Option<Window>,
    hotkey: Option<Hotkey>,
    checkpoint: Option<Digest>,
    numerics: Option<String>,
    groups: u32,
    rollouts: u32,
    checked: u32,
    accepted: u32,
    unverified: u32,
    reward_mean: Option<f64>,
    /// What was taken from the file's own header because nothing else said it.
    pub taken_from_file: Vec<&'static str>,
    checks: Vec<CheckAnswer>,
    group_results: Vec<GroupAnswer>,
}

/// One recomputed group.
#[derive(Debug, Serialize)]
struct GroupAnswer {
    group: u32,
    /// `accepted`, `rejected` or `undecided`.
    verdict: &'static str,
    profile: Option<&'static str>,
    rollouts: u32,
    passed: u32,
    failed: u32,
    unverified: u32,
    tokens: u64,
    margin_max: Option<f64>,
    reward_mean: Option<f64>,
    reason: Option<String>,
    detail: Option<String>,
}

/// What a rollout came to by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RolloutVerdict {
    /// Every check that decides holds.
    Passed,
    /// A rule is broken.
    Failed,
    /// A check could not be decided, or only be measured.
    Undecided,
}

/// Returns what a rollout came to by itself.
pub fn verdict_on(rollout: &RolloutReport) -> RolloutVerdict {
    let is_open = |check: &CheckReport| check.outcome == CheckOutcome::Unverified;
    if rollout.rejection.is_some() {
        RolloutVerdict::Failed
    } else if rollout.profile == ProfileName::Shadow || rollout.checks.iter().any(is_open) {
        RolloutVerdict::Undecided
    } else {
        RolloutVerdict::Passed
    }
}

impl FileAnswer {
    fn new(file: &Path, verdict: &'static str) -> Self {
        Self {
            version: VERSION,
            file: file.display().to_string(),
            verdict,
            reason: None,
            evidence: None,
            next_step: None,
            window: None,
            hotkey: None,
            checkpoint: None,
            numerics: None,
            groups: 0,
            rollouts: 0,
            checked: 0,
            accepted: 0,
            unverified: 0,
            reward_mean: None,
            taken_from_file: Vec::new(),
            checks: Vec::new(),
            group_results: Vec::new(),
        }
    }

    /// Nothing can be said about the file, and it is not the miner's fault.
    pub fn undecided(file: &Path, why: String) -> Self {
        Self { evidence: Some(why), ..Self::new(file, "undecided") }
    }

    /// The file is no rollout file, as `check` shows.
    pub fn malformed(file: &Path, check: &'static str, evidence: String) -> Self {
        Self {
            checks: checks::of_unreadable(check, &evidence),
            reason: Some("malformed".to_owned()),
            evidence: Some(evidence),
            next_step: advice::on("malformed").map(|advice| advice.next_step),
            ..Self::new(file, "rejected")
        }
    }

    /// Tells a report.
    pub fn of(file: &Path, report: &FileReport) -> Self {
        let violation = report.first_violation();
        let group_results: Vec<GroupAnswer> = report.groups.iter().map(GroupAnswer::of).collect();
        let sum = |of: fn(&GroupAnswer) -> u32| group_results.iter().map(of).sum::<u32>();
        let (examined, passed) = (sum(|it| it.rollouts), sum(GroupAnswer::accepted));
        let unverified = sum(GroupAnswer::undecided);
        let verdict = match violation {
            Some(_) => "rejected",
            None if unverified > 0 => "undecided",
            None => "accepted",
        };
        // One violation voids the file, as everywhere.
        let (checked, accepted, unverified) = match (violation, &report.file) {
            (Some(_), None) => (report.rollouts_in_file, 0, 0),
            (Some(_), Some(_)) => (examined, 0, 0),
            (None, _) => (passed, passed, unverified),
        };
        let evidence = match verdict {
            "undecided" => Some(format!(
                "{unverified} rollouts could not be decided; the checks and groups below say why"
            )),
            _ => violation.map(ToString::to_string),
        };
        let header = report.header.as_ref();
        Self {
            reason: violation.map(|found| found.code().to_owned()),
            evidence,
            next_step: violation.and_then(|it| advice::on(it.code())).map(|it| it.next_step),
            window: header.map(|header| header.window),
            hotkey: header.map(|header| header.hotkey),
            checkpoint: header.map(|header| header.checkpoint),
            numerics: header.map(|header| header.numerics.clone()),
            groups: report.groups_in_file,
            rollouts: report.rollouts_in_file,
            checked,
            accepted,
            unverified,
            reward_mean: match verdict {
                "rejected" => None,
                _ => reward_mean(
                    report.groups.iter().filter(|it| GroupAnswer::of(it).accepted() > 0),
                ),
            },
            checks: checks::of_file(report),
            group_results,
            ..Self::new(file, verdict)
        }
    }

    /// Prints the summary, the checks, then a line for each group.
    pub fn print(&self, as_json: bool) -> Result<()> {
        print(self, as_json, || self.screen())
    }

    fn screen(&self) -> String {
        let mut sections = vec![self.summary()];
        if !self.checks.is_empty() {
            sections.push(checks::table(&self.checks));
        }
        if !self.group_results.is_empty() {
            sections.push(groups_table(&self.group_results));
        }
        sections.join("\n\n")
    }

    fn summary(&self) -> String {
        let mut lines = vec![match self.verdict {
            "accepted" => format!("accepted: {}", self.file),
            "rejected" => {
                format!("rejected ({}): {}", self.reason.as_deref().unwrap_or_default(), self.file)
            }
            _ => format!("could not verify {}", self.file),
        }];
        if let Some(evidence) = &self.evidence {
            lines.push(one_line(evidence, EVIDENCE_CHARS_MAX));
        }
        if let Some(next_step) = self.next_step {
            lines.push(format!("what to do: {next_step}"));
        }
        if let (Some(window), Some(hotkey)) = (self.window, self.hotkey) {
            lines.push(format!("window {window}, hotkey {hotkey}"));
            lines.push(format!(
                "{} rollouts in {} groups: {} checked, {} accepted",
                self.rollouts, self.groups, self.checked, self.accepted
            ));
        }
        if let Some(reward) = self.reward_mean {
            lines.push(format!("mean reward {reward:.4}, recomputed"));
        }
        if !self.taken_from_file.is_empty() {
            let taken = self.taken_from_file.join(", ");
            lines.push(format!("taken from the file itself, not checked: {taken}"));
        }
        lines.join("\n  ")
    }
}

/// Returns the mean recomputed reward of all rollouts of `groups`, or nothing without any.
fn reward_mean<'a>(groups: impl Iterator<Item = &'a ExaminedGroup>) -> Option<f64> {
    let reports = groups.filter_map(|group| group.found.as_ref().ok());
    let rewards: Vec<f64> = reports
        .flat_map(|report| &report.rollouts)
        .filter_map(|rollout| rollout.reward.map(f64::from))
        .collect();
    let count = u32::try_from(rewards.len()).ok().filter(|&count| count > 0)?;
    Some(rewards.iter().sum::<f64>() / f64::from(count))
}

impl GroupAnswer {
    fn of(group: &ExaminedGroup) -> Self {
        let blank = Self {
            group: group.index,
            verdict: "undecided",
            profile: None,
            rollouts: group.rollouts,
            passed: 0,
            failed: 0,
            unverified: 0,
            tokens: 0,
            margin_max: None,
            reward_mean: None,
            reason: None,
            detail: None,
        };
        let report = match &group.found {
            Ok(report) => report,
            Err(error) => {
                let detail = Some(error.to_string());
                return Self { unverified: group.rollouts, detail, ..blank };
            }
        };
        let mut counts = [0; 3];
        for rollout in &report.rollouts {
            counts[match verdict_on(rollout) {
                RolloutVerdict::Passed => 0,
                RolloutVerdict::Failed => 1,
                RolloutVerdict::Undecided => 2,
            }] += 1;
        }
        let [passed, failed, unverified] = counts;
        let (verdict, reason, detail) = match report.first_fault() {
            Some(Fault::Violation(rejection)) => {
                ("rejected", Some(rejection.code().to_owned()), Some(rejection.to_string()))
            }
            Some(Fault::Undecided(check)) => ("undecided", None, Some(check.detail.clone())),
            None if unverified > 0 => ("undecided", None, Some(NO_CALIBRATION.to_owned())),
            None => ("accepted", None, None),
        };
        let margins = report.rollouts.iter().flat_map(|rollout| &rollout.margins);
        Self {
            verdict,
            profile: report.rollouts.first().map(|rollout| rollout.profile.as_str()),
            passed,
            failed,
            unverified,
            tokens: report.rollouts.iter().map(|rollout| u64::from(rollout.tokens)).sum(),
            margin_max: margins.copied().reduce(f32::max).map(f64::from),
            reward_mean: reward_mean(std::iter::once(group)),
            reason,
            detail,
            ..blank
        }
    }

    /// A group is accepted as a whole or not at all.
    fn accepted(&self) -> u32 {
        if self.verdict == "accepted" { self.rollouts } else { 0 }
    }

    fn undecided(&self) -> u32 {
        if self.verdict == "undecided" { self.rollouts } else { 0 }
    }
}

/// Why a rollout that was measured in full is not decided on.
pub const NO_CALIBRATION: &str = "measured only: there is no calibration of the miner's engine";

fn groups_table(groups: &[GroupAnswer]) -> String {
    let columns = [
        ("group", Align::Right),
        ("verdict", Align::Left),
        ("profile", Align::Left),
        ("passed", Align::Right),
        ("failed", Align::Right),
        ("undecided", Align::Right),
        ("tokens", Align::Right),
        ("largest margin", Align::Right),
        ("reward", Align::Right),
        ("finding", Align::Left),
    ];
    let row = |group: &GroupAnswer| {
        vec![
            group.group.to_string(),
            group.verdict.to_owned(),
            group.profile.unwrap_or("–").to_owned(),
            group.passed.to_string(),
            group.failed.to_string(),
            group.unverified.to_string(),
            group.tokens.to_string(),
            checks::number(group.margin_max),
            checks::number(group.reward_mean),
            one_line(group.detail.as_deref().unwrap_or_default(), EVIDENCE_CHARS_MAX),
        ]
    };
    table::render(&columns, &groups.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use grail_services::validation::examine::CheckOutcome;

    use super::*;
    use crate::explain::schema;

    #[test]
    fn the_fields_of_the_json_are_frozen() {
        let check = CheckAnswer {
            check: "race",
            outcome: CheckOutcome::Failed,
            measured: Some(0.5),
            threshold: Some(0.0),
            rollouts: Some(checks::Tally::default()),
            detail: "lost".to_owned(),
        };
        let group = GroupAnswer {
            group: 0,
            verdict: "rejected",
            profile: Some("exact"),
            rollouts: 16,
            passed: 15,
            failed: 1,
            unverified: 0,
            tokens: 160,
            margin_max: Some(0.5),
            reward_mean: Some(0.25),
            reason: Some("race_lost".to_owned()),
            detail: Some("lost".to_owned()),
        };
        let answer = FileAnswer {
            reason: Some("race_lost".to_owned()),
            evidence: Some("lost".to_owned()),
            next_step: Some("draw"),
            window: Some(Window::from_start(30).unwrap()),
            hotkey: Some(Hotkey([1; 32])),
            checkpoint: Some(Digest([2; 32])),
            numerics: Some("exact-1".to_owned()),
            reward_mean: Some(0.25),
            checks: vec![check],
            group_results: vec![group],
            ..FileAnswer::new(Path::new("file"), "rejected")
        };
        schema::assert_frozen(&answer, include_str!("../../tests/golden/verify_2.txt"));
    }
}
