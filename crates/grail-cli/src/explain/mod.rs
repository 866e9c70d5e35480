//! What came of a file or a rollout, told so that its miner knows what to do next.

pub mod advice;
pub mod checks;
pub mod file;
pub mod reference;
pub mod rollout;
#[cfg(test)]
mod schema;
pub mod text;
pub mod verdict;
