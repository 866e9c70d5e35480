//! What a person sees while a network runs: a status screen on a terminal, clean lines elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use grail_protocol::constants::WINDOW_BLOCKS;
use grail_protocol::ids::{BlockNumber, Window};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output;

/// How often the spinners turn.
const TURN: Duration = Duration::from_millis(120);

/// Progress on standard error, results on standard output.
pub enum Screen {
    /// Lines that stay at the bottom of the terminal.
    Status(Box<Status>),
    /// Nothing but the results.
    Lines,
}

/// The bars of a status screen.
pub struct Status {
    bars: MultiProgress,
    windows: ProgressBar,
    blocks: ProgressBar,
    roles: BTreeMap<String, ProgressBar>,
}

/// Returns what holds the status lines, if standard error is a terminal.
pub fn bars() -> Option<MultiProgress> {
    io::stderr().is_terminal().then(MultiProgress::new)
}

impl Screen {
    /// Draws a status screen into `bars`; without them, writes lines only.
    pub fn new(bars: Option<MultiProgress>, roles: &[String], windows: u32) -> Self {
        let Some(bars) = bars else { return Self::Lines };
        let add = |bar: ProgressBar, template: &str| {
            let style = ProgressStyle::with_template(template);
            bars.add(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        };
        let finished = add(
            ProgressBar::new(u64::from(windows)),
            "{bar:30.green} {pos} of {len} windows, {elapsed}",
        );
        let blocks =
            add(ProgressBar::new(WINDOW_BLOCKS), "{bar:30.cyan} block {pos} of {len} {msg}");
        let width = roles.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let roles = roles
            .iter()
            .map(|name| {
                let bar = add(ProgressBar::new_spinner(), "{spinner} {prefix} {wide_msg}");
                bar.set_prefix(format!("{name:width$}"));
                bar.enable_steady_tick(TURN);
                (name.clone(), bar)
            })
            .collect();
        Self::Status(Box::new(Status { bars, windows: finished, blocks, roles }))
    }

    /// Writes a line of results.
    pub fn line(&self, text: &str) -> io::Result<()> {
        match self {
            Self::Status(status) => status.bars.suspend(|| output::line(text)),
            Self::Lines => output::line(text),
        }
    }

    /// Shows where the network stands.
    pub fn show(&self, head: BlockNumber, finished: usize, status: &BTreeMap<String, String>) {
        let Self::Status(screen) = self else { return };
        let window = Window::containing(head);
        screen.windows.set_position(u64::try_from(finished).unwrap_or(u64::MAX));
        screen.blocks.set_position(head.0 - window.start().0);
        screen.blocks.set_message(format!("of window {window}"));
        for (name, text) in status {
            if let Some(bar) = screen.roles.get(name) {
                bar.set_message(text.clone());
            }
        }
    }

    /// Takes the status lines away.
    pub fn clear(&self) {
        if let Self::Status(screen) = self {
            // The bars are decoration; a terminal that has gone away is no reason to fail.
            let _ = screen.bars.clear();
            for bar in screen.roles.values().chain([&screen.windows, &screen.blocks]) {
                bar.finish_and_clear();
            }
        }
    }
}
