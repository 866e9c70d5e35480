//! The published proof v5, as reference 0.0.60 computes it: for peers, comparison and the lab only.
//!
//! **This profile proves little and is never the default.** A sketch is one integer of at most
//! ±14,224, the tolerance around it is at least 6,000, and typical sketches are a few hundred, so:
//! - a constant zero passes, and so do the sketches of another position or of another model;
//! - a claim far outside 0..2^31-1, such as 10^18, passes, because the distance around the ring
//!   becomes negative there;
//! - the coefficients come from randomness that the miner writes itself;
//! - log-probabilities are judged by a median (15 of 32 may be anything), rewards by a soft check,
//!   and neither is signed;
//! - no check ties tokens to a sampler.
//!
//! These are kept on purpose, bug for bug: whoever judges by v5 must agree with its other judges.
//! [`verify`] shows the verdicts; its tests demonstrate each weakness. Proof v6 (the rest of this
//! crate) shares no code with this module.
//!
//! Where the reference has a fault that peers need not agree on, this module is stricter; the item
//! says so in its documentation.

pub mod binding;
pub mod bucket;
pub mod completion;
pub mod constants;
pub mod copycat;
pub mod distribution;
pub mod envelope;
pub mod file;
pub mod gating;
pub mod groups;
pub mod indices;
pub mod metrics;
pub mod prf;
pub mod python;
pub mod r_vec;
pub mod randomness;
pub mod schema;
pub mod seeds;
pub mod selection;
pub mod sketch;
pub mod tolerance;
pub mod trust;
pub mod verify;
pub mod wallet;
