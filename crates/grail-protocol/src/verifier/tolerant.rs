//! The tolerant profile: compares a rollout with what honest engines of its runtime look like.
//!
//! No single number of another engine proves anything, save a token that loses its race by more
//! than honest rounding ever explains. What remains is evidence that adds up over a rollout, and,
//! through the [tails](Thresholds::tail_hits), over a miner's life.

use super::group::{ScoreFacts, UnusableFacts, Verdict, same_count};
use super::rejection::{Rejection, Statistic};
use crate::calibration::{Measures, Thresholds};
use crate::rollout::{Proof, Rollout};
use crate::sketch::sketches_of;

/// Returns the distance of each sketch of a rollout from the verifier's own.
///
/// # Errors
/// When the facts have other numbers of positions than the completion, or a margin that is none.
pub fn sketch_distances(rollout: &Rollout, facts: &ScoreFacts) -> Result<Vec<u8>, UnusableFacts> {
    let tokens = rollout.tokens.len();
    same_count("race winners", tokens, facts.winners.len())?;
    same_count("race margins", tokens, facts.margins.len())?;
    same_count("sketches", sketches_of(tokens), facts.sketches.len())?;
    if let Some(&margin) = facts.margins.iter().find(|it| !(it.is_finite() && **it >= 0.0)) {
        return Err(UnusableFacts::NotAMargin(margin));
    }
    match &rollout.proof {
        // Of a file that was read, the codec has compared the numbers; of others they may differ,
        // and a sketch that is missing is as wrong as a random one.
        Proof::Tolerant(claimed) => {
            let mut claimed = claimed.iter();
            let distance = |own: &crate::sketch::Sketch| {
                let distance = claimed.next().map_or(32, |theirs| own.distance(*theirs));
                u8::try_from(distance).expect("64 bits differ in at most 64")
            };
            Ok(facts.sketches.iter().map(distance).collect())
        }
        Proof::Exact(_) => Err(UnusableFacts::WrongProof),
    }
}

/// Checks the sum of the sketch distances: other weights, precision or tokens show here.
pub fn check_sketch_sum(
    group: u32,
    rollout: u32,
    thresholds: &Thresholds,
    measures: &Measures,
) -> Verdict {
    let (measured, threshold) = (measures.sketch_z, thresholds.sketch.z_max);
    exceeds(group, rollout, Statistic::SketchSum, measured, threshold)
}

/// Checks that no token loses its race by more than honest rounding explains.
pub fn check_margin_veto(
    group: u32,
    index: u32,
    rollout: &Rollout,
    facts: &ScoreFacts,
    thresholds: &Thresholds,
) -> Verdict {
    let beyond = |margin: &f32| f64::from(*margin) > thresholds.margin_hard;
    let claims = rollout.tokens.iter().zip(&facts.winners).zip(&facts.margins);
    // The first such token: what follows a forged one may be forged by it.
    match claims.enumerate().find(|(_, (_, margin))| beyond(margin)) {
        None => Verdict::Accepted,
        Some((position, ((&claimed, &winner), &margin))) => {
            Verdict::Rejected(Rejection::MarginVeto {
                group,
                rollout: index,
                position,
                claimed,
                winner,
                margin,
                max: thresholds.margin_hard,
            })
        }
    }
}

/// Checks the number of tokens that lose their races by more than a soft margin.
pub fn check_soft_hits(group: u32, rollout: u32, measures: &Measures) -> Verdict {
    let (measured, threshold) = (measures.soft_hits.into(), measures.soft_hits_allowed.into());
    exceeds(group, rollout, Statistic::SoftHits, measured, threshold)
}

/// Checks the sum of the clipped margins: another sampler shows here.
pub fn check_margin_sum(
    group: u32,
    rollout: u32,
    thresholds: &Thresholds,
    measures: &Measures,
) -> Verdict {
    let (measured, threshold) = (measures.margin_z, thresholds.margin.z_max);
    exceeds(group, rollout, Statistic::MarginSum, measured, threshold)
}

fn exceeds(
    group: u32,
    rollout: u32,
    statistic: Statistic,
    measured: f64,
    threshold: f64,
) -> Verdict {
    if measured <= threshold {
        return Verdict::Accepted;
    }
    Verdict::Rejected(Rejection::EvidenceExceeded {
        group,
        rollout,
        statistic,
        measured,
        threshold,
    })
}
