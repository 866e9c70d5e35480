//! The command line: help, mistakes, exit codes.

mod support;

use std::path::Path;

use assert_cmd::assert::OutputAssertExt as _;
use support::grail;

/// Runs the command and returns its exit code and what it wrote, both streams together.
fn run(args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let output = grail().args(args).current_dir(dir).output().expect("the command starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

fn check(args: &[&str], dir: &Path, code: i32, parts: &[&str]) {
    let (found, text) = run(args, dir);
    assert_eq!(found, Some(code), "{args:?} wrote:\n{text}");
    for part in parts {
        assert!(text.contains(part), "{args:?} should say `{part}`, wrote:\n{text}");
    }
    assert!(!text.contains("panicked"), "{args:?} panicked:\n{text}");
}

#[test]
fn help_names_every_command_and_its_options() {
    let dir = tempfile::tempdir().unwrap();
    check(
        &["--help"],
        dir.path(),
        0,
        &[
            "localnet", "mine", "validate", "train", "verify", "model", "wallet", "sft",
            "generate", "serve", "--config",
        ],
    );
    check(&[], dir.path(), 2, &["Usage: grail"]);
    check(&["--version"], dir.path(), 0, &["grail 0.1.0"]);
    check(
        &["localnet", "--help"],
        dir.path(),
        0,
        &[
            "--windows",
            "--miners",
            "--cheaters",
            "--cheats",
            "--model",
            "--environment",
            "--block-time",
            "--dir",
            "--seed",
            "--resume",
            "--threads",
            "--listen",
            "--report",
            "free-sampling",
            "another",
        ],
    );
    check(&["verify", "--help"], dir.path(), 0, &["Exit code: 0 accepted, 1 rejected, 2 could"]);
    for command in ["mine", "validate", "train"] {
        check(&[command, "--help"], dir.path(), 0, &["--network", "--dir", "--wallet"]);
    }
    check(&["model", "--help"], dir.path(), 0, &["import", "show"]);
    check(&["wallet", "--help"], dir.path(), 0, &["new", "show", "import", "sign", "verify"]);
    check(&["doctor", "--help"], dir.path(), 0, &["--json", "exit code 1", "bucket"]);
    check(&["sft", "--help"], dir.path(), 0, &["--new-model", "--steps", "--lr", "--out"]);
}

#[test]
fn a_mistake_on_the_command_line_is_a_usage_error_that_says_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    for (args, parts) in [
        (&["mien"][..], &["unrecognized subcommand", "mine"][..]),
        (&["localnet", "--windows", "0"], &["localnet.windows", "at least 1"]),
        (&["localnet", "--windows", "many"], &["invalid value", "--windows"]),
        (&["localnet", "--block-time", "5"], &["`5` is not a duration", "500ms"]),
        (&["localnet", "--block-time", "1ms"], &["localnet.block_time", "20ms"]),
        (&["localnet", "--cheats", "lying"], &["`lying` is not a cheat", "copied-file"]),
        (&["localnet", "--miners", "65"], &["at most 64"]),
        (&["localnet", "--without", "miner"], &["validator", "trainer"]),
        (
            &["mine", "--network", "fineny"],
            &["no network `fineny`", "use finney, test, archive, devnet, local"],
        ),
        (&["sft", "--out", "m"], &["--new-model"]),
        (&["verify", "file"], &["--checkpoint"]),
    ] {
        check(args, dir.path(), 2, parts);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn what_is_missing_or_damaged_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("cut.gguf"), b"GGUF\x03\x00\x00\x00").unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::create_dir(path("cut")).unwrap();
    std::fs::write(path("cut/config.json"), b"{\"architectures\": [\"Llama").unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/default-model");
    for name in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(model.join(name), path("cut").join(name)).unwrap();
    }
    for (args, parts) in [
        (&["localnet", "--model", "absent"][..], &["no model at absent", "GGUF"][..]),
        (&["localnet", "--model", "cut.gguf"], &["cut.gguf"]),
        (&["localnet", "--model", "empty"], &["empty has no model.safetensors"]),
        (&["localnet", "--model", "cut"], &["config.json"]),
        (&["localnet", "--environment", "gsm8k"], &["gsm8k", "arithmetic, sat"]),
        (&["localnet", "--environment-params", "[]"], &["JSON object"]),
        (&["localnet", "--difficulty", "9"], &["difficulty 9", "1 to 5"]),
        (&["localnet", "--report", "report.txt"], &["must end in .json"]),
        (&["localnet", "--resume"], &["no local network"]),
        (&["localnet", "--resume", "--dir", "empty"], &["no network in empty"]),
        (&["localnet", "--dir", "cut"], &["cut is not empty"]),
        (
            &["localnet", "--store", "s3", "--dir", "never"],
            &["R2_WRITE_ACCESS_KEY_ID", "R2_WRITE_SECRET_ACCESS_KEY", "R2_READ_ACCESS_KEY_ID"],
        ),
        (
            &["mine", "--network", "test"],
            &["several things", "--netuid N", "grail wallet new default", "R2_BUCKET_ID"],
        ),
        (&["wallet", "list", "--network", "nowhere"], &["no network `nowhere`", "finney"]),
        (&["wallet", "list"], &["--network", "no local network"]),
        (&["mine"], &["no local network"]),
        (&["mine", "--dir", "empty"], &["no network in empty"]),
        (&["train", "--dir", "absent"], &["no network in absent"]),
        (&["wallet", "show", "nobody", "--dir", "empty"], &["wallets/nobody", "create it first"]),
        (&["wallet", "new", "../x", "--dir", "empty"], &["cannot name a wallet"]),
        (&["model", "show", "absent"], &["absent"]),
        (&["model", "show", "cut"], &["config.json"]),
        (&["model", "import", "cut.gguf", "out"], &["cut.gguf"]),
        (&["model", "import", "absent", "out"], &["absent"]),
        (&["sft", "--new-model", "--out", "empty"], &["empty exists"]),
        (&["sft", "--new-model", "--out", "m", "--steps", "0"], &["at least 1"]),
        (&["sft", "--new-model", "--out", "m", "--lr", "0"], &["--lr is 0"]),
    ] {
        check(args, dir.path(), 1, parts);
    }
    for name in ["out", "m", "never"] {
        assert!(!path(name).exists(), "a failure leaves nothing behind: {name}");
    }
    let left: Vec<_> = std::fs::read_dir(path("grail-localnet"))
        .map(|entries| entries.map(|entry| entry.unwrap().file_name()).collect())
        .unwrap_or_default();
    assert!(left.is_empty(), "a failure leaves no run behind: {left:?}");
}

