//! A part of a commit that the file keeps as JSON text: read when needed, copied when honest.

use sha2::{Digest as _, Sha256};

use crate::v5::python::json::{self, BadJson, Value};
use crate::v5::python::print::{Keys, to_json};

/// Most bytes of JSON in a cell. An honest commitment takes 22 bytes a token at most.
pub const COMMITMENTS_BYTES_MAX: usize = 4 << 20;

/// Text that Python's `json.loads` reads, of at most [`COMMITMENTS_BYTES_MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(Box<str>);

impl JsonText {
    /// Accepts a cell.
    ///
    /// # Errors
    /// When it is no JSON, nests deeper than 200, or is too long.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, BadJson> {
        let text = text.into();
        if text.len() > COMMITMENTS_BYTES_MAX {
            return Err(BadJson { at: COMMITMENTS_BYTES_MAX, what: "less text" });
        }
        if !Sketches::new(&text).reads_whole() {
            json::parse(&text)?;
        }
        Ok(Self(text))
    }

    /// Returns what a null cell is.
    pub fn null() -> Self {
        Self("null".into())
    }

    /// Returns a list of one `{"sketch": integer}` per sketch, as an honest miner writes it.
    pub fn of_sketches(sketches: &[i64]) -> Self {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(2 + 26 * sketches.len());
        text.push('[');
        for (position, sketch) in sketches.iter().enumerate() {
            let comma = if position > 0 { ", " } else { "" };
            write!(text, "{comma}{{\"sketch\": {sketch}}}").expect("a string can be written to");
        }
        text.push(']');
        Self(text.into())
    }

    /// Returns the text as the file has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the text.
    pub fn value(&self) -> Value {
        json::parse(&self.0).expect("read when it was made")
    }

    /// Returns the sketches of an honest list, or `None` for any other text: with other keys, other
    /// spacing than a JSON printer's, or numbers beyond 18 digits.
    pub fn sketches(&self) -> Option<Vec<i64>> {
        let mut sketches = Sketches::new(&self.0);
        // An element is `{"sketch": 0}` and a separator at least.
        let mut all = Vec::with_capacity(self.0.len() / 13);
        all.extend(sketches.by_ref().map(|digits| {
            digits.parse::<i64>().expect("18 digits at most, with a sign or without")
        }));
        sketches.ended_well().then_some(all)
    }

    /// Returns SHA-256 of the text as [`Self::write_canonical`] writes it, which a commit's signature
    /// covers.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut canonical = String::with_capacity(self.0.len());
        self.write_canonical(&mut canonical);
        Sha256::digest(canonical).into()
    }

    /// Appends the text as `json.dumps(value, sort_keys=True, separators=(",", ":"))` prints it.
    pub(super) fn write_canonical(&self, out: &mut String) {
        let start = out.len();
        let mut sketches = Sketches::new(&self.0);
        let mut separator = "";
        out.push('[');
        for digits in sketches.by_ref() {
            out.push_str(separator);
            out.push_str("{\"sketch\":");
            out.push_str(digits);
            out.push('}');
            separator = ",";
        }
        out.push(']');
        if !sketches.ended_well() {
            out.truncate(start);
            out.push_str(&to_json(&self.value(), Keys::Sorted));
        }
    }
}

impl Default for JsonText {
    /// Returns an empty list.
    fn default() -> Self {
        Self("[]".into())
    }
}

/// The numbers of an honest list, whose digits are those that Python prints again.
struct Sketches<'a> {
    rest: &'a str,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Start,
    Inside,
    End,
    Other,
}

