//! The server on the real engine with the embedded model: same numbers, same text, every time.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use grail_model::{EngineService, ServiceConfig};
use grail_ports::model::{Completion, GenerateRequest, Model, Sampling, StopFlag};
use serde_json::{Value, json};

use super::super::Limits;
use super::harness::{LIMITS, Up, ids, up};
use crate::inference::fake::model;
use crate::inference::seed::race_key;

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";

fn service(queue_max: usize) -> Arc<EngineService> {
    let engine = model().engine().clone();
    Arc::new(EngineService::start(engine, ServiceConfig { queue_max }).unwrap())
}

async fn real() -> Up {
    up(service(64), LIMITS).await
}

/// What the engine says by itself, choice by choice.
fn generated(prompt: &str, seed: u64, n: u32, max_new_tokens: u32) -> Vec<Completion> {
    let request = GenerateRequest {
        prompt: ids(prompt),
        race_keys: (0..n).map(|choice| race_key(seed, choice)).collect(),
        sampling: Sampling::Race { temperature: 1.0 },
        max_new_tokens,
        whitening: None,
    };
    let mut group = Vec::new();
    let on_group = &mut |_, completions| group = completions;
    model().generate(&[request], &StopFlag::default(), on_group).unwrap();
    group
}

const PROMPT: &str = "<|im_start|>user\n12+7=<|im_end|>\n<|im_start|>assistant\n";

#[tokio::test]
async fn tokens_and_logprobs_are_the_engines() {
    let up = real().await;
    let want = generated(PROMPT, 5, 3, 24);
    let params = json!({"seed": 5, "n": 3, "max_new_tokens": 24});
    let body = json!({"input_ids": ids(PROMPT), "sampling_params": params, "return_logprob": true,
        "return_hidden_digest": true});
    let answer = up.ok("/generate", body).await;
    for (want, found) in want.iter().zip(answer.as_array().unwrap()) {
        assert_eq!(found["output_ids"], json!(want.tokens));
        let told = found["meta_info"]["output_token_logprobs"].as_array().unwrap();
        let bits = |value: &Value| -> u32 { (value[0].as_f64().unwrap() as f32).to_bits() };
        let told: Vec<u32> = told.iter().map(bits).collect();
        let own: Vec<u32> = want.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
        assert_eq!(told, own);
        assert_eq!(found["meta_info"]["hidden_digest"], want.hidden_digest.to_hex());
    }
    // The same through OpenAI's API, whole and streamed.
    let body = json!({"prompt": PROMPT, "seed": 5, "n": 3, "max_tokens": 24, "logprobs": 1});
    let whole = up.ok(TEXT, body.clone()).await;
    for (want, found) in want.iter().zip(whole["choices"].as_array().unwrap()) {
        assert_eq!(found["text"], model().tokenizer().decode(&want.tokens, true).unwrap());
        let told = found["logprobs"]["token_logprobs"].as_array().unwrap();
        let told = told.iter().map(|logprob| logprob.as_f64().unwrap() as f32);
        assert!(
            told.eq(want
                .logprobs
                .iter()
                .copied()
                .take(found["logprobs"]["tokens"].as_array().unwrap().len()))
        );
    }
    let mut streaming = body;
    streaming["stream"] = json!(true);
    let events = up.events(TEXT, streaming).await;
    for (idx, found) in whole["choices"].as_array().unwrap().iter().enumerate() {
        let choices = events.iter().map(|event| &event["choices"][0]);
        let text: String = choices
            .filter(|choice| choice["index"] == idx)
            .filter_map(|choice| choice["text"].as_str())
            .collect();
        assert_eq!(found["text"], text);
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_text_whatever_else_is_going_on() {
    let up = real().await;
    let body = |seed: u64| {
        json!({"messages": [{"role": "user", "content": "12+7="}], "seed": seed,
            "temperature": 1.5, "max_tokens": 40, "logprobs": true})
    };
    let alone: Vec<Value> = {
        let mut answers = Vec::new();
        for seed in 0..6 {
            answers.push(up.ok(CHAT, body(seed)).await["choices"].clone());
        }
        answers
    };
    let noise = (0..6).map(|_| up.ok(CHAT, body(99)));
    let (together, _) =
        tokio::join!(join_all((0..6).map(|seed| up.ok(CHAT, body(seed)))), join_all(noise));
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone, &together["choices"]);
    }
    assert!(alone.iter().any(|choices| choices != &alone[0]), "seeds make a difference");
    // Greedy needs no seed.
    let greedy = json!({"messages": [{"role": "user", "content": "12+7="}], "temperature": 0});
    let answers = join_all((0..3).map(|_| up.ok(CHAT, greedy.clone()))).await;
    assert!(answers.iter().all(|answer| answer["choices"] == answers[0]["choices"]));
}

#[tokio::test]
async fn top_logprobs_are_the_likeliest_and_hold_the_greedy_token() {
    let up = real().await;
    let body = json!({"messages": [{"role": "user", "content": "12+7="}], "temperature": 0,
        "logprobs": true, "top_logprobs": 5, "max_tokens": 8});
    let answer = up.ok(CHAT, body).await;
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(!content.is_empty());
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        let logprobs: Vec<f64> =
            top.iter().map(|other| other["logprob"].as_f64().unwrap()).collect();
        assert_eq!(top.len(), 5);
        assert!(logprobs.is_sorted_by(|left, right| left >= right), "{logprobs:?}");
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
    }
}

#[tokio::test]
async fn the_prompt_cache_is_told() {
    let up = real().await;
    let prompt = "1+1=2 ".repeat(20);
    let body = json!({"prompt": prompt, "max_tokens": 2, "temperature": 0});
    up.ok(TEXT, body.clone()).await;
    let again = up.ok(TEXT, body).await;
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= 96, "{cached} of {} tokens", ids(&prompt).len());
    let (_, page) = up.get("/metrics").await;
    assert!(!page.contains("grail_serve_prompt_tokens_cached_total 0\n"), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_the_engine() {
    let service = service(64);
    let Up { server, client, base } = up(service.clone(), LIMITS).await;
    let body = json!({"input_ids": [5], "sampling_params": {"max_new_tokens": 500,
        "ignore_eos": true, "n": 4}});
    let request = tokio::spawn(client.post(format!("{base}/generate")).json(&body).send());
    until(|| service.stats().running > 0).await;
    request.abort();
    until(|| service.stats().running + service.stats().waiting == 0).await;
    assert_eq!(service.stats().cancelled, 4);
    // Kept for the next prompt, but held by nobody.
    assert_eq!(service.stats().kv_blocks_used, 0);
    server.drain(Duration::from_secs(60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice_the_queue_is_answered_or_refused() {
    let limits = Limits { running_max: 64, queue_max: 0, ..LIMITS };
    let up = up(service(0), limits).await;
    let body = json!({"prompt": "1+1=", "n": 8, "max_tokens": 100});
    let load = (0..16).map(|_| up.request(TEXT, &body).send());
    let answers = join_all(load).await;
    let statuses: Vec<u16> =
        answers.iter().map(|answer| answer.as_ref().unwrap().status().as_u16()).collect();
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");
    assert_eq!(up.ok(TEXT, json!({"prompt": "1+1="})).await["object"], "text_completion");
}

/// Waits for the engine's thread, which tells nobody when it is done.
async fn until(is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.expect("the engine gets there within a minute");
}
