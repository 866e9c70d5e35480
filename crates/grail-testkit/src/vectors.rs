//! Golden vectors of the reference: every case is run, and how many ran is printed.
//!
//! They lie in this crate's folder `vectors`, one folder a topic, each with a README that says what
//! its fields mean. `GRAIL_VECTORS=FOLDER` takes another set of the same form, with other inputs.
//! These functions panic on anything unexpected: a vector that does not read fails its test.

#![expect(clippy::missing_panics_doc, reason = "panicking is how a test fails")]
#![expect(clippy::print_stdout, reason = "the number of cases that ran is part of the result")]
#![expect(clippy::unwrap_used, reason = "vectors that do not read fail the test")]

use std::path::PathBuf;

use grail_protocol::v5::python::json;
use serde_json::Value;

/// Returns a file of a topic; this project's own where another set lacks it.
pub fn load(topic: &str, file: &str) -> Value {
    let path = shared(topic, file);
    serde_json::from_str(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Checks every case of a file, says how many there were, and fails when there were fewer than the
/// topic's README announces. Another set may lack a file, if its README does not announce it.
pub fn every_case(topic: &str, file: &str, check: impl FnMut(&Value)) {
    let announced = announced(topic, file);
    let vectors = if is_absent(topic, file) { Value::Null } else { load(topic, file) };
    let cases = vectors.get("cases").map_or(&[][..], list);
    cases.iter().for_each(check);
    println!("vectors: {topic}/{file}: {} cases", cases.len());
    assert!(cases.len() >= announced, "{topic}/{file}: {} of {announced} cases", cases.len());
}

/// Checks a list of a file that its README does not count. In this project's own set there must be
/// `at_least` so many; another set need not repeat fixed cases.
pub fn every_entry(topic: &str, file: &str, key: &str, at_least: usize, check: impl FnMut(&Value)) {
    let vectors = if is_absent(topic, file) { Value::Null } else { load(topic, file) };
    let entries = vectors.get(key).map_or(&[][..], list);
    entries.iter().for_each(check);
    println!("vectors: {topic}/{file}: {} {key}", entries.len());
    assert!(!is_own() || entries.len() >= at_least, "{topic}/{file}: {} {key}", entries.len());
}

/// Returns a list of a file with every value as Python reads it: integers of any size, `NaN`.
pub fn python_list(topic: &str, file: &str, key: &str) -> Vec<json::Value> {
    let parsed = json::parse(&read(&shared(topic, file))).unwrap();
    parsed.get(key).and_then(json::Value::as_list).unwrap().to_vec()
}

/// Returns a value as Python reads it.
pub fn python(value: &Value) -> json::Value {
    json::parse(&value.to_string()).unwrap()
}

/// Whether the vectors are this project's own, fixed cases included.
pub fn is_own() -> bool {
    other_folder().is_none()
}

/// Whether another set than this project's own has no such file.
fn is_absent(topic: &str, file: &str) -> bool {
    !is_own() && !path(topic, file).exists()
}

/// Returns how many cases the topic's README announces: `Cases: a.json 12, b.json 3.` Another set
/// need not announce anything, but what is there has at least one case.
fn announced(topic: &str, file: &str) -> usize {
    let counts = announcements(topic);
    let count = counts.iter().find(|(name, _)| name == file).map(|(_, count)| *count);
    match count {
        None if is_absent(topic, file) => 0,
        None if !is_own() => 1,
        count => count.unwrap_or_else(|| panic!("{topic}/README.md does not count {file}")),
    }
}

/// Returns the files that the topic's README counts, with their numbers of cases.
pub fn announcements(topic: &str) -> Vec<(String, usize)> {
    let readme = std::fs::read_to_string(path(topic, "README.md")).unwrap_or_default();
    let line = readme.lines().find_map(|line| line.strip_prefix("Cases: ")).unwrap_or_default();
    let counts = line.trim_end_matches('.').split(", ").filter(|count| !count.is_empty());
    counts
        .map(|count| {
            let (file, number) = count.split_once(' ').unwrap();
            // Such as `codec.json 72 and 15 to decode`.
            let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
            (file.to_owned(), digits.parse().unwrap())
        })
        .collect()
}

/// Returns where a file of a topic lies.
pub fn path(topic: &str, file: &str) -> PathBuf {
    other_folder().unwrap_or_else(own_folder).join(topic).join(file)
}

/// Returns where a file lies that other vectors are about, such as a runtime's metadata: another set
/// need not repeat it.
pub fn shared(topic: &str, file: &str) -> PathBuf {
    let theirs = path(topic, file);
    if theirs.exists() { theirs } else { own(topic, file) }
}

/// Returns where a file of this project's own set lies, whatever set is asked for: for inputs that are
/// damaged at random, say, whose answers are not the point.
pub fn own(topic: &str, file: &str) -> PathBuf {
    own_folder().join(topic).join(file)
}

fn own_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors"))
}

fn other_folder() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("GRAIL_VECTORS")?);
    // Tests run in the folder of their crate; who names a folder means it from the workspace.
    Some(PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(folder))
}

fn read(path: &std::path::Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the items of a list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// Returns a text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Returns the bytes of hexadecimal text, with or without `0x`.
pub fn bytes(value: &Value) -> Vec<u8> {
    let text = text(value);
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).unwrap()
}

/// Returns a count.
pub fn size(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap_or_else(|| panic!("{value} is no size"))).unwrap()
}

/// Returns a list of counts.
pub fn sizes(value: &Value) -> Vec<usize> {
    list(value).iter().map(size).collect()
}

/// Integers are numbers, or text beyond 2^53.
pub fn integer(value: &Value) -> i128 {
    value.as_i64().map_or_else(|| text(value).parse().unwrap(), i128::from)
}

/// Floats are numbers, or the text of what JSON has no number for.
pub fn float(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| match text(value) {
        "NaN" | "nan" => f64::NAN,
        "Infinity" | "inf" => f64::INFINITY,
        "-Infinity" | "-inf" => f64::NEG_INFINITY,
        other => other.parse().unwrap(),
    })
}

/// Returns a list of floats.
pub fn floats(value: &Value) -> Vec<f64> {
    list(value).iter().map(float).collect()
}

/// Tokens are hashed by their low 32 bits.
pub fn tokens(value: &Value) -> Vec<u32> {
    list(value).iter().map(|token| token.as_i64().unwrap() as u32).collect()
}

/// Little-endian floats, f32 or bf16 (the high half of an f32).
pub fn hidden(value: &Value, dtype: &str) -> Vec<f32> {
    let bytes = bytes(value);
    match dtype {
        "f32" => bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect(),
        "bf16" => {
            let halves = bytes.as_chunks::<2>().0.iter();
            halves.map(|raw| widen_bf16(u16::from_le_bytes(*raw))).collect()
        }
        other => panic!("dtype {other}"),
    }
}

/// Widens the bits of a bf16.
pub fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns 64 bits from hexadecimal text, such as the bits of a float.
pub fn bits(value: &Value) -> u64 {
    u64::from_str_radix(text(value), 16).unwrap()
}

/// Equal, with NaN equal to itself.
pub fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}
