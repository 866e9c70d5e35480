//! Writes a report: JSON, and beside it a page with plots.

use std::io;
use std::path::Path;

use super::{Report, html};
use crate::files::write_atomically;

/// Writes `path` (JSON) and the page with the same name and the extension `html`.
///
/// Both are written under a temporary name and renamed, so a reader never sees half of one.
pub fn write_report(report: &Report, path: &Path) -> io::Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    write_atomically(path, &json)?;
    write_atomically(&path.with_extension("html"), html::page(report).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::report;
    use super::*;

    #[test]
    fn a_report_is_written_as_json_and_page_and_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let report = report();
        write_report(&report, &path).unwrap();
        write_report(&report, &path).unwrap();
        let back: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(back, report);
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["report.html", "report.json"]);
    }
}
