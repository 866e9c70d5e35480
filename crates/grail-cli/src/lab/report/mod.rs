//! What the rows come to: one summary a row and profile, as JSON, as a table and as a page.

mod html;
mod plot;
mod table;

use std::collections::BTreeMap;

use grail_protocol::calibration::{TAIL_LEVELS, Thresholds};
use serde::Serialize;
use serde_json::Value;

pub use html::page;
pub use table::{ends, head, line};

use super::results::{Record, codes};
use super::rows::{Act, Ending, Profile};
use super::runner::RowResults;
use super::settings::{SCHEMA_VERSION, Settings};
use super::statistics::{self, Unit};

/// Margins (nats) above which the share of tokens is reported.
pub const MARGIN_LEVELS: [f32; 12] =
    [0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];

/// How a row ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Honest, and nothing was rejected.
    Accepted,
    /// Honest, and something was rejected.
    FalseRejections,
    /// An attack of which every counted rollout was rejected, for the right reason.
    Rejected,
    /// An attack of which a part passes, as documented.
    Gap,
    /// An attack of which a part passes that should not.
    Missed,
    /// Rejected, but not for the reason that belongs to the attack.
    WrongReason,
    /// Not one rollout was changed by the cheat.
    NothingToDetect,
    /// The lab itself could not run it; says nothing about the proof.
    Broken,
    /// Not run.
    NotRun,
}

impl Outcome {
    /// Returns whether this contradicts what is claimed.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::FalseRejections | Self::Missed | Self::WrongReason | Self::Broken)
    }

    /// Returns the outcome in the words of the table.
    pub fn text(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::FalseRejections => "FALSE REJECTIONS",
            Self::Rejected => "rejected",
            Self::Gap => "gap",
            Self::Missed => "MISSED",
            Self::WrongReason => "WRONG REASON",
            Self::NothingToDetect => "nothing to detect",
            Self::Broken => "COULD NOT RUN",
            Self::NotRun => "not run",
        }
    }
}

/// Seconds; the only numbers that differ from run to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timing {
    /// Of generation.
    pub generate_s: f64,
    /// Of verification.
    pub verify_s: f64,
    /// The second over the first.
    pub verify_over_generate: Option<f64>,
}

/// One row under one profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RowReport {
    /// Id of the row.
    pub id: &'static str,
    /// What its miner does.
    pub what: &'static str,
    /// Whether the miner is honest.
    pub honest: bool,
    /// The profile.
    pub profile: Profile,
    /// How it ended.
    pub outcome: Outcome,
    /// Codes of the rejections that belong to it.
    pub expected: &'static [&'static str],
    /// Why it is a gap or was not run; `null` otherwise.
    pub why: Option<&'static str>,
    /// What the lab has to say of this run; `null` for nothing.
    pub note: Option<String>,
    /// Rollouts handed in.
    pub rollouts: u64,
    /// Rollouts that the cheat changed; all of an honest row.
    pub counted: u64,
    /// Counted rollouts that were rejected at the shipped thresholds.
    pub detected: u64,
    /// Detected over counted; `null` without any.
    pub detection: Option<f64>,
    /// Counted rollouts by code.
    pub codes: BTreeMap<String, u64>,
    /// Rollouts that v5 flags without rejecting, by code.
    pub flagged: BTreeMap<String, u64>,
    /// Honest rollouts rejected; `null` for attacks.
    pub false_positives: Option<u64>,
    /// Largest share of false positives that this leaves plausible, at 95 % confidence.
    pub false_positives_bound: Option<f64>,
    /// Completion tokens of all rollouts.
    pub tokens: u64,
    /// Median tokens until a rollout is rejected; `null` where most are never followed by one.
    pub tokens_to_detection: Option<u64>,
    /// Bytes of proof a completion token; root and signature are 96 more a file.
    pub bytes_per_token: Option<f64>,
    /// Units of 300 tokens that the areas are computed from.
    pub units: usize,
    /// Area under the ROC curve against the honest row, from both statistics together.
    pub auc: Option<f64>,
    /// The same from the margins alone.
    pub auc_margins: Option<f64>,
    /// The same from the sketches alone.
    pub auc_sketches: Option<f64>,
    /// The curve: false and true positives, shares.
    pub roc: Vec<(f64, f64)>,
    /// Largest margin, nats.
    pub margin_max: Option<f32>,
    /// Share of tokens above each of `margin_levels`.
    pub margins_above: Vec<f64>,
    /// Mean distance of sketches, bits of 64.
    pub distance_mean: Option<f64>,
    /// Share of counted rollouts in the honest tails of 10 %, 3 % and 1 %: what evidence over time
    /// rests on; `null` outside the tolerant profile.
    pub tail_rates: Option<[f64; TAIL_LEVELS.len()]>,
    /// Mean recomputed reward.
    pub reward_mean: Option<f64>,
    /// Mean reward minus that of honest answers to the same problems.
    pub reward_gain: Option<f64>,
    /// Seconds.
    pub timing: Timing,
}

