//! The roles under the reference's profile v5: its files, its checks, and its weaknesses.
//!
//! A Rust miner, validator or trainer works with Python ones here. The profile is the one that the
//! loaded checkpoint publishes; a node that is set up for another one waits and says so. See
//! [`grail_protocol::v5`] for what this profile does not prove.

pub mod assignment;
pub mod checkpoints;
pub mod examine;
pub mod fetch;
pub mod mining;
pub mod opened;
mod traces;
pub mod training;
pub mod validation;
