//! Rows of the data sets that the reference loads from a hub; here the caller brings them.
//!
//! The reference pins no revision: peers agree only while their hubs serve the same rows.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Most bytes of one row's JSON.
const ROW_BYTES_MAX: usize = 4 << 20;

/// A row: columns by name.
pub type Row = Map<String, Value>;

/// The rows of a data set, by the names of its parts.
///
/// - `gsm8k`: `train`, `test`;
/// - `math`: `SUBSET/train`, `SUBSET/test`, such as `algebra/train`;
/// - `mbpp`: `train`, `validation`, `test`;
/// - `humaneval`: `test`;
/// - `triton_kernel`: `level_1` to `level_4`, each optional.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    parts: BTreeMap<String, Vec<Row>>,
}

/// Why rows cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRows {
    /// A line is no JSON object, or too long.
    #[error("line {line} of the rows (1-based) is not usable: {reason}")]
    Line {
        /// Number of the line, 1-based.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The data set has no such split, as the reference's loader names them.
    #[error("there is no split `{split}`; the splits are {known}")]
    UnknownSplit {
        /// The start of the name.
        split: String,
        /// The names.
        known: &'static str,
    },
    /// A part is missing.
    #[error("the rows have no part `{part}`; bring it with `Rows::with`")]
    Missing {
        /// Name of the part.
        part: String,
    },
    /// A part is too small for its split.
    #[error("the rows of `{part}` are fewer than the {needed} that are held out; bring them all")]
    TooFew {
        /// Name of the part.
        part: String,
        /// How many are held out.
        needed: usize,
    },
    /// A split has no rows, so it has no problems.
    #[error("the split `{split}` has no rows")]
    Empty {
        /// Name of the split.
        split: String,
    },
}

impl BadRows {
    pub(super) fn unknown_split(split: &str, known: &'static str) -> Self {
        Self::UnknownSplit { split: split.chars().take(64).collect(), known }
    }
}

impl Rows {
    /// Returns no rows, enough for an environment that draws its problems.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a part, or replaces the one of this name.
    #[must_use]
    pub fn with(mut self, part: &str, rows: Vec<Row>) -> Self {
        self.parts.insert(part.to_owned(), rows);
        self
    }

    /// Adds a part from JSON, one row a line; empty lines are skipped.
    ///
    /// # Errors
    /// When a line is no JSON object or longer than 4 MiB.
    pub fn with_json_lines(self, part: &str, text: &str) -> Result<Self, BadRows> {
        let rows = parse_json_lines(text)?;
        Ok(self.with(part, rows))
    }

    /// Returns the rows of a part, if it is there.
    pub fn part(&self, name: &str) -> Option<&[Row]> {
        self.parts.get(name).map(Vec::as_slice)
    }

    /// Returns the rows of a part.
    pub(super) fn needed(&self, name: &str) -> Result<&[Row], BadRows> {
        self.part(name).ok_or_else(|| BadRows::Missing { part: name.to_owned() })
    }
}

/// Reads rows from JSON, one a line.
///
/// # Errors
/// When a line is no JSON object or longer than 4 MiB.
pub fn parse_json_lines(text: &str) -> Result<Vec<Row>, BadRows> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            parse_row(line).map_err(|reason| BadRows::Line { line: index + 1, reason })
        })
        .collect()
}

fn parse_row(line: &str) -> Result<Row, String> {
    if line.len() > ROW_BYTES_MAX {
        return Err(format!("{} bytes, more than {ROW_BYTES_MAX}", line.len()));
    }
    serde_json::from_str(line).map_err(|error| error.to_string())
}

/// Returns a text column; one that is missing or no text is empty.
pub(super) fn text_of<'a>(row: &'a Row, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}

/// Returns an integer column; one that is missing is 0.
pub(super) fn integer_of(row: &Row, column: &str) -> i64 {
    row.get(column).and_then(Value::as_i64).unwrap_or_default()
}

/// Returns the texts of a list column; one that is missing is empty.
pub(super) fn texts_of(row: &Row, column: &str) -> Vec<String> {
    let texts = row.get(column).and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_line_by_line() {
        let rows = Rows::none().with_json_lines("train", "{\"a\":\"x\"}\n\n{\"a\":2}\n").unwrap();
        let part = rows.part("train").unwrap();
        assert_eq!(
            (part.len(), part[0]["a"].as_str(), part[1]["a"].as_i64()),
            (2, Some("x"), Some(2))
        );
        assert!(rows.part("test").is_none());
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["[]", "{", "1"] {
            let error = parse_json_lines(&format!("{{}}\n{bad}")).unwrap_err().to_string();
            assert!(error.starts_with("line 2 of the rows"), "{error}");
        }
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(ROW_BYTES_MAX));
        assert!(parse_json_lines(&long).unwrap_err().to_string().contains("more than"));
    }
}
