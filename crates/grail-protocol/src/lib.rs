//! The pure rules that every role of a GRAIL subnet must agree on, byte for byte.
//!
//! Nothing here reads a clock, a generator, the environment or a file: time, randomness and bytes
//! are arguments. A miner's fault is data ([`verifier::Rejection`]), never an error of ours.
//!
//! The way of a rollout: [`randomness`] gives the miner its problems, [`sampler`] its tokens,
//! [`digest`] ties them to the weights, [`prover`] signs the [`rollout`] file and seals it with
//! [`timelock`], and [`verifier`] decides on it.

pub mod calibration;
pub mod canonical_json;
pub mod checkpoint;
pub mod codec;
pub mod constants;
pub mod credentials;
pub mod digest;
pub mod domain;
pub mod ids;
pub mod keys;
pub mod math;
pub mod merkle;
pub mod philox;
pub mod prover;
pub mod randomness;
pub mod rollout;
pub mod sampler;
pub mod sampling;
pub mod signature;
pub mod sketch;
pub mod timelock;
pub mod v5;
pub mod validated;
pub mod verdict;
pub mod verifier;
