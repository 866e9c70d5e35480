//! What a published verdict means, in words.

use std::collections::BTreeMap;

use anyhow::Result;
use grail_protocol::ids::{Digest, Hotkey, TokenId, Window};
use grail_protocol::verdict::{CheckTally, Standing, VerdictRecord};
use serde::Serialize;

use super::advice;
use super::checks::number;
use super::text::{one_line, print};
use crate::cli::RolloutPlace;
use crate::report::table::{self, Align};

/// Version of the JSON.
pub const VERSION: u32 = 1;
/// Longest text from the verdict on a screen, characters.
const EVIDENCE_CHARS_MAX: usize = 1000;

/// A verdict in words.
#[derive(Debug, Serialize)]
pub struct VerdictAnswer {
    version: u32,
    /// `accepted`, `rejected` or `undecided`.
    pub verdict: &'static str,
    /// Code of the rejection.
    reason: Option<String>,
    /// The validator's own words for it.
    evidence: Option<String>,
    /// What it means.
    conclusion: String,
    /// What the miner should do.
    next_step: String,
    window: Window,
    hotkey: Hotkey,
    validator: Hotkey,
    groups: u32,
    rollouts: u32,
    checked: u32,
    accepted: u32,
    rejected: BTreeMap<String, u32>,
    unverified: u32,
    /// `exact`, `tolerant` or `shadow`.
    profile: String,
    /// Digest of the calibration that was used.
    calibration: Option<Digest>,
    /// Every check by name.
    checks: Vec<TallyAnswer>,
    /// The token behind a lost race.
    race: Option<RaceAnswer>,
    /// What the validator makes of the miner over all windows.
    standing: Option<StandingAnswer>,
    /// The rollout to look at, as `grail explain --rollout` takes it.
    rollout: Option<String>,
}

/// One check over the examined rollouts.
#[derive(Debug, Serialize)]
struct TallyAnswer {
    check: String,
    passed: u32,
    failed: u32,
    shadow: u32,
    unverified: u32,
    mean: Option<f64>,
    largest: Option<f64>,
    threshold: Option<f64>,
}

/// A token that lost its race.
#[derive(Debug, Serialize)]
struct RaceAnswer {
    position: usize,
    claimed: TokenId,
    winner: TokenId,
    margin: f32,
}

/// What all windows add up to.
#[derive(Debug, Serialize)]
struct StandingAnswer {
    wealth_log10: f64,
    bound_log10: f64,
    ejected_until: Option<Window>,
    life: u32,
    /// The same in words.
    meaning: String,
}

impl TallyAnswer {
    fn of((check, tally): (&String, &CheckTally)) -> Self {
        let CheckTally { passed, failed, shadow, unverified, mean, largest, threshold } = *tally;
        let check = check.clone();
        Self { check, passed, failed, shadow, unverified, mean, largest, threshold }
    }
}

impl StandingAnswer {
    fn of(standing: &Standing) -> Self {
        let Standing { wealth_log10, bound_log10, ejected_until, life } = *standing;
        let meaning = match ejected_until {
            Some(window) => format!(
                "ejected: the evidence of all windows reached its bound; judged again from window \
                 {window} on, with a clean sheet and a higher bound"
            ),
            None => format!(
                "not ejected: the evidence stands at {wealth_log10:.2} and ejects at {bound_log10:.2} \
                 (log10); honest windows let it fade"
            ),
        };
        Self { wealth_log10, bound_log10, ejected_until, life, meaning }
    }
}

impl VerdictAnswer {
    /// Explains a verdict.
    pub fn of(record: &VerdictRecord) -> Self {
        let reason = record.rejected.keys().next();
        let place = record.evidence.as_deref().and_then(place_in);
        let (verdict, conclusion, next_step) = match reason {
            Some(code) => rejected(record, code),
            None if record.unverified > 0 => undecided(record),
            None if record.rollouts == 0 => (
                "accepted",
                "the file holds no rollouts, so there was nothing to judge and nothing to pay"
                    .into(),
                "finish a group before the deadline; mine fewer at once if the window is too short"
                    .into(),
            ),
            None => (
                "accepted",
                format!(
                    "all {} rollouts that the validator looked at passed every check; a beacon chose \
                     them out of {} after the deadline",
                    record.checked, record.rollouts
                ),
                "none".into(),
            ),
        };
        Self {
            version: VERSION,
            verdict,
            reason: reason.cloned(),
            evidence: record.evidence.clone(),
            conclusion,
            next_step,
            window: record.window,
            hotkey: record.hotkey,
            validator: record.validator,
            groups: record.groups,
            rollouts: record.rollouts,
            checked: record.checked,
            accepted: record.accepted,
            rejected: record.rejected.clone(),
            unverified: record.unverified,
            profile: record.profile.clone(),
            calibration: record.calibration,
            checks: record.checks.iter().map(TallyAnswer::of).collect(),
            race: record.race.map(|race| RaceAnswer {
                position: race.position,
                claimed: race.claimed,
                winner: race.winner,
                margin: race.margin,
            }),
            standing: record.standing.as_ref().map(StandingAnswer::of),
            rollout: place.map(|RolloutPlace { group, rollout }| format!("{group}/{rollout}")),
        }
    }

