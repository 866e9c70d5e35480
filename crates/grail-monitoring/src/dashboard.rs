//! Cleans what the reference's dashboards read from the log: one JSON object a line.
//!
//! Source: `spec/observability.md`. Their queries know fields by names of letters, digits and
//! underscores, and take no number that JSON has none for.

use grail_protocol::v5::python::json::{Text, Value};
use grail_protocol::v5::python::print::{Keys, to_json};

/// Significant digits of a float, one before the point.
const FRACTION_DIGITS: usize = 5;

/// Returns a value as the dashboards take it: keys with `_` for what is no letter, digit or
/// underscore, floats of six significant digits, null for numbers that are none.
pub fn cleaned(value: &Value) -> Value {
    match value {
        Value::Float(float) if float.is_finite() => {
            let digits = format!("{float:.FRACTION_DIGITS$e}");
            Value::Float(digits.parse().expect("a float is printed as a float"))
        }
        Value::Float(_) => Value::Null,
        Value::List(items) => Value::List(items.iter().map(cleaned).collect()),
        Value::Object(fields) => {
            let mut clean: Vec<(Text, Value)> = Vec::with_capacity(fields.len());
            for (key, value) in fields {
                let (key, value) = (cleaned_key(key), cleaned(value));
                // Of two keys that become equal the last counts, in the place of the first.
                match clean.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, kept)) => *kept = value,
                    None => clean.push((key, value)),
                }
            }
            Value::Object(clean)
        }
        other => other.clone(),
    }
}

/// Returns the text of a log line: the cleaned payload without white space.
pub fn line(payload: &Value) -> String {
    to_json(&cleaned(payload), Keys::AsInserted)
}

fn cleaned_key(key: &Text) -> Text {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    // Half a surrogate pair has no letters to keep.
    let clean = key.as_str().map_or_else(|| "_".to_owned(), |key| key.chars().map(plain).collect());
    Text::from(clean.as_str())
}

#[cfg(test)]
mod tests {
    use grail_protocol::v5::python::json;
    use grail_testkit::vectors::{every_case, python};

    use super::*;

    /// The vectors write numbers that are none as texts.
    fn with_numbers(value: Value) -> Value {
        match value {
            Value::Text(text) => match text.as_str() {
                Some("NaN") => Value::Float(f64::NAN),
                Some("Infinity") => Value::Float(f64::INFINITY),
                Some("-Infinity") => Value::Float(f64::NEG_INFINITY),
                _ => Value::Text(text),
            },
            Value::List(items) => Value::List(items.into_iter().map(with_numbers).collect()),
            Value::Object(fields) => Value::Object(
                fields.into_iter().map(|(key, value)| (key, with_numbers(value))).collect(),
            ),
            other => other,
        }
    }

    #[test]
    fn payloads_are_cleaned_as_in_the_reference() {
        every_case("trainer_data", "dashboard_sanitize.json", |case| {
            let got = cleaned(&with_numbers(python(&case["value"])));
            // As text: 0 and -0 are equal but not the same.
            let expected = to_json(&python(&case["sanitized"]), Keys::AsInserted);
            assert_eq!(to_json(&got, Keys::AsInserted), expected, "{case}");
        });
    }

    #[test]
    fn a_line_is_compact_and_later_keys_win() {
        let payload = json::parse(r#"{"pass@1": 0.25, "n": 3, "pass/1": [NaN]}"#).unwrap();
        assert_eq!(line(&payload), r#"{"pass_1":[null],"n":3}"#);
    }
}
