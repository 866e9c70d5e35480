//! What `grail explain` answers about one rollout.

mod race;
mod screen;

use std::path::Path;

use anyhow::Result;
use grail_model::tokenizer::Tokenizer;
use grail_protocol::ids::{Digest, Hotkey, TokenId, Window};
use grail_protocol::rollout::{Group, Proof, Rollout};
use grail_protocol::sketch::STRIDE;
use grail_protocol::verifier::Rejection;
use grail_services::validation::examine::{
    CheckOutcome, CheckReport, FileReport, GroupReport, RolloutReport, checks as names,
};
use grail_services::validation::pipeline::Bench;
use serde::Serialize;

pub use self::race::RaceAnswer;
use super::advice;
use super::checks::{self, CheckAnswer};
use super::file::{NO_CALIBRATION, RolloutVerdict, verdict_on};
use super::text;
use crate::serve::wire::token_text;

/// Version of the JSON.
pub const VERSION: u32 = 1;
/// Most bytes of a prompt or completion in the JSON.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// Everything about one rollout.
#[derive(Debug, Serialize)]
pub struct RolloutAnswer {
    version: u32,
    file: String,
    group: u32,
    rollout: u32,
    /// `accepted`, `rejected` or `undecided`.
    pub verdict: &'static str,
    reason: Option<String>,
    evidence: Option<String>,
    /// What was found, in plain words.
    conclusion: String,
    /// What the miner should do.
    next_step: String,
    window: Option<Window>,
    hotkey: Option<Hotkey>,
    checkpoint: Option<Digest>,
    numerics: Option<String>,
    profile: Option<&'static str>,
    checks: Vec<CheckAnswer>,
    prompt: Option<TextAnswer>,
    completion: Option<TextAnswer>,
    /// The token that lost its race, or in the tolerant profile the worst one.
    race: Option<RaceAnswer>,
    hidden_states: Option<HiddenStatesAnswer>,
    sketches: Option<SketchesAnswer>,
    reward: Option<RewardAnswer>,
    /// Every token of the completion, if asked for.
    tokens: Option<Vec<TokenAnswer>>,
    /// What was taken from the file's own header because nothing else said it.
    pub taken_from_file: Vec<&'static str>,
}

/// A run of tokens.
#[derive(Debug, Serialize)]
struct TextAnswer {
    tokens: usize,
    /// Nothing if the tokenizer does not know a token.
    text: Option<String>,
    /// Whether the text was longer.
    is_cut: bool,
}

#[derive(Debug, Serialize)]
struct HiddenStatesAnswer {
    claimed: Digest,
    /// Nothing if it could not be recomputed.
    recomputed: Option<Digest>,
}

#[derive(Debug, Serialize)]
struct SketchesAnswer {
    /// Signs of 64 in which each sketch differs from ours.
    distances: Vec<u8>,
    mean: f64,
    largest: u8,
    /// First completion token (0-based) that the largest one covers.
    largest_at: usize,
    /// Tokens that a sketch covers.
    tokens_each: usize,
}

#[derive(Debug, Serialize)]
struct RewardAnswer {
    claimed: f32,
    claimed_success: bool,
    /// Nothing if the environment failed.
    recomputed: Option<f32>,
    recomputed_success: Option<bool>,
}

#[derive(Debug, Serialize)]
struct TokenAnswer {
    position: usize,
    token: TokenId,
    text: String,
    margin: Option<f32>,
    logprob: Option<f32>,
}

/// What an answer is made of.
pub struct Subject<'a> {
    /// Path of the file.
    pub path: &'a Path,
    /// What was found about the file, with the group examined where that was possible.
    pub report: &'a FileReport,
    /// The group's index.
    pub group: u32,
    /// The rollout's index.
    pub rollout: u32,
    /// The group as it stands in the file, if it could be read.
    pub content: Option<&'a Group>,
    /// What the file was held against.
    pub bench: &'a Bench,
    /// The checkpoint's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Whether every token is told.
    pub with_tokens: bool,
}

