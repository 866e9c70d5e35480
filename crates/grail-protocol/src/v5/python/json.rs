//! JSON as Python's `json` module reads it, with all that the standard does not have.
//!
//! Commitments are hashed as Python would print them after parsing: integers of any size keep their
//! digits, floats are printed by `repr`, of two equal keys the last counts, `NaN` and infinities are
//! numbers, and half a surrogate pair is a character.

/// Deepest nesting that is read. Python gives up near 1,000, depending on its stack.
const DEPTH_MAX: usize = 200;

/// Most digits of an integer, Python's own limit.
const INTEGER_DIGITS_MAX: usize = 4_300;

/// A value of Python's types.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`.
    Null,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of ordinary size.
    Integer(i64),
    /// A larger one, by its decimal digits and sign.
    Big(Box<str>),
    /// A float, which may be no number.
    Float(f64),
    /// A string.
    Text(Text),
    /// A list.
    List(Vec<Value>),
    /// A dictionary in the order of insertion, each key once.
    Object(Vec<(Text, Value)>),
}

/// A Python string: like UTF-8, but surrogates may stand alone. Orders as code points do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(Vec<u8>);

impl Text {
    /// Returns the text, unless a surrogate stands alone in it.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Returns the code points, surrogates included.
    pub(super) fn code_points(&self) -> impl Iterator<Item = u32> {
        let mut rest = self.0.iter();
        std::iter::from_fn(move || {
            let first = u32::from(*rest.next()?);
            let (n_more, bits) = match first {
                0..0x80 => (0, first),
                0x80..0xe0 => (1, first & 0x1f),
                0xe0..0xf0 => (2, first & 0x0f),
                _ => (3, first & 0x07),
            };
            Some(
                rest.by_ref()
                    .take(n_more)
                    .fold(bits, |high, &byte| high << 6 | u32::from(byte & 0x3f)),
            )
        })
    }