/// Returns how far the margins and the sketches of a unit lie above honest ones, in deviations.
fn scores(thresholds: &Thresholds, unit: &Unit) -> (f64, f64) {
    let measures = thresholds.measure(&unit.margins, &unit.distances);
    (measures.margin_z, measures.sketch_z)
}

/// The model that everything was run on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelFacts {
    /// The path that was given, or `embedded`.
    pub source: String,
    /// Architecture.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Width of the hidden states.
    pub hidden_size: u32,
}

/// The machine; no result depends on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineFacts {
    /// Instruction set of the verifier.
    pub isa: String,
    /// Compute threads.
    pub threads: usize,
}

/// Generation and verification of honest rollouts, one at a time and many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CostReport {
    /// Seconds to verify over seconds to generate one rollout alone.
    pub verify_over_generate_at_1: Option<f64>,
    /// The same where both are saturated.
    pub verify_over_generate_saturated: Option<f64>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What the figures depend on.
    pub settings: Settings,
    /// The model.
    pub model: ModelFacts,
    /// The calibration of the tolerant profile, as signed data; `null` without it.
    pub calibration: Option<Value>,
    /// [`MARGIN_LEVELS`].
    pub margin_levels: [f32; 12],
    /// Rows by profile, then in the order of the list.
    pub rows: Vec<RowReport>,
    /// Ids (with profile) of rows that contradict what is claimed.
    pub failures: Vec<String>,
    /// The machine.
    pub machine: MachineFacts,
    /// Costs, by profile.
    pub timing: BTreeMap<&'static str, CostReport>,
}

impl Report {
    /// Puts the rows together.
    pub fn new(
        settings: Settings,
        model: ModelFacts,
        machine: MachineFacts,
        calibration: Option<Value>,
        rows: Vec<RowReport>,
    ) -> Self {
        // What v5 says is a finding, no claim of ours.
        let ours = rows.iter().filter(|row| row.profile != Profile::V5);
        let failed = ours.filter(|row| row.outcome.is_failure());
        let failures = failed.map(|row| format!("{} ({})", row.id, row.profile)).collect();
        Self {
            schema_version: SCHEMA_VERSION,
            settings,
            model,
            calibration,
            margin_levels: MARGIN_LEVELS,
            rows,
            failures,
            machine,
            timing: BTreeMap::new(),
        }
    }
}

/// Returns the summary of each row; honest rows of the same profile are what attacks are held
/// against.
pub fn summarise(results: &[RowResults], thresholds: Option<&Thresholds>) -> Vec<RowReport> {
    results
        .iter()
        .map(|result| summary(result, honest_of(results, result.profile), thresholds))
        .collect()
}

/// Returns the row that attacks are held against.
pub fn honest_of(results: &[RowResults], profile: Profile) -> Option<&RowResults> {
    results.iter().find(|result| result.profile == profile && result.row.id == "honest")
}

