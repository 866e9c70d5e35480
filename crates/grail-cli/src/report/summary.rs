//! The report for a person: one line a window while it runs, tables and the learning curve at the end.

use std::collections::BTreeMap;

use super::table::{self, Align};
use super::{MinerRole, MinerRow, Report, WeightsFailure, WindowRow, learning_curve};

/// Returns the line that is shown when a window is finished.
pub fn window_line(row: &WindowRow) -> String {
    let mut parts = vec![
        format!("window {:>5}", row.window),
        format!("reward {}", number(row.reward_mean, 3)),
        format!("pass@1 {:>7}", percent(row.pass_at_1)),
        format!("loss {}", number(row.loss, 4)),
        format!("{} tok/s", number(row.tokens_per_s, 0)),
        format!("{}/{} accepted", row.accepted, row.checked),
    ];
    if !row.rejected.is_empty() {
        parts.push(format!("rejected: {}", reasons(&row.rejected)));
    }
    parts.join("  ")
}

/// Returns the tables that end a run: windows, miners, cheats, and the learning curve.
pub fn final_tables(report: &Report) -> String {
    let mut sections = vec![windows_table(report)];
    if !report.miners.is_empty() {
        sections.push(miners_table(report));
    }
    if report.miners.iter().any(|miner| !miner.by_cheat.is_empty()) {
        sections.push(cheats_table(report));
    }
    sections.extend(skips(report));
    sections.extend(weights_alarm(report).or_else(|| weights_line(report)));
    sections.extend(learning_curve(report));
    sections.extend(report.setup.caveat().map(str::to_owned));
    sections.push(closing_line(report));
    sections.join("\n\n")
}

fn windows_table(report: &Report) -> String {
    let columns = [
        ("window", Align::Right),
        ("reward", Align::Right),
        ("pass@1", Align::Right),
        ("loss", Align::Right),
        ("tokens/s", Align::Right),
        ("rollouts", Align::Right),
        ("checked", Align::Right),
        ("accepted", Align::Right),
        ("rejected", Align::Left),
        ("checkpoint", Align::Right),
    ];
    let start = report.start.map(|start| {
        let mut cells = vec!["start".to_owned(), "–".to_owned(), percent(Some(start.pass_at_1))];
        cells.extend(["–", "–", "", "", "", ""].map(str::to_owned));
        cells.push(start.checkpoint.to_string());
        cells
    });
    let rows: Vec<Vec<String>> = start
        .into_iter()
        .chain(report.windows.iter().map(|row| {
            let checkpoint = row.checkpoint.map(|window| window.to_string());
            let mut cells = window_cells(row);
            cells.push(checkpoint.unwrap_or_else(|| "–".to_owned()));
            cells
        }))
        .collect();
    table::render(&columns, &rows)
}

/// Returns what the table on the screen and the one of the page both say of a window.
pub(super) fn window_cells(row: &WindowRow) -> Vec<String> {
    vec![
        row.window.to_string(),
        number(row.reward_mean, 3),
        percent(row.pass_at_1),
        number(row.loss, 4),
        number(row.tokens_per_s, 0),
        row.rollouts.to_string(),
        row.checked.to_string(),
        row.accepted.to_string(),
        reasons(&row.rejected),
    ]
}

fn miners_table(report: &Report) -> String {
    let columns = [
        ("uid", Align::Right),
        ("miner", Align::Left),
        ("hotkey", Align::Left),
        ("role", Align::Left),
        ("windows", Align::Right),
        ("rollouts", Align::Right),
        ("checked", Align::Right),
        ("accepted", Align::Right),
        ("rejected", Align::Left),
        ("weight", Align::Right),
    ];
    let rows: Vec<Vec<String>> = report
        .miners
        .iter()
        .map(|miner| {
            vec![
                miner.uid.to_string(),
                miner.name.clone(),
                miner.hotkey.short(),
                role(miner).to_owned(),
                miner.counts.windows.to_string(),
                miner.counts.rollouts.to_string(),
                miner.counts.checked.to_string(),
                miner.counts.accepted.to_string(),
                reasons(&miner.counts.rejected),
                miner.weight.map_or_else(|| "–".to_owned(), |weight| format!("{weight:.6}")),
            ]
        })
        .collect();
    table::render(&columns, &rows)
}

fn cheats_table(report: &Report) -> String {
    let columns = [
        ("miner", Align::Left),
        ("cheat", Align::Left),
        ("windows", Align::Right),
        ("checked", Align::Right),
        ("accepted", Align::Right),
        ("rejected", Align::Left),
    ];
    let rows: Vec<Vec<String>> = report
        .miners
        .iter()
        .flat_map(|miner| {
            miner.by_cheat.iter().map(|(cheat, counts)| {
                vec![
                    miner.name.clone(),
                    cheat.clone(),
                    counts.windows.to_string(),
                    counts.checked.to_string(),
                    counts.accepted.to_string(),
                    reasons(&counts.rejected),
                ]
            })
        })
        .collect();
    table::render(&columns, &rows)
}

