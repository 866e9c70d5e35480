//! The straight line from a miner's bytes to a judgement: structure, choice, recomputation, rules.
//!
//! Whatever a miner can do ends as a [`Rejection`]; whatever fails on our side leaves rollouts
//! unverified, which is never held against anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::calibration::Calibration;
use grail_protocol::constants::ROLLOUTS_PER_GROUP;
use grail_protocol::ids::{Digest, Hotkey, Netuid, TokenId, Window};
use grail_protocol::randomness::{ValidationChallenge, WindowRandomness};
use grail_protocol::rollout::{FileHeader, Group};
use grail_protocol::sampling::choose_groups;
use grail_protocol::validated::{ValidatedGroup, ValidatedRollout};
use grail_protocol::verdict::{CheckTally, Tallied};
use grail_protocol::verifier::{
    ExpectedContext, ExpectedSeal, Rejection, Verdict, check_opened, check_prompt, open_file,
};
use tracing::{error, warn};

use super::evidence::{GroupEvidence, WindowEvidence};
use super::examine::{
    CheckOutcome, Fault, GroupReport, LostRace, ProfileName, examine_group, profile_of, prompt_of,
};
use crate::checkpoint::LoadedCheckpoint;
use crate::context::Heartbeat;
use crate::math::mean;

/// What the files of a window are judged against; equal benches give equal judgements.
#[derive(Clone)]
pub struct Bench {
    /// Name of the chain's network.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// The window.
    pub window: Window,
    /// Randomness of the window.
    pub randomness: WindowRandomness,
    /// Randomness that chooses the groups.
    pub challenge: ValidationChallenge,
    /// What opens the files.
    pub seal: ExpectedSeal,
    /// The checkpoint for the window.
    pub checkpoint: Arc<LoadedCheckpoint>,
    /// Most groups of a file that are recomputed.
    pub groups_checked_max: u32,
    /// Calibrations of signers that we trust, for engines that are not exact.
    pub calibrations: Arc<Vec<Calibration>>,
    /// Most windows between the checkpoint and the one that a calibration was measured on.
    pub calibration_age_windows: u32,
}

/// What came of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Groups in the file; 0 if it could not be read.
    pub groups: u32,
    /// Rollouts in the file; 0 if it could not be read.
    pub rollouts: u32,
    /// Rollouts decided on.
    pub checked: u32,
    /// Rollouts that passed.
    pub accepted: u32,
    /// Rollouts that were not decided on: by our own failure, or all of them in the shadow profile.
    pub unverified: u32,
    /// The violation that voids the file.
    pub rejection: Option<Rejection>,
    /// Whether the rejection rests on bytes that no signature vouches for, so that a transfer error
    /// could have caused it.
    pub rests_on_transfer: bool,
    /// Accepted groups, with our own rewards and log-probabilities.
    pub validated: Vec<ValidatedGroup>,
    /// The rules that the file was judged by.
    pub profile: ProfileName,
    /// Digest of the calibration that the tolerant profile judged by.
    pub calibration: Option<Digest>,
    /// Every check of the groups that were examined, also of those that were not decided on.
    pub checks: BTreeMap<&'static str, CheckTally>,
    /// The token that decided, where the violation is a lost race.
    pub lost: Option<LostRace>,
    /// What the groups of the tolerant profile say about their miner, whatever came of the file.
    pub tails: Vec<GroupEvidence>,
}

impl Judgement {
    /// Returns the mean recomputed reward of the accepted rollouts, 0 without any.
    pub fn reward_mean(&self) -> f64 {
        let rollouts = self.validated.iter().flat_map(|group| &group.rollouts);
        mean(rollouts.map(|rollout| f64::from(rollout.reward)))
    }

    /// Returns what the judgement says about the miner; nothing if nothing was decided.
    ///
    /// A file that was refused before its signature was checked is worth nothing, but it is no
    /// evidence: nobody's hotkey vouches for it.
    pub fn evidence(&self, window: Window) -> Option<WindowEvidence> {
        // A number that honest work never showed hits the tails; a rule that is broken is proof.
        let is_proof = |rejection: &Rejection| !rejection.is_statistical();
        let is_violation = self.rejection.as_ref().is_some_and(is_proof) && !self.rests_on_transfer;
        let evidence = WindowEvidence {
            window,
            groups: self.tails.clone(),
            violations: u32::from(is_violation),
            rollouts: if self.rests_on_transfer { 0 } else { self.checked },
        };
        (evidence.violations > 0 || evidence.rollouts > 0).then_some(evidence)
    }