/// What a rollout came to, and why.
struct Decision {
    verdict: &'static str,
    rejection: Option<Rejection>,
    evidence: Option<String>,
    conclusion: String,
    next_step: String,
}

impl RolloutAnswer {
    fn new(path: &Path, group: u32, rollout: u32, decision: Decision) -> Self {
        Self {
            version: VERSION,
            file: path.display().to_string(),
            group,
            rollout,
            verdict: decision.verdict,
            reason: decision.rejection.map(|rejection| rejection.code().to_owned()),
            evidence: decision.evidence,
            conclusion: decision.conclusion,
            next_step: decision.next_step,
            window: None,
            hotkey: None,
            checkpoint: None,
            numerics: None,
            profile: None,
            checks: Vec::new(),
            prompt: None,
            completion: None,
            race: None,
            hidden_states: None,
            sketches: None,
            reward: None,
            tokens: None,
            taken_from_file: Vec::new(),
        }
    }

    /// Nothing can be said, and it is not the miner's fault.
    pub fn undecided(path: &Path, group: u32, rollout: u32, why: String) -> Self {
        let decision = Decision {
            verdict: "undecided",
            rejection: None,
            conclusion: "nothing can be said about this rollout; it is not the miner's fault"
                .into(),
            next_step: "see to what is said above, then ask again".into(),
            evidence: Some(why),
        };
        Self::new(path, group, rollout, decision)
    }

    /// Tells everything about a rollout.
    ///
    /// # Errors
    /// When the model fails on the question what the winner of a lost race was worth.
    pub fn of(subject: &Subject<'_>) -> Result<Self> {
        let Subject { report, group, rollout, content, .. } = *subject;
        let examined = report.groups.iter().find(|it| it.index == group);
        let found = examined.and_then(|it| it.found.as_ref().ok());
        let index = usize::try_from(rollout)?;
        let one = found.and_then(|found| found.rollouts.get(index));
        let claim = content.and_then(|content| content.rollouts.get(index));
        let failure = examined.and_then(|it| it.found.as_ref().err()).map(ToString::to_string);
        let decision = decide(report, found, one, failure);
        let header = report.header.as_ref();
        let mut checks: Vec<CheckAnswer> = report.checks.iter().map(CheckAnswer::from).collect();
        if let Some(examined) = examined {
            let examined = std::slice::from_ref(examined);
            checks.push(checks::prompts(examined));
            checks.push(checks::recomputation(examined));
        }
        checks.extend(one.into_iter().flat_map(|one| &one.checks).map(CheckAnswer::from));
        let texts = |tokens: &[TokenId]| TextAnswer::of(tokens, subject.tokenizer);
        Ok(Self {
            window: header.map(|header| header.window),
            hotkey: header.map(|header| header.hotkey),
            checkpoint: header.map(|header| header.checkpoint),
            numerics: header.map(|header| header.numerics.clone()),
            profile: one.map(|one| one.profile.as_str()),
            checks,
            prompt: content.map(|content| texts(&content.prompt)),
            completion: claim.map(|claim| texts(&claim.tokens)),
            race: match (content, one.and_then(|one| one.lost.as_ref().map(|lost| (one, lost)))) {
                (Some(content), Some((one, lost))) => {
                    Some(RaceAnswer::of(subject, content, one, lost)?)
                }
                _ => None,
            },
            hidden_states: claim.and_then(|claim| HiddenStatesAnswer::of(claim, one)),
            sketches: one.and_then(|one| SketchesAnswer::of(&one.distances)),
            reward: claim.map(|claim| RewardAnswer {
                claimed: claim.reward,
                claimed_success: claim.success,
                recomputed: one.and_then(|one| one.reward),
                recomputed_success: one.and_then(|one| one.success),
            }),
            tokens: claim
                .filter(|_| subject.with_tokens)
                .map(|claim| tokens_of(claim, one, subject.tokenizer)),
            ..Self::new(subject.path, group, rollout, decision)
        })
    }
}

