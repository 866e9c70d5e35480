//! The service: equal tokens under every schedule, bounds that hold, ends that come.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use grail_model::{
    Engine, EngineConfig, EngineService, FinishReason, SequenceEvent, SequenceRequest,
    ServiceConfig, SubmitError, Ticket,
};
use grail_ports::model::{Completion, GenerateRequest, ModelError, Sampling, StopFlag};
use grail_protocol::ids::Digest;

use crate::models::{
    EOS, bits, edge_requests, engine, generate, golden, kernels, plain_engine, request, sketched,
    tokens,
};

/// Longer than any test may take: a wait of this length is a failure.
const FOR_EVER: Duration = Duration::from_secs(120);

fn start(config: EngineConfig, queue_max: usize) -> (Arc<Engine>, EngineService) {
    let engine = Arc::new(engine(&golden("llama"), kernels(1), config));
    let service = EngineService::start(Arc::clone(&engine), ServiceConfig { queue_max }).unwrap();
    (engine, service)
}

fn plain_service() -> EngineService {
    start(EngineConfig::default(), 64).1
}

/// One sequence of a group request.
fn sequence(request: &GenerateRequest, rollout: usize) -> SequenceRequest {
    SequenceRequest {
        prompt: request.prompt.clone(),
        sampling: request.sampling,
        race_key: request.race_keys[rollout],
        max_new_tokens: request.max_new_tokens,
        top_logprobs: 0,
        capture_digest: true,
        whitening: request.whitening.clone(),
        ignore_eos: false,
    }
}

fn submit(
    service: &EngineService,
    request: SequenceRequest,
) -> Result<(Ticket, Receiver<SequenceEvent>), SubmitError> {
    let (sender, receiver) = channel();
    let ticket = service.submit(
        request,
        Box::new(move |event| {
            let _receiver_may_be_gone = sender.send(event);
        }),
    )?;
    Ok((ticket, receiver))
}

/// Submits a request whose first event holds the scheduler until the barrier is passed.
fn submit_and_hold(
    service: &EngineService,
    request: SequenceRequest,
) -> (Ticket, Receiver<SequenceEvent>, Arc<Barrier>) {
    let (sender, receiver) = channel();
    let (held, release) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let barriers = [Arc::clone(&held), Arc::clone(&release)];
    let mut is_first = true;
    let ticket = service.submit(
        request,
        Box::new(move |event| {
            let _receiver_may_be_gone = sender.send(event);
            if std::mem::take(&mut is_first) {
                for barrier in &barriers {
                    barrier.wait();
                }
            }
        }),
    );
    held.wait();
    (ticket.unwrap(), receiver, release)
}

/// All that was said of a sequence.
#[derive(Debug, PartialEq)]
struct Heard {
    completion: Completion,
    top: Vec<Vec<(u32, f32)>>,
    reason: FinishReason,
    prompt_tokens_cached: u32,
}

fn hear(events: &Receiver<SequenceEvent>) -> Heard {
    let (mut tokens, mut logprobs, mut tops) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match events.recv_timeout(FOR_EVER).unwrap() {
            SequenceEvent::Token { token, logprob, top } => {
                tokens.push(token);
                logprobs.push(logprob);
                tops.push(top);
            }
            SequenceEvent::Finished { reason, hidden_digest, sketches, prompt_tokens_cached } => {
                assert!(events.recv_timeout(FOR_EVER).is_err(), "an event after the end");
                let hidden_digest = hidden_digest.unwrap_or(Digest([0; 32]));
                let completion = Completion { tokens, logprobs, hidden_digest, sketches };
                return Heard { completion, top: tops, reason, prompt_tokens_cached };
            }
        }
    }
}

/// Runs one request to its end.
fn ask(service: &EngineService, request: SequenceRequest) -> Heard {
    let (_ticket, events) = submit(service, request).unwrap();
    hear(&events)
}

