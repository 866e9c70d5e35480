//! `grail verify` and `grail explain` on files of an honest miner and of cheaters, made in process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_environments::registry;
use grail_model::{Provider, ProviderConfig};
use grail_ports::model::{ModelProvider as _, RaceCheck, ScoreRequest, StopFlag};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Digest, Netuid, Window};
use grail_protocol::randomness::WindowRandomness;
use grail_protocol::rollout::{EnvironmentFingerprint, Group, Proof};
use grail_protocol::sampler::SamplerParams;
use grail_protocol::timelock::SealTo;
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::mining::pipeline::{MiningJob, mine, seal};
use grail_testkit::FakeSigner;
use serde_json::{Value, json};
use support::grail;

/// drand's quicknet, and its signature of round 1000.
const BEACON_KEY: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0\
    a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc\
    09e76eae8991ef5ece45a";
const ROUND: u64 = 1_000;
const ROUND_SIGNATURE: &str = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73\
    a8dd2bacbe47e4b6b63ed5e39";

/// A miner with an honest file's content, and what a validator published about its window.
struct World {
    dir: tempfile::TempDir,
    job: MiningJob,
    signer: FakeSigner,
    groups: Vec<Group>,
}

fn model_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/default-model")
}

impl World {
    fn new() -> Self {
        let provider = Provider::new(ProviderConfig { threads: 1, ..ProviderConfig::default() });
        let environment = registry::create("arithmetic", "{}").unwrap();
        let window = Window::from_start(90).unwrap();
        let checkpoint = Arc::new(LoadedCheckpoint {
            window,
            model: provider.unwrap().load(&model_dir()).unwrap(),
            fingerprint: EnvironmentFingerprint::new(environment.id(), &environment.params_json()),
            environment,
            sampler: SamplerParams { temperature: 1.0, max_new_tokens: 12 },
            whitening: None,
            identity: Digest([8; 32]),
            dir: model_dir(),
        });
        let signer = FakeSigner::new(3);
        let header = checkpoint.header("local", Netuid(81), window, signer.hotkey());
        let job = MiningJob {
            window,
            randomness: WindowRandomness(Digest([5; 32])),
            checkpoint,
            header,
            seal: SealTo { key: BEACON_KEY.parse().unwrap(), round: ROUND },
        };
        let groups = mine(&job, 0, 2, &StopFlag::default()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let context = json!({
            "version": 2, "network": "local", "netuid": 81, "window": 90,
            "randomness": Digest([5; 32]), "challenge": Digest([6; 32]),
            "seal": {"beacon_key": BEACON_KEY, "round": ROUND, "signature": ROUND_SIGNATURE},
        });
        std::fs::write(dir.path().join("context.json"), context.to_string()).unwrap();
        Self { dir, job, signer, groups }
    }

    /// Writes a file with changed groups, signed by its miner and sealed.
    fn file(&self, name: &str, change: impl FnOnce(&mut Vec<Group>)) -> PathBuf {
        let mut groups = self.groups.clone();
        change(&mut groups);
        let job = &self.job;
        let bytes = seal(job.header.clone(), groups, job.seal, &self.signer).unwrap();
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Gives a changed rollout the proof that a miner with the right weights would have for it.
    fn prove(&self, group: &mut Group, rollout: usize) {
        let index = u32::try_from(rollout).unwrap();
        let key = self.job.header.race_key(self.job.randomness, group.index, index);
        let request = ScoreRequest {
            tokens: [group.prompt.as_slice(), &group.rollouts[rollout].tokens].concat(),
            prompt_len: group.prompt.len(),
            race: Some(RaceCheck { key: key.0, temperature: 1.0 }),
            entropy: false,
            whitening: None,
            rows: false,
        };
        let scores = self.job.checkpoint.model.score(&[request], &StopFlag::default()).unwrap();
        group.rollouts[rollout].proof = Proof::Exact(scores[0].hidden_digest);
    }

    fn run(&self, args: &[&str], file: &Path, with_context: bool) -> (Option<i32>, String) {
        let mut command = grail();
        command.args(args).arg(file).arg("--checkpoint").arg(model_dir()).args(["--threads", "1"]);
        if with_context {
            command.arg("--context").arg(self.dir.path().join("context.json"));
        }
        let output = command.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!errors.contains("panicked"), "{errors}");
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &errors)
    }

