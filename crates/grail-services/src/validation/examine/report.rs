//! What was found about a group: every check with its numbers, whether it failed or not.

use grail_protocol::calibration::TAIL_LEVELS;
use grail_protocol::ids::{Digest, TokenId};
use grail_protocol::verifier::Rejection;
use serde::{Deserialize, Serialize};

use crate::validation::evidence::GroupEvidence;

/// The rules that a file is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileName {
    /// By equality, for engines under `exact-1`.
    #[default]
    Exact,
    /// By a calibration of the miner's engine against ours.
    Tolerant,
    /// Measured and published, but neither rewarded nor held against the miner: there is no
    /// calibration for its engine.
    Shadow,
}

impl ProfileName {
    /// Returns the name, as in verdicts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Tolerant => "tolerant",
            Self::Shadow => "shadow",
        }
    }
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// It holds.
    Passed,
    /// The miner broke the rule.
    Failed,
    /// It was measured, but there is nothing to compare the measurement with.
    Shadow,
    /// It does not belong to this profile.
    NotRun,
    /// We could not decide, by our own fault.
    Unverified,
}

/// One check of one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckReport {
    /// Stable name, one of [`checks`].
    pub check: &'static str,
    /// What came of it.
    pub outcome: CheckOutcome,
    /// The number that decides, where there is one; the detail names its unit.
    pub measured: Option<f64>,
    /// Largest value of the number that passes.
    pub threshold: Option<f64>,
    /// The finding in words.
    pub detail: String,
}

/// Names of the checks, in the order in which they decide: each over all rollouts of a group before
/// the next. Other weights show as other hidden states first, free sampling as lost races.
pub mod checks {
    /// Tolerant profile: the sketches' distances add up to what honest ones do.
    pub const SKETCH_SUM: &str = "sketch_sum";
    /// Tolerant profile: no token loses its race by more than honest rounding explains.
    pub const MARGIN_VETO: &str = "margin_veto";
    /// Tolerant profile: few tokens lose their races clearly.
    pub const SOFT_HITS: &str = "soft_hits";
    /// Tolerant profile: the race margins add up to what honest ones do.
    pub const MARGIN_SUM: &str = "margin_sum";
    /// Exact profile: the hidden states hash to the verifier's.
    pub const HIDDEN_STATES: &str = "hidden_states";
    /// Exact profile: every token won its race.
    pub const RACE: &str = "race";
    /// All profiles: the claimed reward is what the answer is worth.
    pub const REWARD: &str = "reward";
    /// All profiles: our log-probabilities are finite, so that a trainer can use them.
    pub const LOGPROBS: &str = "logprobs";
}

/// A token that lost its race.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostRace {
    /// Position in the completion, 0-based.
    pub position: usize,
    /// Token in the file.
    pub claimed: TokenId,
    /// Token that wins under our own logits.
    pub winner: TokenId,
    /// How much worse the claimed token is, nats.
    pub margin: f32,
}

/// Everything found about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutReport {
    /// The group.
    pub group: u32,
    /// The rollout in its group.
    pub rollout: u32,
    /// The rules that it was judged by.
    pub profile: ProfileName,
    /// Completion tokens.
    pub tokens: u32,
    /// Every check, in the order in which they decide.
    pub checks: Vec<CheckReport>,
    /// The violation of the first check that failed; none where an earlier one is unverified.
    pub rejection: Option<Rejection>,
    /// How much worse than the winner each token is, nats.
    pub margins: Vec<f32>,
    /// Signs of 64 in which each sketch differs from ours; empty in the exact profile.
    pub distances: Vec<u8>,
    /// Exact profile: the first token that lost its race. Other profiles: the one that lost by most.
    pub lost: Option<LostRace>,
    /// Our log-probabilities of the tokens, nats.
    pub logprobs: Vec<f32>,
    /// Our reward; none where the environment failed.
    pub reward: Option<f32>,
    /// Our success; none where the environment failed.
    pub success: Option<bool>,
    /// Whether the rollout lies in the honest tail of each of [`TAIL_LEVELS`]; the tolerant
    /// profile's evidence.
    pub tail_hits: [bool; TAIL_LEVELS.len()],
}

/// Everything found about one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// The group.
    pub group: u32,
    /// The rules that it was judged by.
    pub profile: ProfileName,
    /// Digest of the calibration that the tolerant profile judged by.
    pub calibration: Option<Digest>,
    /// Set where the prompt is not this miner's.
    pub prompt: Option<Rejection>,
    /// Every rollout, in order.
    pub rollouts: Vec<RolloutReport>,
}

/// What keeps a group from being accepted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault<'a> {
    /// The miner's violation.
    Violation(&'a Rejection),
    /// Something that we could not decide.
    Undecided(&'a CheckReport),
}

impl RolloutReport {
    /// Returns the first check that neither passed nor was merely measured, and its place.
    fn first_fault(&self) -> Option<(usize, Fault<'_>)> {
        let mut checks = self.checks.iter().enumerate();
        let faulty = |outcome| matches!(outcome, CheckOutcome::Failed | CheckOutcome::Unverified);
        let (place, check) = checks.find(|(_, check)| faulty(check.outcome))?;
        match &self.rejection {
            Some(rejection) if check.outcome == CheckOutcome::Failed => {
                Some((place, Fault::Violation(rejection)))
            }
            _ => Some((place, Fault::Undecided(check))),
        }
    }
}

impl GroupReport {
    /// Returns what the rollouts of the tolerant profile say about the miner, if there are any whose
    /// tokens could be measured.
    pub fn evidence(&self) -> Option<GroupEvidence> {
        let measured =
            |it: &&RolloutReport| it.profile == ProfileName::Tolerant && !it.margins.is_empty();
        let mut evidence = GroupEvidence::default();
        for report in self.rollouts.iter().filter(measured) {
            evidence.rollouts = evidence.rollouts.saturating_add(1);
            for (hits, &is_hit) in evidence.tail_hits.iter_mut().zip(&report.tail_hits) {
                *hits = hits.saturating_add(u32::from(is_hit));
            }
        }
        (evidence.rollouts > 0).then_some(evidence)
    }

    /// Returns what keeps the group from being accepted, if anything: the prompt, then each check
    /// over all rollouts before the next check.
    pub fn first_fault(&self) -> Option<Fault<'_>> {
        if let Some(rejection) = &self.prompt {
            return Some(Fault::Violation(rejection));
        }
        let faults = self.rollouts.iter().filter_map(RolloutReport::first_fault);
        // The first of equal places, so the rollout with the lower index.
        faults.min_by_key(|(place, _)| *place).map(|(_, fault)| fault)
    }
}
