//! The report as one page: the table, ROC and margin curves, no script, nothing from elsewhere.

use std::fmt::Write as _;

use super::plot::{Axis, Curve, Scale, figure};
use super::{Outcome, Report, RowReport, ends};
use crate::lab::rows::Profile;
use crate::report::{STYLE, escape};

/// Rows whose curves are drawn: the ones that are hard to tell, and landmarks.
const DRAWN: [&str; 8] = [
    "weights-int8",
    "weights-int4",
    "stale-30",
    "temperature-0.9",
    "temperature-1.1",
    "top-p-0.95",
    "edited-answer",
    "free-sampling",
];

const OWN_STYLE: &str = "\
body{max-width:78rem}.legend span{display:inline-block;white-space:nowrap;padding-top:.1rem;\
margin:0 .9rem .2rem 0;font-size:.8rem}\
th[scope=col]{white-space:normal;vertical-align:bottom}\
.bad{color:var(--d);font-weight:600}.good{color:var(--c)}td.wide{white-space:normal;\
min-width:18rem}caption{text-align:left;color:var(--dim);padding:.3rem 0}";

/// Returns the whole page.
pub fn page(report: &Report) -> String {
    let model = &report.model;
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>grail lab: {source}</title>\n<style>{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n\
         <h1>Attack lab: {source}</h1>\n<p>{architecture}, {parameters} parameters; {environment}, \
         temperature {temperature}, at most {tokens} tokens; seed {seed}; grail {version}. {failures}\
         </p>\n",
        source = escape(&model.source),
        architecture = escape(&model.architecture),
        parameters = model.parameters,
        environment = escape(&report.settings.environment),
        temperature = report.settings.temperature,
        tokens = report.settings.max_new_tokens,
        seed = report.settings.seed,
        version = escape(&report.settings.grail_version),
        failures = match report.failures.len() {
            0 => "Every row ended as claimed.".to_owned(),
            _ => format!("Against the claims: {}.", escape(&report.failures.join(", "))),
        }
    );
    html += &plots(report);
    for profile in Profile::ALL {
        let rows: Vec<&RowReport> =
            report.rows.iter().filter(|row| row.profile == profile).collect();
        if !rows.is_empty() {
            html += &table(profile, &rows);
        }
    }
    html += "</body>\n</html>\n";
    html
}

fn plots(report: &Report) -> String {
    let tolerant =
        |id: &str| report.rows.iter().find(|row| row.profile == Profile::Tolerant && row.id == id);
    let share = |name| Axis {
        name,
        scale: Scale::Linear,
        range: (0.0, 1.0),
        ticks: vec![0.0, 0.25, 0.5, 0.75, 1.0],
    };
    let roc: Vec<Curve> = DRAWN
        .iter()
        .filter_map(|id| tolerant(id))
        .filter(|row| !row.roc.is_empty())
        .map(|row| Curve { name: row.id.to_owned(), points: row.roc.clone() })
        .collect();
    // Honest work comes last, so that an attack looks the same in both figures.
    let margins: Vec<Curve> = DRAWN
        .into_iter()
        .chain(["honest"])
        .filter_map(tolerant)
        .map(|row| Curve {
            name: row.id.to_owned(),
            points: report
                .margin_levels
                .iter()
                .map(|level| f64::from(*level))
                .zip(row.margins_above.iter().copied())
                .collect(),
        })
        .collect();
    let mut html = "<div class=\"plots\">\n".to_owned();
    if !roc.is_empty() {
        html += &figure(
            "ROC of 300 tokens, tolerant profile",
            &share("share of honest units above the threshold"),
            &share("share of hostile units above the threshold"),
            &roc,
        );
    }
    if !margins.is_empty() {
        html += &figure(
            "Tokens whose margin is above a value, tolerant profile",
            &Axis {
                name: "margin, nats",
                scale: Scale::Log,
                range: (0.001, 10.0),
                ticks: vec![0.001, 0.01, 0.1, 1.0, 10.0],
            },
            &Axis {
                name: "share of tokens",
                scale: Scale::Log,
                range: (0.000_01, 1.0),
                ticks: vec![0.000_01, 0.0001, 0.001, 0.01, 0.1, 1.0],
            },
            &margins,
        );
    }
    html + "</div>\n"
}

fn table(profile: Profile, rows: &[&RowReport]) -> String {
    let mut html = format!(
        "<h2>Profile {profile}</h2>\n<div class=\"scroll\"><table>\n<caption>Rollouts are those that \
         the cheat changed; detected at the shipped thresholds.</caption>\n<tr>\
         <th scope=\"col\" class=\"text\">row</th><th scope=\"col\">rollouts</th>\
         <th scope=\"col\">detected</th><th scope=\"col\" class=\"text\">ends as</th>\
         <th scope=\"col\">false positives</th>\
         <th scope=\"col\">AUC, 300 tokens</th><th scope=\"col\">tokens to detection</th>\
         <th scope=\"col\">bytes/token</th><th scope=\"col\">verify/generate</th></tr>\n"
    );
    for row in rows {
        let number = |value: Option<f64>, digits: usize| match value {
            Some(value) => format!("{value:.digits$}"),
            None => String::new(),
        };
        let detected = match row.detection {
            Some(share) if !row.honest => format!("{:.1} %", share * 100.0),
            _ => String::new(),
        };
        let class = match row.outcome {
            outcome if outcome.is_failure() => " bad",
            Outcome::Accepted | Outcome::Rejected => " good",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\" class=\"text\" title=\"{}\">{}</th><td>{}</td><td>{detected}</td>\
             <td class=\"text wide{class}\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td></tr>",
            escape(row.what),
            escape(row.id),
            if row.outcome == Outcome::NotRun { String::new() } else { row.counted.to_string() },
            escape(&ends(row)),
            row.false_positives.map_or(String::new(), |n| n.to_string()),
            number(row.auc, 4),
            row.tokens_to_detection.map_or(String::new(), |n| n.to_string()),
            number(row.bytes_per_token, 2),
            number(row.timing.verify_over_generate, 2),
        );
    }
    html + "</table></div>\n"
}
