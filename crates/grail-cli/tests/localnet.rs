//! Whole networks: one run from start to end, runs that are killed, and roles in other processes.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, as it does")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{
    Running, assert_no_window_lost_or_doubled, files_below, grail, localnet, objects, report,
    validated,
};

/// What each cheat must be rejected for.
fn expected_rejection(cheat: &str) -> &'static str {
    match cheat {
        "free-sampling" | "edited-answer" => "race_lost",
        "noisy-weights" => "hidden_state_mismatch",
        "copied-file" => "prompt_mismatch",
        "copied-seal" => "root_mismatch",
        "forged-reward" => "reward_mismatch",
        other => panic!("{other} is no cheat"),
    }
}

fn miners<'a>(report: &'a Value, role: &str) -> Vec<&'a Value> {
    let miners = report["miners"].as_array().expect("a report lists miners").iter();
    miners.filter(|miner| miner["role"] == role).collect()
}

/// Asserts that honest miners lost nothing and cheaters won nothing, each for the right reason.
fn assert_justice(report: &Value) {
    for miner in miners(report, "honest") {
        assert!(miner["checked"].as_u64() > Some(0), "{miner}");
        assert_eq!(miner["accepted"], miner["checked"], "{miner}");
    }
    for miner in miners(report, "cheater") {
        assert!(miner["checked"].as_u64() > Some(0), "{miner}");
        assert_eq!(miner["accepted"], 0, "{miner}");
        assert_ne!(miner["weight"].as_f64(), Some(1.0));
        let by_cheat = miner["by_cheat"].as_object().expect("cheats by name");
        for (cheat, counts) in by_cheat {
            let rejected = counts["rejected"].as_object().expect("reasons by code");
            let reasons: Vec<&String> = rejected.keys().collect();
            assert_eq!(reasons, [expected_rejection(cheat)], "{cheat}: {counts}");
            assert_eq!(rejected[expected_rejection(cheat)], counts["checked"], "{cheat}");
        }
    }
}

fn run_small_network(dir: &Path, extra: &[&str]) -> (Value, String) {
    let mut command = localnet(dir);
    command.args(extra);
    let (status, output) = Running::start(command).finish();
    assert!(status.success(), "{output}");
    (report(&dir.join("report.json")), output)
}

#[test]
fn a_network_runs_from_start_to_end_and_its_files_verify_offline() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("net");
    let copy = scratch.path().join("out/report.json");
    let extra = ["--windows", "2", "--cheats", "forged-reward", "--report", copy.to_str().unwrap()];
    let (report, output) = run_small_network(&dir, &extra);

    assert_eq!((&report["version"], &report["complete"]), (&Value::from(1), &Value::from(true)));
    assert!(validated(&report).len() >= 2, "{report}");
    assert!(report["start"]["pass_at_1"].is_number());
    assert!(report["windows"][0]["loss"].is_number() || report["windows"][0]["steps"] == 0);
    assert_justice(&report);
    assert_no_window_lost_or_doubled(&report, 3);
    assert_eq!(support::report(&copy), report, "both places get the same report");
    for part in ["development chain", "pass@1", "reward_mismatch", "cheater-1", "accepted"] {
        assert!(output.contains(part), "{part} is missing in\n{output}");
    }
    let page = std::fs::read_to_string(copy.with_extension("html")).unwrap();
    assert!(page.contains("<svg"));

    verify_offline(&dir);
    explain_verdicts(&dir, &output);
    refuse_damage(&dir);
}

fn one(paths: impl Iterator<Item = PathBuf>, part: &str) -> PathBuf {
    paths
        .filter(|path| path.to_string_lossy().contains(part))
        .min()
        .unwrap_or_else(|| panic!("no object with {part}"))
}

fn verify(file: &Path, checkpoint: &Path, extra: &[&str]) -> (Option<i32>, Value) {
    let mut command = grail();
    command.arg("verify").arg(file).arg("--checkpoint").arg(checkpoint).arg("--json").args(extra);
    let output = command.output().unwrap();
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code(), answer)
}

