//! What honest engines of another kind look like to a verifier, as signed data.
//!
//! Two honest engines that round differently disagree a little at every token. A calibration says
//! how much: somebody ran honest work of a miner's runtime through the verifier's, [`fit`](Thresholds::fit)
//! the thresholds that all of it passes, and signed them with a hotkey. Validators use the
//! calibrations of signers they trust; a runtime without one is measured but never punished.

mod fit;
mod signed;
mod sums;

use serde::{Deserialize, Serialize};

use crate::constants::{NAME_BYTES_MAX, WINDOW_BLOCKS};
use crate::domain::DomainHash;
use crate::ids::{Digest, Window};

pub use fit::{
    CLIP_SHARE, DISTANCE_DEVIATION_MIN, MARGIN_DEVIATION_MIN, MARGIN_HARD_MIN, RolloutSample,
    SAFETY_FACTOR, SAMPLES_MAX, SAMPLES_MIN, SOFT_HITS_FREE, SOFT_SHARE, TAIL_DOUBT,
    UnusableSamples, VETO_FACTOR, Z_MAX_MIN,
};
pub use signed::CalibrationError;
pub use sums::{SLACK, SumTest};

/// Shares of honest rollouts that lie beyond the tail thresholds, largest first; a miner whose
/// rollouts lie there more often gathers evidence against itself.
pub const TAIL_LEVELS: [f64; 3] = [0.1, 0.03, 0.01];

/// Version of the format; readers refuse others.
pub const CALIBRATION_VERSION: u32 = 2;

/// Most bytes of a calibration file.
pub const CALIBRATION_BYTES_MAX: u64 = 1 << 16;

/// Whose work a calibration can judge: two runtimes on one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pairing {
    /// [`model_identity`](crate::checkpoint::model_identity) of the checkpoint: equal for all
    /// checkpoints of a training, whose weights alone differ.
    pub model: Digest,
    /// Digest of the checkpoint that was measured on.
    pub checkpoint: Digest,
    /// Window that names it.
    pub window: Window,
    /// The miner's numeric contract, such as `bf16-1`; never the exact one.
    pub miner_runtime: String,
    /// The verifier's.
    pub verifier_runtime: String,
    /// Temperature of the races: it scales the margins.
    pub temperature: f64,
}

/// Why a calibration says nothing about some work.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unrelated {
    /// Nobody gave us one.
    #[error("there is no calibration for runtime {0}; measure one with `grail lab calibrate`")]
    NoCalibration(String),
    /// Measured with another pair of runtimes.
    #[error("it is for {found}, not for {wanted}")]
    Runtimes {
        /// Runtimes at hand, miner's and verifier's.
        wanted: String,
        /// Runtimes that were measured.
        found: String,
    },
    /// Measured on another model.
    #[error("it was measured on model {found}, not on {wanted}")]
    Model {
        /// Identity of the model at hand.
        wanted: Digest,
        /// Identity of the model measured on.
        found: Digest,
    },
    /// Measured at another temperature.
    #[error("it was measured at temperature {found}, not at {wanted}")]
    Temperature {
        /// Temperature at hand.
        wanted: f64,
        /// Temperature measured at.
        found: f64,
    },
    /// Measured on a checkpoint too far from the one at hand.
    #[error(
        "it was measured on checkpoint {found}, {age} windows from {wanted}, at most {max} allowed"
    )]
    Age {
        /// Checkpoint at hand.
        wanted: Window,
        /// Checkpoint measured on.
        found: Window,
        /// Windows between them.
        age: u64,
        /// Most windows.
        max: u64,
    },
}

