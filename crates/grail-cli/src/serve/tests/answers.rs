//! Every route with a scripted engine: shapes, streams, stop strings, whole characters.

use serde_json::{Value, json};

use super::harness::{END, LIMITS, Up, ids, says, up};
use crate::inference::fake::FakeEngine;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

async fn saying(text: &str) -> Up {
    up(FakeEngine::at_once(says(text)), LIMITS).await
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Joins what a stream says for choice 0.
fn joined(events: &[Value], text_of: impl Fn(&Value) -> Option<&str>) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().unwrap());
    choices.filter(|choice| choice["index"] == 0).filter_map(text_of).collect()
}

#[tokio::test]
async fn a_completion_has_openais_shape() {
    let up = saying("fine").await;
    let answer = up.ok(TEXT, json!({"model": "tiny", "prompt": "how", "max_tokens": 9})).await;
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"), "{answer}");
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("tiny")));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("exact-1-"));
    let choice = json!({"index": 0, "text": "fine", "logprobs": null, "finish_reason": "stop"});
    assert_eq!(answer["choices"], json!([choice]));
    let usage = json!({
        "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 1},
    });
    assert_eq!(answer["usage"], usage);
}

#[tokio::test]
async fn a_length_is_kept_and_told() {
    let up = saying("a long story").await;
    let answer = up.ok(TEXT, json!({"prompt": "x", "max_tokens": 3})).await;
    assert_eq!(answer["choices"][0]["text"], "a l");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    // Without a word of how long, as many as OpenAI takes; a chat goes to the context's end.
    let up = saying(&"z".repeat(600)).await;
    let answer = up.ok(TEXT, json!({"prompt": "x"})).await;
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let answer = up.ok(CHAT, json!({"messages": user("x")})).await;
    assert_eq!(answer["usage"]["total_tokens"], LIMITS.context_max);
    let answer = up.ok(TEXT, json!({"prompt": "xx", "max_tokens": 1_000_000_000u32})).await;
    assert_eq!(answer["usage"]["completion_tokens"], LIMITS.context_max - 2);
}

#[tokio::test]
async fn many_prompts_and_choices_are_answered_in_order() {
    let engine = FakeEngine::at_once(|request| {
        let mut tokens = request.prompt.clone();
        tokens.extend([request.race_key[0] % 10 + 10, END]);
        tokens
    });
    let up = up(engine, LIMITS).await;
    for prompt in [json!(["ab", "c"]), json!([ids("ab"), ids("c")])] {
        let body = json!({"prompt": prompt, "n": 2, "seed": 7, "logprobs": 0});
        let answer = up.ok(TEXT, body).await;
        let choices = answer["choices"].as_array().unwrap();
        let starts: Vec<_> = choices
            .iter()
            .map(|choice| choice["logprobs"]["tokens"][0].as_str().unwrap())
            .collect();
        assert_eq!(starts, ["a", "a", "c", "c"]);
        assert!(choices.iter().enumerate().all(|(idx, choice)| choice["index"] == idx));
    }
    // A flat list of ids is one prompt.
    let answer = up.ok(TEXT, json!({"prompt": ids("abc")})).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_prompt_is_echoed_on_request() {
    let up = saying("!").await;
    for prompt in [json!("say"), json!(ids("say"))] {
        let body = json!({"prompt": prompt, "echo": true, "stream": false});
        assert_eq!(up.ok(TEXT, body).await["choices"][0]["text"], "say!");
        let body = json!({"prompt": prompt, "echo": true, "stream": true});
        let events = up.events(TEXT, body).await;
        assert_eq!(joined(&events, |choice| choice["text"].as_str()), "say!");
    }
}

#[tokio::test]
async fn a_chat_has_openais_shape() {
    let up = saying("19").await;
    let body = json!({"model": "tiny", "messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "12"}, {"type": "text", "text": "+7"}]},
    ]});
    let answer = up.ok(CHAT, body).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    let message = json!({"role": "assistant", "content": "19", "refusal": null});
    let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"});
    assert_eq!(answer["choices"], json!([choice]));
}