#[test]
fn the_configuration_is_checked_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    for (text, parts) in [
        ("[localnet]\nwindow = 3\n", &["grail.toml", "window", "docs/configuration.md"][..]),
        ("[localnet]\nwindows = \"three\"\n", &["line 2"]),
        ("[localnet\n", &["line 1"]),
        ("[localnet]\nwindows = 0\n", &["localnet.windows"]),
        ("[localnet]\nblock_time = \"soon\"\n", &["`soon` is not a duration"]),
    ] {
        std::fs::write(dir.path().join("grail.toml"), text).unwrap();
        check(&["localnet", "--config", "grail.toml"], dir.path(), 2, parts);
    }
    check(&["localnet", "--config", "absent.toml"], dir.path(), 2, &["absent.toml"]);
    let set = |name: &str, value: &str| {
        let mut command = grail();
        command.arg("localnet").env(name, value).current_dir(dir.path());
        command.assert()
    };
    let output = set("GRAIL_LOCALNET_WINDOW", "3").code(2).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&output).contains("GRAIL_LOCALNET_WINDOW is not known"));
    let output = set("GRAIL_LOCALNET_WINDOWS", "x").code(2).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&output).contains("GRAIL_LOCALNET_WINDOWS: `x`"));
}

#[test]
fn the_doctor_tells_what_is_missing_as_lines_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    check(&["doctor"], dir.path(), 1, &["pass  configuration", "FAIL  chain", "grail localnet"]);
    std::fs::write(dir.path().join("bad.toml"), "[wallet]\nhotkay = \"x\"\n").unwrap();
    let bad = ["doctor", "--config", "bad.toml"];
    check(&bad, dir.path(), 1, &["FAIL  configuration", "hotkay", "docs/configuration.md"]);
    let (code, text) = run(&["doctor", "--json"], dir.path());
    assert_eq!(code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&report["schema_version"], &report["status"]), (&1.into(), &"fail".into()));
    let names: Vec<&str> =
        report["checks"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    let expected = "configuration wallet chain registration permit stake beacon bucket memory \
                    processor disk";
    assert_eq!(names, expected.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn a_killed_fine_tuning_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = |out: &'static str| {
        let fixed = "sft --new-model --steps 20 --batch 2 --seed 3 --evaluate 0 --threads 1";
        let rest = ["--save-every", "1", "--out", out];
        fixed.split(' ').chain(rest).collect::<Vec<&str>>()
    };
    check(&options("whole"), dir.path(), 0, &["step     20", "wrote whole"]);

    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("grail"))
        .args(options("halves"))
        .current_dir(dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    // The state of the first step is on the disk before the second step begins.
    let second = lines.map_while(Result::ok).find(|line| line.starts_with("step      2"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(second.is_some());
    let model = dir.path().join("halves/model.safetensors");
    assert!(!model.exists(), "it was killed half way");

    check(&options("halves"), dir.path(), 1, &["halves.state holds an interrupted run"]);
    let other = [options("halves"), vec!["--resume", "--lr", "0.5"]].concat();
    check(&other, dir.path(), 1, &["other settings"]);
    let resumed = [options("halves"), vec!["--resume"]].concat();
    check(&resumed, dir.path(), 0, &["going on after step", "wrote halves"]);
    let whole = std::fs::read(dir.path().join("whole/model.safetensors")).unwrap();
    assert!(std::fs::read(model).unwrap() == whole, "resuming changed the weights");
    for out in ["whole.state", "halves.state"] {
        assert!(!dir.path().join(out).exists(), "{out} is not needed any more");
    }
}

#[test]
fn fine_tuning_with_lora_writes_a_model_and_an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let options = "sft --new-model --steps 2 --batch 2 --evaluate 0 --lora-rank 4 --lora-targets \
                   q_proj,down_proj --out model --adapter adapter";
    let options: Vec<&str> = options.split_whitespace().collect();
    check(&options, dir.path(), 0, &["wrote model", "wrote the adapter adapter"]);
    let config = std::fs::read_to_string(dir.path().join("adapter/adapter_config.json")).unwrap();
    assert!(config.contains("\"r\": 4") && config.contains("down_proj"), "{config}");
    check(&["model", "show", "model"], dir.path(), 0, &["LlamaForCausalLM"]);
    let bad = |extra: &'static str| {
        let fixed = "sft --new-model --steps 1 --evaluate 0 --out other";
        fixed.split(' ').chain(extra.split(' ')).collect::<Vec<&str>>()
    };
    check(&bad("--lora-rank 0"), dir.path(), 1, &["rank is 0"]);
    check(&bad("--lora-rank 4 --lora-targets head"), dir.path(), 2, &["head", "q_proj"]);
    check(&bad("--adapter a"), dir.path(), 2, &["--lora-rank"]);
}

