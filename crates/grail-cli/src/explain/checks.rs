//! Checks as a person and a script see them: of a whole file, or of one rollout.

use grail_services::validation::examine::{
    CheckOutcome, CheckReport, ExaminedGroup, FileReport, GroupReport, file_checks,
};
use serde::Serialize;

use super::text::one_line;
use crate::report::table::{self, Align};

/// Whether the groups were recomputed at all.
pub const RECOMPUTATION: &str = "recomputation";
/// Longest detail on a screen, characters.
const DETAIL_CHARS_MAX: usize = 400;

/// One check.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckAnswer {
    /// Stable name.
    pub check: &'static str,
    /// What came of it; of several rollouts, what came of the worst.
    pub outcome: CheckOutcome,
    /// The number that decides; of several rollouts, the largest.
    pub measured: Option<f64>,
    /// Largest value of the number that passes.
    pub threshold: Option<f64>,
    /// What came of it for each rollout; nothing where it is not about rollouts.
    pub rollouts: Option<Tally>,
    /// The finding in words.
    pub detail: String,
}

/// How many rollouts came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The check holds.
    pub passed: u32,
    /// The miner broke the rule.
    pub failed: u32,
    /// Measured, with nothing to compare with.
    pub shadow: u32,
    /// Not part of the profile.
    pub not_run: u32,
    /// Could not be verified.
    pub unverified: u32,
}

impl Tally {
    fn add(&mut self, outcome: CheckOutcome, rollouts: u32) {
        let count = match outcome {
            CheckOutcome::Passed => &mut self.passed,
            CheckOutcome::Failed => &mut self.failed,
            CheckOutcome::Shadow => &mut self.shadow,
            CheckOutcome::NotRun => &mut self.not_run,
            CheckOutcome::Unverified => &mut self.unverified,
        };
        *count = count.saturating_add(rollouts);
    }

    fn total(&self) -> u32 {
        let Self { passed, failed, shadow, not_run, unverified } = *self;
        [passed, failed, shadow, not_run, unverified].into_iter().fold(0, u32::saturating_add)
    }
}

impl From<&CheckReport> for CheckAnswer {
    fn from(report: &CheckReport) -> Self {
        let CheckReport { check, outcome, measured, threshold, detail } = report.clone();
        Self { check, outcome, measured, threshold, rollouts: None, detail }
    }
}

/// Returns every check of a file in the order in which they decide.
pub fn of_file(report: &FileReport) -> Vec<CheckAnswer> {
    let mut checks: Vec<CheckAnswer> = report.checks.iter().map(CheckAnswer::from).collect();
    if report.file.is_none() {
        let not_run =
            |check| plain(check, CheckOutcome::NotRun, "no group was looked at".to_owned());
        let rest = [file_checks::CHOICE, file_checks::PROMPT, RECOMPUTATION];
        checks.extend(rest.map(not_run));
        return checks;
    }
    let chosen: Vec<String> = report.chosen.iter().map(u32::to_string).collect();
    let detail = match chosen.is_empty() {
        true => "the file has no groups".to_owned(),
        false => format!("groups {}", chosen.join(", ")),
    };
    checks.push(plain(file_checks::CHOICE, CheckOutcome::Passed, detail));
    checks.push(prompts(&report.groups));
    checks.push(recomputation(&report.groups));
    let groups: Vec<&GroupReport> =
        report.groups.iter().filter_map(|group| group.found.as_ref().ok()).collect();
    checks.extend(of_rollouts(&groups));
    checks
}

/// Returns every check of a file that cannot be read, as `broken` shows.
pub fn of_unreadable(broken: &'static str, evidence: &str) -> Vec<CheckAnswer> {
    let mut is_reached = true;
    let tell = |check: &'static str| {
        let (outcome, detail) = match (check == broken, is_reached) {
            (true, _) => (CheckOutcome::Failed, evidence),
            (false, true) => (CheckOutcome::Passed, "within bounds"),
            (false, false) => (CheckOutcome::NotRun, "not reached: the file cannot be read"),
        };
        is_reached &= check != broken;
        plain(check, outcome, detail.to_owned())
    };
    let rest = [file_checks::CHOICE, file_checks::PROMPT, RECOMPUTATION];
    file_checks::ALL.into_iter().chain(rest).map(tell).collect()
}