/// Decides as a validator does: the file, the prompt of the group, then the rollout's own checks.
fn decide(
    report: &FileReport,
    group: Option<&GroupReport>,
    one: Option<&RolloutReport>,
    failure: Option<String>,
) -> Decision {
    let of_file = report.rejection.as_ref();
    let of_prompt = group.and_then(|group| group.prompt.as_ref());
    let of_rollout = one.and_then(|one| one.rejection.as_ref());
    if let Some(rejection) = of_file.or(of_prompt).or(of_rollout) {
        let advice = advice::on(rejection.code());
        let meaning = advice.map_or("a rule that this program does not explain", |it| it.meaning);
        let subject = match of_file {
            Some(_) => "the whole file is void",
            None => "this rollout is rejected, and with it the whole file",
        };
        return Decision {
            verdict: "rejected",
            rejection: Some(rejection.clone()),
            evidence: Some(rejection.to_string()),
            conclusion: format!("{subject}: {meaning}"),
            next_step: advice.map_or("see docs/security.md", |it| it.next_step).to_owned(),
        };
    }
    let undecided = |evidence: String, next_step: &str| Decision {
        verdict: "undecided",
        rejection: None,
        evidence: Some(evidence),
        conclusion: "nothing is held against this rollout, but it could not be accepted".into(),
        next_step: next_step.into(),
    };
    let is_open = |check: &&CheckReport| check.outcome == CheckOutcome::Unverified;
    match one.map(|one| (one, verdict_on(one))) {
        Some((_, RolloutVerdict::Passed | RolloutVerdict::Failed)) => Decision {
            verdict: "accepted",
            rejection: None,
            evidence: None,
            conclusion: "every check of this rollout holds".into(),
            next_step: "none; if the file was rejected, another rollout is to blame, and `grail \
                        verify` names it"
                .into(),
        },
        Some((one, RolloutVerdict::Undecided)) => match one.checks.iter().find(is_open) {
            Some(check) => undecided(
                format!("{}: {}", check.check, check.detail),
                "repair what failed on this machine, then ask again",
            ),
            None => undecided(
                NO_CALIBRATION.to_owned(),
                "mine with an engine under `exact-1`, or ask the validator for a calibration of yours",
            ),
        },
        None => undecided(
            failure.unwrap_or_else(|| "the rollout was not recomputed".to_owned()),
            "see to what is said above, then ask again",
        ),
    }
}

impl TextAnswer {
    fn of(tokens: &[TokenId], tokenizer: &Tokenizer) -> Self {
        // Special tokens stay: an end token is what a completion may hinge on.
        let (text, is_cut) = match tokenizer.decode(tokens, false) {
            Ok(text) => {
                let (text, is_cut) = text::cut(text, TEXT_BYTES_MAX);
                (Some(text), is_cut)
            }
            Err(_) => (None, false),
        };
        Self { tokens: tokens.len(), text, is_cut }
    }
}

impl HiddenStatesAnswer {
    fn of(claim: &Rollout, one: Option<&RolloutReport>) -> Option<Self> {
        let Proof::Exact(claimed) = claim.proof else { return None };
        let check =
            one.and_then(|one| one.checks.iter().find(|it| it.check == names::HIDDEN_STATES));
        let recomputed =
            match (check.map(|it| it.outcome), one.and_then(|it| it.rejection.as_ref())) {
                (Some(CheckOutcome::Passed), _) => Some(claimed),
                (_, Some(Rejection::HiddenStateMismatch { expected, .. })) => Some(*expected),
                _ => None,
            };
        Some(Self { claimed, recomputed })
    }
}

