//! `grail wallet` from outside: what it writes, prints, asks for and refuses.

mod support;

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;
use support::grail;

const PHRASE: &str =
    "indoor border million hill empower orphan fantasy olympic quit sport oblige wild";
const ADDRESS: &str = "5GKiervmDbxi3HynNuKcf9qVVkYzAVsKgpm93SEGvmpHVtWP";

/// Runs `grail wallet` with the folder of wallets in `dir`, and secrets in variables.
fn wallet(dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = grail();
    command.arg("wallet").args(args).current_dir(dir);
    // `verify` takes no folder.
    if args[0] != "verify" {
        command.args(["--path", "wallets"]);
    }
    command.envs(variables.iter().copied()).output().expect("the command starts")
}

fn done(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "should say `{part}`: {text}");
    }
}

#[test]
fn a_wallet_is_made_listed_shown_and_signs() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| wallet(dir.path(), args, &[]);
    let made =
        done(&run(&["new", "alice/miner1", "--words", "24", "--show-mnemonic", "--no-encrypt"]));
    let phrase = made.lines().rev().find_map(|line| line.strip_prefix("hotkey   ")).unwrap();
    assert_eq!(phrase.split(' ').count(), 24, "{made}");
    assert!(made.contains("not encrypted"), "{made}");
    let quiet = done(&run(&["new", "alice", "--hotkey", "miner2"]));
    assert!(!quiet.contains("words") && quiet.contains("miner2"), "{quiet}");
    refused(&run(&["new", "alice", "--hotkey", "miner2"]), &["already exists"]);
    refused(&run(&["new", "alice/a", "--hotkey", "b"]), &["named twice"]);
    refused(&run(&["new", "alice/xpub.txt"]), &["cannot name"]);
    refused(&run(&["new", "bob", "--words", "13"]), &["12, 15, 18, 21 or 24"]);
    // A coldkey that may hold money is never left open without a word.
    refused(&run(&["new", "bob"]), &["nobody to ask", "--no-encrypt"]);

    let shown: Value = serde_json::from_str(&done(&run(&["list", "--json"]))).unwrap();
    assert_eq!(shown["schema_version"], 1);
    assert_eq!(shown["wallets"].as_array().unwrap().len(), 1, "{shown}");
    let keys = &shown["wallets"][0];
    assert_eq!(keys["coldkey"]["has_secret"], true);
    assert_eq!(keys["hotkeys"][0]["name"], "miner1");
    assert_eq!(keys["hotkeys"][1]["open_to_others"], false);
    let address = keys["hotkeys"][0]["address"].as_str().unwrap();
    assert!(done(&run(&["show", "alice"])).contains(address));
    refused(&run(&["show", "alice/other"]), &["no hotkey other", "miner1, miner2"]);
    refused(&run(&["show", "nobody"]), &["no wallet at"]);

    let signature = done(&run(&["sign", "alice/miner1", "a message"]));
    let signature = signature.trim();
    done(&run(&["verify", address, signature, "a message"]));
    done(&run(&["verify", address, signature, "--hex", "0x61206d657373616765"]));
    let other = run(&["verify", address, signature, "another message"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stdout).contains("not valid"));
    let wrapped = done(&run(&["sign", "alice/miner1", "a message", "--wrap"]));
    done(&run(&["verify", address, wrapped.trim(), "a message"]));
    let plain = run(&["verify", address, signature, "<Bytes>a message</Bytes>"]);
    assert_eq!(plain.status.code(), Some(1), "wrapping works one way");
    refused(&run(&["verify", "5abc", signature, "x"]), &["not an SS58 address"]);
    refused(&run(&["verify", address, "0x12", "x"]), &["128 hexadecimal digits"]);
}

#[test]
fn a_key_is_imported_from_every_form_and_its_secret_is_never_told() {
    let dir = tempfile::tempdir().unwrap();
    let seed = "0xccf4a6da41699152b044146d456cc3e567dc13eb406841636b6cc65b8bd881b1";
    let file = format!("{{\"secretSeed\": \"{seed}\", \"cryptoType\": 1}}");
    for (name, secret, address) in [
        ("phrase", PHRASE, ADDRESS),
        ("seed", seed, ADDRESS),
        ("file", &file, ADDRESS),
        ("uri", "//Alice", "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"),
    ] {
        let args = ["import", name, "--secret-env", "SECRET"];
        let text = done(&wallet(dir.path(), &args, &[("SECRET", secret)]));
        assert!(text.contains(address) && !text.contains("million") && !text.contains(&seed[2..9]));
    }
    let args = ["import", "cold", "--coldkey", "--scheme", "ed25519", "--secret-env", "SECRET"];
    let args = [&args[..], &["--no-encrypt"]].concat();
    let text = done(&wallet(dir.path(), &args, &[("SECRET", PHRASE)]));
    assert!(text.contains("coldkey") && !text.contains(ADDRESS), "{text}");
    let args = ["import", "x", "--scheme", "ed25519", "--secret-env", "SECRET"];
    refused(&wallet(dir.path(), &args, &[("SECRET", PHRASE)]), &["hotkeys of this subnet"]);

    let args = ["import", "wrong", "--secret-env", "SECRET"];
    for (secret, part) in [
        (PHRASE.replace("hill", "hull"), "word 4 of the phrase"),
        (PHRASE.replace(" wild", ""), "11 words"),
        (format!("{PHRASE}//"), "empty step"),
        ("0x1234".to_owned(), "found 4 characters"),
        ("{\"encoded\": 1}".to_owned(), "polkadot.js"),
    ] {
        let output = wallet(dir.path(), &args, &[("SECRET", &secret)]);
        refused(&output, &[part]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("hull") && !text.contains("million"), "{text}");
    }
    refused(&wallet(dir.path(), &args, &[]), &["SECRET is not set"]);
    refused(&wallet(dir.path(), &["import", "y"], &[]), &["--secret-file"]);

    let mut command = grail();
    command.args(["wallet", "import", "piped", "--path", "wallets", "--secret-file", "-"]);
    command.current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(PHRASE.as_bytes()).unwrap();
    assert!(done(&child.wait_with_output().unwrap()).contains(ADDRESS));
}

#[test]
fn an_encrypted_coldkey_opens_with_its_password_from_anywhere_but_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("password"), "right one\n").unwrap();
    refused(&wallet(dir.path(), &["new", "safe", "--encrypt"], &[]), &["nobody to ask"]);
    let args = ["new", "safe", "--password-file", "password"];
    let made = done(&wallet(dir.path(), &args, &[]));
    assert!(made.contains("encrypted (NaCl)") && !made.contains("not encrypted"), "{made}");

    let sign = ["sign", "safe", "--coldkey", "message"];
    let output = wallet(dir.path(), &sign, &[]);
    refused(&output, &["it is encrypted (NaCl)", "--password-env"]);
    let with_env = [&sign[..], &["--password-env", "PASSWORD"]].concat();
    let output = wallet(dir.path(), &with_env, &[("PASSWORD", "wrong one")]);
    refused(&output, &["the password does not open it"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("wrong one"));
    done(&wallet(dir.path(), &with_env, &[("PASSWORD", "right one")]));
    done(&wallet(dir.path(), &sign, &[("GRAIL_WALLET_PASSWORD_FILE", "password")]));
    // The hotkey is not under it.
    done(&wallet(dir.path(), &["sign", "safe", "message"], &[]));
}
