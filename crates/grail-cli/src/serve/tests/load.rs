//! More requests than fit, clients that leave or do not read, and the end of the server.

use std::time::Duration;

use futures::future::join_all;
use grail_model::ServiceStats;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::super::Limits;
use super::harness::{LIMITS, Up, ids, retry_after, says, up};
use crate::inference::fake::FakeEngine;
use crate::inference::sequence::EVENTS_MAX;

const TEXT: &str = "/v1/completions";

fn idle(stats: &ServiceStats) -> bool {
    stats.running == 0 && stats.waiting == 0
}

async fn send(up: &Up, stream: bool) -> reqwest::Response {
    let body = json!({"prompt": "x", "stream": stream});
    up.request(TEXT, &body).send().await.unwrap()
}

#[tokio::test]
async fn twice_the_load_is_answered_or_refused_and_the_server_stays_up() {
    const RUNNING: usize = 3;
    const QUEUE: usize = 5;
    let engine = FakeEngine::in_steps(RUNNING, QUEUE, says("abc"));
    let limits = Limits { running_max: RUNNING, queue_max: QUEUE, ..LIMITS };
    let up = up(engine.clone(), limits).await;
    for _ in 0..2 {
        let refused = engine.stats_now().refused;
        let load = join_all((0..2 * (RUNNING + QUEUE)).map(|idx| send(&up, idx % 2 == 0)));
        let drive = async {
            engine.until(|stats| stats.refused - refused == 8).await;
            assert_eq!(engine.stats_now().waiting, QUEUE);
            assert_eq!(up.get("/health").await.0, 200);
            engine.run_out();
        };
        let (answers, ()) = tokio::join!(load, drive);
        let (ok, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status() == 200);
        assert_eq!((ok.len(), refused.len()), (RUNNING + QUEUE, RUNNING + QUEUE));
        for answer in refused {
            assert_eq!(answer.status(), 429);
            assert!((1..=60).contains(&retry_after(&answer)));
            let error: Value = answer.json().await.unwrap();
            assert_eq!(error["error"]["type"], "rate_limit_error", "{error}");
        }
        for answer in ok {
            assert!(answer.text().await.unwrap().contains("\"finish_reason\":\"stop\""));
        }
        engine.until(idle).await;
    }
}

