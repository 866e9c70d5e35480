//! Which rules a file is judged by: its header names the engine that made it.
//!
//! A header cannot buy leniency: a name that is not true leads to checks that the work fails, or to
//! the shadow profile, which pays nothing.

use grail_protocol::calibration::{Calibration, Pairing, choose};
use grail_protocol::rollout::{FileHeader, Proof};

use super::report::ProfileName;
use crate::validation::pipeline::Bench;

/// The rules for one file.
#[derive(Clone, Debug, PartialEq)]
pub enum Profile<'a> {
    /// Equality.
    Exact,
    /// Thresholds.
    Tolerant(&'a Calibration),
    /// None; the reason is for a person.
    Shadow(String),
}

impl Profile<'_> {
    /// Returns the name of the rules.
    pub fn name(&self) -> ProfileName {
        match self {
            Self::Exact => ProfileName::Exact,
            Self::Tolerant(_) => ProfileName::Tolerant,
            Self::Shadow(_) => ProfileName::Shadow,
        }
    }
}

/// Returns the rules for a file with this header.
pub fn profile_of<'a>(bench: &'a Bench, header: &FileHeader) -> Profile<'a> {
    if Proof::is_exact(&header.numerics) {
        return Profile::Exact;
    }
    let checkpoint = &bench.checkpoint;
    let wanted = Pairing {
        model: checkpoint.identity,
        checkpoint: checkpoint.digest(),
        window: checkpoint.window,
        miner_runtime: header.numerics.clone(),
        verifier_runtime: checkpoint.model.info().numerics.clone(),
        temperature: checkpoint.sampler.temperature.into(),
    };
    match choose(&bench.calibrations, &wanted, bench.calibration_age_windows.into()) {
        Ok(calibration) => Profile::Tolerant(calibration),
        Err(reason) => Profile::Shadow(reason.to_string()),
    }
}
