//! Exit codes: what a script may rely on.

use std::process::ExitCode;

/// How a command ended when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what was asked; `verify` accepted the file.
    Done,
    /// `verify` rejected the file.
    Rejected,
    /// `verify` could not decide, which is not the miner's fault.
    Undecided,
    /// A signal ended it before it was done; what was there was told.
    Interrupted,
}

/// A command failed; the message is on standard error.
pub const FAILED: u8 = 1;
/// The command line or the configuration makes no sense, or `verify` could not decide.
pub const USAGE: u8 = 2;

/// Ended by SIGINT, as shells tell it: 128 plus the signal's number.
pub const INTERRUPTED: u8 = 130;

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Rejected => Self::from(FAILED),
            Outcome::Undecided => Self::from(USAGE),
            Outcome::Interrupted => Self::from(INTERRUPTED),
        }
    }
}
