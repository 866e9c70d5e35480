//! Where things lie in a network's folder, beside what the network itself keeps there.

use std::path::{Path, PathBuf};

use grail_infrastructure::local::store::credentials::account_id;
use grail_protocol::ids::Hotkey;
use grail_protocol::keys::VERDICTS_PREFIX;

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

/// What a validator publishes of each miner, `{window}/{hotkey}.json` below it.
pub fn verdicts(dir: &Path, validator: Hotkey) -> PathBuf {
    dir.join("store").join(account_id(validator)).join(VERDICTS_PREFIX.trim_end_matches('/'))
}

/// The metrics as Prometheus's text collector reads them.
pub fn metrics(dir: &Path) -> PathBuf {
    dir.join("metrics.prom")
}
