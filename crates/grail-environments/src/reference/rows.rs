//! Rows of the data sets that the reference loads from a hub; here the caller brings them.
//!
//! The reference pins no revision: peers agree only while their hubs serve the same rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

/// Most bytes of one row's JSON.
const ROW_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a file, inflated; the data sets have some tens of megabytes.
const FILE_BYTES_MAX: u64 = 1 << 30;

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
    /// A file cannot be read.
    #[error("cannot read the rows of {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
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

    /// Adds a part from a local file of JSON, one row a line, compressed by gzip if its name ends so.
    ///
    /// # Errors
    /// When the file cannot be read, is longer than 1 GiB (inflated), or has a bad line.
    pub fn with_file(self, part: &str, path: &Path) -> Result<Self, BadRows> {
        let text = read(path)
            .map_err(|error| BadRows::File { path: path.to_owned(), reason: error.to_string() })?;
        self.with_json_lines(part, &text)
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

fn read(path: &Path) -> std::io::Result<String> {
    let file = File::open(path)?;
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    let source: Box<dyn Read> =
        if is_compressed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut text = String::new();
    let n_bytes = source.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if n_bytes as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
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
    fn files_are_read_as_they_are_or_inflated() {
        let folder = tempfile::tempdir().unwrap();
        let (plain, compressed) = (folder.path().join("a.jsonl"), folder.path().join("a.jsonl.gz"));
        std::fs::write(&plain, "{\"a\":1}\n{\"a\":2}\n").unwrap();
        let file = File::create(&compressed).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &std::fs::read(&plain).unwrap()).unwrap();
        encoder.finish().unwrap();
        for path in [&plain, &compressed] {
            let rows = Rows::none().with_file("train", path).unwrap();
            assert_eq!(rows.part("train").unwrap().len(), 2);
        }
        std::fs::write(&compressed, "no gzip").unwrap();
        for path in [&compressed, &folder.path().join("missing")] {
            let error = Rows::none().with_file("train", path).unwrap_err().to_string();
            assert!(error.starts_with("cannot read the rows of "), "{error}");
        }
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
