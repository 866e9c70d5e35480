//! The texts of a file's footer, read and written as Python does.

use super::Footer;
use crate::v5::python::digits::with_ascii_digits;
use crate::v5::python::json::Value;
use crate::v5::python::print::{to_float, to_int, to_str};

/// A footer whose number is none. The file counts as absent, and its miner is not banned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} of the footer is {text:?}; it must be a number")]
pub struct BadFooter {
    /// Key of the text.
    pub key: &'static str,
    /// What the file has, cut to 100 characters.
    pub text: String,
}

/// Keys of the texts, in the order in which they are written.
pub const FOOTER_KEYS: [&str; 5] =
    ["wallet", "window_start", "window_length", "inference_count", "timestamp"];

impl Footer {
    /// Reads the footer. Absent texts are empty and 0.
    ///
    /// - `find`: returns the text of a key.
    ///
    /// # Errors
    /// When a number is none.
    pub fn from_texts<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Self, BadFooter> {
        let integer = |key: &'static str| match find(key) {
            None => Ok(0),
            Some(text) => footer_integer(text).ok_or_else(|| bad(key, text)),
        };
        let timestamp = match find("timestamp") {
            None => 0.0,
            Some(text) => footer_float(text).ok_or_else(|| bad("timestamp", text))?,
        };
        Ok(Self {
            wallet: find("wallet").unwrap_or_default().to_owned(),
            window_start: integer("window_start")?,
            window_length: integer("window_length")?,
            inference_count: integer("inference_count")?,
            timestamp,
        })
    }

    /// Returns the texts to write, in the order of [`FOOTER_KEYS`].
    pub fn texts(&self) -> [String; 5] {
        let timestamp = to_str(&Value::Float(self.timestamp)).expect("a float prints");
        let numbers = [self.window_start, self.window_length, self.inference_count];
        let [start, length, count] = numbers.map(|number| number.to_string());
        [self.wallet.clone(), start, length, count, timestamp]
    }
}

fn bad(key: &'static str, text: &str) -> BadFooter {
    BadFooter { key, text: text.chars().take(100).collect() }
}

/// Reads what `int(text)` reads; cut to 64 bits, beyond which no window lies.
fn footer_integer(text: &str) -> Option<i64> {
    if let Some(integer) = to_int(&Value::Text(text.into())) {
        let [least, most] = [i64::MIN, i64::MAX].map(i128::from);
        return i64::try_from(integer.clamp(least, most)).ok();
    }
    // Beyond 128 bits, or no integer.
    let digits = with_ascii_digits(text.trim());
    let (limit, digits) = match digits.strip_prefix('-') {
        Some(digits) => (i64::MIN, digits),
        None => (i64::MAX, digits.strip_prefix('+').unwrap_or(&digits)),
    };
    let is_number = digits
        .split('_')
        .all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    (is_number && digits.len() <= DIGITS_MAX).then_some(limit)
}

/// Most digits that `int` reads.
const DIGITS_MAX: usize = 4_300;

/// Reads what `float(text)` reads.
pub(super) fn footer_float(text: &str) -> Option<f64> {
    to_float(&Value::Text(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(key: &'static str, text: &'static str) -> Result<Footer, BadFooter> {
        Footer::from_texts(|asked| (asked == key).then_some(text))
    }

    #[test]
    fn integers_are_read_as_python_reads_them() {
        let nines: &str = "999999999999999999999999999999999999999999";
        for (text, want) in [
            ("5123430", Some(5_123_430)),
            (" -3 ", Some(-3)),
            ("1_000", Some(1_000)),
            ("-\u{ff11}\u{662}", Some(-12)),
            (nines, Some(i64::MAX)),
            ("-9223372036854775809", Some(i64::MIN)),
            ("abc", None),
            ("3.0", None),
            ("", None),
            ("1__0", None),
        ] {
            assert_eq!(read("window_start", text).ok().map(|footer| footer.window_start), want);
        }
    }

    #[test]
    fn floats_are_read_as_python_reads_them() {
        for (text, want) in [
            ("1700000123.456", Some(1_700_000_123.456)),
            ("1_0.5", Some(10.5)),
            (" Infinity ", Some(f64::INFINITY)),
            ("1e400", Some(f64::INFINITY)),
            (".5", Some(0.5)),
            ("5.", Some(5.0)),
            ("_1", None),
            ("1_.5", None),
            ("+-1", None),
            ("0x10", None),
            ("", None),
        ] {
            assert_eq!(read("timestamp", text).ok().map(|footer| footer.timestamp), want, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let footer = Footer {
            wallet: "5Grw".into(),
            window_start: 30,
            window_length: 30,
            inference_count: 16,
            timestamp: 1_700_000_123.0,
        };
        let texts = footer.texts();
        assert_eq!(texts[4], "1700000123.0");
        let place = |key: &str| FOOTER_KEYS.iter().position(|name| *name == key);
        let read = Footer::from_texts(|key| place(key).map(|place| texts[place].as_str()));
        assert_eq!(read, Ok(footer));
        assert_eq!(Footer::from_texts(|_| None), Ok(Footer::default()));
    }
}
