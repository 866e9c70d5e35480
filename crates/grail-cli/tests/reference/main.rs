//! The reference's own run, end to end: its tiny model, its honest file, and its verdicts.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::print_stdout, reason = "the number of cases that ran is part of the result")]

mod damages;
mod forward;
mod honest;
mod model;
