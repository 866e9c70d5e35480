//! The report as one page: plots in SVG, tables, no script and nothing loaded from elsewhere.

use std::fmt::Write as _;

use super::plot::{Line, Plot};
use super::summary::{number, percent, reasons, window_cells};
use super::{MinerRole, Report};

/// Colours and type of all pages.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#66707f;--paper:#fbfbfa;--rule:#d9dde3;\
--a:#1f6feb;--b:#c2410c;--c:#15803d;--d:#b91c1c}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--dim:#97a1b0;--paper:#14181f;\
--rule:#333b47;--a:#6ea8fe;--b:#fb923c;--c:#4ade80;--d:#f87171}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);\
max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}\
p{color:var(--dim);margin:.3rem 0}\
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(24rem,100%),1fr));gap:1.5rem}\
figure{margin:0}figcaption{font-weight:600;margin-bottom:.25rem}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:var(--dim)}\
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--rule);\
white-space:nowrap}th{color:var(--dim);font-weight:600}td.text,th.text{text-align:left}\
td.text{white-space:normal}";

/// Returns the whole page.
pub fn page(report: &Report) -> String {
    let mut html = String::new();
    // Writing to a String cannot fail, hence the ignored results throughout this file.
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>grail {}: {}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n",
        escape(&report.setup.network),
        escape(&report.setup.environment),
    );
    html += &heading(report);
    html += "<div class=\"plots\">\n";
    for plot in plots(report) {
        html += &plot.figure();
    }
    html += "</div>\n";
    html += &windows_table(report);
    html += &miners_table(report);
    html += "</body>\n</html>\n";
    html
}

fn heading(report: &Report) -> String {
    let setup = &report.setup;
    let gain = match (report.start, report.last_pass_at_1()) {
        (Some(start), Some(last)) => format!(
            "pass@1 {} → {} on {} held-out problems. ",
            percent(Some(start.pass_at_1)),
            percent(Some(last)),
            start.problems
        ),
        _ => String::new(),
    };
    format!(
        "<h1>A verified subnet: {} on {}</h1>\n\
         <p>{gain}{} windows validated in {:.0} s{}. {} ({} parameters, {}), temperature {}, at most {} \
         tokens; network {} ({}), protocol {}, block time {} ms, seed {}, {} threads. {}, report version {}.</p>\n{}",
        escape(&setup.environment),
        escape(&setup.model),
        report.windows.iter().filter(|row| row.validated).count(),
        report.elapsed_s,
        if report.complete { "" } else { ", stopped early" },
        escape(&setup.architecture),
        setup.parameters,
        escape(&setup.numerics),
        setup.temperature,
        setup.max_new_tokens,
        escape(&setup.network),
        setup.netuid,
        escape(&setup.protocol),
        setup.block_time_ms,
        setup.seed,
        setup.threads,
        escape(&report.program),
        report.version,
        setup.caveat().map_or_else(String::new, |caveat| format!("<p>{}</p>\n", escape(caveat))),
    )
}

fn plots(report: &Report) -> Vec<Plot> {
    let windows: Vec<u64> = report.windows.iter().map(|row| row.window).collect();
    let mut learning = Line::new("pass@1", "a");
    if let (Some(start), Some(first)) = (report.start, windows.first()) {
        // The start is drawn one window to the left of the first one.
        learning.push(first.saturating_sub(30), Some(start.pass_at_1));
    }
    let mut reward = Line::new("mean reward", "b");
    let mut loss = Line::new("loss", "b");
    let mut rate = Line::new("tokens per second", "a");
    let mut accepted = Line::new("accepted", "c");
    let mut rejected = Line::new("rejected", "d");
    for row in &report.windows {
        learning.push(row.window, row.pass_at_1);
        reward.push(row.window, row.reward_mean);
        loss.push(row.window, row.loss);
        rate.push(row.window, row.tokens_per_s);
        if row.validated {
            let count = |n: u64| Some(super::fold::as_f64(n));
            accepted.push(row.window, count(row.accepted));
            rejected.push(row.window, count(row.checked.saturating_sub(row.accepted)));
        }
    }
    vec![
        Plot::new("Learning: held-out pass@1 and mean reward", vec![learning, reward]),
        Plot::new("Checked rollouts", vec![accepted, rejected]),
        Plot::new("Training loss", vec![loss]),
        Plot::new("Generation, honest miners", vec![rate]),
    ]
}

fn windows_table(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.windows.iter().map(window_cells).collect();
    let head = [
        "window", "reward", "pass@1", "loss", "tokens/s", "rollouts", "checked", "accepted",
        "rejected",
    ];
    table("Windows", &head, &[8], &rows)
}

fn miners_table(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .miners
        .iter()
        .map(|miner| {
            let role = match miner.role {
                MinerRole::Honest => "honest",
                MinerRole::Cheater => "cheater",
                MinerRole::Guest => "guest",
            };
            vec![
                miner.name.clone(),
                miner.hotkey.to_string(),
                role.to_owned(),
                // A long list may wrap after each.
                miner.cheat.as_deref().unwrap_or_default().replace(',', ", "),
                miner.uid.to_string(),
                miner.counts.rollouts.to_string(),
                miner.counts.checked.to_string(),
                miner.counts.accepted.to_string(),
                reasons(&miner.counts.rejected),
                number(miner.weight, 6),
            ]
        })
        .collect();
    let head = [
        "miner", "hotkey", "role", "cheat", "uid", "rollouts", "checked", "accepted", "rejected",
        "weight",
    ];
    table("Miners", &head, &[0, 1, 2, 3, 8], &rows)
}

fn table(title: &str, head: &[&str], text_columns: &[usize], rows: &[Vec<String>]) -> String {
    let class = |idx: usize| if text_columns.contains(&idx) { " class=\"text\"" } else { "" };
    let mut html = format!("<h2>{}</h2>\n<div class=\"scroll\"><table>\n<tr>", escape(title));
    for (idx, name) in head.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(idx), escape(name));
    }
    html += "</tr>\n";
    for row in rows {
        html += "<tr>";
        for (idx, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(idx), escape(cell));
        }
        html += "</tr>\n";
    }
    html += "</table></div>\n";
    html
}

/// Makes text safe between tags and inside double quotes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{TestRoster, judged, report, trained};
    use super::*;

    #[test]
    fn the_page_is_self_contained_and_complete() {
        let mut report = report();
        for entry in [
            trained::evaluated(0, 0.30),
            judged::uploaded(30, 2, 1_000, 2.0),
            judged::miner(30, 3, 64, 16, 0, Some("race_lost")),
            judged::window(30, 32, 0.5),
            trained::window(30, 2, -0.1),
            trained::evaluated(60, 0.45),
        ] {
            report.apply(&entry, &TestRoster);
        }
        let page = page(&report);
        for part in ["<svg", "polyline", "race_lost 16", "free-sampling", "30.0 % → 45.0 %"] {
            assert!(page.contains(part), "{part} is missing");
        }
        for part in ["<script", "http://", "https://", "@import", "url("] {
            assert!(!page.contains(part), "{part} must not occur");
        }
    }

    #[test]
    fn text_from_outside_cannot_become_markup() {
        let mut report = report();
        report.setup.model = "<script>alert('x')</script> & \"more\"".to_owned();
        let page = page(&report);
        assert!(!page.contains("<script"));
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;more"));
    }

    #[test]
    fn a_report_of_nothing_is_still_a_page() {
        let page = page(&report());
        assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"));
    }
}
