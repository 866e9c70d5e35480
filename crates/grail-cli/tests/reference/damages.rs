//! Copies of the honest file, each with one damage, and what the reference says of them.
//!
//! The vectors describe the copies by name. Which of the two groups the reference checked hangs on
//! the digits of signatures, which are random: each copy is built so that either group is, and the
//! reference's verdict must be that of one of them.

use std::collections::{BTreeMap, BTreeSet};

use grail_ports::model::StopFlag;
use grail_ports::reference::TraceRequest;
use grail_ports::signer::Signer as _;
use grail_protocol::v5::binding::{commit_binding, commitments_hash};
use grail_protocol::v5::constants::PRIME_Q;
use grail_protocol::v5::file::{JsonText, Row, WindowFile};
use grail_protocol::v5::gating::Stop;
use grail_protocol::v5::python::json::Value as Python;
use grail_protocol::v5::{r_vec, sketch};
use grail_services::v5::examine::{Examined, Fault};
use grail_testkit::FakeSigner;
use grail_testkit::vectors::{every_case, is_own, text};
use serde_json::{Value, json};

use crate::honest::Run;

const GROUP: usize = 16;

/// A copy of the honest file.
struct Copy {
    file: WindowFile,
    /// The group that is damaged; nothing when all are.
    group: Option<String>,
}

/// What a name describes: the same damage in different places, and our own verdict where a damaged
/// group is checked and we are stricter.
struct Damage {
    copies: Vec<Copy>,
    stricter: Option<Fault>,
}

#[test]
fn verdicts_are_the_references_or_stricter() {
    let run = Run::load();
    let mut stricter = BTreeSet::new();
    every_case("e2e", "validation_results.json", |case| {
        let name = text(&case["name"]);
        assert_eq!(case["found_file"], true, "{name}");
        let Damage { copies, stricter: fault } = damage(&run, name);
        let mut told = Vec::new();
        for copy in copies {
            for (checked, file) in with_each_group_checked(&run, &copy.file) {
                let examined = run.judge(&file);
                let is_seen = copy.group.as_ref().is_none_or(|group| *group == checked);
                match &fault {
                    Some(fault) if is_seen => {
                        assert_eq!(examined.fault.as_ref(), Some(fault), "{name}");
                        assert_eq!(reported(&examined)["metrics"]["had_failure"], 1, "{name}");
                        stricter.insert(name.to_owned());
                    }
                    _ => told.push(reported(&examined)),
                }
            }
        }
        let want = wanted(case);
        assert!(
            told.is_empty() || told.contains(&want),
            "{name}: the reference says\n{want}\nwe say\n{told:#?}"
        );
    });
    println!("stricter than the reference: {stricter:?}");
    assert!(!is_own() || stricter.len() >= 3);
}

/// Returns the file with other signature digits, so that each of its groups is checked once. Hex of
/// either case is the same signature, as another random one would be.
fn with_each_group_checked(run: &Run, file: &WindowFile) -> BTreeMap<String, WindowFile> {
    let mut found = BTreeMap::new();
    for respelt in 0..=file.rows.len() {
        let mut file = file.clone();
        for row in &mut file.rows[..respelt] {
            let upper = row.commit.signature.as_text().unwrap().to_uppercase();
            row.commit.signature = upper.into();
        }
        if let [checked] = run.checked_groups(&file).as_slice() {
            found.entry(checked.clone()).or_insert(file);
        }
        if found.len() == file_groups(run) {
            break;
        }
    }
    found
}

fn file_groups(run: &Run) -> usize {
    run.file.rows.len() / GROUP
}

/// What the reference reports of a file.
fn wanted(case: &Value) -> Value {
    let keys = ["metrics", "processed_counts", "failure_reason", "hard_failure", "soft_gate"];
    let mut wanted: serde_json::Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), case[*key].clone())).collect();
    wanted.insert("soft_failures".to_owned(), case["soft_failures"].clone());
    wanted.insert("checked".to_owned(), case["checked"].clone());
    Value::Object(wanted)
}