    /// One violation voids every rollout that was chosen: one signature covers them all.
    fn void(&mut self, rejection: Rejection, checked: u32) {
        (self.checked, self.accepted, self.unverified) = (checked, 0, 0);
        self.rejection = Some(rejection);
        self.validated.clear();
    }

    /// Takes note of everything that was measured of a group.
    fn note(&mut self, report: &GroupReport) {
        self.calibration = self.calibration.or(report.calibration);
        for check in report.rollouts.iter().flat_map(|rollout| &rollout.checks) {
            let outcome = match check.outcome {
                CheckOutcome::Passed => Tallied::Passed,
                CheckOutcome::Failed => Tallied::Failed,
                CheckOutcome::Shadow => Tallied::Shadow,
                CheckOutcome::Unverified => Tallied::Unverified,
                CheckOutcome::NotRun => continue,
            };
            let tally = self.checks.entry(check.check).or_default();
            tally.add(outcome, check.measured, check.threshold);
        }
        self.tails.extend(report.evidence());
    }
}

/// What one group came to.
enum GroupOutcome {
    Accepted(ValidatedGroup),
    Rejected(Rejection),
    /// Our own failure, or nothing to judge by.
    Undecided,
}

/// Returns what the verifier expects of the file of `hotkey`.
pub fn expected(bench: &Bench, hotkey: Hotkey) -> ExpectedContext {
    let info = bench.checkpoint.model.info();
    ExpectedContext {
        header: bench.checkpoint.header(&bench.network, bench.netuid, bench.window, hotkey),
        seal: bench.seal.clone(),
        vocab_size: info.vocab_size,
        eos_token_ids: info.eos_token_ids.clone(),
        sequence_tokens_max: info.max_position_embeddings,
        accepts_other_numerics: bench.checkpoint.whitening.is_some(),
    }
}

/// Judges the bytes found in the bucket of `hotkey`. Blocks.
///
/// # Errors
/// [`ModelError::Stopped`] alone: every other failure of ours is in the judgement.
pub fn judge(
    bench: &Bench,
    hotkey: Hotkey,
    bytes: &[u8],
    stop: &StopFlag,
    heartbeat: &Heartbeat,
) -> Result<Judgement, ModelError> {
    let expected = expected(bench, hotkey);
    let opened = match open_file(bytes, &expected) {
        Ok(opened) => opened,
        Err(rejection) => return Ok(refused(bench, &[], rejection)),
    };
    let sizes: Vec<usize> = opened.groups().iter().map(|group| group.rollouts.len()).collect();
    let file = match check_opened(opened, &expected) {
        Ok(file) => file,
        Err(rejection) => return Ok(refused(bench, &sizes, rejection)),
    };
    let groups = count(file.groups().len());
    let chosen = choose_groups(bench.challenge, hotkey, groups, bench.groups_checked_max);
    let chosen: Vec<&Group> = chosen
        .into_iter()
        .filter_map(|index| file.groups().get(usize::try_from(index).ok()?))
        .collect();
    let mut judgement = Judgement {
        groups,
        rollouts: count(file.n_rollouts()),
        profile: profile_of(bench, file.header()).name(),
        ..Judgement::default()
    };
    let checked = count(chosen.len()).saturating_mul(ROLLOUTS_PER_GROUP);
    let prompts = prompts(bench, file.header(), &chosen);
    // All prompts before any forward pass: cheaper, and a copied file shows as what it is.
    for (group, prompt) in chosen.iter().zip(&prompts) {
        if let Some(Verdict::Rejected(rejection)) =
            prompt.as_ref().map(|it| check_prompt(group, it))
        {
            judgement.void(rejection, checked);
            return Ok(judgement);
        }
    }
    for (group, prompt) in chosen.into_iter().zip(prompts) {
        let outcome = match prompt {
            Some(_) => judge_group(bench, file.header(), group, (stop, heartbeat), &mut judgement)?,
            None => GroupOutcome::Undecided,
        };
        heartbeat.beat();
        match outcome {
            GroupOutcome::Accepted(validated) => {
                judgement.accepted += ROLLOUTS_PER_GROUP;
                judgement.validated.push(validated);
            }
            GroupOutcome::Undecided => judgement.unverified += ROLLOUTS_PER_GROUP,
            GroupOutcome::Rejected(rejection) => {
                judgement.void(rejection, checked);
                return Ok(judgement);
            }
        }
    }
    judgement.checked = judgement.accepted;
    Ok(judgement)
}

