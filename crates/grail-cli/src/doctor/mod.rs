//! What `grail doctor` looks at: small checks over the ports, each with a verdict and the next step.

pub mod machine;
pub mod network;
pub mod subnet;

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout};

/// Longest time for one check.
pub const CHECK_TIME: Duration = Duration::from_secs(15);

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not looked at, because something before it failed or it does not matter here.
    Skipped,
    /// As it should be.
    Pass,
    /// Works, yet deserves a look.
    Warn,
    /// Does not work.
    Fail,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The verdict.
    pub status: Status,
    /// What was seen, with numbers.
    pub told: String,
    /// What to do about it; empty if nothing.
    pub next_step: String,
}

impl Finding {
    /// All is well.
    pub fn pass(told: impl Into<String>) -> Self {
        Self { status: Status::Pass, told: told.into(), next_step: String::new() }
    }

    /// Not looked at.
    pub fn skipped(told: impl Into<String>) -> Self {
        Self { status: Status::Skipped, ..Self::pass(told) }
    }

    /// Works, yet deserves a look.
    pub fn warn(told: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { status: Status::Warn, told: told.into(), next_step: next_step.into() }
    }

    /// Does not work.
    pub fn fail(told: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { status: Status::Fail, ..Self::warn(told, next_step) }
    }
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Name of the check; never changes.
    pub name: &'static str,
    /// The verdict.
    pub status: Status,
    /// What was seen.
    pub told: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub next_step: String,
}

/// All lines, in the order of the checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    schema_version: u32,
    /// The worst verdict.
    pub status: Status,
    /// A line a check.
    pub checks: Vec<Line>,
}

impl Default for Report {
    fn default() -> Self {
        Self { schema_version: SCHEMA_VERSION, status: Status::Pass, checks: Vec::new() }
    }
}

impl Report {
    /// Adds what the check `name` found.
    pub fn add(&mut self, name: &'static str, finding: Finding) {
        let Finding { status, told, next_step } = finding;
        self.status = self.status.max(status);
        self.checks.push(Line { name, status, told, next_step });
    }

    /// Runs a check, bounded in time, and adds what it found with the time that it took.
    pub async fn run(&mut self, name: &'static str, check: impl Future<Output = Finding>) {
        self.run_within(CHECK_TIME, name, check).await;
    }

    async fn run_within(
        &mut self,
        limit: Duration,
        name: &'static str,
        check: impl Future<Output = Finding>,
    ) {
        let start = Instant::now();
        let mut finding = timeout(limit, check).await.unwrap_or_else(|_| {
            Finding::fail(
                format!("no answer within {} s", limit.as_secs()),
                "check the address and the connection, then try again",
            )
        });
        if finding.status != Status::Skipped {
            finding.told += &format!(" ({} ms)", start.elapsed().as_millis());
        }
        self.add(name, finding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_hangs_fails_and_the_worst_verdict_counts() {
        let mut report = Report::default();
        report.add("one", Finding::pass("fine"));
        report.add("two", Finding::skipped("not here"));
        assert_eq!(report.status, Status::Pass);
        report.add("three", Finding::warn("odd", "look"));
        assert_eq!(report.status, Status::Warn);
        report.run_within(Duration::ZERO, "four", std::future::pending()).await;
        assert_eq!(report.status, Status::Fail);
        assert!(report.checks[3].told.contains("within 0 s"), "{report:?}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["status"], "fail");
        assert_eq!(
            json["checks"][0],
            serde_json::json!(
                {"name": "one", "status": "pass", "told": "fine"}
            )
        );
        assert_eq!(json["checks"][2]["next_step"], "look");
    }
}