fn plain(check: &'static str, outcome: CheckOutcome, detail: String) -> CheckAnswer {
    CheckAnswer { check, outcome, measured: None, threshold: None, rollouts: None, detail }
}

/// Returns whether the groups have the prompts of this miner's problems.
pub fn prompts(groups: &[ExaminedGroup]) -> CheckAnswer {
    let mut tally = Tally::default();
    let mut first_fault = None;
    for group in groups {
        let outcome = match &group.found {
            Ok(GroupReport { prompt: None, .. }) => CheckOutcome::Passed,
            Ok(GroupReport { prompt: Some(rejection), .. }) => {
                first_fault.get_or_insert(rejection.to_string());
                CheckOutcome::Failed
            }
            Err(_) => CheckOutcome::Unverified,
        };
        tally.add(outcome, group.rollouts);
    }
    let outcome = worst(&tally);
    let detail = match (outcome, first_fault) {
        (_, Some(fault)) => fault,
        (CheckOutcome::Unverified, None) => "could not be rendered everywhere".to_owned(),
        _ => format!("{} groups answer this miner's problems", groups.len()),
    };
    CheckAnswer { rollouts: Some(tally), ..plain(file_checks::PROMPT, outcome, detail) }
}

/// Returns whether our model could tell anything.
pub fn recomputation(groups: &[ExaminedGroup]) -> CheckAnswer {
    let mut tally = Tally::default();
    let mut first_failure = None;
    for group in groups {
        match &group.found {
            Ok(_) => tally.add(CheckOutcome::Passed, group.rollouts),
            Err(error) => {
                tally.add(CheckOutcome::Unverified, group.rollouts);
                first_failure.get_or_insert(format!("group {}: {error}", group.index));
            }
        }
    }
    let detail = first_failure.unwrap_or_else(|| format!("{} groups recomputed", groups.len()));
    CheckAnswer { rollouts: Some(tally), ..plain(RECOMPUTATION, worst(&tally), detail) }
}

/// Folds the checks of rollouts, each kind into one.
fn of_rollouts(groups: &[&GroupReport]) -> Vec<CheckAnswer> {
    let mut folded: Vec<(CheckAnswer, Tally)> = Vec::new();
    for report in groups.iter().flat_map(|group| &group.rollouts).flat_map(|it| &it.checks) {
        let at = match folded.iter().position(|(it, _)| it.check == report.check) {
            Some(at) => at,
            None => {
                folded.push((CheckAnswer::from(report), Tally::default()));
                folded.len() - 1
            }
        };
        let (answer, tally) = &mut folded[at];
        // The first of the worst has the word.
        if severity(report.outcome) > severity(answer.outcome) {
            answer.outcome = report.outcome;
            answer.detail.clone_from(&report.detail);
        }
        answer.measured = larger(answer.measured, report.measured);
        tally.add(report.outcome, 1);
    }
    let finish = |(mut answer, tally): (CheckAnswer, Tally)| {
        if answer.outcome == CheckOutcome::Passed {
            answer.detail = format!("holds for {} of {} rollouts", tally.passed, tally.total());
        }
        answer.rollouts = Some(tally);
        answer
    };
    folded.into_iter().map(finish).collect()
}

