//! Prints values as Python prints them: `json.dumps` in the forms that are used, `str` and `repr`.

use std::fmt::Write as _;

use super::digits::with_ascii_digits;
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

/// Without white space, keys as they were inserted.
const DENSE: Style = Style { keys: Keys::AsInserted, comma: ",", colon: ":" };

/// Returns `json.dumps(value, sort_keys=True)`: as [`to_spaced_json`], keys by code points.
pub fn to_sorted_spaced_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, Style { keys: Keys::Sorted, comma: ", ", colon: ": " });
    out
}

/// Returns `json.dumps(value, indent=2, ensure_ascii=False)`. Half a surrogate pair, which Python
/// could not write to a file, is escaped.
pub fn to_json_indented(value: &Value) -> String {
    let mut out = String::new();
    write_indented(&mut out, value, 0);
    out
}

fn write_indented(out: &mut String, value: &Value, depth: usize) {
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    match value {
        Value::List(items) if !items.is_empty() => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                out.push_str(if position > 0 { "," } else { "" });
                line(out, depth + 1);
                write_indented(out, item, depth + 1);
            }
            line(out, depth);
            out.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            out.push('{');
            for (position, (key, field)) in fields.iter().enumerate() {
                out.push_str(if position > 0 { "," } else { "" });
                line(out, depth + 1);
                write_text(out, key, false);
                out.push_str(": ");
                write_indented(out, field, depth + 1);
            }
            line(out, depth);
            out.push('}');
        }
        Value::Text(text) => write_text(out, text, false),
        flat => write_value(out, flat, DENSE),
    }
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
        Value::Text(text) => write_text(out, text, true),
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
                write_text(out, key, true);
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

fn write_text(out: &mut String, text: &Text, ascii: bool) {
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
            Some(character) if !ascii && character >= ' ' => out.push(character),
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

/// Returns what `repr(value)` gives. Characters that Python does not call printable are escaped only
/// where they are control characters.
pub fn to_repr(value: &Value) -> String {
    match value {
        Value::Text(text) => repr_of_text(text),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(to_repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let one =
                |(key, field): &(Text, Value)| format!("{}: {}", repr_of_text(key), to_repr(field));
            format!("{{{}}}", fields.iter().map(one).collect::<Vec<_>>().join(", "))
        }
        flat => to_str(flat).unwrap_or_default(),
    }
}

fn repr_of_text(text: &Text) -> String {
    let code_points: Vec<u32> = text.code_points().collect();
    let has = |quote: char| code_points.contains(&u32::from(quote));
    let quote = if has('\'') && !has('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for code_point in code_points {
        match char::from_u32(code_point) {
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some('\t') => out.push_str("\\t"),
            Some(character) if character == quote || character == '\\' => {
                out.extend(['\\', character]);
            }
            Some(character) if !character.is_control() => out.push(character),
            _ if code_point < 0x100 => out.push_str(&format!("\\x{code_point:02x}")),
            _ => out.push_str(&format!("\\u{code_point:04x}")),
        }
    }
    out.push(quote);
    out
}

/// Returns what `float(value)` gives: text and integers convert, null and lists do not.
pub fn to_float(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        // Both round to nearest, ties to even.
        Value::Integer(integer) => integer.to_string().parse().ok(),
        Value::Big(digits) => digits.parse().ok().filter(|float: &f64| float.is_finite()),
        Value::Float(float) => Some(*float),
        Value::Text(text) => float_of_text(text.as_str()?),
        _ => None,
    }
}

/// Reads a decimal number, `inf` or `nan`, with white space around it and single underscores
/// between digits.
fn float_of_text(text: &str) -> Option<f64> {
    let text = with_ascii_digits(text.trim());
    let between_digits = |at: usize| {
        let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        let bytes = text.as_bytes();
        digit(at.checked_sub(1).and_then(|before| bytes.get(before))) && digit(bytes.get(at + 1))
    };
    if !text.match_indices('_').all(|(at, _)| between_digits(at)) {
        return None;
    }
    text.replace('_', "").parse().ok()
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
    let text = with_ascii_digits(text.trim());
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What CPython 3.12 gives for `int(text)` and `float(text)`.
    #[test]
    fn text_becomes_numbers_as_in_python() {
        for (text, integer, float) in [
            ("\u{665}", Some(5), Some(5.0)),
            ("-\u{ff11}", Some(-1), Some(-1.0)),
            ("1_\u{966}", Some(10), Some(10.0)),
            ("\u{663}.\u{665}", None, Some(3.5)),
            ("\u{85}7\u{3000}", Some(7), Some(7.0)),
            // `strip` removes this one, and these two do not.
            ("\u{1c}7", None, None),
            ("\u{bd}", None, None),
            ("\u{b2}", None, None),
            ("1__0", None, None),
            ("+-1", None, None),
        ] {
            let value = Value::Text(text.into());
            assert_eq!((to_int(&value), to_float(&value)), (integer, float), "{text:?}");
        }
    }
}