/// Returns the summary of one row; see [`summarise`].
pub fn summary(
    result: &RowResults,
    honest: Option<&RowResults>,
    thresholds: Option<&Thresholds>,
) -> RowReport {
    let RowResults { row, profile, chunks, trouble } = result;
    let records: Vec<Record> = chunks.iter().flat_map(|chunk| &chunk.records).cloned().collect();
    let counted = records.iter().filter(|record| record.counted);
    let n_counted = counted.clone().count() as u64;
    let detected = counted.clone().filter(|record| record.code.is_some()).count() as u64;
    let tokens: u64 = records.iter().map(|record| u64::from(record.tokens)).sum();
    let proof_bytes: u64 = chunks.iter().map(|chunk| chunk.proof_bytes).sum();
    let codes = codes(&records);
    let ending = row.ending(*profile);
    let (expected, why) = match ending {
        Ending::Accepted => (&[][..], None),
        Ending::Rejected(codes) => (codes, None),
        Ending::Gap(codes, why) => (codes, Some(why)),
        Ending::NotRun(why) => (&[][..], Some(why)),
    };
    let is_honest = ending == Ending::Accepted;
    let curve = Curve::of(result, &records, honest, thresholds);
    let timing = timing(result);
    RowReport {
        id: row.id,
        what: row.what,
        honest: row.is_honest(),
        profile: *profile,
        outcome: match trouble {
            Some(_) => Outcome::Broken,
            None => outcome(ending, n_counted, detected, &codes),
        },
        expected,
        why,
        note: trouble.clone().or_else(|| chunks.iter().find_map(|chunk| chunk.note.clone())),
        rollouts: records.len() as u64,
        counted: n_counted,
        detected,
        detection: share(detected, n_counted),
        codes,
        flagged: flagged(&records),
        false_positives: is_honest.then_some(detected),
        false_positives_bound: is_honest
            .then(|| statistics::upper_bound(detected, n_counted))
            .flatten(),
        tokens,
        tokens_to_detection: statistics::tokens_to_detection(&records),
        bytes_per_token: share(proof_bytes, tokens).filter(|_| proof_bytes > 0),
        units: curve.units,
        auc: curve.auc,
        auc_margins: curve.auc_margins,
        auc_sketches: curve.auc_sketches,
        roc: curve.roc,
        margin_max: records
            .iter()
            .flat_map(|record| &record.lost)
            .map(|(_, margin)| *margin)
            .reduce(f32::max),
        margins_above: statistics::survival(&records, &MARGIN_LEVELS),
        distance_mean: mean(
            records.iter().flat_map(|record| &record.distances).map(|bits| f64::from(*bits)),
        ),
        tail_rates: tail_rates(*profile, &records),
        reward_mean: rewards(&records),
        reward_gain: reward_gain(result, &records, honest),
        timing,
    }
}

fn outcome(ending: Ending, counted: u64, detected: u64, codes: &BTreeMap<String, u64>) -> Outcome {
    let expected = match ending {
        Ending::NotRun(_) => return Outcome::NotRun,
        Ending::Accepted if detected == 0 => return Outcome::Accepted,
        Ending::Accepted => return Outcome::FalseRejections,
        Ending::Rejected(codes) | Ending::Gap(codes, _) => codes,
    };
    if counted == 0 {
        return Outcome::NothingToDetect;
    }
    if !codes.keys().all(|code| expected.contains(&code.as_str())) {
        return Outcome::WrongReason;
    }
    match ending {
        _ if detected == counted => Outcome::Rejected,
        Ending::Gap(..) => Outcome::Gap,
        _ => Outcome::Missed,
    }
}

fn flagged(records: &[Record]) -> BTreeMap<String, u64> {
    let mut flagged = BTreeMap::new();
    for code in records.iter().filter(|record| record.counted).flat_map(|record| &record.soft) {
        *flagged.entry(code.clone()).or_insert(0) += 1;
    }
    flagged
}

fn timing(result: &RowResults) -> Timing {
    let sum = |of: fn(&super::results::Chunk) -> f64| result.chunks.iter().map(of).sum::<f64>();
    let (generate_s, verify_s) = (sum(|chunk| chunk.generate_s), sum(|chunk| chunk.verify_s));
    let verify_over_generate = (generate_s > 0.0).then(|| verify_s / generate_s);
    Timing { generate_s, verify_s, verify_over_generate }
}

fn tail_rates(profile: Profile, records: &[Record]) -> Option<[f64; TAIL_LEVELS.len()]> {
    let counted: Vec<&Record> = records.iter().filter(|record| record.counted).collect();
    let n = counted.len() as u64;
    if profile != Profile::Tolerant || n == 0 {
        return None;
    }
    let hits = |level: usize| counted.iter().filter(|it| it.tails >> level & 1 == 1).count() as u64;
    Some(std::array::from_fn(|level| share(hits(level), n).unwrap_or(0.0)))
}

