//! Freezes the fields of answers: a script may rely on them, and a person must find them explained.

use serde::Serialize;
use serde_json::Value;

/// Asserts that the fields of `answer`, which must have all of them, are the golden ones, and that
/// `docs/verify.md` names each.
pub fn assert_frozen(answer: &impl Serialize, golden: &str) {
    let mut found = Vec::new();
    collect(&serde_json::to_value(answer).unwrap(), "", &mut found);
    found.sort();
    let golden: Vec<&str> = golden.lines().collect();
    assert_eq!(found, golden, "scripts read these: raise the version, then change the golden file");
    let docs = include_str!("../../../../docs/verify.md");
    for path in golden {
        let field = path.rsplit('.').next().unwrap().trim_end_matches("[]");
        assert!(docs.contains(&format!("`{field}`")), "docs/verify.md does not explain `{field}`");
    }
}

fn collect(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        // Its keys are data.
        Value::Object(_) if path.ends_with("rejected") => found.push(path.to_owned()),
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                collect(value, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            collect(&items[0], &format!("{path}[]"), found);
        }
        Value::Null => panic!("{path} is null: give the answer everything that it can have"),
        _ => found.push(path.to_owned()),
    }
}
