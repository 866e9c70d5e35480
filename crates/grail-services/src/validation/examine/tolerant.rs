//! The checks of engines that are not exact: sums and margins, against a calibration or nothing.

use grail_protocol::calibration::{Calibration, TAIL_LEVELS};
use grail_protocol::verifier::{
    ScoreFacts, check_margin_sum, check_margin_veto, check_sketch_sum, check_soft_hits,
    sketch_distances,
};

use super::findings::{Findings, Numbers, Subject};
use super::profile::Profile;
use super::report::{LostRace, checks};
use crate::math::mean;

/// Checks of the tolerant profile, in the order in which they decide.
const CHECKS: [&str; 4] =
    [checks::SKETCH_SUM, checks::MARGIN_VETO, checks::SOFT_HITS, checks::MARGIN_SUM];

/// What the numbers of a rollout say besides the checks.
#[derive(Default)]
pub struct Numeric {
    /// Signs of 64 in which each sketch differs from ours.
    pub distances: Vec<u8>,
    /// The token that lost its race by most.
    pub lost: Option<LostRace>,
    /// Whether the rollout lies in each honest tail.
    pub tail_hits: [bool; TAIL_LEVELS.len()],
}

/// Adds the checks that compare sketches and margins.
pub fn examine(
    subject: &Subject<'_>,
    facts: &ScoreFacts,
    profile: &Profile<'_>,
    findings: &mut Findings,
) -> Numeric {
    let distances = match sketch_distances(subject.rollout, facts) {
        Ok(distances) => distances,
        Err(error) => {
            for check in CHECKS {
                findings.unverified(check, error.to_string());
            }
            return Numeric::default();
        }
    };
    let lost = worst(subject, facts);
    let tail_hits = match profile {
        Profile::Tolerant(calibration) => decide(subject, facts, &distances, calibration, findings),
        Profile::Shadow(reason) => {
            measure(facts, &distances, reason, findings);
            Default::default()
        }
        Profile::Exact => Default::default(),
    };
    Numeric { distances, lost, tail_hits }
}

/// Decides by a calibration; returns the tails that the rollout lies in.
fn decide(
    subject: &Subject<'_>,
    facts: &ScoreFacts,
    distances: &[u8],
    calibration: &Calibration,
    findings: &mut Findings,
) -> [bool; TAIL_LEVELS.len()] {
    let Subject { group, index, rollout } = *subject;
    let thresholds = &calibration.thresholds;
    let measures = thresholds.measure(&facts.margins, distances);
    let signs = mean(distances.iter().map(|&distance| f64::from(distance)));
    findings.decide(
        checks::SKETCH_SUM,
        Numbers::limited(measures.sketch_z, thresholds.sketch.z_max),
        Ok(check_sketch_sum(group, index, thresholds, &measures)),
        format!("{} sketches differ in {signs:.2} of 64 signs on average", distances.len()),
    );
    let largest = measures.worst.map_or(0.0, |(_, margin)| margin);
    findings.decide(
        checks::MARGIN_VETO,
        Numbers::limited(largest.into(), thresholds.margin_hard),
        Ok(check_margin_veto(group, index, rollout, facts, thresholds)),
        format!("no token loses its race by more than {largest} nats"),
    );
    findings.decide(
        checks::SOFT_HITS,
        Numbers::limited(measures.soft_hits.into(), measures.soft_hits_allowed.into()),
        Ok(check_soft_hits(group, index, &measures)),
        format!("{} tokens lose by more than {} nats", measures.soft_hits, thresholds.margin_soft),
    );
    let margin = mean(facts.margins.iter().map(|&margin| f64::from(margin)));
    findings.decide(
        checks::MARGIN_SUM,
        Numbers::limited(measures.margin_z, thresholds.margin.z_max),
        Ok(check_margin_sum(group, index, thresholds, &measures)),
        format!("{} tokens lose {margin:.5} nats on average", facts.margins.len()),
    );
    // What is beyond every honest rollout is in every tail, also by a statistic that has none.
    match &findings.rejection {
        Some(rejection) if rejection.is_statistical() => [true; TAIL_LEVELS.len()],
        _ => thresholds.tail_hits(&measures),
    }
}

/// Measures without deciding, in plain units: there are no honest numbers to compare with.
fn measure(facts: &ScoreFacts, distances: &[u8], reason: &str, findings: &mut Findings) {
    let signs = mean(distances.iter().map(|&distance| f64::from(distance)));
    let margins = || facts.margins.iter().map(|&margin| f64::from(margin));
    let lost = margins().filter(|margin| *margin > 0.0).count();
    let lost = f64::from(u32::try_from(lost).unwrap_or(u32::MAX));
    let why = |measured: String| format!("{measured}; not judged: {reason}");
    for (check, measured, unit) in [
        (checks::SKETCH_SUM, signs, "signs of 64 differ on average"),
        (checks::MARGIN_VETO, margins().fold(0.0, f64::max), "nats is the largest margin"),
        (checks::SOFT_HITS, lost, "tokens lose their races"),
        (checks::MARGIN_SUM, mean(margins()), "nats are lost per token on average"),
    ] {
        findings.shadow(check, measured, why(format!("{measured:.5} {unit}")));
    }
}

fn worst(subject: &Subject<'_>, facts: &ScoreFacts) -> Option<LostRace> {
    let margins = facts.margins.iter().copied().enumerate().filter(|(_, margin)| *margin > 0.0);
    let (position, margin) =
        margins.reduce(|worst, next| if next.1 > worst.1 { next } else { worst })?;
    let claimed = *subject.rollout.tokens.get(position)?;
    Some(LostRace { position, claimed, winner: *facts.winners.get(position)?, margin })
}
