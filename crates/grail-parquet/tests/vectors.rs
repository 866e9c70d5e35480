//! Every file of the reference's vectors is judged as the reference judges it.

#![expect(clippy::unwrap_used, reason = "vectors that do not read fail the test")]

use bytes::Bytes;
use grail_parquet::{FileSource, Limits, ReadError, read, write};
use grail_protocol::v5::file::{Expected, Footer, Row, Scalar, WindowFile, check_structure};
use grail_protocol::v5::python::json::{self, Value as Python};
use grail_testkit::vectors::{every_case, float, integer, load, path, size, text};
use serde_json::Value;

fn bytes_of(file: &str) -> Bytes {
    std::fs::read(path("parquet", file)).unwrap().into()
}

fn python_file(file: &str) -> Option<Python> {
    let text = std::fs::read_to_string(path("parquet", file)).ok()?;
    Some(json::parse(&text).unwrap())
}

#[test]
fn files_are_read_or_refused_as_by_the_reference() {
    let manifest = load("parquet", "manifest.json");
    let hotkey = text(&manifest["expected_hotkey"]).to_owned();
    let block_hash = text(&manifest["expected_block_hash"]).to_owned();
    let window_start = i64::try_from(integer(&manifest["expected_window"])).unwrap();
    let expected = Expected { hotkey: &hotkey, window_start, block_hash: &block_hash };
    let mut n_decoded = 0;
    every_case("parquet", "manifest.json", |case| {
        let name = text(&case["file"]);
        let file = bytes_of(name);
        assert_eq!(file.len(), size(&case["bytes"]), "{name}");
        match read(file, &Limits::default()) {
            Ok(file) => {
                assert_eq!(case["deserializes"], true, "{name}");
                check_decoded(&file, case, &expected);
                let decoded = name.replace(".parquet", ".decoded.json");
                if let Some(want) = python_file(&decoded) {
                    n_decoded += 1;
                    assert_same(&file.to_value(), &want, name);
                }
            }
            Err(error) => {
                assert_eq!(case["deserializes"], false, "{name}: {error}");
                let is_ban = case["error_type"] == "ParquetError";
                assert_eq!(matches!(error, ReadError::Corrupt(_)), is_ban, "{name}: {error}");
            }
        }
    });
    println!("vectors: parquet: {n_decoded} decoded files");
    assert!(n_decoded > 0, "no file was compared with its decoded content");
}

fn check_decoded(file: &WindowFile, case: &Value, expected: &Expected<'_>) {
    let meta = &case["meta"];
    let number = |key: &str| i64::try_from(integer(&meta[key])).unwrap();
    let footer = Footer {
        wallet: text(&meta["wallet"]).to_owned(),
        window_start: number("window_start"),
        window_length: number("window_length"),
        inference_count: number("inference_count"),
        timestamp: float(&meta["timestamp"]),
    };
    assert_eq!(file.footer, footer, "{case}");
    assert_eq!(file.rows.len(), size(&case["rows"]), "{case}");
    let reason = check_structure(file, expected).err().map(|fault| fault.reason());
    assert_eq!(reason, case["structure_result"]["reason"].as_str(), "{case}");
}

/// Equal, where the decoded files have text for numbers that JSON has not.
fn assert_same(ours: &Python, theirs: &Python, at: &str) {
    match (ours, theirs) {
        (Python::List(ours), Python::List(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{at}");
            for (place, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                assert_same(ours, theirs, &format!("{at}[{place}]"));
            }
        }
        (Python::Object(ours), Python::Object(fields)) => {
            // The head of a decoded file leaves the timestamp out.
            let n_ours = ours.len() - usize::from(theirs.get("inferences").is_some());
            assert!(n_ours <= fields.len() && fields.len() <= ours.len(), "{at}");
            for (key, theirs) in fields {
                let (_, ours) = ours.iter().find(|(name, _)| name == key).unwrap();
                assert_same(ours, theirs, &format!("{at}.{}", key.as_str().unwrap()));
            }
        }
        (Python::Float(float), Python::Text(text)) => {
            let text = text.as_str().unwrap();
            let want = float_of(text);
            assert!(want == *float || (want.is_nan() && float.is_nan()), "{at}: {float} {text}");
        }
        (Python::Integer(integer), Python::Text(text)) => {
            assert_eq!(integer.to_string(), text.as_str().unwrap(), "{at}");
        }
        (Python::Big(digits), Python::Text(text)) => {
            assert_eq!(**digits, *text.as_str().unwrap(), "{at}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

fn float_of(text: &str) -> f64 {
    float(&Value::from(text))
}

#[test]
fn a_file_on_disk_reads_as_one_in_memory() {
    let manifest = load("parquet", "manifest.json");
    for case in manifest["cases"].as_array().unwrap() {
        let name = text(&case["file"]);
        let in_memory = read(bytes_of(name), &Limits::default());
        let on_disk = FileSource::open(&path("parquet", name)).unwrap();
        let on_disk = read(on_disk, &Limits::default());
        assert_eq!(format!("{in_memory:?}"), format!("{on_disk:?}"), "{name}");
    }
}

fn written(file: &WindowFile) -> Bytes {
    let mut bytes = Vec::new();
    write(file, &mut bytes).unwrap();
    bytes.into()
}

#[test]
fn what_is_written_reads_back() {
    let manifest = load("parquet", "manifest.json");
    let mut n_written = 0;
    for case in manifest["cases"].as_array().unwrap() {
        let name = text(&case["file"]);
        let Ok(file) = read(bytes_of(name), &Limits::default()) else { continue };
        let is_float = |row: &Row| matches!(row.rollout_group, Scalar::Float(_));
        if file.rows.iter().any(is_float) {
            assert!(write(&file, Vec::new()).is_err(), "{name}: a group of another type");
            continue;
        }
        let again = read(written(&file), &Limits::default());
        if file.rows.iter().any(|row| row.rollout_group.is_null()) {
            assert!(matches!(again, Err(ReadError::Corrupt(_))), "{name}: a column of nulls");
            continue;
        }
        let again = again.unwrap();
        assert_eq!(format!("{again:?}"), format!("{file:?}"), "{name}");
        n_written += 1;
    }
    println!("vectors: parquet: {n_written} files written again");
    assert!(n_written > 0);
}

#[test]
fn what_the_serialiser_was_given_is_packaged_as_the_reference_packages_it() {
    let Some(input) = python_file("valid_2groups.input.json") else { return };
    if !path("parquet", "valid_2groups.parquet").exists() {
        return;
    }
    let rows = input.get("inferences").and_then(Python::as_list).unwrap();
    let rows: Vec<Row> = rows.iter().map(|row| Row::from_payload(row).unwrap()).collect();
    let number = |key: &str| match input.get(key) {
        Some(Python::Integer(number)) => *number,
        other => panic!("{key}: {other:?}"),
    };
    let Some(Python::Float(timestamp)) = input.get("timestamp") else { panic!("a timestamp") };
    let footer = Footer {
        wallet: input.get("wallet").and_then(Python::as_str).unwrap().to_owned(),
        window_start: number("window_start"),
        window_length: number("window_length"),
        inference_count: i64::try_from(rows.len()).unwrap(),
        timestamp: *timestamp,
    };
    let ours = WindowFile { footer, rows };
    let theirs = read(bytes_of("valid_2groups.parquet"), &Limits::default()).unwrap();
    let ours = read(written(&ours), &Limits::default()).unwrap();
    assert_eq!(ours, theirs);
}
