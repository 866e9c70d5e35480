//! Prints values as Python prints them: `json.dumps` without white space, and `str`.

use std::fmt::Write as _;

use super::json::{Text, Value};
use crate::canonical_json::write_float;

/// Order of a dictionary's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// By code points (`sort_keys=True`).
    Sorted,
    /// As they were inserted.
    AsInserted,
}

/// Returns `json.dumps(value, separators=(",", ":"))`, ASCII only.
pub fn to_json(value: &Value, keys: Keys) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Style { keys, comma: ",", colon: ":" });
    out
}

/// Returns `json.dumps(value)`: a space after each comma and colon, keys as they were inserted.
pub fn to_spaced_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Style { keys: Keys::AsInserted, comma: ", ", colon: ": " });
    out
}

#[derive(Clone, Copy)]
struct Style {
    keys: Keys,
    comma: &'static str,
    colon: &'static str,
}

fn write_value(out: &mut String, value: &Value, style: Style) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Integer(integer) => {
            write!(out, "{integer}").expect("writing to a string cannot fail");
        }
        Value::Big(digits) => out.push_str(digits),
        Value::Float(float) => write_any_float(out, *float),
        Value::Text(text) => write_text(out, text),
        Value::List(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                separate(out, position, style);
                write_value(out, item, style);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<&(Text, Value)> = fields.iter().collect();
            if style.keys == Keys::Sorted {
                fields.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            }
            out.push('{');
            for (position, (key, field)) in fields.into_iter().enumerate() {
                separate(out, position, style);
                write_text(out, key);
                out.push_str(style.colon);
                write_value(out, field, style);
            }
            out.push('}');
        }
    }
}

fn separate(out: &mut String, position: usize, style: Style) {
    if position > 0 {
        out.push_str(style.comma);
    }
}

/// Writes a float as JSON text; `repr` differs only in what is no number.
pub(in crate::v5) fn write_any_float(out: &mut String, float: f64) {
    if float.is_nan() {
        out.push_str("NaN");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        write_float(out, float);
    }
}

fn write_text(out: &mut String, text: &Text) {
    out.push('"');
    for code_point in text.code_points() {
        match char::from_u32(code_point) {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some('\u{8}') => out.push_str("\\b"),
            Some('\u{c}') => out.push_str("\\f"),
            Some(character @ ' '..='~') => out.push(character),
            Some(character) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("writing to a string cannot fail");
                }
            }
            None => write!(out, "\\u{code_point:04x}").expect("writing to a string cannot fail"),
        }
    }
    out.push('"');
}

/// Returns what `str(value)` gives for `None`, booleans, numbers and strings; `None` for others.
pub fn to_str(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Text(text) => text.as_str()?.to_owned(),
        Value::Float(float) if float.is_nan() => "nan".to_owned(),
        Value::Float(float) if float.is_infinite() => {
            if *float > 0.0 {
                "inf".to_owned()
            } else {
                "-inf".to_owned()
            }
        }
        Value::Integer(_) | Value::Big(_) | Value::Float(_) => to_json(value, Keys::Sorted),
        Value::List(_) | Value::Object(_) => return None,
    })
}

/// Returns what `int(value)` gives: text and floats convert, null and lists do not.
///
/// Integers beyond 128 bits, which no row has, do not either.
pub fn to_int(value: &Value) -> Option<i128> {
    match value {
        Value::Bool(flag) => Some(i128::from(*flag)),
        Value::Integer(integer) => Some(i128::from(*integer)),
        Value::Big(digits) => digits.parse().ok(),
        Value::Float(float) if float.abs() < 1e38 => Some(float.trunc() as i128),
        Value::Text(text) => int_of_text(text.as_str()?),
        _ => None,
    }
}

/// Reads decimal digits with white space around and single underscores between them.
fn int_of_text(text: &str) -> Option<i128> {
    let text = text.trim_matches(super::super::randomness::is_python_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut value: i128 = 0;
    for group in digits.split('_') {
        if group.is_empty() || !group.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        for digit in group.bytes() {
            value = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        }
    }
    Some(sign * value)
}