    /// Prints the answer.
    pub fn print(&self, as_json: bool) -> Result<()> {
        print(self, as_json, || self.screen())
    }

    fn screen(&self) -> String {
        let place = format!("{} in window {}", self.hotkey, self.window);
        let mut told = vec![match &self.reason {
            Some(reason) => format!("rejected ({}): {place}", one_line(reason, EVIDENCE_CHARS_MAX)),
            None if self.verdict == "accepted" => format!("accepted: {place}"),
            None => format!("could not be verified: {place}"),
        }];
        let profile = one_line(&self.profile, EVIDENCE_CHARS_MAX);
        told.push(format!("by validator {}, {profile} profile", self.validator));
        told.push(format!(
            "{} rollouts in {} groups: {} checked, {} accepted, {} could not be verified",
            self.rollouts, self.groups, self.checked, self.accepted, self.unverified
        ));
        if let Some(evidence) = &self.evidence {
            told.push(format!("found: {}", one_line(evidence, EVIDENCE_CHARS_MAX)));
        }
        told.push(format!("in words: {}", one_line(&self.conclusion, EVIDENCE_CHARS_MAX)));
        told.push(format!("what to do: {}", self.next_step));
        if let Some(standing) = &self.standing {
            told.push(format!("over all windows: {}", standing.meaning));
        }
        if let Some(rollout) = &self.rollout {
            told.push(format!(
                "look at it: grail explain FILE --rollout {rollout} --checkpoint DIR --context \
                 CONTEXT.json"
            ));
        }
        let summary = told.join("\n  ");
        match self.checks.is_empty() {
            true => summary,
            false => format!("{summary}\n\n{}", checks_table(&self.checks)),
        }
    }
}

fn checks_table(checks: &[TallyAnswer]) -> String {
    let columns = [
        ("check", Align::Left),
        ("passed", Align::Right),
        ("failed", Align::Right),
        ("measured only", Align::Right),
        ("could not verify", Align::Right),
        ("mean", Align::Right),
        ("largest", Align::Right),
        ("at most", Align::Right),
    ];
    let row = |tally: &TallyAnswer| {
        let counts = [tally.passed, tally.failed, tally.shadow, tally.unverified];
        let numbers = [tally.mean, tally.largest, tally.threshold];
        let mut cells = vec![one_line(&tally.check, EVIDENCE_CHARS_MAX)];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend(numbers.map(number));
        cells
    };
    table::render(&columns, &checks.iter().map(row).collect::<Vec<_>>())
}

type Words = (&'static str, String, String);

fn rejected(record: &VerdictRecord, code: &str) -> Words {
    let advice = advice::on(code);
    let what = match record.checked {
        0 => "the file was refused before any rollout was looked at".to_owned(),
        checked => {
            format!("one violation voids the file, so {checked} checked rollouts count as rejected")
        }
    };
    let meaning = advice.map_or("a reason that this program does not know", |it| it.meaning);
    let next_step = advice.map_or("run the validator's version of this program", |it| it.next_step);
    ("rejected", format!("{what}: {meaning}"), next_step.to_owned())
}

fn undecided(record: &VerdictRecord) -> Words {
    let decided = match record.accepted {
        0 => String::new(),
        accepted => format!("; {accepted} others passed"),
    };
    (
        "undecided",
        format!(
            "the validator could not decide on {} rollouts, which is not held against the \
             miner{decided}",
            record.unverified
        ),
        "none, if your engine is under `exact-1`; another engine needs a calibration that the \
         validator trusts"
            .to_owned(),
    )
}

/// Returns the rollout that a text is about, as rejections begin.
fn place_in(evidence: &str) -> Option<RolloutPlace> {
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text.get(..end)?.parse::<u32>().ok()
    };
    let rest = evidence.strip_prefix("group ")?;
    let group = number(rest)?;
    let rollout = rest.split_once(", rollout ").and_then(|(_, rest)| number(rest)).unwrap_or(0);
    Some(RolloutPlace { group, rollout })
}

