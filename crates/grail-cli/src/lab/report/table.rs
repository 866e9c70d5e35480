//! The table as text: one line a row and profile.

use super::{Outcome, RowReport};

/// Returns the heading.
pub fn head() -> String {
    format!(
        "{:<24} {:<9} {:>8} {:>9} {:>8} {:>7} {:>9} {:>8} {:>8}  {}",
        "row",
        "profile",
        "rollouts",
        "detected",
        "false +",
        "AUC",
        "tokens to",
        "B/token",
        "ver/gen",
        "ends as"
    )
}

/// Returns the line of a row.
pub fn line(row: &RowReport) -> String {
    let share = |value: Option<f64>| match value {
        Some(value) if value > 0.0 && value < 0.001 => "<0.1 %".to_owned(),
        Some(value) => format!("{:.1} %", value * 100.0),
        None => "-".to_owned(),
    };
    let number = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    let rollouts = match row.outcome {
        Outcome::NotRun => "-".to_owned(),
        _ => row.counted.to_string(),
    };
    format!(
        "{:<24} {:<9} {:>8} {:>9} {:>8} {:>7} {:>9} {:>8} {:>8}  {}",
        row.id,
        row.profile,
        rollouts,
        if row.honest { "-".to_owned() } else { share(row.detection) },
        row.false_positives.map_or("-".to_owned(), |n| n.to_string()),
        number(row.auc, 4),
        row.tokens_to_detection.map_or("-".to_owned(), |n| n.to_string()),
        number(row.bytes_per_token, 2),
        number(row.timing.verify_over_generate, 2),
        ends(row)
    )
    .trim_end()
    .to_owned()
}

/// Returns how a row ended, with its reasons.
pub fn ends(row: &RowReport) -> String {
    let codes: Vec<String> = row.codes.iter().map(|(code, n)| format!("{code} {n}")).collect();
    let mut text = row.outcome.text().to_owned();
    match row.outcome {
        Outcome::NotRun => text += &format!(": {}", row.why.unwrap_or_default()),
        Outcome::Accepted | Outcome::NothingToDetect => {}
        _ if codes.is_empty() => {}
        _ => text += &format!(": {}", codes.join(", ")),
    }
    if !row.flagged.is_empty() {
        let flags: Vec<String> = row.flagged.iter().map(|(it, n)| format!("{it} {n}")).collect();
        text += &format!("; flagged {}", flags.join(", "));
    }
    if row.outcome == Outcome::Gap {
        text += &format!(" ({})", row.why.unwrap_or_default());
    }
    if let Some(gain) = row.reward_gain {
        text += &format!("; reward {gain:+.3}");
    }
    if let Some(note) = &row.note {
        text += &format!("; {note}");
    }
    text
}