/// The same of our verdict.
fn reported(examined: &Examined) -> Value {
    let Examined { metrics, fault, processed, soft_failures, .. } = examined;
    let is_soft = matches!(fault, Some(Fault::Checks(Stop::Soft(_))));
    let is_group = matches!(fault, Some(Fault::Group(_) | Fault::GroupNotFinite));
    let counts = [processed.rows, processed.bad_signatures, processed.bad_proofs, processed.errors];
    let soft: BTreeMap<&str, usize> = soft_failures.iter().map(|(k, n)| (*k, *n)).collect();
    json!({
        "metrics": {
            "valid": metrics.valid,
            "checked": metrics.checked,
            "total": metrics.total,
            "estimated_valid": metrics.estimated_valid,
            "successful": metrics.successful,
            "estimated_successful": metrics.estimated_successful,
            "unique": metrics.unique,
            "estimated_unique": metrics.estimated_unique,
            "prompt_valid": metrics.prompt_valid,
            "prompt_mismatch": metrics.prompt_mismatch,
            "had_failure": u8::from(metrics.had_failure),
        },
        "processed_counts": counts,
        "failure_reason": fault.as_ref().and_then(Fault::reason),
        "hard_failure": fault.is_some() && !is_soft && !is_group,
        "soft_gate": is_soft,
        "soft_failures": soft,
        "checked": metrics.checked,
    })
}

/// Builds the copies that a name describes.
///
/// # Panics
/// For a name that is not known: no case is passed over.
fn damage(run: &Run, name: &str) -> Damage {
    let whole = |file: WindowFile, stricter: Option<Fault>| Damage {
        copies: vec![Copy { file, group: None }],
        stricter,
    };
    let all = |damage: &dyn Fn(&mut Row)| {
        let mut file = run.file.clone();
        file.rows.iter_mut().for_each(damage);
        whole(file, None)
    };
    let resigned = |damage: &dyn Fn(&mut Row)| {
        all(&|row| {
            damage(row);
            sign(run, row);
        })
    };
    // Once in each group.
    let in_a_group = |damage: &dyn Fn(&mut [Row]), stricter: Option<Fault>| {
        let damaged = |place: usize| {
            let mut file = run.file.clone();
            damage(&mut file.rows[place * GROUP..][..GROUP]);
            let group = Some(file.rows[place * GROUP].rollout_group.to_text());
            Copy { file, group }
        };
        Damage { copies: (0..file_groups(run)).map(damaged).collect(), stricter }
    };
    match name {
        "honest" => all(&|_| {}),
        "checkpoint window differs" => all(&|row| {
            row.checkpoint_window = (row.checkpoint_window.as_integer().unwrap() - 30).into();
        }),
        "commit signature not refreshed after token edit" => all(&edit_last_token),
        "last token edited and re-signed" => resigned(&edit_last_token),
        "prompt token edited and re-signed" => resigned(&|row| {
            let token = &mut row.commit.tokens[3];
            *token = (*token + 1) % 256;
        }),
        "commitment sketch +5999 everywhere" => resigned(&|row| shift_sketches(row, 5999)),
        "commitment sketch +7000 everywhere" => resigned(&|row| shift_sketches(row, 7000)),
        "forged sketches: constant 0" => resigned(&|row| set_sketches(row, |_| 0)),
        "forged sketches: 10^18 everywhere" => {
            let damage = resigned(&|row| set_sketches(row, |_| 1_000_000_000_000_000_000));
            Damage { stricter: Some(Fault::Checks(Stop::Hard("proof_valid"))), ..damage }
        }
        "logprobs shifted by 0.05" => all(&|row| shift_logprobs(row, 0.05)),
        "logprobs shifted by 0.2" => all(&|row| shift_logprobs(row, 0.2)),
        "logprobs shortened" => all(&|row| {
            row.commit.rollout.token_logprobs.pop();
        }),
        "completion_length off by one" => all(&|row| {
            let length = &mut row.commit.rollout.completion_length;
            *length = (length.as_integer().unwrap() + 1).into();
        }),
        "rewards inflated with consistent advantages" => {
            let mut file = run.file.clone();
            for group in file.rows.chunks_mut(GROUP) {
                inflate(group);
            }
            whole(file, None)
        }
        "one group with reward mismatch in 3 of 32 rows" => {
            in_a_group(&|group| group[..3].iter_mut().for_each(|row| add_reward(row, 0.5)), None)
        }
        "advantages wrong in one group" => {
            let wrong = |(at, row): (usize, &mut Row)| {
                row.commit.rollout.advantage = if at % 2 == 0 { 0.5 } else { -0.5 }.into();
            };
            in_a_group(&|group| group.iter_mut().enumerate().for_each(wrong), None)
        }
        "NaN advantage in one row" => in_a_group(
            &|group| group[2].commit.rollout.advantage = f64::NAN.into(),
            Some(Fault::GroupNotFinite),
        ),
        "envelope signature of one row broken" => in_a_group(
            &|group| {
                let broken = flipped(group[3].signature.as_text().unwrap());
                group[3].signature = broken.into();
            },
            None,
        ),
        "envelope signed by a stranger's hotkey" => {
            let stranger = FakeSigner::new(77);
            let damage = all(&|row| {
                let challenge = row.challenge.as_text().unwrap().to_owned();
                row.hotkey = stranger.hotkey().to_ss58().into();
                row.signature = String::from(stranger.sign(challenge.as_bytes())).into();
            });
            Damage { stricter: Some(Fault::Envelope), ..damage }
        }
        "rollout_group ids swapped between the two groups" => {
            let mut file = run.file.clone();
            let (first, second) = file.rows.split_at_mut(GROUP);
            for (a, b) in first.iter_mut().zip(second) {
                std::mem::swap(&mut a.rollout_group, &mut b.rollout_group);
            }
            whole(file, None)
        }
        "beacon randomness chosen by the miner" => resigned(&|row| choose_randomness(run, row)),
        "duplicate rollout inside a group" => in_a_group(
            &|group| {
                let [first, second, ..] = group else { panic!("a group of 16") };
                second.commit = first.commit.clone();
            },
            None,
        ),
        other => panic!("the vectors have a case that this test does not know: {other:?}"),
    }
}

