//! `grail generate` and `grail serve` as a user runs them, on the embedded model.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::{Running, grail};

/// Runs `grail generate` with `input` as its standard input.
fn generate(args: &[&str], input: &str) -> Output {
    let mut command = grail();
    command.arg("generate").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that refuses its options may be gone before it reads.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(args: &[&str]) -> String {
    let output = generate(args, "");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn answer(args: &[&str]) -> Value {
    serde_json::from_str(&text(args)).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_text_with_any_number_of_threads() {
    let ask = |seed: &'static str, threads: &'static str| {
        text(&["--chat", "12+7=", "--temperature", "2", "--seed", seed, "--threads", threads])
    };
    assert_eq!(ask("1", "1"), ask("1", "2"));
    assert!((2..10).any(|seed| ask("1", "1")
        != text(&["--chat", "12+7=", "--temperature", "2", "--seed", &seed.to_string()])));
    assert!(ask("1", "1").ends_with('\n'));
}

/// Made by this command on x86-64 with AVX-512; any other machine must say the same. They change with
/// the embedded model and with nothing else.
#[test]
fn seeds_give_the_texts_they_gave_before() {
    for (seed, top_p, want) in [
        ("1", "1", "-6-----41-9-1--- Answer-3-99-22"),
        ("2", "1", "1-----5-2----21-17-22-21122-98--"),
        ("1", "0.5", "--------------------1---21222"),
    ] {
        let args = ["--prompt", "Once upon a time", "--temperature", "1.2", "--max-tokens", "32"];
        let told = answer(&[&args[..], &["--seed", seed, "--top-p", top_p, "--json"]].concat());
        assert_eq!(told["choices"][0]["text"], want, "seed {seed}, top_p {top_p}");
    }
}

#[test]
fn json_tells_everything_and_agrees_with_the_text() {
    let args = ["--prompt", "12+7=", "--seed", "3", "--n", "2", "--max-tokens", "24"];
    let told = answer(&[&args[..], &["--json", "--logprobs"]].concat());
    assert_eq!(
        (&told["version"], &told["seed"], &told["numerics"]),
        (&json!(1), &json!(3), &json!("exact-1"))
    );
    let choices = told["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 2);
    assert_ne!(choices[0]["race_key"], choices[1]["race_key"]);
    for choice in choices {
        let tokens = choice["tokens"].as_array().unwrap();
        assert_eq!(choice["completion_tokens"], tokens.len());
        assert!(tokens.iter().all(|token| token["logprob"].as_f64().unwrap() <= 0.0));
        assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
    }
    let shown = text(&args);
    let heading = |idx: usize| format!("--- {idx} of 2 ---\n");
    let texts: Vec<_> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
    assert_eq!(shown, format!("{}{}\n{}{}\n", heading(1), texts[0], heading(2), texts[1]));
    // Without a seed a random one is told, and gives the same again.
    let random = answer(&["--chat", "1+1=", "--json"]);
    let seed = random["seed"].to_string();
    let again = answer(&["--chat", "1+1=", "--json", "--seed", &seed]);
    assert_eq!(random["choices"], again["choices"]);
}

#[test]
fn prompts_come_from_standard_input_too() {
    let args = ["--seed", "1", "--max-tokens", "8"];
    let piped = generate(&args, "12+7=\n");
    assert_eq!(piped.stdout, text(&[&args[..], &["--prompt", "12+7="]].concat()).into_bytes());
    assert!(piped.stderr.is_empty(), "a summary is for terminals");
}

#[test]
fn a_stop_string_ends_the_text() {
    let args =
        ["--prompt", "12+7=", "--max-tokens", "60", "--temperature", "3", "--json", "--seed"];
    let said = |seed: u32| {
        let told = answer(&[&args[..], &[&seed.to_string()]].concat());
        (seed.to_string(), told["choices"][0]["text"].as_str().unwrap().to_owned())
    };
    let (seed, whole) =
        (0..).map(said).find(|(_, text)| text.is_ascii() && text.len() >= 6).unwrap();
    let args = [&args[..], &[&seed]].concat();
    let stop: String = whole.chars().skip(3).take(2).collect();
    let cut = answer(&[&args[..], &["--stop", &stop]].concat());
    let choice = &cut["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["stop"]), (&json!("stop"), &json!(stop)));
    assert_eq!(choice["text"], whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn mistakes_are_told_with_the_next_step() {
    for (args, code, part) in [
        (&["--prompt", ""][..], 1, "the prompt is empty"),
        (&["--prompt", "x", "--temperature", "-1"], 1, "--temperature"),
        (&["--prompt", "x", "--top-p", "0"], 1, "--top-p"),
        (&["--prompt", "x", "--stop", ""], 1, "--stop is empty"),
        (&["--prompt", "x", "--n", "0"], 1, "--n is 0"),
        (&["--prompt", "x", "--max-tokens", "0"], 1, "--max-tokens is 0"),
        (&["--prompt", "x", "--model", "absent.gguf"], 1, "no model at absent.gguf"),
        (&["--prompt", "x", "--chat", "y"], 2, "cannot be used with"),
        (&["--prompt", "x", "--system", "y"], 2, "cannot be used with"),
    ] {
        let output = generate(args, "");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(part) && !error.contains("panicked"), "{args:?}: {error}");
    }
    let long = "1".repeat(2000);
    let output = generate(&["--prompt", &long], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("512"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_text_and_says_so() {
    let mut command = grail();
    // Far more than is done before the signal comes: a hundred choices of noise.
    command.args(["generate", "--prompt", "x", "--n", "128", "--max-tokens", "500", "--seed", "1"]);
    command.args(["--temperature", "100", "--logprobs", "--threads", "1"]);
    let mut running = Running::start(command);
    running.wait_for(&["0\t"]);
    running.interrupt();
    let (status, seen) = running.finish();
    assert_eq!(status.code(), Some(130));
    assert!(!seen.contains("panicked"), "{seen}");
}

/// Starts a server and returns it with its address.
fn serve(args: &[&str]) -> (Running, String) {
    let mut command = grail();
    command.args(["serve", "--port", "0"]).args(args);
    let mut running = Running::start(command);
    let line = running.wait_for(&["serving", "http://"]);
    let base = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let base = base.trim_end_matches(';').trim_end_matches("/v1").to_owned();
    (running, base)
}

async fn post(base: &str, key: &str, body: Value) -> (u16, Value) {
    grail_infrastructure::tls::install_provider();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{base}/v1/chat/completions")).bearer_auth(key).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[cfg(unix)]
#[tokio::test]
async fn a_server_answers_as_generate_does_and_stops_on_a_signal() {
    const KEY: &str = "a-key-of-this-test-alone";
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    std::fs::write(&keys, KEY).unwrap();
    let (running, base) = serve(&["-v", "--api-key-file", keys.to_str().unwrap()]);
    let message = "what-nobody-shall-find 12+7=";
    let body = json!({"model": "default", "messages": [{"role": "user", "content": message}],
        "seed": 3, "max_tokens": 24});
    let (status, told) = post(&base, KEY, body.clone()).await;
    assert_eq!(status, 200, "{told}");
    let own = answer(&["--chat", message, "--seed", "3", "--max-tokens", "24", "--json"]);
    assert_eq!(told["choices"][0]["message"]["content"], own["choices"][0]["text"]);
    assert_eq!(post(&base, "another", body).await.0, 401);
    running.terminate();
    let (status, seen) = running.finish();
    assert!(status.success(), "{seen}");
    assert!(seen.contains("answered a request") && seen.contains("/v1/chat/completions"), "{seen}");
    assert!(!seen.contains("nobody-shall-find") && !seen.contains(KEY), "{seen}");
}

#[test]
fn a_server_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("keys");
    std::fs::write(&empty, "").unwrap();
    for (args, part) in [
        (&["--max-context", "100000"][..], "2 to 512"),
        (&["--api-key-file", empty.to_str().unwrap()], "no API key"),
        (&["--api-key-file", "absent"], "absent"),
        (&["--model", "absent"], "no model at absent"),
        (&["--request-timeout", "0s"], "--request-timeout is 0"),
    ] {
        let output = grail().arg("serve").args(["--port", "0"]).args(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(error.contains(part), "{args:?}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn an_open_server_beyond_this_machine_is_warned_about() {
    let mut command = grail();
    command.args(["serve", "--port", "0", "--host", "0.0.0.0"]);
    let mut running = Running::start(command);
    running.wait_for(&["warning", "--api-key-file"]);
    running.wait_for(&["serving"]);
    running.interrupt();
    assert!(running.finish().0.success());
}