    fn answer(&self, args: &[&str], file: &Path, code: i32) -> Value {
        let (found, text) = self.run(args, file, true);
        assert_eq!(found, Some(code), "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

fn outcome<'a>(answer: &'a Value, check: &str) -> &'a str {
    let checks = answer["checks"].as_array().unwrap().iter();
    let found = checks.into_iter().find(|it| it["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {answer}"))["outcome"].as_str().unwrap()
}

/// A position (0-based) in a rollout of group 0 whose token has one after it.
fn place(groups: &[Group]) -> (usize, usize) {
    let longest = groups[0].rollouts.iter().map(|rollout| rollout.tokens.len()).max().unwrap();
    let rollout = groups[0].rollouts.iter().position(|it| it.tokens.len() == longest).unwrap();
    (rollout, 0)
}

#[test]
fn every_check_of_an_honest_file_is_told_to_people_and_to_scripts() {
    let world = World::new();
    let file = world.file("honest.grail", |_| {});
    let answer = world.answer(&["verify", "--json"], &file, 0);
    assert_eq!((&answer["version"], &answer["verdict"]), (&json!(2), &json!("accepted")));
    assert_eq!((&answer["checked"], &answer["accepted"]), (&json!(32), &json!(32)));
    for check in answer["checks"].as_array().unwrap() {
        assert_eq!(check["outcome"], "passed", "{check}");
    }
    for check in ["size", "header.hotkey", "seal", "opening", "root", "choice", "race", "reward"] {
        assert_eq!(outcome(&answer, check), "passed");
    }
    assert_eq!(answer["group_results"].as_array().unwrap().len(), 2);
    assert_eq!(answer["group_results"][1]["passed"], 16);

    let (code, text) = world.run(&["verify"], &file, true);
    assert_eq!(code, Some(0), "{text}");
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("no {part} in\n{text}"));
    assert!(
        place("accepted: ") < place("header.network") && place("reward ") < place("largest margin")
    );

    let answer = world.answer(&["explain", "--json", "--tokens", "--rollout", "1/3"], &file, 0);
    let rollout = &world.groups[1].rollouts[3];
    assert_eq!((&answer["verdict"], &answer["reason"]), (&json!("accepted"), &Value::Null));
    assert_eq!(answer["reward"]["claimed"], answer["reward"]["recomputed"]);
    assert_eq!(answer["hidden_states"]["claimed"], answer["hidden_states"]["recomputed"]);
    assert!(answer["prompt"]["text"].as_str().unwrap().contains("What is"), "{answer}");
    let tokens = answer["tokens"].as_array().unwrap();
    let ids: Vec<u64> = tokens.iter().map(|it| it["token"].as_u64().unwrap()).collect();
    assert_eq!(ids, rollout.tokens.iter().map(|&token| u64::from(token)).collect::<Vec<_>>());
    assert!(tokens.iter().all(|it| it["margin"] == 0.0 && it["logprob"].as_f64() <= Some(0.0)));
    let silent = world.answer(&["explain", "--json", "--rollout", "1/3"], &file, 0);
    assert_eq!(silent["tokens"], Value::Null);
}

