//! Takes the fields of a request one by one; whatever nobody took is refused by its name.

use serde_json::{Map, Value};

use super::error::{Answer, ApiError};

/// A JSON object being read. `null` is the same as no field, as in OpenAI's API.
pub struct Fields {
    map: Map<String, Value>,
    /// What the fields are part of, with a dot at its end; empty for the request itself.
    prefix: &'static str,
    known: Vec<&'static str>,
}

impl Fields {
    /// Takes the request's body.
    pub fn new(body: Value) -> Answer<Self> {
        Self::within("", body)
    }

    /// Takes an object within the request; `prefix` is its name and a dot.
    pub fn within(prefix: &'static str, value: Value) -> Answer<Self> {
        match value {
            Value::Object(map) => Ok(Self { map, prefix, known: Vec::new() }),
            other => Err(ApiError::bad(format!(
                "expected a JSON object{}, found {}",
                if prefix.is_empty() {
                    String::new()
                } else {
                    format!(" in `{}`", prefix.trim_end_matches('.'))
                },
                kind(&other)
            ))),
        }
    }

    /// Takes a field as it is.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that is true or false.
    pub fn flag(&mut self, name: &'static str) -> Answer<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.mistyped(name, "true or false", &other)),
        }
    }

    /// Takes a text.
    pub fn text(&mut self, name: &'static str) -> Answer<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(name, "a text", &other)),
        }
    }

    /// Takes a number within `min` to `max`.
    pub fn number(&mut self, name: &'static str, min: f64, max: f64) -> Answer<Option<f64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.mistyped(name, &format!("a number from {min} to {max}"), &value)),
        }
    }

    /// Takes a whole number within `min` to `max`. `1.0` is one, as some clients write it.
    pub fn integer(&mut self, name: &'static str, min: u64, max: u64) -> Answer<Option<u64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value) {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self.mistyped(name, &format!("a whole number from {min} to {max}"), &value)),
        }
    }

    /// Takes a field that only may say what happens anyway.
    pub fn neutral(
        &mut self,
        name: &'static str,
        is_neutral: impl Fn(&Value) -> bool,
    ) -> Answer<()> {
        match self.take(name) {
            Some(value) if !is_neutral(&value) => Err(ApiError::unsupported(
                &self.full(name),
                format!("`{}` is not supported by this server; leave it out", self.full(name)),
            )),
            _ => Ok(()),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// For a field that nobody took.
    pub fn end(mut self) -> Answer<()> {
        let Some(name) = self.map.keys().next().cloned() else { return Ok(()) };
        self.known.sort_unstable();
        let (full, known) = (self.full(&shortened(&name)), self.known.join(", "));
        Err(ApiError::unsupported(&full, format!("`{full}` is not known; known are {known}")))
    }

    /// Says that a field has a value it cannot have.
    pub fn mistyped(&self, name: &str, expected: &str, found: &Value) -> ApiError {
        let full = self.full(name);
        let found = match found {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        ApiError::field(&full, format!("`{full}` must be {expected}, found {found}"))
    }

    /// Returns the name of a field within the request.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Returns a whole number, also if it is written as `1.0`.
pub fn whole(value: &Value) -> Option<u64> {
    /// 2^53: every whole number up to here is its own f64.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let number = value.as_f64().filter(|it| it.fract() == 0.0 && (0.0..=EXACT).contains(it))?;
        // Formatting is the conversion without a lossy cast.
        format!("{number:.0}").parse().ok()
    })
}

/// Names a kind of JSON value.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Returns at most the first characters: a name may be as long as the request.
fn shortened(name: &str) -> String {
    const CHARS_MAX: usize = 64;
    name.chars().take(CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(body: Value) -> Fields {
        Fields::new(body).unwrap()
    }

    #[test]
    fn values_are_taken_and_checked() {
        let mut read = fields(json!({"a": 1.0, "b": null, "c": true, "d": "x", "e": 0.5}));
        assert_eq!(read.integer("a", 1, 5), Ok(Some(1)));
        assert_eq!(read.integer("b", 1, 5), Ok(None));
        assert_eq!(read.flag("c"), Ok(Some(true)));
        assert_eq!(read.text("d"), Ok(Some("x".to_owned())));
        assert_eq!(read.number("e", 0.0, 1.0), Ok(Some(0.5)));
        assert_eq!(read.end(), Ok(()));
    }

    #[test]
    fn refusals_name_the_field_and_what_is_allowed() {
        let error = fields(json!({"n": 1.5})).integer("n", 1, 8).unwrap_err();
        assert_eq!(error.message, "`n` must be a whole number from 1 to 8, found 1.5");
        assert_eq!(error.param.as_deref(), Some("n"));
        let error = fields(json!({"n": "1"})).integer("n", 1, 8).unwrap_err();
        assert!(error.message.ends_with("found a text"), "{}", error.message);
        let mut read = Fields::within("stream_options.", json!({"x": 1, "y": 2})).unwrap();
        assert!(read.take("y").is_some());
        assert_eq!(read.end().unwrap_err().message, "`stream_options.x` is not known; known are y");
        let error = fields(json!({"tools": [1]})).neutral("tools", |_| false).unwrap_err();
        assert_eq!(error.code, Some("unsupported_parameter"));
        assert!(Fields::new(json!([1])).is_err());
    }

    #[test]
    fn whole_numbers_keep_their_value() {
        for (value, want) in [
            (json!(u64::MAX), Some(u64::MAX)),
            (json!(3.0), Some(3)),
            (json!(3.5), None),
            (json!(-1), None),
            (json!(1e300), None),
            (json!("3"), None),
        ] {
            assert_eq!(whole(&value), want, "{value}");
        }
    }
}