fn verify_offline(dir: &Path) {
    let objects = objects(dir);
    let find = |part: &str| one(objects.iter().cloned(), part);
    let checkpoint = find("checkpoint-0/FULL/config.json").parent().unwrap().to_owned();
    let context = find("grail/contexts/30.json");
    let with_context = ["--context", context.to_str().unwrap()];
    let names = std::fs::read_to_string(dir.join("network.json")).unwrap();
    let network: Value = serde_json::from_str(&names).unwrap();
    let file_of = |name: &str| {
        let neurons = network["neurons"].as_array().unwrap().iter();
        let neuron = neurons.into_iter().find(|neuron| neuron["name"] == name).unwrap();
        find(&format!("{}-window-30.grail", neuron["hotkey"].as_str().unwrap()))
    };

    let honest = file_of("miner-1");
    let (code, answer) = verify(&honest, &checkpoint, &with_context);
    assert_eq!((code, answer["verdict"].as_str()), (Some(0), Some("accepted")), "{answer}");
    assert_eq!((&answer["checked"], &answer["accepted"]), (&32.into(), &32.into()));

    let (code, answer) = verify(&file_of("cheater-1"), &checkpoint, &with_context);
    assert_eq!((code, answer["reason"].as_str()), (Some(1), Some("reward_mismatch")), "{answer}");

    let hotkey = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY";
    let foreign = [with_context[0], with_context[1], "--hotkey", hotkey];
    let (code, answer) = verify(&honest, &checkpoint, &foreign);
    assert_eq!((code, answer["reason"].as_str()), (Some(1), Some("hotkey_mismatch")), "{answer}");

    let (code, answer) = verify(&honest, &checkpoint, &[]);
    assert_eq!((code, answer["verdict"].as_str()), (Some(2), Some("undecided")), "{answer}");
    let (code, answer) = verify(&honest, Path::new("/nowhere"), &with_context);
    assert_eq!((code, answer["verdict"].as_str()), (Some(2), Some("undecided")), "{answer}");
    let (code, _) = verify(Path::new("/nowhere"), &checkpoint, &with_context);
    assert_eq!(code, Some(2));

    open_by_hand(&honest, &checkpoint, &context);

    // Whatever is done to the bytes is the file's fault, and never a crash.
    let bytes = std::fs::read(&honest).unwrap();
    let damaged = dir.join("damaged.grail");
    let cut = bytes.len() / 2;
    let mut flipped = bytes.clone();
    flipped[cut] ^= 1;
    for content in [&bytes[..cut], &flipped, b"", b"not a rollout file"] {
        std::fs::write(&damaged, content).unwrap();
        let (code, answer) = verify(&damaged, &checkpoint, &with_context);
        assert_eq!((code, answer["verdict"].as_str()), (Some(1), Some("rejected")), "{answer}");
    }
}

/// A sealed file is judged with the signature of its round, and with nothing else.
fn open_by_hand(file: &Path, checkpoint: &Path, context: &Path) {
    let facts: Value = serde_json::from_str(&std::fs::read_to_string(context).unwrap()).unwrap();
    assert_eq!(facts["version"], 2);
    let [randomness, key, signature] =
        [&facts["randomness"], &facts["seal"]["beacon_key"], &facts["seal"]["signature"]]
            .map(|fact| fact.as_str().expect("the facts are hex").to_owned());
    let given = ["--randomness", &randomness, "--beacon-key", &key, "--seal-signature", &signature];

    let (code, answer) = verify(file, checkpoint, &given);
    assert_eq!((code, answer["verdict"].as_str()), (Some(0), Some("accepted")), "{answer}");
    let believed = answer["taken_from_file"].as_array().unwrap();
    assert!(believed.contains(&"seal round".into()), "{answer}");

    // Nobody is blamed for what we do not know, or got wrong.
    let undecided = |extra: &[&str], part: &str| {
        let (code, answer) = verify(file, checkpoint, extra);
        assert_eq!((code, answer["verdict"].as_str()), (Some(2), Some("undecided")), "{answer}");
        assert!(answer["evidence"].as_str().unwrap().contains(part), "{part}: {answer}");
    };
    undecided(&given[..2], "nobody can read it before that round is out");
    undecided(&given[..4], "--seal-signature");
    undecided(&[&given[..5], &["b446"]].concat(), "96 hexadecimal digits");
    let foreign = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125\
                   e342b73a8dd2bacbe47e4b6b63ed5e39";
    undecided(&[&given[..5], &[foreign]].concat(), "not the beacon's signature");
}

