//! The pure rules that every role of a GRAIL subnet must agree on, byte for byte.
//!
//! Nothing here reads a clock, a generator, the environment or a file: time, randomness and bytes
//! are arguments. A miner's fault is data ([`Rejection`](verdict)), never an error of ours.

pub mod constants;
pub mod ids;