/// Returns what was left out after mining began: before, nobody has a checkpoint, which is no news.
fn skips(report: &Report) -> Option<String> {
    let first = report.windows.first()?.window;
    let lines: Vec<String> = report
        .skipped
        .iter()
        .filter(|skip| skip.window >= first)
        .map(|skip| format!("window {} was skipped by {}: {}", skip.window, skip.role, skip.reason))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns what became of each validator's newest weights, where a person should look.
fn weights_alarm(report: &Report) -> Option<String> {
    let newest: BTreeMap<&str, &WeightsFailure> =
        report.weights_failed.iter().map(|it| (it.validator.as_str(), it)).collect();
    let has_landed_since = |it: &WeightsFailure| {
        let mut rows = report.weights_set.iter();
        rows.any(|row| row.landed && row.validator == it.validator && row.block >= it.block)
    };
    let lines: Vec<String> = newest
        .into_values()
        .filter(|it| !has_landed_since(it))
        .map(|it| {
            format!("ALARM at block {}: {} has no weights: {}", it.block, it.validator, it.reason)
        })
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// Returns what became of the newest weights, or why there are none.
fn weights_line(report: &Report) -> Option<String> {
    report.windows.iter().find(|row| row.validated)?;
    Some(match report.weights_set.last() {
        Some(row) if row.landed => format!("weights set at block {}; the chain counts them", row.block),
        Some(row) => format!("weights set at block {}; the run ended before they were final", row.block),
        None => "no weights yet: a fresh validator sets them where an interval begins after its warm-up \
                 (validation.warmup_windows, validation.weights_interval_blocks)"
            .to_owned(),
    })
}

fn closing_line(report: &Report) -> String {
    let finished = report.windows.iter().filter(|row| row.validated).count();
    let mut line = format!("{finished} windows validated in {}", minutes(report.elapsed_s));
    if let Some(bytes) = report.peak_memory_bytes {
        line += &format!(", peak memory {} MiB", bytes / (1024 * 1024));
    }
    if !report.complete {
        line += " (stopped early; go on with --resume)";
    }
    line
}

fn role(miner: &MinerRow) -> &'static str {
    match miner.role {
        MinerRole::Honest => "honest",
        MinerRole::Cheater => "cheater",
        MinerRole::Guest => "guest",
    }
}

/// Returns the reasons and their counts, such as `race_lost 32`.
pub(super) fn reasons(rejected: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> =
        rejected.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    parts.join(", ")
}

pub(super) fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

fn minutes(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = (seconds / 60.0).floor();
    if whole < 1.0 {
        format!("{seconds:.0} s")
    } else {
        format!("{whole:.0} min {:02.0} s", (seconds - whole * 60.0).floor())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{TestRoster, judged, report, trained};
    use super::*;

    fn example() -> Report {
        let mut report = report();
        for entry in [
            trained::evaluated(0, 0.30),
            judged::uploaded(30, 2, 1_000, 2.0),
            judged::miner(30, 2, 128, 32, 32, None),
            judged::miner(30, 3, 64, 16, 0, Some("race_lost")),
            judged::window(30, 32, 0.5),
            trained::window(30, 2, -0.1),
            trained::evaluated(60, 0.45),
            trained::published(60, 60),
            judged::weights(90, &[(0, 0.9), (2, 0.1)]),
        ] {
            report.apply(&entry, &TestRoster);
        }
        report
    }

    #[test]
    fn a_finished_window_is_one_line() {
        assert_eq!(
            window_line(&example().windows[0]),
            "window    30  reward 0.500  pass@1  45.0 %  loss -0.1000  500 tok/s  32/48 accepted  \
             rejected: race_lost 16"
        );
    }

    #[test]
    fn the_final_tables_name_every_miner_cheat_and_reason() {
        let text = final_tables(&example());
        for part in
            ["miner-2", "honest", "cheater", "free-sampling", "race_lost 16", "0.100000", "45.0 %"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(text.contains("1 windows validated in 0 s (stopped early"), "{text}");
    }

    #[test]
    fn an_alarm_is_shown_until_weights_have_landed() {
        let mut report = example();
        report.apply(&judged::failed(91, "the chain lost them"), &TestRoster);
        let text = final_tables(&report);
        assert!(!text.contains("weights set at"), "{text}");
        let alarm = "ALARM at block 91: validator has no weights: the chain lost them";
        assert!(text.contains(alarm), "{text}");
        for entry in [judged::weights(92, &[(0, 1.0)]), judged::landed(92)] {
            report.apply(&entry, &TestRoster);
        }
        let text = final_tables(&report);
        assert!(!text.contains("ALARM"), "{text}");
        assert!(text.contains("weights set at block 92; the chain counts them"), "{text}");
        report.weights_set[0].landed = false;
        report.weights_set.truncate(1);
        report.weights_failed.clear();
        assert!(final_tables(&report).contains("block 90; the run ended before"));
        report.weights_set.clear();
        assert!(final_tables(&report).contains("no weights yet"));
    }

    #[test]
    fn a_report_of_v5_says_what_it_does_not_prove() {
        let mut report = example();
        assert!(!final_tables(&report).contains("proves neither"));
        report.setup.protocol = "v5".to_owned();
        let text = final_tables(&report);
        let said = text.lines().filter(|line| line.contains("protocol v5 proves neither"));
        assert_eq!(said.count(), 1, "{text}");
    }

    #[test]
    fn times_are_written_for_people() {
        for (seconds, text) in
            [(0.4, "0 s"), (59.0, "59 s"), (61.0, "1 min 01 s"), (600.0, "10 min 00 s")]
        {
            assert_eq!(minutes(seconds), text);
        }
    }
}
