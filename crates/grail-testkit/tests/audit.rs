//! Every file of the vectors is run by some test: no topic, file or list of cases is forgotten.
//!
//! A file counts as run where a test names its topic and the file, or the manifest that lists it. With
//! `--nocapture` the test prints where.

#![expect(clippy::unwrap_used, reason = "panicking is how a test fails")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use grail_testkit::vectors::{announcements, is_own, path};
use serde_json::Value;

/// A source file that may hold tests.
struct Source {
    /// From the workspace.
    name: String,
    text: String,
}

#[test]
fn every_topic_file_and_list_is_run() {
    let sources = sources();
    let mut missing = Vec::new();
    let topics = topics();
    let is_own = is_own();
    assert!(!is_own || topics.len() >= 47, "{} topics", topics.len());
    let parts = topics.iter().filter(|topic| topic.starts_with("bittensor/")).count();
    assert!(!is_own || parts >= 10, "{parts} parts of bittensor");
    for topic in &topics {
        let mut counted: BTreeSet<String> =
            announcements(topic).into_iter().map(|(file, _)| file).collect();
        let folder = path(topic, "");
        counted.extend(names(&folder, |path| is_blob(path) || !lists(path).is_empty()));
        for file in counted {
            let tests = runners(&sources, &[topic, &file]);
            println!("{topic}/{file}: {}", shown(&tests));
            if tests.is_empty() && !is_listed(&folder, &file) {
                missing.push(format!("{topic}/{file}"));
            }
            if is_listed(&folder, &file) {
                continue;
            }
            for key in lists(&folder.join(&file)).iter().filter(|key| *key != "cases") {
                let tests = runners(&sources, &[topic, &file, key]);
                println!("{topic}/{file}: {key}: {}", shown(&tests));
                if tests.is_empty() {
                    missing.push(format!("{topic}/{file}: {key}"));
                }
            }
        }
    }
    assert!(!is_own || missing.is_empty(), "no test runs {missing:#?}");
}

/// Returns the folders that hold cases, from the vectors' folder; a topic may have parts.
fn topics() -> Vec<String> {
    let mut topics = Vec::new();
    for topic in names(&path("", ""), Path::is_dir) {
        let has_cases = |folder: &str| {
            let is_case = |path: &Path| is_blob(path) || is_json(path);
            !names(&path(folder, ""), is_case).is_empty()
        };
        let parts = names(&path(&topic, ""), Path::is_dir).into_iter();
        let parts: Vec<String> =
            parts.map(|part| format!("{topic}/{part}")).filter(|part| has_cases(part)).collect();
        // Folders of a topic that has cases itself belong to those.
        if has_cases(&topic) || !announcements(&topic).is_empty() || parts.is_empty() {
            topics.push(topic);
        } else {
            topics.extend(parts);
        }
    }
    topics
}

/// Whether the file is one of a runtime's own descriptions.
fn is_blob(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "scale")
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "json")
}

/// Whether the topic's manifest names the file, so that whoever runs the manifest opens it: its name is
/// another in another set.
fn is_listed(folder: &Path, file: &str) -> bool {
    let manifest = std::fs::read_to_string(folder.join("manifest.json")).unwrap_or_default();
    let stem = file.split('.').next().unwrap_or(file);
    file != "manifest.json" && manifest.contains(&format!("\"{stem}."))
}

/// Returns the keys of a file's lists of cases.
fn lists(file: &Path) -> BTreeSet<String> {
    let text = if is_json(file) { std::fs::read_to_string(file).unwrap() } else { String::new() };
    let Ok(Value::Object(fields)) = serde_json::from_str(&text) else { return BTreeSet::new() };
    let is_list = |value: &Value| value.as_array().is_some_and(|items| !items.is_empty());
    fields.into_iter().filter(|(_, value)| is_list(value)).map(|(key, _)| key).collect()
}

/// Returns the names in a folder of what `is_wanted`, in order.
fn names(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| is_wanted(path));
    let mut names: Vec<String> =
        wanted.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Returns the sources that hold all `words` as string literals.
fn runners<'a>(sources: &'a [Source], words: &[&str]) -> Vec<&'a str> {
    let literals: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let holds = |source: &&Source| literals.iter().all(|literal| source.text.contains(literal));
    sources.iter().filter(holds).map(|source| source.name.as_str()).collect()
}

fn shown(runners: &[&str]) -> String {
    if runners.is_empty() { "NOT RUN".to_owned() } else { runners.join(", ") }
}

/// Returns the sources that take vectors; this file and the seeds of damaged inputs check none.
fn sources() -> Vec<Source> {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut sources = Vec::new();
    let mut folders = vec![root.join("crates")];
    while let Some(folder) = folders.pop() {
        for name in names(&folder, |_| true) {
            let path = folder.join(&name);
            if path.is_dir() && name != "vectors" && name != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                if text.contains("vectors") && !name.contains("grail-testkit/tests/") {
                    sources.push(Source { name, text });
                }
            }
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}
