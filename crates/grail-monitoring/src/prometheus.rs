//! Writes the text format that Prometheus scrapes (version 0.0.4).

use std::fmt::{self, Write};

use crate::{Distribution, Kind, Label, Metric, RoleContext, Snapshot};

/// Writes a snapshot, whose values are sorted by metric.
pub(crate) fn write(out: &mut impl Write, snapshot: &Snapshot) -> fmt::Result {
    for family in snapshot.points.chunk_by(|a, b| a.metric == b.metric) {
        write_head(out, family[0].metric)?;
        for point in family {
            let name = exposed_name(point.metric);
            let labels = labels(&point.context, &point.label);
            writeln!(out, "{name}{{{labels}}} {}", number(point.value))?;
        }
    }
    for family in snapshot.distributions.chunk_by(|a, b| a.metric == b.metric) {
        write_head(out, family[0].metric)?;
        for distribution in family {
            write_distribution(out, distribution)?;
        }
    }
    Ok(())
}

fn write_head(out: &mut impl Write, metric: Metric) -> fmt::Result {
    let name = exposed_name(metric);
    let kind = match metric.kind() {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    writeln!(out, "# HELP {name} {}", escape(metric.help(), false))?;
    writeln!(out, "# TYPE {name} {kind}")
}

fn write_distribution(out: &mut impl Write, distribution: &Distribution) -> fmt::Result {
    let Distribution { metric, context, label, histogram } = distribution;
    let (name, labels) = (exposed_name(*metric), labels(context, label));
    for (bound, count) in histogram.up_to() {
        writeln!(out, "{name}_bucket{{{labels},le=\"{}\"}} {count}", number(bound))?;
    }
    let count = histogram.count();
    writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
    writeln!(out, "{name}_sum{{{labels}}} {}", number(histogram.sum_s()))?;
    writeln!(out, "{name}_count{{{labels}}} {count}")
}

/// Returns what stands between the braces.
fn labels(context: &RoleContext, label: &Label) -> String {
    let RoleContext { role, network, netuid, uid } = context;
    let (role, network) = (escape(role, true), escape(network, true));
    let mut text = format!("role=\"{role}\",network=\"{network}\",netuid=\"{netuid}\"");
    if let Some(uid) = uid {
        text += &format!(",uid=\"{uid}\"");
    }
    text + &match label {
        Label::None => String::new(),
        Label::Miner(uid) => format!(",miner_uid=\"{uid}\""),
        Label::Reason(reason) => format!(",reason=\"{}\"", escape(reason, true)),
        Label::Call(call) => format!(",call=\"{call}\""),
        Label::Ended(call, outcome) => {
            format!(",call=\"{call}\",outcome=\"{}\"", outcome.name())
        }
        Label::Endpoint(endpoint) => format!(",endpoint=\"{}\"", escape(endpoint, true)),
    }
}

/// Returns the name as Prometheus allows it: `grail_`, every other character than a letter, digit
/// or underscore an underscore, and `_total` after a counter.
pub(crate) fn exposed_name(metric: Metric) -> String {
    let sanitised = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut name = String::from("grail_");
    name.extend(metric.name().chars().map(sanitised));
    if metric.kind() == Kind::Counter {
        name.push_str("_total");
    }
    name
}

fn escape(text: &str, is_label: bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            '"' if is_label => escaped.push_str("\\\""),
            c => escaped.push(c),
        }
    }
    escaped
}

fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use grail_protocol::ids::{Netuid, Uid};
    use proptest::prelude::*;

    use super::*;
    use crate::{Histogram, Point};

    fn point(role: &str, metric: Metric, label: Label, value: f64) -> Point {
        let (network, netuid, uid) = ("local".to_owned(), Netuid(81), Some(Uid(2)));
        let context = RoleContext { role: role.to_owned(), network, netuid, uid };
        Point { metric, context: Arc::new(context), label, value }
    }

    #[test]
    fn families_share_a_header() {
        let points = vec![
            point("miner", Metric::MiningUploads, Label::None, 3.0),
            point("validator", Metric::FileRejected, Label::Reason("race_lost".into()), 2.0),
            point("validator", Metric::Weight, Label::Miner(Uid(2)), 0.25),
            point("validator", Metric::Weight, Label::Miner(Uid(3)), 0.0),
        ];
        let want = "\
# HELP grail_mining_successful_uploads_total Files uploaded.
# TYPE grail_mining_successful_uploads_total counter
grail_mining_successful_uploads_total{role=\"miner\",network=\"local\",netuid=\"81\",uid=\"2\"} 3
# HELP grail_validation_file_rejected_total Files rejected, by reason.
# TYPE grail_validation_file_rejected_total counter
grail_validation_file_rejected_total{role=\"validator\",network=\"local\",netuid=\"81\",uid=\"2\",reason=\"race_lost\"} 2
# HELP grail_weights_weight Weight that was last set for the miner.
# TYPE grail_weights_weight gauge
grail_weights_weight{role=\"validator\",network=\"local\",netuid=\"81\",uid=\"2\",miner_uid=\"2\"} 0.25
grail_weights_weight{role=\"validator\",network=\"local\",netuid=\"81\",uid=\"2\",miner_uid=\"3\"} 0
";
        assert_eq!(Snapshot { points, distributions: vec![] }.to_string(), want);
        assert_eq!(Snapshot::default().to_string(), "");
    }

    #[test]
    fn distributions_have_a_line_for_each_bound() {
        let Point { context, .. } = point("chain", Metric::ChainBlock, Label::None, 0.0);
        let context = RoleContext { uid: None, ..(*context).clone() };
        let mut histogram = Histogram::default();
        [0.01, 400.0].into_iter().for_each(|seconds| histogram.add(seconds));
        let (metric, label) = (Metric::ChainNodeCallSeconds, Label::Call("chain_getHeader"));
        let context = Arc::new(context);
        let distributions = vec![Distribution { metric, context, label, histogram }];
        let text = Snapshot { points: vec![], distributions }.to_string();
        let labels = r#"role="chain",network="local",netuid="81",call="chain_getHeader""#;
        for want in [
            "# TYPE grail_chain_node_call_seconds histogram".to_owned(),
            format!("grail_chain_node_call_seconds_bucket{{{labels},le=\"0.005\"}} 0"),
            format!("grail_chain_node_call_seconds_bucket{{{labels},le=\"0.02\"}} 1"),
            format!("grail_chain_node_call_seconds_bucket{{{labels},le=\"300\"}} 1"),
            format!("grail_chain_node_call_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("grail_chain_node_call_seconds_sum{{{labels}}} 400.01"),
            format!("grail_chain_node_call_seconds_count{{{labels}}} 2"),
        ] {
            assert!(text.lines().any(|line| line == want), "{want} in\n{text}");
        }
    }

    #[test]
    fn names_are_valid_distinct_and_explained() {
        let mut names = BTreeSet::new();
        for &metric in Metric::ALL {
            let name = exposed_name(metric);
            assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
            assert!(names.insert(name.clone()), "{name} twice");
            assert!(metric.help().ends_with('.') || metric.help().contains(','), "{name}");
            assert!(metric.help().len() > 10 && !metric.help().contains('\n'), "{name}");
        }
        assert_eq!(exposed_name(Metric::EvalPassAt1), "grail_eval_pass_1");
    }

    #[test]
    fn special_values_are_spelled_as_the_format_wants() {
        for (value, want) in [
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (1e21, "1000000000000000000000"),
            (0.1, "0.1"),
            (-0.5, "-0.5"),
        ] {
            assert_eq!(number(value), want);
        }
    }

    proptest! {
        #[test]
        fn any_label_stays_on_its_line(role in any::<String>(), reason in any::<String>()) {
            let label = Label::Reason(reason);
            let points = vec![point(&role, Metric::FileRejected, label, 1.0)];
            let text = Snapshot { points, distributions: vec![] };
            let text = text.to_string();
            prop_assert_eq!(text.matches('\n').count(), 3);
            // Outside of escapes, quotes open and close the values of five labels.
            let plain = text.replace("\\\\", "").replace("\\\"", "");
            prop_assert_eq!(plain.matches('"').count(), 10);
        }

        #[test]
        fn any_number_is_read_back(value in any::<f64>()) {
            let read: f64 = number(value).parse().unwrap();
            prop_assert!(read == value || (read.is_nan() && value.is_nan()));
        }
    }
}
