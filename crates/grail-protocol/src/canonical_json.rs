//! Writes JSON in one way only: sorted keys, no white space, ASCII.
//!
//! The bytes equal Python's `json.dumps(value, sort_keys=True, separators=(",", ":"))`, so signatures
//! over metadata agree with the reference's. Floats are shortest round-trip digits in Python's form.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// Returns the canonical text of `value`.
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                separate(out, position);
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            // UTF-8 sorts as code points do, which is Python's order.
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (position, (key, field)) in sorted.into_iter().enumerate() {
                separate(out, position);
                write_text(out, key);
                out.push(':');
                write_value(out, field);
            }
            out.push('}');
        }
    }
}

fn separate(out: &mut String, position: usize) {
    if position > 0 {
        out.push(',');
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to a string cannot fail");
                }
            }
        }
    }
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    match number.as_f64() {
        Some(value) if number.is_f64() => write_float(out, value),
        _ => write!(out, "{number}").expect("writing to a string cannot fail"),
    }
}

/// Writes as Python's `repr` does: plain digits for decimal exponents -4 to 15, else scientific
/// with at least two digits of exponent. The value must be finite.
///
/// Where a number lies exactly between two shortest decimals, Python takes the even one, as the
/// printer used here does and Rust's own does not. Numbers that were f32 once often lie so.
pub(crate) fn write_float(out: &mut String, value: f64) {
    let mut buffer = zmij::Buffer::new();
    let shortest = buffer.format_finite(value);
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-4..1e16).contains(&magnitude) {
        out.push_str(shortest);
    } else {
        write_scientific(out, shortest);
    }
}

/// Rewrites `0.000012`, `1.2e-7` or `1e20`, with a sign or without, as `d.ddde±dd`.
fn write_scientific(out: &mut String, shortest: &str) {
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().expect("an exponent of three digits at most");
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{fraction}");
    let n_zeros = digits.len() - digits.trim_start_matches('0').len();
    let digits = digits.trim_matches('0');
    let shift = i32::try_from(whole.len()).expect("a float has 17 digits at most")
        - i32::try_from(n_zeros).expect("and few zeros before them");
    let exponent = exponent + shift - 1;
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let sign = if exponent < 0 { '-' } else { '+' };
    if mantissa.len() > unsigned.len() {
        out.push('-');
    }
    write!(out, "{first}{point}{rest}e{sign}{:02}", exponent.abs())
        .expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn floats_look_like_pythons() {
        for (value, want) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.7, "0.7"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123_456_789.125, "123456789.125"),
            (1.797_693_134_862_315_7e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (1_700_000_000.25, "1700000000.25"),
            (-0.000_123, "-0.000123"),
            (120.0, "120.0"),
            // Exactly between two decimals of 17 digits.
            (f64::from(3.812_385_6_f32), "3.8123855590820312"),
            (f64::from(0.1f32), "0.10000000149011612"),
        ] {
            assert_eq!(canonical_json(&json!(value)), want);
        }
    }

    #[test]
    fn keys_are_sorted_and_text_is_ascii() {
        let value =
            json!({"b": [1, -2, null, true], "a": {"é\u{1f600}": "\"\\\n\u{7f}\u{1}"}, "B": ""});
        assert_eq!(
            canonical_json(&value),
            r#"{"B":"","a":{"\u00e9\ud83d\ude00":"\"\\\n\u007f\u0001"},"b":[1,-2,null,true]}"#
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn floats_are_printed_by_the_nearest_shortest_even_digits(
            wide in any::<f64>(),
            narrow in any::<f32>(),
            logprob in -20.0_f32..0.0,
        ) {
            for value in [wide, f64::from(narrow), f64::from(logprob)] {
                if value.is_finite() {
                    let mut out = String::new();
                    write_float(&mut out, value);
                    prop_assert_eq!(out, repr_by_hand(value));
                }
            }
        }

        #[test]
        fn canonical_text_reads_back_and_is_a_fixed_point(value in any_json()) {
            let text = canonical_json(&value);
            prop_assert!(text.is_ascii());
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(canonical_json(&read), text);
            prop_assert_eq!(read, value);
        }
    }

    /// The same text by exact decimals, slowly.
    fn repr_by_hand(value: f64) -> String {
        let mut out = String::new();
        let shortest = format!("{:e}", value.abs());
        let (mantissa, exponent) = shortest.split_once('e').expect("`{:e}` writes an exponent");
        let exponent: i32 = exponent.parse().expect("`{:e}` writes a small exponent");
        let digits = to_even(mantissa.replace('.', ""), exponent, value.abs());
        if value.is_sign_negative() {
            out.push('-');
        }
        let (first, rest) = digits.split_at(1);
        if !(-4..16).contains(&exponent) {
            let point = if rest.is_empty() { "" } else { "." };
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(out, "{first}{point}{rest}e{sign}{:02}", exponent.abs())
                .expect("writing to a string cannot fail");
        } else if exponent < 0 {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            write!(out, "0.{zeros}{digits}").expect("writing to a string cannot fail");
        } else {
            let n_whole = exponent.unsigned_abs() as usize + 1;
            let padded = format!("{digits:0<width$}", width = n_whole + 1);
            // One digit at least after the point; more only as the number has them.
            let end = digits.len().max(n_whole + 1);
            write!(out, "{}.{}", &padded[..n_whole], &padded[n_whole..end])
                .expect("writing to a string cannot fail");
        }
        out
    }

    /// Where a number lies exactly between two shortest decimals, Rust takes the upper and Python the
    /// even one. Numbers that were f32 once, such as log-probabilities, often do.
    fn to_even(digits: String, exponent: i32, value: f64) -> String {
        let last = digits.as_bytes()[digits.len() - 1];
        if last.is_multiple_of(2) {
            return digits;
        }
        let lower = format!("{}{}", &digits[..digits.len() - 1], char::from(last - 1));
        let is_between = |decimals: usize| {
            let exact = format!("{value:.decimals$e}");
            let (mantissa, _) = exact.split_once('e').expect("`{:e}` writes an exponent");
            let tail = mantissa.replace('.', "");
            let tail = tail.strip_prefix(lower.as_str()).and_then(|tail| tail.strip_prefix('5'));
            tail.is_some_and(|tail| tail.bytes().all(|digit| digit == b'0'))
        };
        // A glance first; then every digit that an f64 can have.
        if is_between(digits.len()) && is_between(F64_DIGITS_MAX) {
            let (first, rest) = lower.split_at(1);
            if format!("{first}.{rest}e{exponent}").parse() == Ok(value) {
                return lower;
            }
        }
        digits
    }

    /// Significant decimal digits of the longest f64.
    const F64_DIGITS_MAX: usize = 767;
}
