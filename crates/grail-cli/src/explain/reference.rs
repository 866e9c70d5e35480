//! What `grail verify` answers about a rollout file of the reference.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use grail_protocol::v5::file::{RowCheck, RowFault, StructureFault};
use grail_services::validation::examine::CheckOutcome;
use serde::Serialize;

use super::checks::{self, CheckAnswer, Tally};
use super::text::{one_line, print};

/// Version of the JSON.
const VERSION: u32 = 1;

/// Longest text of a reason on a screen, characters.
const EVIDENCE_CHARS_MAX: usize = 1000;

/// Checks that need the model and the environment, in their order.
const WITH_MODEL: [&str; 7] = [
    "env_prompt_valid",
    "proof_valid",
    "termination_valid",
    "env_eval_valid",
    "reward_valid",
    "logprobs_valid",
    "token_distribution_valid",
];

/// Everything that was found.
#[derive(Debug, Serialize)]
pub struct Answer {
    version: u32,
    /// Always `v5`.
    protocol: &'static str,
    file: String,
    /// `accepted` as far as it was checked, `rejected` or `undecided`.
    pub verdict: &'static str,
    /// The reference's word for a ban, or the first check that fails.
    reason: Option<String>,
    /// The reason in words.
    evidence: Option<String>,
    hotkey: Option<String>,
    window: Option<i64>,
    rollouts: u64,
    groups: u64,
    tokens: u64,
    /// Windows of the checkpoints that rows name, with how many do.
    checkpoint_windows: BTreeMap<String, u64>,
    copies: Copies,
    checks: Vec<CheckAnswer>,
    /// Keys by which a validator orders the groups.
    group_keys: BTreeMap<String, String>,
    /// What was believed from the file because nothing else said it.
    taken_from_file: Vec<&'static str>,
}

/// How often completions repeat inside the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copies {
    /// Completions that have a digest.
    pub completions: u64,
    /// Different ones.
    pub unique_completions: u64,
    /// How often the most frequent one is there.
    pub most_often: u64,
}

/// What came of the rows.
#[derive(Debug, Default)]
pub struct RowTally {
    n_rows: u64,
    /// Failed rows of each check, and the first.
    faults: BTreeMap<RowCheck, (u64, String)>,
}

impl RowTally {
    /// Starts the next row.
    pub fn count(&mut self) {
        self.n_rows += 1;
    }

    /// Notes a fault of the row that was started last.
    pub fn fail(&mut self, fault: &RowFault) {
        let row = self.n_rows.saturating_sub(1);
        let entry = self.faults.entry(fault.check);
        entry.or_insert_with(|| (0, format!("row {row}: {}", fault.detail))).0 += 1;
    }
}

/// What came of the groups.
#[derive(Debug, Default)]
pub struct GroupTally {
    /// Groups of the file.
    groups: u64,
    failed: u64,
    first: Option<String>,
}

impl GroupTally {
    /// Starts a file of so many groups.
    pub fn new(groups: usize) -> Self {
        Self { groups: groups as u64, ..Self::default() }
    }

    /// Notes a fault of a group.
    pub fn fail(&mut self, detail: String) {
        self.failed += 1;
        self.first.get_or_insert(detail);
    }
}

impl Answer {
    fn new(file: &Path, verdict: &'static str) -> Self {
        Self {
            version: VERSION,
            protocol: "v5",
            file: file.display().to_string(),
            verdict,
            reason: None,
            evidence: None,
            hotkey: None,
            window: None,
            rollouts: 0,
            groups: 0,
            tokens: 0,
            checkpoint_windows: BTreeMap::new(),
            copies: Copies::default(),
            checks: Vec::new(),
            group_keys: BTreeMap::new(),
            taken_from_file: Vec::new(),
        }
    }

    /// Nothing can be said about the file, and it is not the miner's fault.
    pub fn undecided(file: &Path, why: String) -> Self {
        Self { evidence: Some(why), ..Self::new(file, "undecided") }
    }

    /// The file gives no rows.
    pub fn refused(file: &Path, reason: &str, evidence: String) -> Self {
        let reason = Some(reason.to_owned());
        Self { reason, evidence: Some(evidence), ..Self::new(file, "rejected") }
    }

    /// Tells what the checks found.
    pub fn of(
        file: &Path,
        structure: Option<&StructureFault>,
        rows: &RowTally,
        groups: &GroupTally,
    ) -> Self {
        let mut checks = vec![structure_check(structure)];
        checks.extend(RowCheck::ALL.map(|check| row_check(check, rows)));
        checks.push(group_check(groups));
        checks.extend(WITH_MODEL.map(|check| {
            plain(check, CheckOutcome::NotRun, "needs the model and the environment".to_owned())
        }));
        let failed = checks.iter().find(|check| check.outcome == CheckOutcome::Failed);
        let reason = match (structure, failed) {
            (Some(fault), _) => Some(fault.reason().to_owned()),
            (None, failed) => failed.map(|check| check.check.to_owned()),
        };
        let evidence = failed.map(|check| check.detail.clone());
        let verdict = if failed.is_some() { "rejected" } else { "accepted" };
        let (rollouts, groups) = (rows.n_rows, groups.groups);
        Self { reason, evidence, rollouts, groups, checks, ..Self::new(file, verdict) }
    }

