//! What is refused, how, and what it says to do next.

use axum::http::header;
use serde_json::{Value, json};

use super::super::Keys;
use super::harness::{LIMITS, says, up, up_with};
use crate::inference::fake::FakeEngine;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const IDS: &str = "/generate";

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_name() {
    let up = up(FakeEngine::at_once(says("x")), LIMITS).await;
    let hi = || json!([{"role": "user", "content": "hi"}]);
    let long = "x".repeat(600);
    for (path, body, status, param, part) in [
        (TEXT, json!({}), 400, "prompt", "must be a text"),
        (TEXT, json!({"prompt": ""}), 400, "prompt", "no token"),
        (TEXT, json!({"prompt": []}), 400, "prompt", "must be a text"),
        (TEXT, json!({"prompt": [1, "a"]}), 400, "prompt", "no token id"),
        (TEXT, json!({"prompt": [384]}), 400, "prompt", "not below the vocabulary's 384"),
        (TEXT, json!({"prompt": [-1]}), 400, "prompt", "no token id"),
        (TEXT, json!({"prompt": long}), 400, "prompt", "at most 512"),
        (TEXT, json!({"prompt": "x", "model": "gpt-9"}), 404, "model", "has `tiny`"),
        (TEXT, json!({"prompt": "x", "n": 0}), 400, "n", "from 1 to 128"),
        (TEXT, json!({"prompt": ["x", "y"], "n": 128}), 400, "n", "256 choices"),
        (TEXT, json!({"prompt": "x", "max_tokens": 0}), 400, "max_tokens", "from 1"),
        (TEXT, json!({"prompt": "x", "temperature": -1}), 400, "temperature", "from 0"),
        (TEXT, json!({"prompt": "x", "temperature": 1e-9}), 400, "temperature", "0.001"),
        (TEXT, json!({"prompt": "x", "temperature": "hot"}), 400, "temperature", "a text"),
        (TEXT, json!({"prompt": "x", "top_p": 0}), 400, "top_p", "above 0"),
        (TEXT, json!({"prompt": "x", "top_p": 1.5}), 400, "top_p", "to 1"),
        (TEXT, json!({"prompt": "x", "seed": 0.5}), 400, "seed", "64 bits"),
        (TEXT, json!({"prompt": "x", "stop": [""]}), 400, "stop", "0 bytes"),
        (TEXT, json!({"prompt": "x", "stop": vec!["a"; 17]}), 400, "stop", "17 texts"),
        (TEXT, json!({"prompt": "x", "stop": [1]}), 400, "stop", "no text"),
        (TEXT, json!({"prompt": "x", "logprobs": 21}), 400, "logprobs", "to 20"),
        (TEXT, json!({"prompt": "x", "logprobs": 1, "echo": true}), 400, "echo", "leave one"),
        (TEXT, json!({"prompt": "x", "best_of": 3}), 400, "best_of", "not supported"),
        (TEXT, json!({"prompt": "x", "suffix": "y"}), 400, "suffix", "not supported"),
        (TEXT, json!({"prompt": "x", "logit_bias": {"1": 2}}), 400, "logit_bias", "not supported"),
        (TEXT, json!({"prompt": "x", "presence_penalty": 1}), 400, "presence_penalty", "not supp"),
        (TEXT, json!({"prompt": "x", "colour": 1}), 400, "colour", "known are"),
        (TEXT, json!({"prompt": "x", "stream_options": {}}), 400, "stream_options", "streams"),
        (
            TEXT,
            json!({"prompt": "x", "stream": true, "stream_options": {"x": 1}}),
            400,
            "stream_options.x",
            "known are",
        ),
        (CHAT, json!({}), 400, "messages", "must be a list"),
        (CHAT, json!({"messages": []}), 400, "messages", "0 messages"),
        (CHAT, json!({"messages": [{"role": "tool", "content": "x"}]}), 400, "messages", "role"),
        (CHAT, json!({"messages": [{"role": "user"}]}), 400, "messages", "content"),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            400,
            "messages",
            "type `text`",
        ),
        (CHAT, json!({"messages": hi(), "tools": [{}]}), 400, "tools", "not supported"),
        (
            CHAT,
            json!({"messages": hi(), "response_format": {"type": "json_object"}}),
            400,
            "response_format",
            "not supported",
        ),
        (CHAT, json!({"messages": hi(), "top_logprobs": 3}), 400, "top_logprobs", "`logprobs`"),
        (CHAT, json!({"messages": hi(), "stream": 1}), 400, "stream", "true or false"),
        (IDS, json!({"input_ids": [1], "stream": true}), 400, "stream", "not supported"),
        (
            IDS,
            json!({"input_ids": [1], "sampling_params": {"top_k": 5}}),
            400,
            "sampling_params.top_k",
            "not supported",
        ),
        (
            IDS,
            json!({"input_ids": [1], "sampling_params": {"race_keys": [[1, 2, 3]]}}),
            400,
            "sampling_params.race_keys",
            "each of the 1 choices",
        ),
    ] {
        let shown = body.to_string();
        let (found, answer) = up.post(path, body).await;
        let error = &answer["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert_eq!((found, &error["param"]), (status, &json!(param)), "{shown}: {answer}");
        assert!(message.contains(part), "{shown}: {message}");
        assert_eq!(error["type"], "invalid_request_error", "{shown}");
    }
    let (status, answer) = up.post(IDS, json!({"input_ids": [1], "text": "x"})).await;
    assert_eq!(status, 400, "{answer}");
}