fn edit_last_token(row: &mut Row) {
    let token = row.commit.tokens.last_mut().unwrap();
    *token = (*token + 1) % 256;
}

fn shift_sketches(row: &mut Row, shift: i64) {
    set_sketches(row, |sketch| (sketch + shift).rem_euclid(PRIME_Q));
}

fn set_sketches(row: &mut Row, new: impl Fn(i64) -> i64) {
    let sketches = row.commit.commitments.sketches().unwrap();
    let sketches: Vec<i64> = sketches.into_iter().map(new).collect();
    row.commit.commitments = JsonText::of_sketches(&sketches);
}

/// Shifts the completion's log-probabilities.
fn shift_logprobs(row: &mut Row, shift: f64) {
    let rollout = &mut row.commit.rollout;
    let prompt = usize::try_from(rollout.prompt_length.as_integer().unwrap()).unwrap();
    rollout.token_logprobs[prompt..].iter_mut().for_each(|logprob| *logprob += shift);
}

fn add_reward(row: &mut Row, more: f64) {
    let reward = &mut row.commit.rollout.total_reward;
    *reward = (reward.as_float().unwrap() + more).into();
}

/// Claims more for each rollout, by different amounts, and the advantages that follow.
fn inflate(group: &mut [Row]) {
    for (at, row) in group.iter_mut().enumerate() {
        add_reward(row, 0.5 + 0.1 * (at % 4) as f64);
    }
    let rewards: Vec<f64> =
        group.iter().map(|row| row.commit.rollout.total_reward.as_float().unwrap()).collect();
    let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
    let squares = rewards.iter().map(|reward| (reward - mean) * (reward - mean));
    let deviation = (squares.sum::<f64>() / rewards.len() as f64).sqrt();
    for (row, reward) in group.iter_mut().zip(&rewards) {
        row.commit.rollout.advantage = ((reward - mean) / deviation).into();
    }
}

fn flipped(signature: &str) -> String {
    let last = if signature.ends_with('0') { "1" } else { "0" };
    format!("{}{last}", &signature[..signature.len() - 1])
}

/// Takes randomness that no beacon gave, with the honest sketches under it.
fn choose_randomness(run: &Run, row: &mut Row) {
    let chosen = "00".repeat(32);
    let prompt = row.commit.rollout.prompt_length.as_integer().unwrap();
    let tokens = row.commit.tokens.iter().map(|&token| token as u32).collect();
    let prompt_len = usize::try_from(prompt).unwrap();
    let request = TraceRequest { tokens, prompt_len, warp: None };
    let model = &run.bench.assignment.model;
    let trace = model.trace(&[request], &StopFlag::default()).unwrap().remove(0);
    let coefficients = r_vec::from_randomness(&chosen).unwrap();
    let hidden = model.info().hidden_size as usize;
    let sketches = sketch::commit(&trace.rows, hidden, &coefficients);
    row.commit.commitments = JsonText::of_sketches(&sketches);
    row.commit.beacon = JsonText::new(format!("{{\"randomness\": \"{chosen}\"}}")).unwrap();
}

/// Signs a commit again.
fn sign(run: &Run, row: &mut Row) {
    let commit = &mut row.commit;
    let beacon = commit.beacon.value();
    let randomness = beacon.get("randomness").and_then(Python::as_str).unwrap();
    let tokens: Vec<u32> = commit.tokens.iter().map(|&token| token as u32).collect();
    let name = commit.model_name.as_text().unwrap();
    let hash = commitments_hash(&commit.commitments.value());
    let binding = commit_binding(&tokens, randomness, name, -1, &hash).unwrap();
    commit.signature = String::from(run.signer.sign(&binding)).into();
}
