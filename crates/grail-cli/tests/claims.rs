//! Holds `docs/security.md` to its word: every claim names tests and lab rows that exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod support;

/// Columns of the table of claims.
const COLUMNS: [&str; 6] = ["claim", "check", "test", "lab row", "measured", "known gap"];
/// What a lab cell starts with where no row of the lab shows the claim.
const NO_ROW: &str = "none: ";
/// Claims that the document must hold at least.
const CLAIMS_MIN: usize = 15;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// One claim, cell by cell.
struct Claim {
    line: usize,
    cells: Vec<String>,
}

/// Returns the rows of the table whose header is [`COLUMNS`].
fn claims() -> Vec<Claim> {
    let text = std::fs::read_to_string(root().join("docs/security.md")).expect("it is there");
    let lines: Vec<&str> = text.lines().collect();
    let header = lines
        .iter()
        .position(|line| cells(line) == COLUMNS.map(str::to_owned))
        .unwrap_or_else(|| panic!("no table with the columns {COLUMNS:?}"));
    let rows = lines.iter().enumerate().skip(header + 2);
    rows.take_while(|(_, line)| line.starts_with('|'))
        .map(|(at, line)| Claim { line: at + 1, cells: cells(line) })
        .collect()
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().strip_prefix('|').and_then(|rest| rest.strip_suffix('|'));
    inner.map_or_else(Vec::new, |inner| {
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    })
}

/// Returns what stands in back quotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Returns the paths of all tests that run without being asked for: `crate::module::test`, for files
/// below `tests/` with the name of the file as the first module.
fn tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("crates")).expect("the crates are there") {
        let dir = entry.expect("an entry can be read").path();
        let name = dir.file_name().expect("it has a name").to_string_lossy().replace('-', "_");
        for part in ["src", "tests"] {
            for file in support::files_below_if_there(&dir.join(part)) {
                if file.extension().is_some_and(|extension| extension == "rs") {
                    let below = file.strip_prefix(dir.join(part)).expect("it was found below");
                    let text = std::fs::read_to_string(&file).expect("sources are text");
                    let module = [vec![name.clone()], modules(below)].concat();
                    found.extend(tests_in(&text, &module));
                }
            }
        }
    }
    found
}

/// Returns the modules that a file stands for.
fn modules(below: &Path) -> Vec<String> {
    let mut parts: Vec<String> = below
        .with_extension("")
        .components()
        .map(|part| part.as_os_str().to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Returns the tests of a file. Sources are formatted, so a module ends with a brace that is as far
/// from the margin as the line that opened it.
fn tests_in(text: &str, module: &[String]) -> Vec<String> {
    let mut path: Vec<(usize, String)> = module.iter().map(|name| (0, name.clone())).collect();
    let (mut is_test, mut is_ignored) = (false, false);
    let mut found = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let margin = line.len() - trimmed.len();
        let words: Vec<&str> = trimmed.split_whitespace().collect();
        if let ["mod", name, "{"] | ["pub", "mod", name, "{"] = words[..] {
            path.push((margin, name.to_owned()));
        } else if trimmed == "}" && path.len() > module.len() {
            let (opened_at, _) = &path[path.len() - 1];
            if *opened_at == margin {
                path.pop();
            }
        } else if trimmed.starts_with("#[test]") || trimmed.starts_with("#[tokio::test") {
            is_test = true;
        } else if trimmed.starts_with("#[ignore") {
            is_ignored = true;
        } else if let Some(name) = function(trimmed) {
            if is_test && !is_ignored {
                let modules = path.iter().map(|(_, name)| name.as_str());
                found.push(modules.chain([name]).collect::<Vec<&str>>().join("::"));
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    found
}

/// Returns the name of the function that a line begins.
fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// Returns the ids of the lab's rows.
fn rows() -> BTreeSet<String> {
    let output = support::grail().args(["lab", "attacks", "--list", "--json"]).output();
    let output = output.expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).expect("it answers as JSON");
    let rows = list["rows"].as_array().or(list.as_array()).expect("a list of rows").iter();
    rows.map(|row| row["id"].as_str().expect("a row has an id").to_owned()).collect()
}

#[test]
fn every_claim_is_whole() {
    let claims = claims();
    assert!(claims.len() >= CLAIMS_MIN, "{} claims", claims.len());
    for Claim { line, cells } in &claims {
        assert_eq!(cells.len(), COLUMNS.len(), "docs/security.md:{line} has other columns");
        for (name, cell) in COLUMNS.iter().zip(cells) {
            assert!(!cell.is_empty() && cell != "–", "docs/security.md:{line} has no {name}");
            assert!(!cell.contains("(to be measured)"), "docs/security.md:{line}: {name} is open");
        }
    }
    let told: BTreeSet<&str> = claims.iter().map(|claim| claim.cells[0].as_str()).collect();
    assert_eq!(told.len(), claims.len(), "a claim stands there twice");
}

#[test]
fn every_claim_names_tests_that_exist() {
    let tests = tests();
    assert!(tests.len() > 300, "{} tests found", tests.len());
    for Claim { line, cells } in claims() {
        let named = quoted(&cells[2]);
        assert!(!named.is_empty(), "docs/security.md:{line} names no test");
        for test in named {
            assert!(tests.contains(test), "docs/security.md:{line}: there is no test {test}");
        }
    }
}

#[test]
fn every_claim_names_lab_rows_that_exist() {
    let rows = rows();
    for Claim { line, cells } in claims() {
        if cells[3].starts_with(NO_ROW) {
            continue;
        }
        let named = quoted(&cells[3]);
        assert!(!named.is_empty(), "docs/security.md:{line} names no row, and not why");
        for row in named {
            assert!(rows.contains(row), "docs/security.md:{line}: the lab has no row {row}");
        }
    }
}

#[test]
fn the_reader_of_sources_finds_tests_where_they_are() {
    let source = "\
fn helper() {}
#[test]
fn plain() {
    if true {
    }
}
mod outer {
    mod tests {
        #[tokio::test(start_paused = true)]
        async fn deep() {}
        proptest! {
            #[test]
            fn any_value(x in 0..3) {}
        }
        #[test]
        #[ignore = \"needs a machine\"]
        fn asked_for() {}
    }
    #[cfg(test)]
    fn no_test() {}
}
#[test]
fn last() {}
";
    let found = tests_in(source, &["crate".to_owned(), "file".to_owned()]);
    assert_eq!(
        found,
        [
            "crate::file::plain",
            "crate::file::outer::tests::deep",
            "crate::file::outer::tests::any_value",
            "crate::file::last",
        ]
    );
}
