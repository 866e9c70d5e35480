//! The learning curve in plain text: share of held-out problems solved, window by window.

use super::Report;

const HEIGHT: usize = 10;
/// Widest plot, in columns; longer runs are thinned out evenly.
const POINTS_MAX: usize = 64;

/// Draws pass@1 over the windows, from the start on; `None` until two points were measured.
pub fn learning_curve(report: &Report) -> Option<String> {
    let mut points: Vec<(String, f64)> = Vec::new();
    points.extend(report.start.map(|start| ("start".to_owned(), start.pass_at_1)));
    points.extend(
        report.windows.iter().filter_map(|row| Some((row.window.to_string(), row.pass_at_1?))),
    );
    let (first, last) = (points.first()?.clone(), points.last()?.clone());
    if points.len() < 2 {
        return None;
    }
    let points = thin_out(points);
    let mut lines = vec![format!(
        "pass@1 on held-out problems: {:.1} % at the start, {:.1} % at the end ({:+.1} points)",
        first.1 * 100.0,
        last.1 * 100.0,
        (last.1 - first.1) * 100.0
    )];
    for step in (0..=HEIGHT).rev() {
        let label = match step {
            0 => "  0 %".to_owned(),
            HEIGHT => "100 %".to_owned(),
            _ if step * 2 == HEIGHT => " 50 %".to_owned(),
            _ => " ".repeat(5),
        };
        let marks: String = points.iter().map(|(_, share)| mark(*share, step)).collect();
        lines.push(format!("{label} ┤{marks}").trim_end().to_owned());
    }
    lines.push(format!("      └{}", "──".repeat(points.len())));
    lines.push(format!("       from {} to window {}", named(&first.0), last.0));
    Some(lines.join("\n"))
}

fn named(label: &str) -> String {
    if label == "start" { label.to_owned() } else { format!("window {label}") }
}

fn mark(share: f64, step: usize) -> &'static str {
    let height = (0..=HEIGHT).rev().find(|step| {
        let bound = f64::from(u32::try_from(*step).unwrap_or(u32::MAX));
        share * 10.0 + 0.5 >= bound
    });
    match height {
        Some(height) if height == step => " ●",
        Some(height) if height > step => " │",
        _ => "  ",
    }
}

/// Keeps at most [`POINTS_MAX`] points, the first and the last among them.
fn thin_out(points: Vec<(String, f64)>) -> Vec<(String, f64)> {
    let n_points = points.len();
    if n_points <= POINTS_MAX {
        return points;
    }
    (0..POINTS_MAX).map(|idx| points[idx * (n_points - 1) / (POINTS_MAX - 1)].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{TestRoster, report, trained};
    use super::*;

    #[test]
    fn the_curve_shows_start_end_and_gain() {
        let mut report = report();
        assert_eq!(learning_curve(&report), None);
        for entry in [
            trained::evaluated(0, 0.30),
            trained::window(30, 1, 0.1),
            trained::evaluated(60, 0.55),
            trained::window(60, 1, 0.1),
            trained::evaluated(90, 1.0),
        ] {
            report.apply(&entry, &TestRoster);
        }
        let curve = learning_curve(&report).unwrap();
        let lines: Vec<&str> = curve.lines().collect();
        assert!(lines[0].contains("30.0 % at the start, 100.0 % at the end (+70.0 points)"));
        assert_eq!(lines[1], "100 % ┤     ●");
        assert_eq!(lines[5], "      ┤   ● │");
        assert_eq!(lines[8], "      ┤ ● │ │");
        assert_eq!(lines.last().unwrap().trim(), "from start to window 60");
    }

    #[test]
    fn a_long_run_is_thinned_out() {
        let points: Vec<_> = (0..1_000).map(|idx| (idx.to_string(), 0.5)).collect();
        let thin = thin_out(points.clone());
        assert_eq!(thin.len(), POINTS_MAX);
        assert_eq!((&thin[0], &thin[POINTS_MAX - 1]), (&points[0], &points[999]));
    }
}