#[tokio::test]
async fn values_that_change_nothing_are_taken() {
    let up = up(FakeEngine::at_once(says("x")), LIMITS).await;
    let body = json!({
        "model": "tiny", "messages": [{"role": "user", "content": "hi", "name": "me"}],
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "n": 1.0, "stop": null,
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "u",
        "store": false, "metadata": {"a": "b"}, "top_p": 1, "temperature": 1, "seed": -5,
        "max_completion_tokens": 4, "max_tokens": 9, "parallel_tool_calls": true,
    });
    up.ok(CHAT, body).await;
    up.ok(TEXT, json!({"prompt": "x", "best_of": 2, "n": 2, "suffix": ""})).await;
    let params = json!({"top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "stop_token_ids": []});
    up.ok(IDS, json!({"input_ids": [5], "sampling_params": params, "stream": false})).await;
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let up = up(FakeEngine::at_once(says("x")), LIMITS).await;
    let url = format!("{}{TEXT}", up.base);
    let json_type = "application/json";
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(5 << 20));
    let deep = "[".repeat(1 << 20);
    for (kind, body, status) in [
        (json_type, "{\"prompt\":", 400),
        (json_type, "[]", 400),
        (json_type, "", 400),
        (json_type, "\u{0}", 400),
        (json_type, deep.as_str(), 400),
        (json_type, "{\"prompt\": \"x\", \"temperature\": 1e999}", 400),
        (json_type, large.as_str(), 413),
        ("text/plain", "{\"prompt\": \"x\"}", 415),
    ] {
        let request = up.client.post(&url).header(header::CONTENT_TYPE, kind);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let shown: String = body.chars().take(40).collect();
        assert_eq!(answer.status().as_u16(), status, "{kind} {shown}");
        let error: Value = answer.json().await.unwrap();
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    let invalid = up.client.post(&url).header(header::CONTENT_TYPE, json_type);
    assert_eq!(invalid.body(vec![0x7b, 0xff, 0xfe]).send().await.unwrap().status(), 400);
    assert_eq!(up.get("/nowhere").await.0, 404);
    assert_eq!(up.get(TEXT).await.0, 405);
    assert_eq!(up.post("/health", json!({})).await.0, 405);
}

#[tokio::test]
async fn a_page_that_calls_this_machine_its_own_is_refused() {
    let up = up(FakeEngine::at_once(says("x")), LIMITS).await;
    let body = json!({"prompt": "x"});
    let refused =
        up.request(TEXT, &body).header(header::HOST, "evil.example").send().await.unwrap();
    assert_eq!(refused.status(), 403);
}

#[tokio::test]
async fn a_locked_server_opens_to_a_key_alone() {
    const KEY: &str = "0123456789abcdef-secret";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    std::fs::write(&path, KEY).unwrap();
    let keys = Keys::read(&path).unwrap();
    let up = up_with(FakeEngine::at_once(says("x")), LIMITS, keys).await;
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        assert_eq!(up.get(path).await.0, 401, "{path}");
    }
    assert_eq!(up.get("/health").await.0, 200);
    let body = json!({"prompt": "x"});
    let refused = up.request(TEXT, &body).bearer_auth("wrong").send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["www-authenticate"], "Bearer");
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["type"], "authentication_error");
    assert!(!error.to_string().contains(KEY));
    let answered = up.request(TEXT, &body).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(answered.status(), 200);
}