/// The judgement on a file that did not get as far as its groups; `sizes` are the rollouts of each
/// group, if they could be read.
fn refused(bench: &Bench, sizes: &[usize], rejection: Rejection) -> Judgement {
    let at_most = usize::try_from(bench.groups_checked_max).unwrap_or(usize::MAX);
    let checked = sizes.iter().take(at_most).sum::<usize>();
    // Past root and signature the content is the miner's beyond doubt. The root does not cover the
    // seal: a bit that fell over on the way leaves a signed root and a body that does not open.
    let rests_on_transfer = matches!(
        rejection,
        Rejection::Malformed(_)
            | Rejection::MalformedGroups(_)
            | Rejection::WrongSeal { .. }
            | Rejection::SealBroken(_)
            | Rejection::HeaderMismatch { .. }
            | Rejection::Unsigned(_)
    );
    Judgement {
        groups: count(sizes.len()),
        rollouts: count(sizes.iter().sum()),
        checked: count(checked),
        rejection: Some(rejection),
        rests_on_transfer,
        ..Judgement::default()
    }
}

/// Returns the right prompt of each group; nothing where we cannot render it.
fn prompts(bench: &Bench, header: &FileHeader, groups: &[&Group]) -> Vec<Option<Vec<TokenId>>> {
    let render = |group: &&Group| {
        prompt_of(bench, header, group.index)
            .inspect_err(|error| {
                warn!(hotkey = %header.hotkey, group = group.index, %error, "no prompt to compare");
            })
            .ok()
    };
    groups.iter().map(render).collect()
}

fn judge_group(
    bench: &Bench,
    header: &FileHeader,
    group: &Group,
    (stop, heartbeat): (&StopFlag, &Heartbeat),
    judgement: &mut Judgement,
) -> Result<GroupOutcome, ModelError> {
    let hotkey = header.hotkey;
    let unverified = |reason: &dyn std::fmt::Display| {
        warn!(%hotkey, group = group.index, %reason, "left a group unverified");
        GroupOutcome::Undecided
    };
    let report = match examine_group(bench, header, group, stop) {
        Ok(report) => report,
        Err(ModelError::Stopped) => return Err(ModelError::Stopped),
        Err(error) => return Ok(unverified(&error)),
    };
    // A rejection rests on our own arithmetic, and voids a file for good: it is worth a second pass.
    // Equal work gives equal bits, so whatever differs is a fault of this machine.
    if matches!(report.first_fault(), Some(Fault::Violation(_))) {
        heartbeat.beat();
        match examine_group(bench, header, group, stop) {
            Ok(again) if again == report => {}
            Ok(_) => {
                error!(
                    %hotkey,
                    group = group.index,
                    "this machine computed a group twice and disagrees with itself: check its \
                     memory and processor, and trust none of its verdicts until then"
                );
                return Ok(unverified(&"our own results differ"));
            }
            Err(ModelError::Stopped) => return Err(ModelError::Stopped),
            Err(error) => return Ok(unverified(&error)),
        }
    }
    judgement.note(&report);
    match report.first_fault() {
        Some(Fault::Violation(rejection)) => {
            judgement.lost = lost_race(rejection, &report);
            return Ok(GroupOutcome::Rejected(rejection.clone()));
        }
        Some(Fault::Undecided(check)) => return Ok(unverified(&check.detail)),
        None if report.profile == ProfileName::Shadow => return Ok(GroupOutcome::Undecided),
        None => {}
    }
    Ok(match validated(hotkey, group, report) {
        Some(validated) => GroupOutcome::Accepted(validated),
        None => unverified(&"there is no reward for a rollout"),
    })
}

/// Returns the token that a violation is about, if it is about one.
fn lost_race(rejection: &Rejection, report: &GroupReport) -> Option<LostRace> {
    let of =
        |position: usize, claimed, winner, margin| LostRace { position, claimed, winner, margin };
    match *rejection {
        Rejection::RaceLost { position, claimed, winner, margin, .. }
        | Rejection::MarginVeto { position, claimed, winner, margin, .. } => {
            Some(of(position, claimed, winner, margin))
        }
        // Sums have no single cause; the worst token shows best what kind of work it is.
        Rejection::EvidenceExceeded { rollout, .. } => {
            report.rollouts.get(usize::try_from(rollout).ok()?)?.lost
        }
        _ => None,
    }
}

/// Returns what the trainer gets of an accepted group: tokens of the miner, everything else our own.
fn validated(hotkey: Hotkey, group: &Group, report: GroupReport) -> Option<ValidatedGroup> {
    let rollouts = group.rollouts.iter().zip(report.rollouts).map(|(rollout, report)| {
        Some(ValidatedRollout {
            tokens: rollout.tokens.clone(),
            logprobs: report.logprobs,
            reward: report.reward?,
            success: report.success?,
        })
    });
    Some(ValidatedGroup {
        hotkey,
        index: group.index,
        prompt: group.prompt.clone(),
        rollouts: rollouts.collect::<Option<_>>()?,
    })
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
