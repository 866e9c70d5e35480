//! Compares what our crates import with the table of ARCHITECTURE.md: the walls between the layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Crate, and the crates of ours that it may import.
const MAY_IMPORT: [(&str, &[&str]); 12] = [
    ("grail-protocol", &[]),
    ("grail-kernels", &[]),
    ("grail-parquet", &["grail-protocol"]),
    ("grail-ports", &["grail-protocol"]),
    ("grail-model", &["grail-kernels", "grail-protocol", "grail-ports"]),
    ("grail-environments", &["grail-protocol", "grail-ports"]),
    ("grail-infrastructure", &["grail-protocol", "grail-ports"]),
    ("grail-monitoring", &["grail-protocol", "grail-ports"]),
    ("grail-services", &["grail-protocol", "grail-ports", "grail-parquet"]),
    ("grail-neurons", &["grail-services", "grail-ports", "grail-protocol"]),
    (
        "grail-cli",
        &[
            "grail-protocol",
            "grail-ports",
            "grail-parquet",
            "grail-kernels",
            "grail-model",
            "grail-environments",
            "grail-infrastructure",
            "grail-monitoring",
            "grail-services",
            "grail-neurons",
        ],
    ),
    ("grail-testkit", &["grail-protocol", "grail-ports"]),
];

/// The one crate that may hold `unsafe`.
const UNSAFE_CRATE: &str = "grail-kernels";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    metadata["packages"].as_array().expect("a list of packages").clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Our crates that `package` depends on, with `null` for a normal dependency and `dev` or `build`.
fn our_imports(package: &Value) -> Vec<(&str, Option<&str>)> {
    let dependencies = package["dependencies"].as_array().expect("a list of dependencies").iter();
    dependencies
        .map(|dependency| (text(&dependency["name"]), dependency["kind"].as_str()))
        .filter(|(name, _)| name.starts_with("grail-"))
        .collect()
}

#[test]
fn every_crate_is_in_the_table() {
    let packages = packages();
    let found: BTreeSet<&str> = packages.iter().map(|package| text(&package["name"])).collect();
    let listed: BTreeSet<&str> = MAY_IMPORT.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, listed);
}

#[test]
fn crates_import_what_their_layer_allows() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    for package in packages() {
        let name = text(&package["name"]);
        for (import, kind) in our_imports(&package) {
            if kind == Some("dev") {
                continue;
            }
            assert!(allowed[name].contains(&import), "{name} must not import {import}");
        }
    }
}

#[test]
fn the_testkit_is_a_development_dependency_only() {
    for package in packages() {
        for (import, kind) in our_imports(&package) {
            if import == "grail-testkit" {
                assert_eq!(kind, Some("dev"), "{} ships the testkit", text(&package["name"]));
            }
        }
    }
}

#[test]
fn unsafe_code_is_allowed_in_the_kernels_alone() {
    for package in packages() {
        let name = text(&package["name"]);
        let manifest = std::fs::read_to_string(text(&package["manifest_path"])).unwrap();
        let takes_workspace_lints = manifest
            .split("[lints]")
            .nth(1)
            .is_some_and(|lints| lints.trim_start().starts_with("workspace = true"));
        assert_eq!(takes_workspace_lints, name != UNSAFE_CRATE, "{name}: [lints] workspace = true");
    }
    let workspace = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("unsafe_code = \"forbid\""), "the workspace forbids unsafe code");
}

#[test]
fn the_protocol_is_pure() {
    let path = root().join("crates/grail-protocol/clippy.toml");
    let rules = std::fs::read_to_string(path).unwrap();
    for forbidden in ["std::time::SystemTime", "std::env::var", "std::fs::File", "HashMap"] {
        assert!(rules.contains(forbidden), "grail-protocol's clippy.toml must name {forbidden}");
    }
}
