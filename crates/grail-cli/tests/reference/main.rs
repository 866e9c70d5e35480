//! The reference's own run, end to end: its tiny model, its honest file, and its verdicts.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod damages;
mod forward;
mod honest;
mod model;