/// A miner finds its verdict where the network said, reads why, and looks at the rollout.
fn explain_verdicts(dir: &Path, output: &str) {
    let named = output.lines().find_map(|line| line.strip_prefix("verdicts  ")).unwrap();
    let folder = Path::new(named.strip_suffix("/WINDOW/HOTKEY.json").unwrap());
    let objects = objects(dir);
    let checkpoint = one(objects.iter().cloned(), "checkpoint-0/FULL/config.json");
    let context = one(objects.iter().cloned(), "grail/contexts/30.json");
    let explain = |args: &[&str]| {
        let output = grail().arg("explain").args(args).arg("--json").output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), answer)
    };
    let mut seen = Vec::new();
    for file in files_below(&folder.join("30")) {
        let (code, answer) = explain(&["--verdict", file.to_str().unwrap()]);
        let hotkey = answer["hotkey"].as_str().unwrap();
        assert_eq!(file.file_stem().unwrap().to_str(), Some(hotkey));
        seen.push(answer["verdict"].as_str().unwrap().to_owned());
        let Some(rollout) = answer["rollout"].as_str() else { continue };
        assert_eq!((code, answer["reason"].as_str()), (Some(1), Some("reward_mismatch")));
        let rollouts = one(objects.iter().cloned(), &format!("{hotkey}-window-30.grail"));
        let (code, answer) = explain(&[
            rollouts.to_str().unwrap(),
            "--rollout",
            rollout,
            "--checkpoint",
            checkpoint.parent().unwrap().to_str().unwrap(),
            "--context",
            context.to_str().unwrap(),
        ]);
        assert_eq!((code, answer["reason"].as_str()), (Some(1), Some("reward_mismatch")));
        assert_ne!(answer["reward"]["claimed"], answer["reward"]["recomputed"], "{answer}");
    }
    seen.sort();
    assert_eq!(seen, ["accepted", "accepted", "rejected"]);
}

/// A network that ended is resumed with damaged parts: each is named, nothing panics.
fn refuse_damage(dir: &Path) {
    let refused = |part: &str| {
        let mut command = localnet(dir);
        command.args(["--windows", "9", "--cheats", "forged-reward", "--resume"]);
        let (status, output) = Running::start(command).finish();
        assert_eq!(status.code(), Some(if part == "config.toml" { 2 } else { 1 }), "{output}");
        assert!(output.contains(part) && !output.contains("panicked"), "{part}: {output}");
    };
    for (name, part) in [
        ("wallets/miner-1/hotkeys/default", "hotkeys/default"),
        ("network.json", "network.json"),
        ("config.toml", "config.toml"),
        ("model/config.json", "config.json"),
        ("beacon.key", "beacon.key"),
        ("events.jsonl", "events.jsonl"),
    ] {
        let path = dir.join(name);
        let bytes = std::fs::read(&path).unwrap();
        let mut damaged = b"\x00{".to_vec();
        damaged.extend_from_slice(&bytes[..bytes.len() / 2]);
        damaged.extend_from_slice(b"\n");
        std::fs::write(&path, &damaged).unwrap();
        refused(part);
        std::fs::write(&path, &bytes).unwrap();
    }
    // And what a network is made of cannot change.
    let mut command = localnet(dir);
    command.args(["--resume", "--seed", "7"]);
    let (status, output) = Running::start(command).finish();
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("localnet.seed is `7`"), "{output}");
}

#[test]
fn a_network_killed_at_any_point_goes_on_without_losing_or_doubling_a_window() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("net");
    // Lines of `-v`, in the order of a network's life.
    let points: [&[&str]; 9] = [
        &["endpoint"],
        // Built, but not remembered yet.
        &["exported a checkpoint", "step=0"],
        &["published checkpoint 0"],
        &["uploaded", "window 30"],
        &["window 30: uid 2", "accepted"],
        &["exported a checkpoint", "step=1"],
        &["trained", "window 30"],
        &["set weights"],
        &["loaded a model", "miner-1"],
    ];
    for (number, point) in points.iter().enumerate() {
        let mut command = localnet(&dir);
        command.args(["--windows", "1000", "-v"]);
        if number > 0 {
            command.arg("--resume");
        }
        let mut network = Running::start(command);
        network.wait_for(point);
        network.kill();
        assert_nothing_half_written(&dir);
    }
    let mut command = localnet(&dir);
    command.args(["--windows", "6", "--resume"]);
    let (status, output) = Running::start(command).finish();
    assert!(status.success(), "{output}");
    let report = report(&dir.join("report.json"));
    assert!(validated(&report).len() >= 6);
    assert_no_window_lost_or_doubled(&report, 3);
    assert_justice(&report);
    assert!(files_below(&dir).iter().all(|path| !is_partial(path)), "left-overs are cleaned up");
}

fn is_partial(path: &Path) -> bool {
    path.to_string_lossy().contains(".partial")
}

/// What peers and people read is whole: objects, report, settings.
fn assert_nothing_half_written(dir: &Path) {
    for object in objects(dir) {
        assert!(!is_partial(&object), "{} is visible", object.display());
        let bytes = std::fs::read(&object).unwrap();
        if object.extension().is_some_and(|extension| extension == "json") {
            let json: Result<Value, _> = serde_json::from_slice(&bytes);
            assert!(json.is_ok(), "{} is not whole", object.display());
        }
    }
    for name in ["report.json", "network.json"] {
        if let Ok(bytes) = std::fs::read(dir.join(name)) {
            assert!(serde_json::from_slice::<Value>(&bytes).is_ok(), "{name} is not whole");
        }
    }
}