#[test]
fn a_service_streams_what_generate_returns() {
    let engine = plain_engine(&golden("llama"));
    let requests = sketched(&engine, edge_requests());
    let expected = generate(&engine, &requests);
    let service = plain_service();
    let mut streams = Vec::new();
    for (request, completions) in requests.iter().zip(&expected) {
        for (rollout, completion) in completions.iter().enumerate() {
            streams.push((submit(&service, sequence(request, rollout)).unwrap(), completion));
        }
    }
    for ((_ticket, events), completion) in &streams {
        let heard = hear(events);
        assert_eq!(heard.completion, **completion);
        assert_eq!(bits(&heard.completion.logprobs), bits(&completion.logprobs));
        let ended = completion.tokens.last().is_some_and(|token| EOS.contains(token));
        let reason = if ended { FinishReason::EndToken } else { FinishReason::Length };
        assert_eq!(heard.reason, reason);
    }
    service.drain(FOR_EVER);
    let stats = service.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
    assert_eq!(stats.finished, streams.len() as u64);
    let n_tokens: usize = expected.iter().flatten().map(|c| c.tokens.len()).sum();
    assert_eq!(stats.tokens_generated, n_tokens as u64);
    let n_prompt: usize = requests.iter().map(|r| r.prompt.len() * r.race_keys.len()).sum();
    assert_eq!(stats.prompt_tokens_computed + stats.prompt_tokens_cached, n_prompt as u64);
}

#[test]
fn options_change_what_they_say_and_nothing_else() {
    let service = plain_service();
    let base = sequence(&request(tokens(20, 3), 1, 1, 40), 0);
    let plain = ask(&service, base.clone());
    assert_eq!(plain.reason, FinishReason::EndToken);
    let without = ask(&service, SequenceRequest { capture_digest: false, ..base.clone() });
    assert_eq!(without.completion.hidden_digest, Digest([0; 32]));
    assert_eq!(without.completion.tokens, plain.completion.tokens);
    let on = ask(&service, SequenceRequest { ignore_eos: true, ..base.clone() });
    assert_eq!((on.reason, on.completion.tokens.len()), (FinishReason::Length, 40));
    assert!(on.completion.tokens.starts_with(&plain.completion.tokens));

    let top = ask(&service, SequenceRequest { top_logprobs: 5, ..base.clone() });
    assert_eq!(top.completion, plain.completion);
    let greedy = SequenceRequest { sampling: Sampling::Greedy, top_logprobs: 20, ..base };
    let greedy = ask(&service, greedy);
    for (heard, n) in [(&top, 5), (&greedy, 20)] {
        for (step, tops) in heard.top.iter().enumerate() {
            assert_eq!(tops.len(), n);
            assert!(tops.is_sorted_by(|left, right| left.1 >= right.1));
            let (token, logprob) = (heard.completion.tokens[step], heard.completion.logprobs[step]);
            let told = tops.iter().find(|(id, _)| *id == token).map(|(_, logprob)| logprob);
            assert!(told.is_none_or(|told| told.to_bits() == logprob.to_bits()));
            let mass: f32 = tops.iter().map(|(_, logprob)| logprob.exp()).sum();
            assert!(mass <= 1.0001);
        }
    }
    assert!(
        greedy.top.iter().zip(&greedy.completion.tokens).all(|(top, token)| top[0].0 == *token)
    );
}

#[test]
fn a_known_beginning_is_not_computed_again() {
    let service = plain_service();
    let long = tokens(70, 5);
    let first = ask(&service, sequence(&request(long.clone(), 0, 1, 4), 0));
    assert_eq!(first.prompt_tokens_cached, 0);
    let again = ask(&service, sequence(&request(long.clone(), 0, 1, 4), 0));
    assert_eq!(again.prompt_tokens_cached, 64);
    assert_eq!(again.completion, first.completion);
    // Whole blocks of an equal beginning; a different token in the third block.
    let mut other = long.clone();
    other[40] ^= 1;
    let heard = ask(&service, sequence(&request(other.clone(), 0, 1, 4), 0));
    assert_eq!(heard.prompt_tokens_cached, 32);
    let alone = generate(&plain_engine(&golden("llama")), &[request(other, 0, 1, 4)]);
    assert_eq!(heard.completion, alone[0][0]);
    // The block of the last token is computed again even if it is whole and known.
    let whole = ask(&service, sequence(&request(long[..64].to_vec(), 1, 1, 4), 0));
    assert_eq!(whole.prompt_tokens_cached, 48);
    let stats = service.stats();
    assert_eq!(stats.prompt_tokens_cached, 64 + 32 + 48);
    assert_eq!(stats.prompt_tokens_computed, 70 + 6 + 38 + 16);
}