#[tokio::test]
async fn a_chat_streams_its_role_its_text_its_end_and_what_it_used() {
    let up = saying("a€🙂é!").await;
    let body = json!({"messages": user("x"), "stream": true, "n": 2,
        "stream_options": {"include_usage": true}});
    let events = up.events(CHAT, body).await;
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
    assert!(events.iter().all(|event| event["id"] == events[0]["id"]));
    for (idx, event) in events[..2].iter().enumerate() {
        let delta = json!({"role": "assistant", "content": ""});
        assert_eq!(
            (&event["choices"][0]["delta"], &event["choices"][0]["index"]),
            (&delta, &json!(idx))
        );
        assert!(event.as_object().unwrap().contains_key("usage") && event["usage"].is_null());
    }
    let content = |choice: &Value| -> bool {
        choice["delta"]["content"].as_str().is_some_and(|text| text.contains('\u{fffd}'))
    };
    assert!(!events.iter().any(|event| event["choices"].as_array().unwrap().iter().any(content)));
    let said: String = events
        .iter()
        .flat_map(|event| event["choices"].as_array().unwrap())
        .filter(|choice| choice["index"] == 1)
        .filter_map(|choice| choice["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "a€🙂é!");
    let ends = events.iter().filter(|event| event["choices"][0]["finish_reason"] == "stop");
    assert_eq!(ends.count(), 2);
    let last = events.last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 2 * (ids("a€🙂é!").len() + 1));
}

#[tokio::test]
async fn without_include_usage_no_chunk_has_usage() {
    let up = saying("ab").await;
    for (path, body) in [
        (CHAT, json!({"messages": user("x"), "stream": true})),
        (TEXT, json!({"prompt": "x", "stream": true})),
    ] {
        let events = up.events(path, body).await;
        assert!(events.iter().all(|event| event.get("usage").is_none()), "{events:?}");
        assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn a_stop_string_ends_the_text_and_frees_the_slot() {
    let engine = FakeEngine::in_steps(4, 4, says("one\ntwo END of it, and much more"));
    let up = up(engine.clone(), LIMITS).await;
    for (stream, running) in [(false, 1), (true, 1)] {
        let body =
            json!({"prompt": "x", "stop": ["\n\n", "END"], "max_tokens": 90, "stream": stream});
        let request = up.request(TEXT, &body).send();
        let drive = async {
            engine.until(|stats| stats.running == running).await;
            // The sequence is never told its end: it leaves because nobody wants the rest.
            for _ in 0..ids("one\ntwo END").len() {
                engine.step();
            }
            engine.until(|stats| stats.running == 0).await;
        };
        let (answer, ()) = tokio::join!(request, drive);
        let text = answer.unwrap().text().await.unwrap().replace("[DONE]", "");
        assert!(text.contains(r#""finish_reason":"stop""#), "{text}");
        assert!(!text.contains('E') && !text.contains("of it"), "{text}");
    }
    assert_eq!(engine.stats_now().cancelled, 2);
}

#[tokio::test]
async fn token_logprobs_are_told_in_both_shapes() {
    let up = saying("a€b").await;
    let body = json!({"messages": user("x"), "logprobs": true, "top_logprobs": 2});
    let answer = up.ok(CHAT, body).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), ids("a€b").len(), "the end token is not among them");
    assert_eq!(content[0]["token"], "a");
    assert_eq!(content[0]["bytes"], json!([97]));
    assert_eq!(content[1]["logprob"], json!(-0.25));
    assert_eq!(content[1]["bytes"], json!([0xe2]));
    assert_eq!(content[1]["token"], "bytes:\\xe2");
    assert!(content.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));

    let answer = up.ok(TEXT, json!({"prompt": "x", "logprobs": 2})).await;
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["text_offset"], json!([0, 1, 1, 1, 2]));
    assert_eq!(logprobs["token_logprobs"], json!([0.0, -0.25, -0.5, -0.75, -1.0]));
    assert_eq!(logprobs["tokens"][4], "b");
    assert_eq!(logprobs["top_logprobs"][0]["a"], json!(0.0));

    // A stream tells the same tokens, each with the text that it completes.
    let body = json!({"messages": user("x"), "logprobs": true, "stream": true});
    let events = up.events(CHAT, body).await;
    let chunk = events.iter().find(|event| event["choices"][0]["delta"]["content"] == "€").unwrap();
    assert_eq!(chunk["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn the_native_route_speaks_token_ids() {
    let up = saying("ok").await;
    let body = json!({"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 8, "temperature": 0},
        "return_logprob": true, "top_logprobs_num": 1, "return_hidden_digest": true, "rid": "r1"});
    let answer = up.ok("/generate", body).await;
    let want = [ids("ok"), vec![END]].concat();
    assert_eq!((&answer["text"], &answer["output_ids"]), (&json!("ok"), &json!(want)));
    let meta = &answer["meta_info"];
    assert_eq!(meta["id"], "r1");
    assert_eq!(meta["finish_reason"], json!({"type": "stop", "matched": END}));
    assert_eq!((&meta["prompt_tokens"], &meta["completion_tokens"]), (&json!(2), &json!(3)));
    assert_eq!(meta["output_token_logprobs"][1], json!([-0.25, want[1], null]));
    assert_eq!(meta["output_top_logprobs"][1], json!([[-0.25, want[1], null]]));
    assert_eq!(meta["hidden_digest"].as_str().unwrap().len(), 64);

    let body = json!({"text": ["a", "b"], "sampling_params": {"max_new_tokens": 1, "n": 2}});
    let answer = up.ok("/generate", body).await;
    assert_eq!(answer.as_array().unwrap().len(), 4);
    assert_eq!(answer[3]["meta_info"]["finish_reason"], json!({"type": "length", "length": 1}));
    assert!(answer[3]["meta_info"].get("output_token_logprobs").is_none());
}

#[tokio::test]
async fn race_keys_reach_the_engine_as_they_are() {
    let engine = FakeEngine::at_once(|request| vec![request.race_key[0], request.race_key[3]]);
    let up = up(engine, LIMITS).await;
    let params = json!({"race_keys": [[11, 0, 0, 12], [13, 0, 0, 14]], "max_new_tokens": 2});
    let answer =
        up.ok("/generate", json!({"input_ids": [[5], [6]], "sampling_params": params})).await;
    assert_eq!(answer[0]["output_ids"], json!([11, 12]));
    assert_eq!(answer[1]["output_ids"], json!([13, 14]));
}

#[tokio::test]
async fn the_model_its_health_and_the_metrics_are_shown() {
    let up = saying("ab").await;
    let (status, models) = up.get("/v1/models").await;
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("tiny")));
    assert_eq!(models["data"][0]["max_model_len"], 512);
    assert_eq!(up.get("/v1/models/tiny").await.0, 200);
    assert_eq!(up.get("/v1/models/other").await.0, 404);
    assert_eq!(up.get("/health").await, (200, r#"{"status":"ok"}"#.to_owned()));
    up.ok(TEXT, json!({"prompt": "x"})).await;
    let (status, page) = up.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "grail_serve_requests_total{route=\"/v1/completions\",status=\"200\"} 1",
        "grail_serve_requests_total{route=\"/v1/models/{*name}\",status=\"404\"} 1",
        "grail_serve_generated_tokens_total 3",
        "grail_serve_first_token_seconds_count 1",
        "grail_serve_next_token_seconds_count 2",
        "grail_serve_queue_depth 0",
        "grail_serve_queue_depth_max 64",
        "grail_serve_disconnected_requests_total 0",
    ] {
        assert!(page.lines().any(|found| found == line), "no `{line}` in\n{page}");
    }
}
