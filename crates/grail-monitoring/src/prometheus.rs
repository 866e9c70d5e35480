//! Writes the text format that Prometheus scrapes (version 0.0.4).

use std::fmt::{self, Write};

use crate::{Kind, Label, Metric, Point};

/// Writes `points`, which are sorted by metric.
pub(crate) fn write(out: &mut impl Write, points: &[Point]) -> fmt::Result {
    for family in points.chunk_by(|a, b| a.metric == b.metric) {
        let metric = family[0].metric;
        let name = exposed_name(metric);
        let kind = match metric.kind() {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        writeln!(out, "# HELP {name} {}", escape(metric.help(), false))?;
        writeln!(out, "# TYPE {name} {kind}")?;
        for point in family {
            write_point(out, &name, point)?;
        }
    }
    Ok(())
}

fn write_point(out: &mut impl Write, name: &str, point: &Point) -> fmt::Result {
    let context = &point.context;
    write!(
        out,
        "{name}{{role=\"{}\",network=\"{}\",netuid=\"{}\",uid=\"{}\"",
        escape(&context.role, true),
        escape(&context.network, true),
        context.netuid,
        context.uid,
    )?;
    match &point.label {
        Label::None => {}
        Label::Miner(uid) => write!(out, ",miner_uid=\"{uid}\"")?,
        Label::Reason(reason) => write!(out, ",reason=\"{}\"", escape(reason, true))?,
    }
    writeln!(out, "}} {}", number(point.value))
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
    use crate::{RoleContext, Snapshot};

    fn point(role: &str, metric: Metric, label: Label, value: f64) -> Point {
        let (network, netuid, uid) = ("local".to_owned(), Netuid(81), Uid(2));
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
        assert_eq!(Snapshot { points }.to_string(), want);
        assert_eq!(Snapshot::default().to_string(), "");
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
            let text = Snapshot { points: vec![point(&role, Metric::FileRejected, label, 1.0)] };
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