impl Pairing {
    /// Checks that a calibration of `self` can judge the work of `wanted`: the same runtimes, model
    /// and temperature, and either the same checkpoint or one at most `age_windows_max` away in
    /// either direction.
    ///
    /// # Errors
    /// The first difference.
    pub fn covers(&self, wanted: &Self, age_windows_max: u64) -> Result<(), Unrelated> {
        let runtimes =
            |it: &Self| format!("{} judged by {}", it.miner_runtime, it.verifier_runtime);
        let (have, want) = (runtimes(self), runtimes(wanted));
        if have != want {
            return Err(Unrelated::Runtimes { wanted: want, found: have });
        }
        if self.model != wanted.model {
            return Err(Unrelated::Model { wanted: wanted.model, found: self.model });
        }
        // Races use the temperature as f32.
        if self.temperature as f32 != wanted.temperature as f32 {
            let (wanted, found) = (wanted.temperature, self.temperature);
            return Err(Unrelated::Temperature { wanted, found });
        }
        let age = self.window.start().0.abs_diff(wanted.window.start().0) / WINDOW_BLOCKS;
        if self.checkpoint != wanted.checkpoint && age > age_windows_max {
            let (wanted, found) = (wanted.window, self.window);
            return Err(Unrelated::Age { wanted, found, age, max: age_windows_max });
        }
        Ok(())
    }
}

/// Largest values that honest work shows, with room; all of them are data, none is configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// A token that loses its race by more, nats, rejects its rollout at once.
    pub margin_hard: f64,
    /// A token that loses by more, nats, is a soft hit.
    pub margin_soft: f64,
    /// Soft hits that a rollout may have for 1,000 tokens, besides [`SOFT_HITS_FREE`].
    pub soft_hits_per_1000: f64,
    /// Margins count up to here, nats, in their sum: one odd token is the veto's affair.
    pub margin_clip: f64,
    /// Judges the sum of a rollout's margins, each clipped at `margin_clip`.
    pub margin: SumTest,
    /// Judges the sum of its sketch distances, signs of 64 each.
    pub sketch: SumTest,
}

/// What one rollout comes to under some thresholds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Position and size of the largest margin.
    pub worst: Option<(usize, f32)>,
    /// Margins above `margin_soft`.
    pub soft_hits: u32,
    /// Most of those.
    pub soft_hits_allowed: u32,
    /// Standard score of the clipped margins' sum.
    pub margin_z: f64,
    /// Standard score of the distances' sum.
    pub sketch_z: f64,
}

impl Thresholds {
    /// Measures a rollout: `margins` of its tokens, nats, at least 0, and `distances` of its
    /// sketches.
    pub fn measure(&self, margins: &[f32], distances: &[u8]) -> Measures {
        let worst = margins.iter().copied().enumerate();
        let worst = worst.reduce(|best, next| if next.1 > best.1 { next } else { best });
        let clipped = margins.iter().map(|&margin| f64::from(margin).min(self.margin_clip));
        Measures {
            worst,
            soft_hits: count(self.soft_hits(margins)),
            soft_hits_allowed: self.soft_hits_allowed(margins.len()),
            margin_z: self.margin.z(clipped),
            sketch_z: self.sketch.z(distances.iter().map(|&distance| f64::from(distance))),
        }
    }

    /// Returns, for each of [`TAIL_LEVELS`], whether a rollout lies in that tail of honest ones.
    pub fn tail_hits(&self, measures: &Measures) -> [bool; TAIL_LEVELS.len()] {
        let beyond = |z: f64, threshold: Option<f64>| threshold.is_some_and(|limit| z > limit);
        std::array::from_fn(|level| {
            beyond(measures.margin_z, self.margin.z_tails[level])
                || beyond(measures.sketch_z, self.sketch.z_tails[level])
        })
    }

    fn soft_hits(&self, margins: &[f32]) -> usize {
        margins.iter().filter(|&&margin| f64::from(margin) > self.margin_soft).count()
    }

    fn soft_hits_allowed(&self, tokens: usize) -> u32 {
        let allowed = self.soft_hits_per_1000 * to_f64(tokens) / 1000.0;
        // A cast of a float saturates; both numbers are small and not negative.
        SOFT_HITS_FREE.saturating_add(allowed.floor() as u32)
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut demand = |holds: bool, complaint: &str| {
            if !holds {
                complaints.push(complaint.to_owned());
            }
        };
        // Written so that NaN is refused too.
        demand(
            self.margin_hard >= MARGIN_HARD_MIN && self.margin_hard <= 100.0,
            "margin_hard is out of range",
        );
        demand(
            self.margin_soft > 0.0 && self.margin_soft <= self.margin_hard,
            "margin_soft must be above 0 and at most margin_hard",
        );
        demand(
            self.margin_clip > 0.0 && self.margin_clip <= self.margin_hard,
            "margin_clip must be above 0 and at most margin_hard",
        );
        demand(
            (0.0..=1000.0).contains(&self.soft_hits_per_1000),
            "soft_hits_per_1000 must be 0 to 1000",
        );
        demand(self.margin.is_usable(), "the margin test has a number that cannot be used");
        demand(self.sketch.is_usable(), "the sketch test has a number that cannot be used");
        complaints
    }
}