#[tokio::test]
async fn a_request_whose_choices_do_not_all_fit_takes_no_place() {
    let engine = FakeEngine::in_steps(2, 2, says("abc"));
    let limits = Limits { running_max: 2, queue_max: 2, ..LIMITS };
    let up = up(engine.clone(), limits).await;
    let first = up.request(TEXT, &json!({"prompt": "x", "n": 2})).send();
    let drive = async {
        engine.until(|stats| stats.running == 2).await;
        let (status, _) = up.post(TEXT, json!({"prompt": "x", "n": 3})).await;
        assert_eq!(status, 429);
        engine.until(|stats| stats.waiting == 0).await;
        // Five could never fit, however long the client waits.
        let (status, answer) = up.post(TEXT, json!({"prompt": "x", "n": 5})).await;
        assert_eq!(status, 400, "{answer}");
        engine.run_out();
    };
    let (answer, ()) = tokio::join!(first, drive);
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot() {
    let engine = FakeEngine::in_steps(4, 4, |_| vec![ids("a")[0]; 400]);
    let up = up(engine.clone(), LIMITS).await;
    // In the middle of a stream.
    let body = json!({"prompt": "x", "stream": true, "n": 2, "max_tokens": 400});
    let mut answer = up.request(TEXT, &body).send().await.unwrap();
    engine.until(|stats| stats.running == 2).await;
    engine.step();
    assert!(answer.chunk().await.unwrap().is_some());
    drop(answer);
    engine.until(|stats| stats.running == 0 && stats.cancelled == 2).await;
    // While it waits for a whole answer.
    let waiting = tokio::spawn(up.request(TEXT, &json!({"prompt": "x"})).send());
    engine.until(|stats| stats.running == 1).await;
    waiting.abort();
    engine.until(|stats| stats.running == 0 && stats.cancelled == 3).await;
    let (_, page) = up.get("/metrics").await;
    assert!(page.contains("grail_serve_disconnected_requests_total 2"), "{page}");
    assert!(page.contains("grail_serve_requests_in_flight 0"), "{page}");
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_told_so() {
    // All tokens come at once: more than may be left unread.
    let engine = FakeEngine::at_once(|_| vec![ids("a")[0]; 2000]);
    let limits = Limits { context_max: 4096, ..LIMITS };
    let up = up(engine.clone(), limits).await;
    let body = json!({"prompt": "x", "stream": true, "max_tokens": 2000});
    let events = up.raw_events(TEXT, body.clone()).await;
    let error: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "slow_reader");
    assert!(!events.contains(&"[DONE]".to_owned()));
}

#[tokio::test]
async fn a_client_that_never_reads_loses_its_slot_and_holds_up_nobody() {
    const TOKENS_MAX: usize = 1_000_000;
    let engine = FakeEngine::in_steps(4, 4, |_| vec![ids("a")[0]; TOKENS_MAX]);
    let up = up(engine.clone(), Limits { context_max: 2 * TOKENS_MAX, ..LIMITS }).await;
    let body = json!({"prompt": "x", "stream": true, "max_tokens": TOKENS_MAX}).to_string();
    let head = format!(
        "POST {TEXT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut client = TcpStream::connect(up.server.address()).await.unwrap();
    client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    engine.until(|stats| stats.running == 1).await;
    // The system's buffers fill, then the server's own, then the sequence is given up.
    let mut steps = 0;
    while engine.stats_now().cancelled == 0 {
        engine.step();
        steps += 1;
        assert!(steps < TOKENS_MAX, "the buffers have no end");
        if steps % 256 == 0 {
            assert_eq!(up.get("/health").await.0, 200);
        }
    }
    assert!(steps > EVENTS_MAX, "{steps} steps");
    engine.until(idle).await;
    drop(client);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let engine = FakeEngine::in_steps(4, 4, says("abc"));
    let up = up(engine.clone(), Limits { request_time: Duration::ZERO, ..LIMITS }).await;
    let (status, answer) = up.post(TEXT, json!({"prompt": "x"})).await;
    assert_eq!((status, &answer["error"]["code"]), (504, &json!("timeout")));
    let events = up.raw_events(TEXT, json!({"prompt": "x", "stream": true})).await;
    assert!(events.last().unwrap().contains("\"timeout\""), "{events:?}");
    engine.until(idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_is_under_way_and_refuses_the_rest() {
    let engine = FakeEngine::in_steps(4, 4, says("abc"));
    let up = up(engine.clone(), LIMITS).await;
    let Up { server, client, base } = up;
    let post = |stream: bool| {
        client.post(format!("{base}{TEXT}")).json(&json!({"prompt": "x", "stream": stream})).send()
    };
    let mut stream = post(true).await.unwrap();
    let whole = tokio::spawn(post(false));
    engine.until(|stats| stats.running == 2).await;
    let draining = tokio::spawn(server.drain(Duration::from_secs(100)));
    engine.until_draining().await;
    let health = client.get(format!("{base}/health")).send().await.unwrap();
    assert_eq!(health.status(), 503);
    let refused = post(false).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(retry_after(&refused) > 0);
    engine.run_out();
    let mut text = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    assert!(String::from_utf8(text).unwrap().ends_with("data: [DONE]\n\n"));
    assert_eq!(whole.await.unwrap().unwrap().status(), 200);
    draining.await.unwrap();
    assert!(client.get(format!("{base}/health")).send().await.is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_done_at_the_deadline_is_told() {
    let engine = FakeEngine::in_steps(4, 4, says("abc"));
    let Up { server, client, base } = up(engine.clone(), LIMITS).await;
    let body = json!({"prompt": "x"});
    let hanging = tokio::spawn(client.post(format!("{base}{TEXT}")).json(&body).send());
    engine.until(|stats| stats.running == 1).await;
    server.drain(Duration::ZERO).await;
    let answer = hanging.await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    let error: Value = answer.json().await.unwrap();
    assert_eq!(error["error"]["code"], "draining");
}