    fn push(&mut self, code_point: u32) {
        match char::from_u32(code_point) {
            Some(character) => {
                self.0.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
            // Surrogates are below 2^16: three bytes of the same scheme.
            None => self.0.extend(
                [0xe0 | code_point >> 12, 0x80 | code_point >> 6 & 0x3f, 0x80 | code_point & 0x3f]
                    .map(|byte| u8::try_from(byte).expect("a surrogate has 16 bits")),
            ),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<f64> for Value {
    fn from(float: f64) -> Self {
        Self::Float(float)
    }
}

impl From<u64> for Value {
    fn from(integer: u64) -> Self {
        i64::try_from(integer).map_or_else(|_| Self::Big(integer.to_string().into()), Self::Integer)
    }
}

impl Value {
    /// Makes a dictionary; the keys must differ.
    pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        Self::Object(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// Returns the field of a dictionary.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(name, _)| name.0 == key.as_bytes()).map(|(_, value)| value)
    }

    /// Returns the text of a string without lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { text.as_str() } else { None }
    }

    /// Returns the fields of a dictionary.
    pub fn as_object(&self) -> Option<&[(Text, Self)]> {
        if let Self::Object(fields) = self { Some(fields) } else { None }
    }

    /// Returns the elements of a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }
}

/// Text that Python's `json.loads` refuses, or that is too deep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no JSON at byte {at}: {what}; send what a JSON writer gives")]
pub struct BadJson {
    /// Where reading stopped.
    pub at: usize,
    /// What was expected.
    pub what: &'static str,
}

/// Reads one value, with white space around it.
///
/// # Errors
/// [`BadJson`] where Python raises, and for nesting deeper than 200.
pub fn parse(text: &str) -> Result<Value, BadJson> {
    let mut reader = Reader { text, at: 0 };
    reader.skip_space();
    let value = reader.value(0)?;
    reader.skip_space();
    if reader.at < text.len() { Err(reader.bad("nothing more")) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn bad(&self, what: &'static str) -> BadJson {
        BadJson { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(token.as_bytes());
        if found {
            self.at += token.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, BadJson> {
        if depth > DEPTH_MAX {
            return Err(self.bad("less nesting"));
        }
        for (token, value) in [
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("false", Value::Bool(false)),
            ("NaN", Value::Float(f64::NAN)),
            ("Infinity", Value::Float(f64::INFINITY)),
            ("-Infinity", Value::Float(f64::NEG_INFINITY)),
        ] {
            if self.take(token) {
                return Ok(value);
            }
        }
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.object(depth),
            _ => self.number(),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, BadJson> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip_space();
        if self.take("]") {
            return Ok(Value::List(items));
        }
        loop {
            self.skip_space();
            items.push(self.value(depth + 1)?);
            self.skip_space();
            if self.take("]") {
                return Ok(Value::List(items));
            }
            if !self.take(",") {
                return Err(self.bad("a comma or the end of a list"));
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, BadJson> {
        self.at += 1;
        let mut fields = Fields::default();
        self.skip_space();
        if self.take("}") {
            return Ok(Value::Object(fields.in_order));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(self.bad("a key"));
            }
            let key = self.string()?;
            self.skip_space();
            if !self.take(":") {
                return Err(self.bad("a colon"));
            }
            self.skip_space();
            fields.insert(key, self.value(depth + 1)?);
            self.skip_space();
            if self.take("}") {
                return Ok(Value::Object(fields.in_order));
            }
            if !self.take(",") {
                return Err(self.bad("a comma or the end of an object"));
            }
        }
    }

    fn string(&mut self) -> Result<Text, BadJson> {
        self.at += 1;
        let mut text = Text(Vec::new());
        loop {
            match self.peek() {
                None | Some(..0x20) => return Err(self.bad("the end of a string")),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let code_point = self.escape()?;
                    text.push(code_point);
                }
                Some(byte) => {
                    text.0.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<u32, BadJson> {
        let letter = self.peek().ok_or(self.bad("an escape"))?;
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => u32::from(letter),
            b'b' => 0x8,
            b'f' => 0xc,
            b'n' => 0xa,
            b'r' => 0xd,
            b't' => 0x9,
            b'u' => {
                let unit = self.unit()?;
                let low_at = self.at;
                if (0xd800..0xdc00).contains(&unit) && self.take("\\u") {
                    // Half a pair that is not followed by the other half stands alone.
                    if let Ok(low @ 0xdc00..0xe000) = self.unit() {
                        return Ok(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
                    }
                    self.at = low_at;
                }
                unit
            }
            _ => return Err(self.bad("an escape")),
        })
    }

    fn unit(&mut self) -> Result<u32, BadJson> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or(self.bad("four hexadecimal digits"))?;
        self.at += 4;
        Ok(digits.iter().fold(0, |high, &digit| {
            high << 4 | char::from(digit).to_digit(16).expect("checked to be a digit")
        }))
    }

    fn number(&mut self) -> Result<Value, BadJson> {
        let start = self.at;
        self.take("-");
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.bad("a value")),
        }
        let integer_end = self.at;
        self.optional_part(b".", false);
        self.optional_part(b"eE", true);
        let digits = &self.text[start..self.at];
        if self.at > integer_end {
            let float = digits.parse().expect("Rust reads every float of this form");
            return Ok(Value::Float(float));
        }
        if digits.len() > INTEGER_DIGITS_MAX {
            return Err(self.bad("an integer of at most 4,300 digits"));
        }
        Ok(digits.parse().map_or_else(|_| Value::Big(digits.into()), Value::Integer))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    /// Reads a fraction or an exponent, or nothing when no digit follows.
    fn optional_part(&mut self, starts: &[u8], signed: bool) {
        let start = self.at;
        if !self.peek().is_some_and(|byte| starts.contains(&byte)) {
            return;
        }
        self.at += 1;
        if signed && matches!(self.peek(), Some(b'+' | b'-')) {
            self.at += 1;
        }
        let first_digit = self.at;
        self.digits();
        if self.at == first_digit {
            self.at = start;
        }
    }
}

/// A dictionary being filled: of equal keys the first gives the place, the last the value.
#[derive(Default)]
struct Fields {
    in_order: Vec<(Text, Value)>,
    places: std::collections::BTreeMap<Text, usize>,
}

impl Fields {
    fn insert(&mut self, key: Text, value: Value) {
        if let Some(&place) = self.places.get(&key) {
            self.in_order[place].1 = value;
        } else {
            self.places.insert(key.clone(), self.in_order.len());
            self.in_order.push((key, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::print::{Keys, to_json};
    use super::*;

    #[test]
    fn text_that_python_refuses_is_refused() {
        for text in [
            "",
            " ",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "-",
            ".5",
            "+1",
            "\"\n\"",
            "\"\\x\"",
            "nan",
            "[1] 2",
            "{1:2}",
            "'a'",
            "\"\\u12g4\"",
            "1e",
            "tru",
            "\u{feff}1",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"9".repeat(4_301)).is_err());
    }

    #[test]
    fn python_prints_what_it_read() {
        for (text, want) in [
            (r#"{"b":1,"a":2,"b":3}"#, r#"{"a":2,"b":3}"#),
            ("[NaN, Infinity, -Infinity]", "[NaN,Infinity,-Infinity]"),
            ("1e999", "Infinity"),
            ("[1e16, 1.50, -0, -0.0]", "[1e+16,1.5,0,-0.0]"),
            ("-12345678901234567890123", "-12345678901234567890123"),
            (r#""\ud83d\ude00 \ud83d \ude00\/""#, r#""\ud83d\ude00 \ud83d \ude00/""#),
            (r#"["\u00e9é\u0007"]"#, r#"["\u00e9\u00e9\u0007"]"#),
            (r#"{"\ue000":1,"\ud800":2,"\ud7ff":3}"#, r#"{"\ud7ff":3,"\ud800":2,"\ue000":1}"#),
        ] {
            assert_eq!(to_json(&parse(text).unwrap(), Keys::Sorted), want, "{text}");
        }
        let value = parse(r#"{"b":1,"a":2,"b":3}"#).unwrap();
        assert_eq!(to_json(&value, Keys::AsInserted), r#"{"b":3,"a":2}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_printed_reads_back(text in r#"[\[\]{}",:\\u0-9a-f.eE+ -]{0,40}"#) {
            if let Ok(value) = parse(&text) {
                let printed = to_json(&value, Keys::Sorted);
                prop_assert!(printed.is_ascii());
                let read = parse(&printed).unwrap();
                prop_assert_eq!(to_json(&read, Keys::Sorted), printed);
            }
        }
    }
}
