//! Log lines on standard error, moved out of the way of a status screen.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use anyhow::Result;
use grail_monitoring::logs::{self, LineSink};
use indicatif::MultiProgress;

use crate::config::LogConfig;

/// Sets up the logs of the process; lines are written above `bars` if there are any.
pub fn init(config: LogConfig, bars: Option<&MultiProgress>) -> Result<()> {
    let console: LineSink = match bars.cloned() {
        Some(bars) => Arc::new(move |record: &[u8]| bars.suspend(|| write(record))),
        None => Arc::new(write),
    };
    logs::init_logging(&logs::LogConfig {
        // Results are on standard output anyway; without -v only trouble is worth a line.
        filter: (config.verbosity == 0).then(|| "warn".to_owned()),
        verbosity: config.verbosity.saturating_sub(1),
        json: config.json,
        color: io::stderr().is_terminal(),
        console,
        ..logs::LogConfig::console()
    })?;
    Ok(())
}

fn write(record: &[u8]) {
    // If standard error is closed there is nobody left to tell.
    let _ = io::stderr().lock().write_all(record);
}
