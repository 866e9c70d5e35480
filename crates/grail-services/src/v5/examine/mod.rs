//! Judges one miner's rows: nine checks each, soft ones counted, then the groups.
//!
//! Source: spec `validation.md`. Verdicts are the reference's but for the items of
//! `docs/compatibility.md`, which are stricter and hurt no honest miner. What fails on our side is an
//! error and never a verdict.

mod compare;
mod screen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grail_ports::environment::EnvironmentError;
use grail_ports::model::{ModelError, StopFlag};
use grail_ports::reference::{Trace, TraceRequest};
use grail_protocol::ids::Hotkey;
use grail_protocol::v5::file::{Row, completion_digest};
use grail_protocol::v5::gating::{FileGate, Stop};
use grail_protocol::v5::groups::{self, GroupFault, extrapolate};
use grail_protocol::v5::metrics::WindowMetrics;

use self::compare::{Compared, compare};
use self::screen::{Ready, Screen, Screened};
use super::assignment::Assignment;
use super::traces::batch_len;
use crate::context::Heartbeat;

/// Rows that are traced together: those of one group share their prompt.
const ROWS_AT_ONCE: usize = 16;

/// What the rows of a file are judged by.
pub struct Bench {
    /// Owner of the file.
    pub owner: Hotkey,
    /// Hash of the window's first block, with `0x`.
    pub window_hash: String,
    /// Our randomness, hexadecimal.
    pub randomness: String,
    /// The checkpoint.
    pub assignment: Arc<Assignment>,
}

impl Bench {
    fn hidden_size(&self) -> usize {
        self.assignment.model.info().hidden_size as usize
    }
}

/// Why a file counts for nothing and its miner is not checked for 14 windows.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The file itself; the reference's word for it.
    File(&'static str),
    /// A row of another checkpoint.
    OtherCheckpoint,
    /// A row that its owner did not sign.
    Envelope,
    /// A hard check failed, or a soft one too often.
    Checks(Stop),
    /// A group whose advantages are not those of its rewards.
    Group(GroupFault),
    /// A group with a reward or an advantage that is no number.
    GroupNotFinite,
    /// The later upload of two that share too much.
    Copied,
}

impl Fault {
    /// Returns the reference's reason, which some faults do not have there.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::File(reason) => Some(format!("file:{reason}")),
            Self::Checks(stop) => Some(stop.reason()),
            Self::OtherCheckpoint
            | Self::Envelope
            | Self::Group(_)
            | Self::GroupNotFinite
            | Self::Copied => None,
        }
    }

    /// Returns a code for people, also where the reference has no reason.
    pub fn code(&self) -> String {
        self.reason().unwrap_or_else(|| {
            let code = match self {
                Self::OtherCheckpoint => "checkpoint_window",
                Self::Envelope => "envelope_signature",
                Self::Copied => "copycat",
                _ => "group_advantages",
            };
            code.to_owned()
        })
    }
}

/// Counts of what was looked at, as the reference reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processed {
    /// Rows that went through the checks.
    pub rows: u64,
    /// Rows that their owner did not sign.
    pub bad_signatures: u64,
    /// Rows that failed a hard check.
    pub bad_proofs: u64,
    /// Rows that could not be processed.
    pub errors: u64,
}

/// A judged file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Examined {
    /// What is stored and scored.
    pub metrics: WindowMetrics,
    /// Why it counts for nothing, if it does not.
    pub fault: Option<Fault>,
    /// What was looked at.
    pub processed: Processed,
    /// Rows that failed each soft check.
    pub soft_failures: BTreeMap<&'static str, usize>,
    /// Our rewards of the rows that passed.
    pub rewards: Vec<f64>,
}

impl Examined {
    /// Returns the verdict on a file of `total` rows with `checked` of them looked at.
    pub fn failed(fault: Fault, total: u64, checked: u64) -> Self {
        let metrics =
            WindowMetrics { total, checked, had_failure: true, ..WindowMetrics::default() };
        Self { metrics, fault: Some(fault), ..Self::default() }
    }
}

/// Why we could not judge; the miner is not to blame.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExamineError {
    /// The model failed or was stopped.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The environment failed.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
}