#[test]
fn a_dialogue_goes_on_with_the_blocks_of_its_answers() {
    let service = plain_service();
    let question =
        SequenceRequest { ignore_eos: true, ..sequence(&request(tokens(20, 8), 0, 1, 50), 0) };
    let answer = ask(&service, question.clone());
    let history = [question.prompt, answer.completion.tokens, tokens(10, 9)].concat();
    let next = request(history, 1, 1, 6);
    let heard = ask(&service, sequence(&next, 0));
    // 20 + 50 positions but for the last token's, in whole blocks.
    assert_eq!(heard.prompt_tokens_cached, 64);
    assert_eq!(heard.completion, generate(&plain_engine(&golden("llama")), &[next])[0][0]);
}

#[test]
fn a_full_queue_refuses_and_lives_on() {
    let config = EngineConfig { max_running_sequences: 2, ..EngineConfig::default() };
    let (_, service) = start(config, 3);
    let base =
        SequenceRequest { ignore_eos: true, ..sequence(&request(tokens(10, 1), 0, 1, 100), 0) };
    let (ticket, first, release) = submit_and_hold(&service, base.clone());
    let taken: Vec<_> = (0..4).map(|_| submit(&service, base.clone()).unwrap()).collect();
    for _ in 0..3 {
        assert_eq!(submit(&service, base.clone()).err(), Some(SubmitError::QueueFull { live: 5 }));
    }
    release.wait();
    for events in taken.iter().map(|(_, events)| events).chain([&first]) {
        assert_eq!(hear(events).completion.tokens.len(), 100);
    }
    drop(ticket);
    assert_eq!(service.stats().refused, 3);
    assert_eq!(ask(&service, base).completion.tokens.len(), 100);
}

#[test]
fn a_dropped_ticket_frees_the_slot() {
    let config = EngineConfig { max_running_sequences: 1, ..EngineConfig::default() };
    let (_, service) = start(config, 8);
    let base =
        SequenceRequest { ignore_eos: true, ..sequence(&request(tokens(10, 1), 0, 1, 110), 0) };
    let (running, running_events, release) = submit_and_hold(&service, base.clone());
    let (waiting, waiting_events) = submit(&service, base.clone()).unwrap();
    let (last, last_events) = submit(&service, base.clone()).unwrap();
    drop(waiting);
    drop(running);
    release.wait();
    for (events, n_tokens) in [(&running_events, 1), (&waiting_events, 0)] {
        let cut = hear(events);
        assert_eq!(cut.reason, FinishReason::Cancelled);
        assert_eq!(cut.completion.tokens.len(), n_tokens);
    }
    assert_eq!(hear(&last_events).completion.tokens.len(), 110);
    drop(last);
    // A detached request runs to its end.
    let (ticket, events) = submit(&service, base).unwrap();
    ticket.detach();
    assert_eq!(hear(&events).reason, FinishReason::Length);
    service.drain(FOR_EVER);
    assert_eq!(service.stats().kv_blocks_used, 0);
}