    /// Adds what the file holds.
    pub fn with_contents(
        self,
        hotkey: &str,
        window: i64,
        tokens: u64,
        checkpoint_windows: BTreeMap<String, u64>,
    ) -> Self {
        let hotkey = Some(hotkey.to_owned());
        Self { hotkey, window: Some(window), tokens, checkpoint_windows, ..self }
    }

    /// Adds digests of completions and groups.
    pub fn with_digests(self, copies: Copies, group_keys: BTreeMap<String, String>) -> Self {
        Self { copies, group_keys, ..self }
    }

    /// Adds what was believed from the file. Without a readable address no row was checked.
    pub fn with_taken(mut self, taken: Vec<&'static str>, has_owner: bool) -> Self {
        self.taken_from_file = taken;
        if !has_owner {
            for check in &mut self.checks {
                if RowCheck::ALL.iter().any(|row_check| row_check.name() == check.check) {
                    *check = plain(
                        check.check,
                        CheckOutcome::Unverified,
                        "the file's owner is no SS58 address".to_owned(),
                    );
                }
            }
            if self.verdict == "accepted" {
                self.verdict = "undecided";
            }
        }
        self
    }

    /// Prints the summary and the checks.
    pub fn print(&self, as_json: bool) -> Result<()> {
        print(self, as_json, || self.screen())
    }

    fn screen(&self) -> String {
        let name = one_line(&self.file, EVIDENCE_CHARS_MAX);
        let mut lines = vec![match self.verdict {
            "accepted" => format!("{name}: accepted as far as it can be checked without the model"),
            "rejected" => format!("{name}: rejected"),
            _ => format!("{name}: could not verify"),
        }];
        if let Some(reason) = &self.reason {
            lines.push(format!("reason: {reason}"));
        }
        if let Some(evidence) = &self.evidence {
            lines.push(format!("evidence: {}", one_line(evidence, EVIDENCE_CHARS_MAX)));
        }
        if let (Some(hotkey), Some(window)) = (&self.hotkey, self.window) {
            let hotkey = one_line(hotkey, 100);
            lines.push(format!("hotkey {hotkey}, window {window}"));
            lines.push(format!(
                "{} rollouts in {} groups, {} tokens",
                self.rollouts, self.groups, self.tokens
            ));
            lines.push(format!(
                "{} of {} completions are unique, the most frequent is there {} times",
                self.copies.unique_completions, self.copies.completions, self.copies.most_often
            ));
        }
        if !self.taken_from_file.is_empty() {
            lines.push(format!("believed from the file: {}", self.taken_from_file.join(", ")));
        }
        if !self.checks.is_empty() {
            lines.push(String::new());
            lines.push(checks::table(&self.checks));
        }
        lines.join("\n")
    }
}

fn plain(check: &'static str, outcome: CheckOutcome, detail: String) -> CheckAnswer {
    CheckAnswer { check, outcome, measured: None, threshold: None, rollouts: None, detail }
}

fn structure_check(fault: Option<&StructureFault>) -> CheckAnswer {
    let (outcome, detail) = match fault {
        Some(fault) => (CheckOutcome::Failed, format!("{}: {fault}", fault.reason())),
        None => (CheckOutcome::Passed, "owner, window, hashes, nonces and groups agree".to_owned()),
    };
    plain("structure", outcome, detail)
}

fn row_check(check: RowCheck, rows: &RowTally) -> CheckAnswer {
    let stricter = if check.is_stricter() { " (the reference does not check this)" } else { "" };
    let (n_failed, detail) = match rows.faults.get(&check) {
        Some((n_failed, first)) => (*n_failed, format!("{first}{stricter}")),
        None => (0, format!("holds for {} rollouts{stricter}", rows.n_rows)),
    };
    tallied(check.name(), rows.n_rows, n_failed, detail)
}

fn group_check(groups: &GroupTally) -> CheckAnswer {
    let detail = match &groups.first {
        Some(first) => first.clone(),
        None => format!("sizes and advantages of {} groups agree", groups.groups),
    };
    let failed = groups.failed > 0;
    plain("groups", if failed { CheckOutcome::Failed } else { CheckOutcome::Passed }, detail)
}

fn tallied(check: &'static str, n_rows: u64, n_failed: u64, detail: String) -> CheckAnswer {
    let count = |rows: u64| u32::try_from(rows).unwrap_or(u32::MAX);
    let tally =
        Tally { passed: count(n_rows - n_failed), failed: count(n_failed), ..Tally::default() };
    let outcome = if n_failed > 0 { CheckOutcome::Failed } else { CheckOutcome::Passed };
    CheckAnswer { rollouts: Some(tally), ..plain(check, outcome, detail) }
}