#[cfg(test)]
mod tests {
    use grail_protocol::verdict::{RaceEvidence, Tallied, VERDICT_VERSION};

    use super::*;
    use crate::explain::schema;

    fn record(reason: Option<&str>, evidence: Option<&str>) -> VerdictRecord {
        let checked = 32;
        let mut tally = CheckTally::default();
        tally.add(Tallied::Failed, Some(7.5), Some(6.0));
        VerdictRecord {
            version: VERDICT_VERSION,
            window: Window::from_start(90).unwrap(),
            hotkey: Hotkey([1; 32]),
            validator: Hotkey([2; 32]),
            groups: 4,
            rollouts: 64,
            checked,
            accepted: if reason.is_some() { 0 } else { checked },
            rejected: reason.map(|code| (code.to_owned(), checked)).into_iter().collect(),
            unverified: 0,
            evidence: evidence.map(str::to_owned),
            race: Some(RaceEvidence { position: 4, claimed: 5, winner: 6, margin: 0.5 }),
            profile: "tolerant".to_owned(),
            calibration: Some(Digest([3; 32])),
            checks: [("margin_sum".to_owned(), tally)].into(),
            standing: Some(Standing {
                wealth_log10: 1.5,
                bound_log10: 6.3,
                ejected_until: Some(Window::from_start(300).unwrap()),
                life: 0,
            }),
        }
    }

    #[test]
    fn a_rejection_is_told_with_its_meaning_and_the_rollout_to_look_at() {
        let evidence = "group 2, rollout 3: token 5 at position 4 was not sampled";
        let answer = VerdictAnswer::of(&record(Some("race_lost"), Some(evidence)));
        let screen = answer.screen();
        for part in ["rejected (race_lost)", "window 90", "another temperature", "--rollout 2/3"] {
            assert!(screen.contains(part), "{part} is missing in\n{screen}");
        }
        let answer =
            VerdictAnswer::of(&record(Some("prompt_mismatch"), Some("group 1: the prompt")));
        assert_eq!(answer.rollout.as_deref(), Some("1/0"));
        let answer =
            VerdictAnswer::of(&record(Some("bad_signature"), Some("the signature is not")));
        assert_eq!((answer.rollout, answer.verdict), (None, "rejected"));
        let answer = VerdictAnswer::of(&record(Some("of_tomorrow"), None));
        assert!(answer.conclusion.contains("does not know"));
    }

    #[test]
    fn what_all_windows_add_up_to_is_told() {
        let mut record = record(None, None);
        let screen = VerdictAnswer::of(&record).screen();
        assert!(screen.contains("ejected: ") && screen.contains("from window 300 on"), "{screen}");
        record.standing = record.standing.map(|it| Standing { ejected_until: None, ..it });
        let screen = VerdictAnswer::of(&record).screen();
        assert!(screen.contains("stands at 1.50 and ejects at 6.30"), "{screen}");
        record.standing = None;
        assert!(!VerdictAnswer::of(&record).screen().contains("over all windows"));
    }

    #[test]
    fn what_the_validator_could_not_decide_is_told_as_its_own_affair() {
        let undecided =
            VerdictRecord { unverified: 16, checked: 16, accepted: 16, ..record(None, None) };
        let answer = VerdictAnswer::of(&undecided);
        assert_eq!(answer.verdict, "undecided");
        assert!(answer.conclusion.contains("not held against the miner; 16 others passed"));
        assert_eq!(VerdictAnswer::of(&record(None, None)).verdict, "accepted");
    }

    #[test]
    fn hostile_words_of_a_validator_do_nothing_to_a_terminal() {
        let answer =
            VerdictAnswer::of(&record(Some("\u{1b}[2J"), Some("group 9999999999: \u{7}\n")));
        let screen = answer.screen();
        assert!(screen.chars().all(|c| c == '\n' || !c.is_control()), "{screen:?}");
        assert_eq!(answer.rollout, None);
    }

    #[test]
    fn the_fields_of_the_json_are_frozen() {
        let answer = VerdictAnswer::of(&record(Some("race_lost"), Some("group 2, rollout 3: …")));
        schema::assert_frozen(&answer, include_str!("../../tests/golden/explain_verdict_1.txt"));
    }
}