/// Judges the `chosen` rows of a file of `total` rows with `distinct` different completions. Blocks.
///
/// # Errors
/// When we fail; nothing is said about the miner then.
pub fn examine(
    bench: &Bench,
    chosen: &[Row],
    total: u64,
    distinct: u64,
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<Examined, ExamineError> {
    let mut sample = Sample::new(bench, chosen.len());
    let mut screen = Screen::new(bench);
    for rows in chosen.chunks(ROWS_AT_ONCE) {
        let mut screened = Vec::with_capacity(rows.len());
        for row in rows {
            screened.push(screen.row(row)?);
            // What follows a row that ends the file is not looked at.
            if matches!(screened.last(), Some(Screened::Fault(_) | Screened::Failed(_))) {
                break;
            }
        }
        let mut rest = rows.iter().zip(screened).collect::<Vec<_>>();
        while !rest.is_empty() {
            let lengths = rest.iter().map(|(_, screened)| screened.n_tokens());
            let later = rest.split_off(batch_len(lengths, bench.hidden_size()));
            let mut traces = trace(bench, &rest, stop)?.into_iter();
            heartbeat.beat();
            for (row, screened) in std::mem::replace(&mut rest, later) {
                let is_ready = matches!(screened, Screened::Ready(_));
                sample.take(row, screened, is_ready.then(|| traces.next()).flatten())?;
                if let Some(fault) = sample.fault.take() {
                    return Ok(sample.failed(fault, total));
                }
            }
        }
    }
    if let Some(fault) = group_fault(&sample.groups) {
        return Ok(sample.failed(fault, total));
    }
    Ok(sample.passed(total, distinct))
}

/// Computes the traces of the rows that are ready, in order.
fn trace(
    bench: &Bench,
    rows: &[(&Row, Screened)],
    stop: &StopFlag,
) -> Result<Vec<Trace>, ModelError> {
    let warp = bench.assignment.warp();
    let request = |(_, screened): &(&Row, Screened)| match screened {
        Screened::Ready(Ready { tokens, prompt_len, .. }) => {
            Some(TraceRequest { tokens: tokens.clone(), prompt_len: *prompt_len, warp })
        }
        _ => None,
    };
    let requests: Vec<TraceRequest> = rows.iter().filter_map(request).collect();
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    bench.assignment.model.trace(&requests, stop)
}

/// The rows of a file that were looked at so far.
struct Sample<'a> {
    bench: &'a Bench,
    gate: FileGate,
    metrics: WindowMetrics,
    processed: Processed,
    completions: BTreeSet<[u8; 32]>,
    /// Claimed rewards and advantages, by group.
    groups: BTreeMap<String, (Vec<f64>, Vec<f64>)>,
    rewards: Vec<f64>,
    fault: Option<Fault>,
}

impl<'a> Sample<'a> {
    fn new(bench: &'a Bench, planned: usize) -> Self {
        Self {
            bench,
            gate: FileGate::new(planned),
            metrics: WindowMetrics::default(),
            processed: Processed::default(),
            completions: BTreeSet::new(),
            groups: BTreeMap::new(),
            rewards: Vec::new(),
            fault: None,
        }
    }

    /// Counts a row; a fault is left behind when it ends the file.
    fn take(
        &mut self,
        row: &Row,
        screened: Screened,
        trace: Option<Trace>,
    ) -> Result<(), ExamineError> {
        self.metrics.checked += 1;
        let claims = &row.commit.rollout;
        let compared = match (screened, trace) {
            (Screened::Fault(fault), _) => {
                self.processed.bad_signatures += u64::from(fault == Fault::Envelope);
                self.fault = Some(fault);
                return Ok(());
            }
            (Screened::Ready(ready), Some(trace)) => compare(self.bench, ready, claims, &trace)?,
            (Screened::Failed(results), _) => Compared { results, evaluation: None },
            (Screened::Unprocessed | Screened::Ready(_), _) => {
                self.processed.errors += 1;
                return Ok(());
            }
        };
        let number = |cell: &grail_protocol::v5::file::Scalar| cell.as_float().unwrap_or(f64::NAN);
        let (rewards, advantages) = self.groups.entry(row.rollout_group.to_text()).or_default();
        rewards.push(number(&claims.total_reward));
        advantages.push(number(&claims.advantage));
        self.processed.rows += 1;
        if let Some(stop) = self.gate.take(&compared.results) {
            self.processed.bad_proofs += u64::from(matches!(stop, Stop::Hard(_)));
            self.fault = Some(Fault::Checks(stop));
            return Ok(());
        }
        self.metrics.valid += 1;
        self.metrics.prompt_valid += 1;
        // The claim is not signed, and the reference takes it as it is.
        let solved = compared.evaluation.is_some_and(|own| own.success);
        self.metrics.successful += u64::from(solved && claims.success.as_bool() == Some(true));
        self.completions.extend(completion_digest(&row.commit));
        self.rewards.extend(compared.evaluation.map(|own| own.reward));
        Ok(())
    }

    fn failed(self, fault: Fault, total: u64) -> Examined {
        Examined {
            processed: self.processed,
            soft_failures: self.gate.soft_failures().clone(),
            ..Examined::failed(fault, total, self.metrics.checked)
        }
    }

    fn passed(self, total: u64, distinct: u64) -> Examined {
        let WindowMetrics { valid, checked, successful, .. } = self.metrics;
        let unique = self.completions.len() as u64;
        let metrics = WindowMetrics {
            total,
            estimated_valid: extrapolate(total, valid, checked),
            estimated_successful: extrapolate(total, successful, checked),
            unique,
            // The file itself says how many there are at most.
            estimated_unique: extrapolate(total, unique, checked).min(distinct),
            ..self.metrics
        };
        Examined {
            metrics,
            fault: None,
            processed: self.processed,
            soft_failures: self.gate.soft_failures().clone(),
            rewards: self.rewards,
        }
    }
}

/// Returns what is wrong with the first group at fault.
fn group_fault(groups: &BTreeMap<String, (Vec<f64>, Vec<f64>)>) -> Option<Fault> {
    groups.values().find_map(|(rewards, advantages)| {
        // NaN passes every comparison of the reference.
        if rewards.iter().chain(advantages).any(|value| !value.is_finite()) {
            return Some(Fault::GroupNotFinite);
        }
        groups::check(rewards, advantages).map(Fault::Group)
    })
}
