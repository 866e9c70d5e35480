//! Proof v5 agrees with every vector of the reference, and its published weaknesses are there.

#![expect(clippy::unwrap_used, reason = "vectors that do not read fail the test")]

mod files;
mod heads;
mod primitives;
mod proof;
mod rules;
mod signatures;
mod validation;
mod weaknesses;
