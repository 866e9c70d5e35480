//! Random JSON: never a crash, never an error of the server.

use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::harness::{LIMITS, Up, says, up};
use crate::inference::fake::FakeEngine;

/// Names that the routes know, so that random values reach what reads them.
const NAMES: [&str; 34] = [
    "model",
    "prompt",
    "messages",
    "input_ids",
    "text",
    "sampling_params",
    "temperature",
    "top_p",
    "n",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "include_usage",
    "max_tokens",
    "max_completion_tokens",
    "max_new_tokens",
    "logprobs",
    "top_logprobs",
    "top_logprobs_num",
    "return_logprob",
    "echo",
    "best_of",
    "role",
    "content",
    "type",
    "race_keys",
    "ignore_eos",
    "tools",
    "response_format",
    "user",
    "rid",
    "name",
    "colour",
];

fn server() -> &'static (Runtime, Up) {
    static SERVER: OnceLock<(Runtime, Up)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let up = runtime.block_on(up(FakeEngine::at_once(says("a€b")), LIMITS));
        (runtime, up)
    })
}

fn value() -> impl Strategy<Value = Value> {
    let texts = prop_oneof![
        any::<String>(),
        Just("tiny".to_owned()),
        Just("user".to_owned()),
        Just("text".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-2i64..400).prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        (0.0f64..2.0).prop_map(|number| json!(number)),
        texts.prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            object(inner),
        ]
    })
}

fn object(values: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let entry = (prop::sample::select(&NAMES[..]), values);
    prop::collection::vec(entry, 0..6).prop_map(|entries| {
        let entries = entries.into_iter().map(|(name, value)| (name.to_owned(), value));
        Value::Object(entries.collect())
    })
}

/// A request that is served, with some of its fields spoilt.
fn spoilt() -> impl Strategy<Value = Value> {
    let good = prop::sample::select(vec![
        json!({"prompt": "x", "max_tokens": 4}),
        json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}),
        json!({"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 4}}),
    ]);
    (good, object(value())).prop_map(|(good, other)| {
        let mut map: Map<String, Value> = good.as_object().unwrap().clone();
        map.extend(other.as_object().unwrap().clone());
        Value::Object(map)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_json_is_served_or_refused(
        body in prop_oneof![value(), spoilt()],
        path in prop::sample::select(vec!["/v1/completions", "/v1/chat/completions", "/generate"]),
    ) {
        let (runtime, up) = server();
        let (status, text) = runtime.block_on(async {
            let answer = up.request(path, &body).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
        prop_assert!(matches!(status, 200 | 400 | 404), "{} {}: {} {}", path, body, status, text);
        if status == 200 {
            prop_assert!(!text.contains("\"error\""), "{} {}: {}", path, body, text);
        } else {
            let error: Value = serde_json::from_str(&text).unwrap();
            prop_assert!(error["error"]["message"].is_string(), "{}", text);
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let (runtime, up) = server();
        let status = runtime.block_on(async {
            let url = format!("{}/v1/completions", up.base);
            let request = up.client.post(url).header("content-type", "application/json");
            request.body(bytes).send().await.unwrap().status().as_u16()
        });
        prop_assert_eq!(status, 400);
    }
}
