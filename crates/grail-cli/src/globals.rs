//! The options that every command takes.

use std::path::PathBuf;

use crate::cli::Cli;
use crate::config::Config;

/// Options that stand before or after any command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Globals {
    /// Number of `-v`.
    pub verbose: u8,
    /// Whether log lines are JSON.
    pub log_json: bool,
    /// Configuration file.
    pub config: Option<PathBuf>,
}

impl From<&Cli> for Globals {
    fn from(cli: &Cli) -> Self {
        Self { verbose: cli.verbose, log_json: cli.log_json, config: cli.config.clone() }
    }
}

impl Globals {
    /// Lays the flags over `config`.
    pub fn overlay(&self, config: &mut Config) {
        if self.verbose > 0 {
            config.log.verbosity = self.verbose;
        }
        config.log.json |= self.log_json;
    }
}