/// Thresholds for one pair of runtimes on one model, and what they rest on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// [`CALIBRATION_VERSION`].
    pub version: u32,
    /// Whose work it can judge.
    pub pairing: Pairing,
    /// Digest of the prompts that were answered: others must be used to test the thresholds.
    pub prompts: Digest,
    /// Honest rollouts measured.
    pub rollouts: u64,
    /// Their completion tokens.
    pub tokens: u64,
    /// What all of them pass.
    pub thresholds: Thresholds,
}

impl Calibration {
    /// Fits the thresholds to honest work.
    ///
    /// # Errors
    /// When nothing can be learned from the samples.
    pub fn fit(
        pairing: Pairing,
        prompts: Digest,
        samples: &[RolloutSample],
    ) -> Result<Self, UnusableSamples> {
        let thresholds = Thresholds::fit(samples)?;
        let tokens = samples.iter().map(|sample| sample.margins.len() as u64).sum();
        let (version, rollouts) = (CALIBRATION_VERSION, samples.len() as u64);
        Ok(Self { version, pairing, prompts, rollouts, tokens, thresholds })
    }

    /// Returns the digest that names it, as verdicts do.
    pub fn digest(&self) -> Digest {
        DomainHash::new("calibration").text(&self.canonical()).finish()
    }

    /// Returns everything that keeps it from being used, for a person; empty if nothing.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = self.thresholds.complaints();
        if self.version != CALIBRATION_VERSION {
            complaints.push(format!("version {} is not {CALIBRATION_VERSION}", self.version));
        }
        let Pairing { miner_runtime, verifier_runtime, temperature, .. } = &self.pairing;
        for name in [miner_runtime, verifier_runtime] {
            let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
            if !(fits && name.bytes().all(|byte| byte.is_ascii_graphic())) {
                complaints.push("a runtime's name must be 1 to 64 printable characters".to_owned());
            }
        }
        if crate::rollout::Proof::is_exact(miner_runtime) {
            complaints
                .push("the exact runtime is judged by equality, not by thresholds".to_owned());
        }
        if !(temperature.is_finite() && *temperature > 0.0) {
            complaints.push(format!("temperature {temperature} must be above 0"));
        }
        if self.rollouts < SAMPLES_MIN as u64 {
            complaints.push(format!("{} rollouts are fewer than {SAMPLES_MIN}", self.rollouts));
        }
        complaints
    }
}

/// Returns the calibration that judges the work of `wanted` best: one measured on its checkpoint,
/// else the one measured nearest to it.
///
/// # Errors
/// Why the one that comes closest does not do, or that there is none for the miner's runtime.
pub fn choose<'a>(
    calibrations: &'a [Calibration],
    wanted: &Pairing,
    age_windows_max: u64,
) -> Result<&'a Calibration, Unrelated> {
    let distance = |it: &&Calibration| {
        let apart = it.pairing.window.start().0.abs_diff(wanted.window.start().0);
        // The digest decides between equals, so that the order of files never matters.
        (it.pairing.checkpoint != wanted.checkpoint, apart, it.digest())
    };
    let covering =
        calibrations.iter().filter(|it| it.pairing.covers(wanted, age_windows_max).is_ok());
    if let Some(best) = covering.min_by_key(distance) {
        return Ok(best);
    }
    let same = calibrations.iter().filter(|it| it.pairing.miner_runtime == wanted.miner_runtime);
    let refusals = same.min_by_key(distance).map(|it| it.pairing.covers(wanted, age_windows_max));
    match refusals {
        Some(Err(reason)) => Err(reason),
        _ => Err(Unrelated::NoCalibration(wanted.miner_runtime.clone())),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts of tokens are far below 2^53")]
fn to_f64(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