fn rewards(records: &[Record]) -> Option<f64> {
    mean(records.iter().filter_map(|record| record.reward).map(f64::from))
}

/// The gain over honest rollouts of the same problems, for cheats that choose by reward.
fn reward_gain(
    result: &RowResults,
    records: &[Record],
    honest: Option<&RowResults>,
) -> Option<f64> {
    let chooses =
        matches!(result.row.act, Act::Grind(_) | Act::Sampling(super::rows::Sampler::BestOf(_)));
    let honest = honest.filter(|_| chooses)?;
    let mut same = Vec::new();
    for (own, theirs) in result.chunks.iter().zip(&honest.chunks) {
        same.extend(theirs.records.iter().take(own.records.len()).cloned());
    }
    (same.len() == records.len()).then_some(())?;
    Some(rewards(records)? - rewards(&same)?)
}

/// How well a row is told from the honest one.
#[derive(Default)]
struct Curve {
    units: usize,
    auc: Option<f64>,
    auc_margins: Option<f64>,
    auc_sketches: Option<f64>,
    roc: Vec<(f64, f64)>,
}

impl Curve {
    fn of(
        result: &RowResults,
        records: &[Record],
        honest: Option<&RowResults>,
        thresholds: Option<&Thresholds>,
    ) -> Self {
        // Files are judged as bytes: nothing was measured of their tokens.
        let is_file = matches!(result.row.act, Act::File(_));
        let Some(honest) = honest.filter(|_| !is_file && !result.row.is_honest()) else {
            return Self::default();
        };
        let honest: Vec<Record> =
            honest.chunks.iter().flat_map(|chunk| &chunk.records).cloned().collect();
        match (result.profile, thresholds) {
            (Profile::Tolerant, Some(thresholds)) => {
                let counted = || records.iter().filter(|record| record.counted);
                let (ours, theirs) = (statistics::units(&honest), statistics::units(counted()));
                let of = |units: &[Unit], choose: fn((f64, f64)) -> f64| -> Vec<f64> {
                    units.iter().map(|unit| choose(scores(thresholds, unit))).collect()
                };
                let area = |choose| statistics::auc(&of(&ours, choose), &of(&theirs, choose));
                let both = |(margin, sketch): (f64, f64)| margin.max(sketch);
                Self {
                    units: theirs.len(),
                    auc: area(both),
                    auc_margins: area(|(margin, _)| margin),
                    auc_sketches: area(|(_, sketch)| sketch),
                    roc: statistics::roc(&of(&ours, both), &of(&theirs, both)),
                }
            }
            _ => Self::default(),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (n, sum) = values.fold((0u32, 0.0), |(n, sum), value| (n + 1, sum + value));
    (n > 0).then(|| sum / f64::from(n))
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(code, n)| ((*code).to_owned(), *n)).collect()
    }

    #[test]
    fn a_row_ends_as_its_numbers_say() {
        let rejected = Ending::Rejected(&["a", "b"]);
        let gap = Ending::Gap(&["a"], "why");
        for (ending, counted, detected, codes, want) in [
            (Ending::Accepted, 9, 0, &[][..], Outcome::Accepted),
            (Ending::Accepted, 9, 1, &[("a", 1)], Outcome::FalseRejections),
            (rejected, 9, 9, &[("a", 4), ("b", 5)], Outcome::Rejected),
            (rejected, 9, 8, &[("a", 8)], Outcome::Missed),
            (rejected, 9, 9, &[("c", 9)], Outcome::WrongReason),
            (rejected, 0, 0, &[], Outcome::NothingToDetect),
            (gap, 9, 2, &[("a", 2)], Outcome::Gap),
            (gap, 9, 9, &[("a", 9)], Outcome::Rejected),
            (gap, 9, 2, &[("c", 2)], Outcome::WrongReason),
            (Ending::NotRun("why"), 0, 0, &[], Outcome::NotRun),
        ] {
            let got = outcome(ending, counted, detected, &counts(codes));
            assert_eq!(got, want, "{ending:?} {detected} of {counted}");
        }
    }
}