impl<'a> Sketches<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text, state: State::Start }
    }

    /// Whether the whole text was such a list; ask at the end.
    fn ended_well(&self) -> bool {
        self.state == State::End && self.rest.is_empty()
    }

    fn reads_whole(mut self) -> bool {
        self.by_ref().for_each(drop);
        self.ended_well()
    }

    fn take(&mut self, spaced: &str, tight: &str) -> Option<()> {
        let rest = self.rest.strip_prefix(spaced).or_else(|| self.rest.strip_prefix(tight))?;
        self.rest = rest;
        Some(())
    }

    fn element(&mut self) -> Option<&'a str> {
        let is_first = self.state == State::Start;
        if is_first {
            self.take("[", "[")?;
            self.state = State::Inside;
        }
        if let Some(rest) = self.rest.strip_prefix(']') {
            self.rest = rest;
            self.state = State::End;
            return None;
        }
        if !is_first {
            self.take(", ", ",")?;
        }
        self.take("{\"sketch\": ", "{\"sketch\":")?;
        let n_digits = number_length(self.rest.as_bytes())?;
        let (digits, rest) = self.rest.split_at(n_digits);
        self.rest = rest.strip_prefix('}')?;
        Some(digits)
    }
}

impl<'a> Iterator for Sketches<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if !matches!(self.state, State::Start | State::Inside) {
            return None;
        }
        let element = self.element();
        if element.is_none() && self.state != State::End {
            self.state = State::Other;
        }
        element
    }
}

/// Returns the length of an integer of at most 18 digits that Python prints as it is written.
fn number_length(text: &[u8]) -> Option<usize> {
    let sign = usize::from(text.first() == Some(&b'-'));
    let n_digits = text[sign..].iter().take(19).take_while(|byte| byte.is_ascii_digit()).count();
    let is_zero = text.get(sign) == Some(&b'0');
    let is_plain = if is_zero { n_digits == 1 && sign == 0 } else { (1..=18).contains(&n_digits) };
    is_plain.then_some(sign + n_digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &JsonText) -> String {
        let mut out = String::new();
        text.write_canonical(&mut out);
        out
    }

    #[test]
    fn honest_and_other_lists_print_as_python_prints_them() {
        for (text, is_honest) in [
            ("[]", true),
            ("[{\"sketch\": 5}]", true),
            ("[{\"sketch\": 5}, {\"sketch\":-7},{\"sketch\": 0}]", true),
            ("[{\"sketch\": -0}]", false),
            ("[{\"sketch\": 1000000000000000000}]", false),
            ("[{\"sketch\": 5.0}]", false),
            ("[{\"sketch\": 5e3}, {\"x\": 1, \"sketch\": 2}]", false),
            (" [{\"sketch\": 5}]", false),
            ("[{\"sketch\": 5}] ", false),
            ("[ ]", false),
            ("null", false),
            ("{\"randomness\": \"ab\"}", false),
        ] {
            let text = JsonText::new(text).unwrap();
            assert_eq!(text.sketches().is_some(), is_honest, "{text:?}");
            assert_eq!(canonical(&text), to_json(&text.value(), Keys::Sorted));
        }
    }

    #[test]
    fn text_that_is_no_json_is_refused() {
        for text in ["", "[", "[{\"sketch\": 5},]", "[{\"sketch\": 05}]", "[{\"sketch\": 5}", "]"] {
            assert!(JsonText::new(text).is_err(), "{text:?}");
        }
        let long = format!("[{}1]", " ".repeat(COMMITMENTS_BYTES_MAX));
        assert!(JsonText::new(long).is_err());
    }

    proptest! {
        #[test]
        fn sketches_read_back(sketches in prop::collection::vec(-10_i64.pow(17)..10_i64.pow(17), 0..20)) {
            let text = JsonText::of_sketches(&sketches);
            prop_assert_eq!(canonical(&text), to_json(&text.value(), Keys::Sorted));
            prop_assert_eq!(text.sketches(), Some(sketches));
        }

        #[test]
        fn any_text_that_is_taken_prints_as_its_value(text in r#"\[(\{"sketch":[ 0-9.e-]{0,4}\},? ?){0,3}\]?"#) {
            if let Ok(text) = JsonText::new(text) {
                prop_assert_eq!(canonical(&text), to_json(&text.value(), Keys::Sorted));
            }
        }
    }
}
