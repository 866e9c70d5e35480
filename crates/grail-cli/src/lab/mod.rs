//! The attack lab: honest miners and every known cheat, on a real model, through public interfaces.
//!
//! A cheater here makes its rollouts as it would on the network: with other weights, another sampler,
//! edited tokens or forged bytes, claimed and sealed by the miner's own pipeline. The validator's own
//! code judges; nothing in the lab touches a verdict. `docs/lab.md` describes rows and JSON.

pub mod adversary;
pub mod calibration;
pub mod cost;
pub mod examine;
pub mod problems;
pub mod report;
pub mod results;
pub mod rows;
pub mod runner;
pub mod settings;
pub mod statistics;
pub mod v5;
pub mod variants;
pub mod world;