#[test]
fn a_panicking_receiver_costs_its_own_sequence() {
    let service = plain_service();
    let requests = edge_requests();
    let expected = generate(&plain_engine(&golden("llama")), &requests);
    let bad = sequence(&requests[1], 0);
    let mut n_events = 0;
    let bomb = service.submit(
        SequenceRequest { ignore_eos: true, ..bad },
        Box::new(move |_| {
            n_events += 1;
            assert!(n_events < 3, "this panic is part of a test");
        }),
    );
    let heard = ask(&service, sequence(&requests[2], 1));
    assert_eq!(heard.completion, expected[2][1]);
    let _bomb = bomb.unwrap();
    service.drain(FOR_EVER);
    let stats = service.stats();
    assert_eq!((stats.cancelled, stats.finished, stats.kv_blocks_used), (1, 1, 0));
}

#[test]
fn a_drained_service_ends_what_runs_and_takes_nothing() {
    let service = plain_service();
    let base = sequence(&request(tokens(10, 1), 0, 1, 60), 0);
    let (_ticket, events) = submit(&service, base.clone()).unwrap();
    service.drain(FOR_EVER);
    assert!(matches!(hear(&events).reason, FinishReason::EndToken | FinishReason::Length));
    assert_eq!(submit(&service, base.clone()).err(), Some(SubmitError::Draining));
    service.drain(FOR_EVER);

    let config = EngineConfig { max_running_sequences: 1, ..EngineConfig::default() };
    let (engine, service) = start(config, 8);
    let endless = SequenceRequest { ignore_eos: true, max_new_tokens: 118, ..base };
    let streams: Vec<_> = (0..5).map(|_| submit(&service, endless.clone()).unwrap()).collect();
    service.drain(Duration::ZERO);
    let n_cancelled =
        streams.iter().filter(|(_, events)| hear(events).reason == FinishReason::Cancelled).count();
    assert!(n_cancelled >= 3, "{n_cancelled} of 5 were cancelled");
    // The engine itself goes on.
    assert_eq!(generate(&engine, &[request(tokens(5, 5), 0, 2, 3)])[0].len(), 2);
    assert_eq!(service.stats().kv_blocks_used, 0);
}

#[test]
fn bad_requests_are_refused_by_name() {
    let service = plain_service();
    let base = sequence(&request(tokens(8, 1), 0, 1, 4), 0);
    for (request, said) in [
        (SequenceRequest { prompt: vec![], ..base.clone() }, "prompt is empty"),
        (SequenceRequest { prompt: vec![96], ..base.clone() }, "vocab_size 96"),
        (SequenceRequest { max_new_tokens: 0, ..base.clone() }, "max_new_tokens is 0"),
        (SequenceRequest { max_new_tokens: u32::MAX, ..base.clone() }, "128 positions"),
        (SequenceRequest { top_logprobs: 21, ..base.clone() }, "top_logprobs 21"),
        (
            SequenceRequest { sampling: Sampling::Race { temperature: 0.0 }, ..base.clone() },
            "temperature 0",
        ),
    ] {
        let Err(SubmitError::BadRequest(text)) = submit(&service, request) else {
            panic!("{said}: taken");
        };
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(service.stats().waiting, 0);
}

#[test]
fn calls_and_requests_share_one_engine() {
    let config = EngineConfig { max_running_sequences: 3, ..EngineConfig::default() };
    let (engine, service) = start(config, 64);
    let requests = edge_requests();
    let expected = generate(&plain_engine(&golden("llama")), &requests);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(generate(&engine, &requests), expected));
        }
        for (request, completions) in requests.iter().zip(&expected) {
            for (rollout, completion) in completions.iter().enumerate() {
                assert_eq!(ask(&service, sequence(request, rollout)).completion, *completion);
            }
        }
    });
    service.drain(FOR_EVER);
    let stats = service.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
}

/// Sets values of an f32 tensor in the bytes of a safetensors file: those for whose row and column
/// `value` has one.
fn patch(bytes: &mut [u8], name: &str, value: impl Fn(usize, usize) -> Option<f32>) {
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let tensor = &header[name];
    assert_eq!(tensor["dtype"], "F32");
    let number = |value: &serde_json::Value| value.as_u64().unwrap() as usize;
    let (rows, columns) = (number(&tensor["shape"][0]), number(&tensor["shape"][1]));
    let start = 8 + header_len + number(&tensor["data_offsets"][0]);
    for (idx, bytes) in bytes[start..].chunks_exact_mut(4).take(rows * columns).enumerate() {
        if let Some(value) = value(idx / columns, idx % columns) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }
}

