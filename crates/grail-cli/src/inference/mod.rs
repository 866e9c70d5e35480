//! One generated sequence as its reader sees it: whole characters, stop strings, an end.
//!
//! `grail generate` and `grail serve` share it. What is generated depends on the request alone, so
//! both give the same text for the same request, whatever else the engine does at the time.

pub mod assembler;
pub mod engine;
pub mod seed;
pub mod sequence;
pub mod stop;

#[cfg(test)]
pub mod fake;
