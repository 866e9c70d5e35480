//! `grail lab sequential`: simulates the judgement of miners by evidence over time.

use std::path::Path;

use anyhow::{Context, Result, bail};
use grail_protocol::calibration::TAIL_LEVELS;
use grail_services::validation::evidence::EvidenceRules;
use grail_services::validation::evidence::simulate::{
    Ejections, FalseEjections, Outcome as Found, Plan, Row, scenarios, simulate,
};
use serde::Serialize;
use serde_json::Value;

use crate::cli::LabSequentialArgs;
use crate::exit::Outcome;
use crate::files::read_bounded;
use crate::lab::runner::progress;
use crate::lab::settings::SCHEMA_VERSION;
use crate::output;

/// Largest report of the lab that is read.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// What `--json` prints.
#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    plan: &'a Plan,
    /// Promised largest probability that an honest miner is ever ejected.
    bound: f64,
    rows: &'a [Row],
}

/// Does what the options ask for.
pub fn run(args: &LabSequentialArgs) -> Result<Outcome> {
    let plan = plan(args)?;
    let powers = match &args.report {
        Some(path) => powers(path, args.attack.as_deref())?,
        None => Vec::new(),
    };
    let named: Vec<(&str, [f64; TAIL_LEVELS.len()])> =
        powers.iter().map(|(id, powers)| (id.as_str(), *powers)).collect();
    let rules = EvidenceRules::default();
    let scenarios = scenarios(&plan, &named);
    let bar = progress(scenarios.len() as u64);
    let mut rows = Vec::with_capacity(scenarios.len());
    for scenario in &scenarios {
        bar.set_message(scenario.id.clone());
        let row = simulate(&plan, &rules, scenario);
        bar.inc(1);
        if !args.json {
            bar.suspend(|| output::line(&line(&row, &rules)))?;
        }
        rows.push(row);
    }
    bar.finish_and_clear();
    if args.json {
        let answer =
            Answer { schema_version: SCHEMA_VERSION, plan: &plan, bound: rules.bound, rows: &rows };
        output::line(&serde_json::to_string_pretty(&answer)?)?;
    }
    Ok(Outcome::Done)
}

fn plan(args: &LabSequentialArgs) -> Result<Plan> {
    let sizes = [
        ("--honest-miners", args.honest_miners),
        ("--honest-windows", args.honest_windows),
        ("--cheaters", args.cheaters),
        ("--cheating-windows", args.cheating_windows),
        ("--groups", args.groups),
    ];
    if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        bail!("{name} is 0; it must be at least 1");
    }
    Ok(Plan {
        seed: args.seed,
        honest_miners: args.honest_miners,
        honest_windows: args.honest_windows,
        cheaters: args.cheaters,
        cheating_windows: args.cheating_windows,
        groups: args.groups,
        ..Plan::default()
    })
}

/// How often the rollouts of one cheat lay in each honest tail.
type Power = (String, [f64; TAIL_LEVELS.len()]);

/// Returns what a report says of `ids`, by default of every cheat of the tolerant profile that was
/// not always rejected at once.
fn powers(path: &Path, ids: Option<&[String]>) -> Result<Vec<Power>> {
    let bytes = read_bounded(path, REPORT_BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let report: Value = serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is no report of the lab", path.display()))?;
    let rows = report.get("rows").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
    let tolerant = || rows.iter().filter(|row| row["profile"] == "tolerant");
    let power = |id: &str| {
        let row = tolerant().find(|row| row["id"] == id);
        let rates = row.and_then(|row| row.get("tail_rates").cloned());
        let rates = rates.and_then(|rates| serde_json::from_value(rates).ok());
        let missing = || format!("{} has no tolerant row {id} with tail rates", path.display());
        Ok((id.to_owned(), rates.with_context(missing)?))
    };
    if let Some(ids) = ids {
        return ids.iter().map(|id| power(id)).collect();
    }
    let gaps = tolerant().filter(|row| row["outcome"] == "gap" && !row["tail_rates"].is_null());
    let powers: Vec<Power> =
        gaps.filter_map(|row| text(row, "id")).map(|id| power(&id)).collect::<Result<_>>()?;
    if powers.is_empty() {
        bail!(
            "{} has no row of the tolerant profile that is not always rejected; name rows with \
             --attack, or leave --report out",
            path.display()
        );
    }
    Ok(powers)
}

fn line(row: &Row, rules: &EvidenceRules) -> String {
    let Row { scenario, miners, outcome } = row;
    let mut text = format!("{:<48} {miners:>7} miners: ", scenario.id);
    match outcome {
        Found::Honest(bounds) => {
            let told: Vec<String> = bounds
                .iter()
                .map(|FalseEjections { bound, miners, .. }| format!("{miners} at bound {bound:e}"))
                .collect();
            text += &format!("ejected {} (shipped bound {:e})", told.join(", "), rules.bound);
        }
        Found::Cheating(Ejections { p50, p90, p99, never }) => {
            let quantiles = [(p50, "median"), (p90, "90 %"), (p99, "99 %")].map(|(value, name)| {
                let windows = value.map_or("never".to_owned(), |windows| windows.to_string());
                format!("{windows} ({name})")
            });
            text += &format!("windows until ejected: {}; {never} never", quantiles.join(", "));
        }
    }
    text
}