/// Asks for a page of a status server and returns the whole answer.
fn page(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn roles_join_from_other_processes_and_survive_a_kill() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("net");
    let mut command = localnet(&dir);
    command.args(["--windows", "1000", "--miners", "1", "--cheaters", "0"]);
    command.args(["--without", "validator,trainer"]);
    let mut network = Running::start(command);
    network.wait_for(&["members"]);

    let in_dir = |args: &[&str]| {
        let mut command = grail();
        command.args(args).arg("--dir").arg(&dir);
        command
    };
    let made = in_dir(&["wallet", "new", "guest"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let shown = in_dir(&["wallet", "show", "guest"]).output().unwrap();
    assert!(String::from_utf8_lossy(&made.stdout).contains(
        String::from_utf8_lossy(&shown.stdout).lines().last().expect("it prints the hotkey"),
    ));
    let again = in_dir(&["wallet", "new", "guest"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "a wallet is never overwritten");

    let doctor = in_dir(&["doctor"]).output().unwrap();
    let told = String::from_utf8_lossy(&doctor.stdout);
    assert_eq!(doctor.status.code(), Some(0), "{told}");
    for name in ["wallet", "chain", "registration", "permit", "stake", "beacon", "bucket"] {
        assert!(told.contains(&format!("pass  {name}")), "{told}");
    }
    let mut trainer = Running::start(in_dir(&["train"]));
    trainer.wait_for(&["published checkpoint 0"]);
    let mut guest = Running::start(in_dir(&["mine", "--wallet", "guest"]));
    guest.wait_for(&["uploaded"]);
    let mut validator = Running::start(in_dir(&["validate", "--status", "127.0.0.1:0"]));
    let line = validator.wait_for(&["status", "/health"]);
    validator.wait_for(&["2 miners judged"]);
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).unwrap();
    let health = page(address, "/health");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    for part in ["\"status\":\"ok\"", "\"role\":\"validator\"", "\"window\":"] {
        assert!(health.contains(part), "{part} is missing in {health}");
    }
    let metrics = page(address, "/metrics");
    assert!(metrics.contains("grail_validation_windows_total{"), "{metrics}");

    // The same hotkey cannot act twice.
    let (status, output) = Running::start(in_dir(&["validate"])).finish();
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("in use by another process"), "{output}");

    validator.kill();
    let mut validator = Running::start(in_dir(&["validate"]));
    validator.wait_for(&["2 miners judged"]);
    trainer.wait_for(&["trained"]);
    trainer.kill();
    let mut trainer = Running::start(in_dir(&["train"]));
    trainer.wait_for(&["trained"]);
    guest.kill();
    let mut guest = Running::start(in_dir(&["mine", "--wallet", "guest"]));
    guest.wait_for(&["uploaded"]);
    validator.wait_for(&["set weights"]);

    let before = Instant::now();
    network.interrupt();
    let (status, output) = network.finish();
    assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
    assert!(status.success(), "{output}");
    assert!(output.contains("stopped early"), "{output}");
    for role in [trainer, validator, guest] {
        let before = Instant::now();
        role.interrupt();
        let (status, output) = role.finish();
        assert!(before.elapsed() < Duration::from_secs(5), "{:?}", before.elapsed());
        assert!(status.success(), "{output}");
    }
    let report = report(&dir.join("report.json"));
    assert!(!validated(&report).is_empty());
    assert_justice(&report);
    let guests = miners(&report, "guest");
    assert_eq!(guests.len(), 1, "{report}");
    assert_eq!(guests[0]["accepted"], guests[0]["checked"]);
}

#[test]
fn runs_are_numbered_and_found_again() {
    let scratch = tempfile::tempdir().unwrap();
    let in_scratch = |args: &[&str]| -> Command {
        let mut command = grail();
        command.args(args).current_dir(scratch.path());
        command
    };
    let none = in_scratch(&["wallet", "new", "guest"]).output().unwrap();
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("start one with `grail localnet`"));
    for number in ["run-001", "run-002"] {
        let mut network = Running::start(in_scratch(&["localnet"]));
        network.wait_for(&["network", number]);
        network.wait_for(&["members"]);
        network.interrupt();
        let (status, output) = network.finish();
        assert!(status.success(), "{output}");
    }
    let current = std::fs::read_to_string(scratch.path().join("grail-localnet/current")).unwrap();
    assert_eq!(current.trim(), "run-002");
    let mut network = Running::start(in_scratch(&["localnet", "--resume"]));
    network.wait_for(&["network", "run-002"]);
    let (status, output) = Running::start(in_scratch(&["localnet", "--resume"])).finish();
    assert_eq!(status.code(), Some(1));
    assert!(output.contains("in use by another process"), "{output}");
}