impl SketchesAnswer {
    fn of(distances: &[u8]) -> Option<Self> {
        // The first of equal ones.
        let (at, largest) =
            distances.iter().copied().enumerate().rev().max_by_key(|&(_, distance)| distance)?;
        let count = u32::try_from(distances.len()).ok()?;
        let sum: u32 = distances.iter().copied().map(u32::from).sum();
        Some(Self {
            distances: distances.to_vec(),
            mean: f64::from(sum) / f64::from(count),
            largest,
            largest_at: at.saturating_mul(STRIDE),
            tokens_each: STRIDE,
        })
    }
}

fn tokens_of(
    claim: &Rollout,
    one: Option<&RolloutReport>,
    tokenizer: &Tokenizer,
) -> Vec<TokenAnswer> {
    let at = |values: fn(&RolloutReport) -> &Vec<f32>, position: usize| {
        one.and_then(|one| values(one).get(position).copied())
    };
    let tell = |(position, &token): (usize, &TokenId)| TokenAnswer {
        position,
        token,
        text: token_text(tokenizer, token),
        margin: at(|one| &one.margins, position),
        logprob: at(|one| &one.logprobs, position),
    };
    claim.tokens.iter().enumerate().map(tell).collect()
}

#[cfg(test)]
mod tests {
    use super::race::Runner;
    use super::*;
    use crate::explain::schema;

    #[test]
    fn the_fields_of_the_json_are_frozen() {
        let rejection =
            Rejection::PromptMismatch { group: 0, position: 1, expected: None, found: None };
        let decision = Decision {
            verdict: "rejected",
            rejection: Some(rejection),
            evidence: Some("found".to_owned()),
            conclusion: "so".to_owned(),
            next_step: "then".to_owned(),
        };
        let text = || TextAnswer { tokens: 1, text: Some("a".to_owned()), is_cut: false };
        let runner = |token| Runner {
            token,
            text: "a".to_owned(),
            logprob: -1.0,
            probability: 0.25,
            noise: 0.5,
            score: -0.5,
        };
        let check = CheckReport {
            check: "race",
            outcome: CheckOutcome::Failed,
            measured: Some(0.5),
            threshold: Some(0.0),
            detail: "lost".to_owned(),
        };
        let answer = RolloutAnswer {
            window: Some(Window::from_start(30).unwrap()),
            hotkey: Some(Hotkey([1; 32])),
            checkpoint: Some(Digest([2; 32])),
            numerics: Some("exact-1".to_owned()),
            profile: Some("exact"),
            checks: vec![CheckAnswer {
                rollouts: Some(checks::Tally::default()),
                ..(&check).into()
            }],
            prompt: Some(text()),
            completion: Some(text()),
            race: Some(RaceAnswer {
                position: 0,
                margin: 0.5,
                temperature: 1.0,
                before: String::new(),
                after: String::new(),
                claimed: runner(1),
                winner: runner(2),
            }),
            hidden_states: Some(HiddenStatesAnswer {
                claimed: Digest([3; 32]),
                recomputed: Some(Digest([4; 32])),
            }),
            sketches: SketchesAnswer::of(&[1, 3, 3]),
            reward: Some(RewardAnswer {
                claimed: 1.0,
                claimed_success: true,
                recomputed: Some(0.0),
                recomputed_success: Some(false),
            }),
            tokens: Some(vec![TokenAnswer {
                position: 0,
                token: 1,
                text: "a".to_owned(),
                margin: Some(0.0),
                logprob: Some(-1.0),
            }]),
            ..RolloutAnswer::new(Path::new("file"), 0, 3, decision)
        };
        schema::assert_frozen(&answer, include_str!("../../tests/golden/explain_1.txt"));
    }

    #[test]
    fn the_first_of_the_worst_sketches_is_named() {
        let sketches = SketchesAnswer::of(&[1, 3, 3]).unwrap();
        assert_eq!((sketches.largest, sketches.largest_at), (3, 4));
        assert!((sketches.mean - 7.0 / 3.0).abs() < 1e-12);
        assert!(SketchesAnswer::of(&[]).is_none());
    }
}
