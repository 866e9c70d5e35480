//! Where things lie in a network's folder, beside what the network itself keeps there.

use std::path::{Path, PathBuf};

/// Name of the hotkey within each wallet.
pub const HOTKEY_NAME: &str = "default";

/// Wallets of all members.
pub fn wallets(dir: &Path) -> PathBuf {
    dir.join("wallets")
}

/// The settings that the network was made with.
pub fn config(dir: &Path) -> PathBuf {
    dir.join("config.toml")
}

/// The model that the network started from, unless it is a folder elsewhere.
pub fn model(dir: &Path) -> PathBuf {
    dir.join("model")
}

/// Every lasting event, one a line.
pub fn journal(dir: &Path) -> PathBuf {
    dir.join("events.jsonl")
}

/// The report; the page with plots lies beside it.
pub fn report(dir: &Path) -> PathBuf {
    dir.join("report.json")
}

/// The metrics as Prometheus's text collector reads them.
pub fn metrics(dir: &Path) -> PathBuf {
    dir.join("metrics.prom")
}