#[test]
fn fine_tuning_is_reproducible_and_its_model_can_be_shown_and_imported() {
    let dir = tempfile::tempdir().unwrap();
    let sft = |out: &str, threads: &str| {
        let (code, text) = run(
            &[
                "sft",
                "--new-model",
                "--steps",
                "2",
                "--batch",
                "4",
                "--seed",
                "3",
                "--evaluate",
                "8",
                "--threads",
                threads,
                "--out",
                out,
            ],
            dir.path(),
        );
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("pass@1"), "{text}");
        std::fs::read(dir.path().join(out).join("model.safetensors")).unwrap()
    };
    assert!(sft("one", "1") == sft("two", "2"), "the thread count changed the weights");
    check(
        &["model", "show", "one"],
        dir.path(),
        0,
        &["LlamaForCausalLM", "exact-1", "checkpoint digest"],
    );
    let (code, text) = run(&["model", "show", "one", "--json"], dir.path());
    assert_eq!(code, Some(0));
    let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(shown["parameters"].as_u64() > Some(500_000), "{shown}");
    check(&["model", "import", "one", "three"], dir.path(), 0, &["imported", "exact-1"]);
    check(&["model", "import", "one", "three"], dir.path(), 1, &["three exists already"]);
}

#[test]
fn real_model_is_imported_and_shown() {
    let Some(gguf) = std::env::var_os("GRAIL_TEST_MODEL") else {
        eprintln!("not run: set GRAIL_TEST_MODEL to the GGUF file of SmolLM2-135M-Instruct");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let gguf = gguf.to_str().unwrap();
    check(
        &["model", "import", gguf, "model"],
        dir.path(),
        0,
        &["LlamaForCausalLM", "134515008", "8192 tokens", "Q4_1"],
    );
}

#[test]
fn the_benchmark_prints_rows_with_stable_ids_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let output = grail()
        .args(["bench", "engine", "--threads", "1", "--quick", "--json"])
        .args(["--only", "gemm.qkv.4,decode.1,ratio.generate_over_verify"])
        .current_dir(dir.path())
        .output()
        .expect("the command starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["machine"]["threads"], 1);
    assert_eq!(report["model"]["source"], "embedded");
    let ids: Vec<&str> =
        report["rows"].as_array().unwrap().iter().filter_map(|row| row["id"].as_str()).collect();
    assert_eq!(ids, ["gemm.qkv.4.hot", "gemm.qkv.4.cold", "decode.1", "verify"]);
    assert_eq!(report["ratios"][0]["id"], "ratio.generate_over_verify");
    let decode = &report["rows"][2];
    assert_eq!(decode["tokens"], 64);
    let speed = decode["tokens_per_s"].as_f64().unwrap();
    assert!((speed * decode["seconds"].as_f64().unwrap() - 64.0).abs() < 1e-6);
    check(
        &["bench", "engine", "--quick", "--only", "nothing"],
        dir.path(),
        1,
        &["no row", "nothing", "docs/bench.md"],
    );
    check(&["bench", "engine", "--isa", "sse9"], dir.path(), 1, &["sse9", "portable"]);
}
