//! The checks that compare a group with what the verifier computed itself.

use super::rejection::Rejection;
use crate::ids::{Digest, TokenId};
use crate::rollout::{Group, Proof, Rollout};
use crate::sketch::Sketch;

/// A decision about a miner's work. Our own failures are errors and never come here.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Everything that was checked holds.
    Accepted,
    /// The miner broke a rule.
    Rejected(Rejection),
}

impl Verdict {
    /// Returns the broken rule, if there is one.
    pub fn rejection(self) -> Option<Rejection> {
        match self {
            Self::Accepted => None,
            Self::Rejected(rejection) => Some(rejection),
        }
    }
}

/// What the verifier's own forward pass says of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreFacts {
    /// Winner of the race at each position.
    pub winners: Vec<TokenId>,
    /// How much worse than the winner the claimed token is at each position, nats.
    pub margins: Vec<f32>,
    /// [`HiddenStateDigest`](crate::digest::HiddenStateDigest) over the completion.
    pub hidden_digest: Digest,
    /// [Sketches](crate::sketch) of the completion; empty in the exact profile.
    pub sketches: Vec<Sketch>,
}

/// What the verifier's own environment says of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationFacts {
    /// Reward, finite.
    pub reward: f32,
    /// Whether the answer is right.
    pub success: bool,
}

/// Everything that the verifier computed about one rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutFacts {
    /// From the model.
    pub score: ScoreFacts,
    /// From the environment.
    pub evaluation: EvaluationFacts,
}

/// Everything that the verifier computed about one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFacts {
    /// Tokens of the prompt, as the verifier renders it.
    pub prompt: Vec<TokenId>,
    /// One entry per rollout, in order.
    pub rollouts: Vec<RolloutFacts>,
}

/// Facts that cannot be about this work: the verifier's own mistake, no fault of the miner.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnusableFacts {
    /// A list has another length than the work.
    #[error("{found} {what} for {expected}; the verifier's model and file do not belong together")]
    WrongCount {
        /// What is counted.
        what: &'static str,
        /// Entries expected.
        expected: usize,
        /// Entries found.
        found: usize,
    },
    /// The recomputed reward is infinite or not a number.
    #[error("the recomputed reward {0} is not finite; check the environment")]
    RewardNotFinite(f32),
    /// A recomputed margin is negative, infinite or not a number.
    #[error("the recomputed margin {0} is no finite number from 0 on; check the engine")]
    NotAMargin(f32),
    /// The rollout was given to the rules of another profile.
    #[error("the proof is of another profile than the rules; the file's header decides which")]
    WrongProof,
}

/// Checks a group, in this order: prompt, hidden states of every rollout, race of every rollout,
/// rewards. Cheaper evidence and better named reasons come first: other weights show as hidden
/// states, free sampling with the right weights as a lost race.
///
/// # Errors
/// When the facts cannot be about this group.
pub fn check_group(group: &Group, facts: &GroupFacts) -> Result<Verdict, UnusableFacts> {
    same_count("rollouts scored", group.rollouts.len(), facts.rollouts.len())?;
    if let rejected @ Verdict::Rejected(_) = check_prompt(group, &facts.prompt) {
        return Ok(rejected);
    }
    let rollouts = || (0u32..).zip(group.rollouts.iter().zip(&facts.rollouts));
    for (index, (rollout, facts)) in rollouts() {
        let verdict = check_hidden_states(group.index, index, rollout, &facts.score);
        if let Verdict::Rejected(_) = verdict {
            return Ok(verdict);
        }
    }
    for (index, (rollout, facts)) in rollouts() {
        let verdict = check_race(group.index, index, rollout, &facts.score)?;
        if let Verdict::Rejected(_) = verdict {
            return Ok(verdict);
        }
    }
    for (index, (rollout, facts)) in rollouts() {
        let verdict = check_reward(group.index, index, rollout, facts.evaluation)?;
        if let Verdict::Rejected(_) = verdict {
            return Ok(verdict);
        }
    }
    Ok(Verdict::Accepted)
}

/// Checks that the prompt is the verifier's own. Run it before the model: a wrong prompt is not
/// worth a forward pass.
pub fn check_prompt(group: &Group, expected: &[TokenId]) -> Verdict {
    if group.prompt == expected {
        return Verdict::Accepted;
    }
    let same = group.prompt.iter().zip(expected).take_while(|(found, want)| found == want).count();
    Verdict::Rejected(Rejection::PromptMismatch {
        group: group.index,
        position: same,
        expected: expected.get(same).copied(),
        found: group.prompt.get(same).copied(),
    })
}

/// Checks that the hidden states are those of the checkpoint.
pub fn check_hidden_states(
    group: u32,
    index: u32,
    rollout: &Rollout,
    facts: &ScoreFacts,
) -> Verdict {
    match &rollout.proof {
        Proof::Exact(found) if *found != facts.hidden_digest => {
            Verdict::Rejected(Rejection::HiddenStateMismatch {
                group,
                rollout: index,
                expected: facts.hidden_digest,
                found: *found,
            })
        }
        Proof::Exact(_) | Proof::Tolerant(_) => Verdict::Accepted,
    }
}

/// Checks that every token won its race.
///
/// # Errors
/// When the facts have another number of positions than the completion.
pub fn check_race(
    group: u32,
    index: u32,
    rollout: &Rollout,
    facts: &ScoreFacts,
) -> Result<Verdict, UnusableFacts> {
    same_count("race winners", rollout.tokens.len(), facts.winners.len())?;
    same_count("race margins", rollout.tokens.len(), facts.margins.len())?;
    let lost = rollout.tokens.iter().zip(&facts.winners).position(|(token, won)| token != won);
    Ok(match lost {
        None => Verdict::Accepted,
        Some(position) => Verdict::Rejected(Rejection::RaceLost {
            group,
            rollout: index,
            position,
            claimed: rollout.tokens[position],
            winner: facts.winners[position],
            margin: facts.margins[position],
        }),
    })
}

/// Checks that the claimed reward and success are what the answer is worth.
///
/// # Errors
/// When the recomputed reward is not finite.
pub fn check_reward(
    group: u32,
    index: u32,
    rollout: &Rollout,
    facts: EvaluationFacts,
) -> Result<Verdict, UnusableFacts> {
    let EvaluationFacts { reward, success } = facts;
    if !reward.is_finite() {
        return Err(UnusableFacts::RewardNotFinite(reward));
    }
    // Both sides run the same code on the same text, so equality is the honest outcome.
    if rollout.reward == reward && rollout.success == success {
        return Ok(Verdict::Accepted);
    }
    Ok(Verdict::Rejected(Rejection::RewardMismatch {
        group,
        rollout: index,
        claimed_reward: rollout.reward,
        claimed_success: rollout.success,
        reward,
        success,
    }))
}

pub(super) fn same_count(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), UnusableFacts> {
    if expected == found {
        return Ok(());
    }
    Err(UnusableFacts::WrongCount { what, expected, found })
}