#[test]
fn a_lost_race_is_told_with_both_tokens_and_what_each_scored() {
    let world = World::new();
    let (rollout, position) = place(&world.groups);
    let honest = world.groups[0].rollouts[rollout].tokens[position];
    let claimed = world.groups[0].rollouts[rollout].tokens[position + 1];
    let claimed = if claimed == honest { honest - 1 } else { claimed };
    let file = world.file("edited.grail", |groups| {
        groups[0].rollouts[rollout].tokens[position] = claimed;
        world.prove(&mut groups[0], rollout);
    });
    let answer = world.answer(&["verify", "--json"], &file, 1);
    if answer["reason"] == "bad_termination" {
        panic!("the edit must keep the end token where it is: {answer}");
    }
    assert_eq!((&answer["reason"], outcome(&answer, "race")), (&json!("race_lost"), "failed"));
    assert_eq!(outcome(&answer, "hidden_states"), "passed");
    assert_eq!(answer["group_results"][1]["verdict"], "accepted", "the rest is told all the same");

    let asked = format!("0/{rollout}");
    let answer = world.answer(&["explain", "--json", "--rollout", &asked], &file, 1);
    let race = &answer["race"];
    assert_eq!((&answer["reason"], &race["position"]), (&json!("race_lost"), &json!(position)));
    assert_eq!(
        (&race["claimed"]["token"], &race["winner"]["token"]),
        (&json!(claimed), &json!(honest))
    );
    let score = |runner: &str| race[runner]["score"].as_f64().unwrap();
    let margin = race["margin"].as_f64().unwrap();
    assert!(margin > 0.0 && (score("winner") - score("claimed") - margin).abs() < 1e-3, "{race}");
    for runner in ["claimed", "winner"] {
        let probability = race[runner]["probability"].as_f64().unwrap();
        let logprob = race[runner]["logprob"].as_f64().unwrap();
        assert!((probability.ln() - logprob).abs() < 1e-6, "{race}");
    }
    let (_, text) = world.run(&["explain", "--rollout", &asked], &file, true);
    for part in
        ["rejected (race_lost)", "in words: ", "what to do: ", "claimed", "winner", "score ="]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn other_states_and_rewards_are_told_with_both_values() {
    let world = World::new();
    let file = world.file("forged.grail", |groups| {
        groups[0].rollouts[2].proof = Proof::Exact(Digest([9; 32]));
        groups[1].rollouts[4].reward += 1.0;
    });
    let answer = world.answer(&["explain", "--json", "--rollout", "0/2"], &file, 1);
    assert_eq!(answer["reason"], "hidden_state_mismatch");
    assert_eq!(answer["hidden_states"]["claimed"], json!(Digest([9; 32])));
    let honest = match world.groups[0].rollouts[2].proof {
        Proof::Exact(digest) => json!(digest),
        Proof::Tolerant(_) => panic!("the model is exact"),
    };
    assert_eq!(answer["hidden_states"]["recomputed"], honest);

    let answer = world.answer(&["explain", "--json", "--rollout", "1/4"], &file, 1);
    assert_eq!(answer["reason"], "reward_mismatch");
    let (claimed, own) = (&answer["reward"]["claimed"], &answer["reward"]["recomputed"]);
    assert_eq!(claimed.as_f64().unwrap(), own.as_f64().unwrap() + 1.0);
    let answer = world.answer(&["explain", "--json", "--rollout", "1/5"], &file, 0);
    assert!(answer["next_step"].as_str().unwrap().contains("another rollout is to blame"));
}

#[test]
fn a_void_file_is_told_with_what_it_holds() {
    let world = World::new();
    let (rollout, _) = place(&world.groups);
    let file = world.file("cut.grail", |groups| {
        groups[0].rollouts[rollout].tokens.pop();
    });
    let asked = format!("0/{rollout}");
    let answer = world.answer(&["explain", "--json", "--rollout", &asked], &file, 1);
    assert_eq!(answer["reason"], "bad_termination");
    assert_eq!(
        (outcome(&answer, "termination"), outcome(&answer, "length")),
        ("failed", "not_run")
    );
    assert!(answer["completion"]["text"].is_string(), "{answer}");
    assert!(answer["conclusion"].as_str().unwrap().contains("the whole file is void"));

    std::fs::write(&file, b"GRAILROL no more").unwrap();
    for args in [&["verify", "--json"][..], &["explain", "--json", "--rollout", "0/0"]] {
        let answer = world.answer(args, &file, 1);
        assert_eq!((&answer["reason"], outcome(&answer, "frame")), (&json!("malformed"), "failed"));
        assert_eq!(outcome(&answer, "seal"), "not_run");
    }
}

#[test]
fn what_cannot_be_told_blames_nobody() {
    let world = World::new();
    let file = world.file("honest.grail", |_| {});
    let randomness = Digest([5; 32]).to_string();
    for (args, part) in [
        // Nobody can open the file before its round is out.
        (&["verify", "--randomness", &randomness][..], "sealed to beacon round 1000"),
        (&["explain", "--rollout", "0/0", "--randomness", &randomness], "beacon round 1000"),
        (&["explain", "--rollout", "0/0"], "beacon round 1000"),
    ] {
        let (code, text) = world.run(args, &file, false);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(part) && text.contains("could not verify"), "{text}");
    }
    for (rollout, part) in [("9/0", "the file has 2"), ("0/16", "group 0 has 16")] {
        let (code, text) = world.run(&["explain", "--rollout", rollout], &file, true);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(part), "{text}");
    }
    let (code, text) = world.run(&["explain", "--rollout", "3"], &file, true);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("write them as 0/3"), "{text}");
}

#[test]
fn a_completion_cannot_command_the_terminal() {
    let world = World::new();
    let model = &world.job.checkpoint.model;
    let hostile = "\u{1b}[2Jaccepted\u{7}\u{202e}\r\n";
    let mut tokens = model.encode(hostile).unwrap();
    tokens.truncate(11);
    tokens.push(model.info().eos_token_ids[0]);
    let file = world.file("hostile.grail", |groups| {
        groups[0].rollouts[0].tokens = tokens.clone();
        world.prove(&mut groups[0], 0);
    });
    for args in [
        &["explain", "--tokens", "--rollout", "0/0"][..],
        &["explain", "--tokens", "--json", "--rollout", "0/0"],
        &["verify"],
        &["verify", "--json"],
    ] {
        let (code, text) = world.run(args, &file, true);
        assert_eq!(code, Some(1), "{text}");
        let is_safe = |c: char| c == '\n' || !(c.is_control() || c == '\u{202e}');
        assert!(text.chars().all(is_safe), "{text:?}");
    }
}
