//! Writes JSON exactly as Python's `json.dumps(value, ensure_ascii=False)` does.
//!
//! Chat templates were written for that output, and a model sees every space of it. The built-in
//! `tojson` of the template engine escapes `< > & '` for HTML, which no model was trained on.

use std::io::{Result, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// The template filter `tojson`, with the keywords `transformers` gives it.
#[expect(clippy::needless_pass_by_value, reason = "the engine hands over its arguments")]
pub(super) fn tojson(value: &Value, options: Kwargs) -> std::result::Result<String, Error> {
    // Only the default makes sense in a prompt; another value would need another writer.
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        let text = "tojson with ensure_ascii=true is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, text));
    }
    let indent = options.get::<Option<usize>>("indent")?.map(|indent| indent.min(16));
    options.assert_all_used()?;
    let mut json = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut json, PythonJson::new(indent));
    value
        .serialize(&mut serializer)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(json)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Separators `", "` and `": "`; with an indent, one item a line.
struct PythonJson {
    indent: Option<usize>,
    depth: usize,
    /// Whether the innermost open container has an item: an empty one stays `[]` or `{}`.
    has_items: bool,
}

impl PythonJson {
    fn new(indent: Option<usize>) -> Self {
        Self { indent, depth: 0, has_items: false }
    }

    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth += 1;
        self.has_items = false;
        writer.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        match (self.indent, first) {
            (None, true) => Ok(()),
            (None, false) => writer.write_all(b", "),
            (Some(indent), _) => {
                writer.write_all(if first { b"\n" } else { b",\n" })?;
                write_spaces(writer, indent * self.depth)
            }
        }
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> Result<()> {
        self.depth -= 1;
        if let (Some(indent), true) = (self.indent, self.has_items) {
            writer.write_all(b"\n")?;
            write_spaces(writer, indent * self.depth)?;
        }
        writer.write_all(bracket)
    }
}

impl Formatter for PythonJson {
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> Result<()> {
        writer.write_all(python_float(value).as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<()> {
        self.has_items = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.open(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        self.close(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        writer.write_all(b": ")
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> Result<()> {
        self.has_items = true;
        Ok(())
    }
}

fn write_spaces<W: ?Sized + Write>(writer: &mut W, n: usize) -> Result<()> {
    (0..n).try_for_each(|_| writer.write_all(b" "))
}

/// Formats like `repr(float)`. Rust switches to an exponent at the same magnitudes, but writes
/// `1e-5` and `1e16` where Python writes `1e-05` and `1e+16`.
fn python_float(value: f64) -> String {
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((mantissa, exponent)) => {
            let (sign, digits) = match exponent.strip_prefix('-') {
                Some(digits) => ('-', digits),
                None => ('+', exponent),
            };
            format!("{mantissa}e{sign}{digits:0>2}")
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use serde_json::json;

    use super::*;

    #[test]
    fn json_equals_python() {
        let value = Value::from(Serde(json!({
            "z": ["<a> & 'b'", "é\u{7f}\u{1}\n\"\\"], "empty": [], "none": null,
            "numbers": [1, -2.5, 1e16, 1.5e-7, 100.0], "flag": true, "map": {},
        })));
        // json.dumps(value, ensure_ascii=False) of Python 3.11.
        let flat = "{\"z\": [\"<a> & 'b'\", \"é\u{7f}\\u0001\\n\\\"\\\\\"], \"empty\": [], \
                    \"none\": null, \"numbers\": [1, -2.5, 1e+16, 1.5e-07, 100.0], \
                    \"flag\": true, \"map\": {}}";
        assert_eq!(tojson(&value, Kwargs::from_iter([("indent", Value::from(()))])).unwrap(), flat);

        let value = Value::from(Serde(json!({"a": [1, {"b": []}], "c": {}})));
        let indented = "{\n  \"a\": [\n    1,\n    {\n      \"b\": []\n    }\n  ],\n  \"c\": {}\n}";
        assert_eq!(
            tojson(&value, Kwargs::from_iter([("indent", Value::from(2))])).unwrap(),
            indented
        );
    }
}