fn larger(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

fn worst(tally: &Tally) -> CheckOutcome {
    if tally.failed > 0 {
        CheckOutcome::Failed
    } else if tally.unverified > 0 {
        CheckOutcome::Unverified
    } else {
        CheckOutcome::Passed
    }
}

fn severity(outcome: CheckOutcome) -> u8 {
    match outcome {
        CheckOutcome::NotRun => 0,
        CheckOutcome::Passed => 1,
        CheckOutcome::Shadow => 2,
        CheckOutcome::Unverified => 3,
        CheckOutcome::Failed => 4,
    }
}

/// Returns the checks as a table.
pub fn table(checks: &[CheckAnswer]) -> String {
    let columns = [
        ("check", Align::Left),
        ("outcome", Align::Left),
        ("measured", Align::Right),
        ("at most", Align::Right),
        ("finding", Align::Left),
    ];
    let row = |check: &CheckAnswer| {
        let detail = one_line(&check.detail, DETAIL_CHARS_MAX);
        vec![
            check.check.to_owned(),
            outcome_text(check.outcome).to_owned(),
            number(check.measured),
            number(check.threshold),
            detail,
        ]
    };
    table::render(&columns, &checks.iter().map(row).collect::<Vec<_>>())
}

/// Returns the outcome in words.
pub fn outcome_text(outcome: CheckOutcome) -> &'static str {
    match outcome {
        CheckOutcome::Passed => "passed",
        CheckOutcome::Failed => "failed",
        CheckOutcome::Shadow => "measured only",
        CheckOutcome::NotRun => "not run",
        CheckOutcome::Unverified => "could not verify",
    }
}

/// Returns a number as short as it can be read, or nothing.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.fract() == 0.0 => format!("{value}"),
        Some(value) => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use grail_ports::model::ModelError;
    use grail_protocol::calibration::TAIL_LEVELS;
    use grail_services::validation::examine::{ProfileName, RolloutReport};

    use super::*;

    fn rollout(index: u32, outcome: CheckOutcome, measured: f64) -> RolloutReport {
        let check = CheckReport {
            check: "race",
            outcome,
            measured: Some(measured),
            threshold: Some(0.0),
            detail: format!("rollout {index}"),
        };
        RolloutReport {
            group: 0,
            rollout: index,
            profile: ProfileName::Exact,
            tokens: 3,
            checks: vec![check],
            rejection: None,
            margins: Vec::new(),
            distances: Vec::new(),
            lost: None,
            logprobs: Vec::new(),
            reward: None,
            success: None,
            tail_hits: [false; TAIL_LEVELS.len()],
        }
    }

    fn group(rollouts: Vec<RolloutReport>) -> GroupReport {
        GroupReport {
            group: 0,
            profile: ProfileName::Exact,
            calibration: None,
            prompt: None,
            rollouts,
        }
    }

    #[test]
    fn many_rollouts_are_told_by_the_worst_and_the_largest_number() {
        let one = group(vec![
            rollout(0, CheckOutcome::Passed, 0.0),
            rollout(1, CheckOutcome::Unverified, 0.5),
            rollout(2, CheckOutcome::Failed, 0.25),
            rollout(3, CheckOutcome::Failed, 0.125),
        ]);
        let [check] = of_rollouts(&[&one]).try_into().unwrap();
        assert_eq!((check.outcome, check.measured), (CheckOutcome::Failed, Some(0.5)));
        assert_eq!(check.detail, "rollout 2");
        let tally = check.rollouts.unwrap();
        assert_eq!((tally.passed, tally.failed, tally.unverified), (1, 2, 1));
        let two = group(vec![rollout(0, CheckOutcome::Passed, 0.0)]);
        assert_eq!(of_rollouts(&[&two])[0].detail, "holds for 1 of 1 rollouts");
    }

    #[test]
    fn our_own_failure_is_never_told_as_the_miners() {
        let failed = [ExaminedGroup { index: 2, rollouts: 16, found: Err(ModelError::Crashed) }];
        for check in [prompts(&failed), recomputation(&failed)] {
            assert_eq!(check.outcome, CheckOutcome::Unverified);
            let tally = check.rollouts.unwrap();
            assert_eq!((tally.unverified, tally.failed), (16, 0));
        }
    }

    #[test]
    fn a_finding_cannot_break_out_of_its_row() {
        let hostile = plain("race", CheckOutcome::Failed, "a\nb\u{1b}[2J".to_owned());
        let table = table(&[hostile]);
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("a\\nb\\u{1b}[2J"));
    }
}