/// A model with finite weights that overflows in the first MLP at the token `poison` and nowhere
/// else: there the first value of the residual stream is positive, and the gate opens.
fn poisoned(poison: usize) -> tempfile::TempDir {
    let (from, dir) = (golden("qwen2"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    patch(&mut bytes, "model.embed_tokens.weight", |row, column| {
        (column == 0).then_some(if row == poison { 10.0 } else { -10.0 })
    });
    for name in ["gate_proj", "up_proj"] {
        patch(&mut bytes, &format!("model.layers.0.mlp.{name}.weight"), |row, column| {
            (row == 0).then_some(if column == 0 { 1e19 } else { 0.0 })
        });
    }
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    dir
}

#[test]
fn a_sequence_that_overflows_fails_alone() {
    const POISON: u32 = 95;
    let dir = poisoned(POISON as usize);
    let good: Vec<GenerateRequest> = (0..4).map(|i| request(tokens(20, i), i, 2, 12)).collect();
    let expected = generate(&plain_engine(dir.path()), &good);
    let engine = Arc::new(engine(dir.path(), kernels(1), EngineConfig::default()));
    let service = EngineService::start(Arc::clone(&engine), ServiceConfig::default()).unwrap();
    let mut prompt = tokens(20, 1);
    prompt[18] = POISON;
    let bad = request(prompt, 9, 1, 12);
    let mut streams = Vec::new();
    for (request, completions) in good.iter().zip(&expected) {
        let of_bad = submit(&service, sequence(&bad, 0)).unwrap();
        streams.push((of_bad, None));
        for (rollout, completion) in completions.iter().enumerate() {
            let of_good = submit(&service, sequence(request, rollout)).unwrap();
            streams.push((of_good, Some(completion)));
        }
    }
    for ((_ticket, events), completion) in &streams {
        let heard = hear(events);
        match completion {
            Some(completion) => assert_eq!(heard.completion, **completion),
            None => {
                assert!(matches!(heard.reason, FinishReason::Failed(ModelError::NotFinite(_))));
                assert!(heard.completion.tokens.is_empty());
            }
        }
    }
    let groups = [good[0].clone(), bad];
    let failed = engine.generate(&groups, &StopFlag::default(), &mut |_, _| {});
    assert!(matches!(failed, Err(ModelError::NotFinite(_))), "{failed:?}");
    service.drain(FOR_EVER);
    let stats = service.stats();
    assert_eq!((stats.running, stats.waiting, stats.kv_blocks_used), (0, 0, 0));
}

#[test]
fn an_engine_is_released_with_its_last_user() {
    let (engine, service) = start(EngineConfig::default(), 8);
    let weak = Arc::downgrade(&engine);
    let base = sequence(&request(tokens(40, 1), 0, 1, 20), 0);
    let (ticket, events) = submit(&service, base.clone()).unwrap();
    hear(&events);
    assert!(service.stats().kv_blocks_cached > 0);
    service.drain(FOR_EVER);
    drop((engine, service, ticket));
    assert_eq!(weak.strong_count(), 0);

    // A service that is dropped without a word cancels what runs.
    let (engine, service) = start(EngineConfig::default(), 8);
    let endless = SequenceRequest { ignore_eos: true, max_new_tokens: 80, ..base };
    let (ticket, events, release) = submit_and_hold(&service, endless.clone());
    let (_, waiting) = submit(&service, endless).unwrap();
    drop(service);
    release.wait();
    assert_eq!(hear(&events).reason, FinishReason::Cancelled);
    assert_eq!(hear(&waiting).reason, FinishReason::Cancelled);
    drop(ticket);
    // Calls go on.
    assert_eq!(generate(&engine, &[request(tokens(5, 5), 0, 2, 3)])[0].len(), 2);
}
