//! Which tokens are chosen, when a completion ends, and what is refused.

use grail_model::EngineConfig;
use grail_ports::model::{
    GenerateRequest, ModelError, RaceCheck, Sampling, ScoreRequest, StopFlag,
};
use grail_protocol::sampler::{RaceKey, race_score, race_winner};

use crate::models::{
    EOS, NAMES, bits, edge_requests, engine, generate, golden, kernels, plain_engine, race_key,
    request, score, score_requests, tokens,
};

#[test]
fn every_token_is_the_winner_of_the_protocols_race() {
    for name in NAMES {
        let engine = plain_engine(&golden(name));
        for temperature in [0.6, 1.0, 1.7] {
            let sampling = Sampling::Race { temperature };
            let request = GenerateRequest { sampling, ..request(tokens(9, 3), 8, 4, 12) };
            let completions = generate(&engine, std::slice::from_ref(&request)).remove(0);
            for (completion, &key) in completions.iter().zip(&request.race_keys) {
                let all = [request.prompt.as_slice(), &completion.tokens].concat();
                let logits = engine.logits(&all).unwrap();
                let rows = logits.chunks(96).skip(request.prompt.len() - 1);
                for ((step, &token), row) in (0..).zip(&completion.tokens).zip(rows) {
                    let winner = race_winner(row, temperature, RaceKey(key), step);
                    assert_eq!(winner, Some(token), "{name} step {step}");
                }
            }
        }
    }
}

#[test]
fn a_margin_is_the_difference_of_the_protocols_scores() {
    let engine = plain_engine(&golden("llama"));
    let (sequence, key) = (tokens(40, 6), race_key(1, 2));
    let race = Some(RaceCheck { key, temperature: 0.8 });
    let request = ScoreRequest {
        tokens: sequence.clone(),
        prompt_len: 10,
        race,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let score = score(&engine, &[request]).remove(0);
    let logits = engine.logits(&sequence).unwrap();
    assert_eq!(score.winners.len(), 30);
    for step in 0..30u32 {
        let row = &logits[(9 + step as usize) * 96..][..96];
        let of = |token: u32| race_score(row[token as usize], 0.8, RaceKey(key), step, token);
        let (winner, claimed) = (score.winners[step as usize], sequence[10 + step as usize]);
        assert_eq!(race_winner(row, 0.8, RaceKey(key), step), Some(winner));
        assert_eq!(score.margins[step as usize].to_bits(), (of(winner) - of(claimed)).to_bits());
        assert_eq!(winner == claimed, score.margins[step as usize] == 0.0);
    }
}

#[test]
fn an_entropy_is_that_of_the_softmax() {
    let engine = plain_engine(&golden("qwen3"));
    let sequence = tokens(40, 6);
    let request = ScoreRequest {
        tokens: sequence.clone(),
        prompt_len: 10,
        race: None,
        entropy: true,
        whitening: None,
        rows: false,
    };
    let plain = ScoreRequest { entropy: false, ..request.clone() };
    let scores = score(&engine, &[request, plain]);
    assert_eq!(bits(&scores[0].logprobs), bits(&scores[1].logprobs));
    assert!(scores[1].entropies.is_empty());
    assert_eq!(scores[0].entropies.len(), 30);
    let logits = engine.logits(&sequence).unwrap();
    for (entropy, row) in scores[0].entropies.iter().zip(logits.chunks(96).skip(9)) {
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let p = row.iter().map(|&x| f64::from(x).exp() / sum);
        let want: f64 = p.map(|p| -p * p.ln()).sum();
        assert!((f64::from(*entropy) - want).abs() < 1e-5 * want, "{entropy}, want {want}");
    }
}

#[test]
fn greedy_takes_the_largest_logit() {
    let engine = plain_engine(&golden("qwen2"));
    let greedy = GenerateRequest { sampling: Sampling::Greedy, ..request(tokens(5, 1), 0, 2, 30) };
    let completions = generate(&engine, std::slice::from_ref(&greedy)).remove(0);
    assert_eq!(completions[0], completions[1], "keys do not matter");
    let all = [greedy.prompt.as_slice(), &completions[0].tokens].concat();
    let logits = engine.logits(&all).unwrap();
    for (row, &token) in logits.chunks(96).skip(4).zip(&completions[0].tokens) {
        assert!(row.iter().all(|&logit| logit <= row[token as usize]));
    }
    // A race so cold that no draw matters is the same.
    let cold = Sampling::Race { temperature: 1e-6 };
    let cold = GenerateRequest { sampling: cold, ..greedy };
    assert_eq!(generate(&engine, &[cold])[0][0].tokens, completions[0].tokens);
}

#[test]
fn top_p_is_a_race_among_the_likely_tokens() {
    let engine = plain_engine(&golden("llama"));
    let base = request(tokens(8, 2), 3, 16, 20);
    let with = |top_p: f32| {
        let sampling = Sampling::TopP { temperature: 1.0, top_p };
        generate(&engine, &[GenerateRequest { sampling, ..base.clone() }]).remove(0)
    };
    let all = generate(&engine, std::slice::from_ref(&base)).remove(0);
    assert_eq!(with(1.0), all, "a mass of 1 leaves nothing out");
    let one = GenerateRequest { sampling: Sampling::Greedy, ..base.clone() };
    assert_eq!(with(1e-6), generate(&engine, &[one]).remove(0), "a tiny mass leaves one token");
    let mean = |completions: &[grail_ports::model::Completion]| {
        let logprobs: Vec<f32> = completions.iter().flat_map(|c| c.logprobs.clone()).collect();
        logprobs.iter().sum::<f32>() / logprobs.len() as f32
    };
    assert!(mean(&with(0.5)) > mean(&all));
}

#[test]
fn modes_and_temperatures_may_be_mixed_in_one_call() {
    let engine = plain_engine(&golden("llama"));
    let samplings = [
        Sampling::Greedy,
        Sampling::Race { temperature: 0.7 },
        Sampling::TopP { temperature: 1.0, top_p: 0.9 },
        Sampling::Race { temperature: 1.3 },
    ];
    let requests: Vec<_> = samplings
        .into_iter()
        .zip(0..)
        .map(|(sampling, group)| GenerateRequest {
            sampling,
            ..request(tokens(6, 1), group, 3, 15)
        })
        .collect();
    let together = generate(&engine, &requests);
    for (request, expected) in requests.iter().zip(&together) {
        assert_eq!(generate(&engine, std::slice::from_ref(request))[0], *expected);
    }
}

#[test]
fn a_completion_ends_with_its_first_end_token_or_is_full() {
    let engine = plain_engine(&golden("llama"));
    let (mut ended, mut full) = (0, 0);
    for (request, completions) in edge_requests().iter().zip(generate(&engine, &edge_requests())) {
        for completion in completions {
            let len = completion.tokens.len();
            assert_eq!(completion.logprobs.len(), len);
            match completion.tokens.iter().position(|token| EOS.contains(token)) {
                Some(position) => {
                    assert_eq!(position + 1, len);
                    ended += 1;
                }
                None => {
                    assert_eq!(len, request.max_new_tokens as usize);
                    full += 1;
                }
            }
        }
    }
    assert!(ended > 0 && full > 0, "{ended} ended, {full} full: the requests test too little");
}

#[test]
fn one_new_token_and_a_full_context_are_served() {
    let engine = plain_engine(&golden("llama"));
    let single = request(tokens(16, 1), 0, 3, 1);
    let whole = request(tokens(120, 1), 1, 2, 8);
    let groups = generate(&engine, &[single.clone(), whole.clone()]);
    assert!(groups[0].iter().all(|completion| completion.tokens.len() == 1));
    let scores = score(&engine, &score_requests(&[single, whole], &groups));
    for (score, completion) in scores.iter().zip(groups.iter().flatten()) {
        assert_eq!(bits(&score.logprobs), bits(&completion.logprobs));
    }
}

#[test]
fn bad_requests_are_refused_before_any_work() {
    let engine = plain_engine(&golden("llama"));
    let base = request(tokens(8, 1), 0, 2, 4);
    let race = |temperature| Sampling::Race { temperature };
    let top_p = |top_p| Sampling::TopP { temperature: 1.0, top_p };
    for (request, said) in [
        (GenerateRequest { prompt: vec![], ..base.clone() }, "prompt is empty"),
        (GenerateRequest { prompt: vec![1, 96], ..base.clone() }, "96 at position 1"),
        (GenerateRequest { prompt: vec![u32::MAX], ..base.clone() }, "vocab_size 96"),
        (GenerateRequest { prompt: tokens(129, 0), ..base.clone() }, "128 positions"),
        (GenerateRequest { max_new_tokens: 0, ..base.clone() }, "max_new_tokens is 0"),
        (GenerateRequest { max_new_tokens: 121, ..base.clone() }, "129 tokens"),
        (GenerateRequest { max_new_tokens: u32::MAX, ..base.clone() }, "128 positions"),
        (GenerateRequest { race_keys: vec![], ..base.clone() }, "no race keys"),
        (GenerateRequest { sampling: race(0.0), ..base.clone() }, "temperature 0"),
        (GenerateRequest { sampling: race(-1.0), ..base.clone() }, "temperature -1"),
        (GenerateRequest { sampling: race(f32::NAN), ..base.clone() }, "temperature NaN"),
        (GenerateRequest { sampling: race(f32::INFINITY), ..base.clone() }, "temperature inf"),
        (GenerateRequest { sampling: top_p(0.0), ..base.clone() }, "top_p 0"),
        (GenerateRequest { sampling: top_p(1.5), ..base.clone() }, "top_p 1.5"),
        (GenerateRequest { sampling: top_p(f32::NAN), ..base.clone() }, "top_p NaN"),
    ] {
        let requests = [base.clone(), request];
        let refused = engine.generate(&requests, &StopFlag::default(), &mut |_, _| {
            panic!("a group was generated before the requests were checked")
        });
        let Err(ModelError::BadRequest(text)) = refused else { panic!("{said}: {refused:?}") };
        assert!(text.contains(said), "{text}");
    }
    let base = ScoreRequest {
        tokens: tokens(8, 1),
        prompt_len: 3,
        race: None,
        entropy: false,
        whitening: None,
        rows: false,
    };
    let cold = RaceCheck { key: [0; 4], temperature: 0.0 };
    for (request, said) in [
        (ScoreRequest { prompt_len: 0, ..base.clone() }, "a prompt of 0"),
        (ScoreRequest { prompt_len: 8, ..base.clone() }, "a prompt of 8"),
        (ScoreRequest { prompt_len: usize::MAX, ..base.clone() }, "tokens"),
        (ScoreRequest { tokens: vec![], ..base.clone() }, "empty"),
        (ScoreRequest { tokens: vec![1, 2, 3, 100], ..base.clone() }, "100 at position 3"),
        (ScoreRequest { tokens: tokens(200, 1), ..base.clone() }, "200 tokens"),
        (ScoreRequest { race: Some(cold), ..base.clone() }, "temperature 0"),
    ] {
        let refused = engine.score(&[base.clone(), request], &StopFlag::default());
        let Err(ModelError::BadRequest(text)) = refused else { panic!("{said}: {refused:?}") };
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_cache_too_small_for_one_sequence_is_named() {
    let config = EngineConfig { kv_bytes_max: 10_000, ..EngineConfig::default() };
    let engine = engine(&golden("llama"), kernels(1), config);
    let requests = [request(tokens(100, 1), 0, 2, 20)];
    let refused = engine.generate(&requests, &StopFlag::default(), &mut |_, _| {});
    let Err(ModelError::BadRequest(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains("kv_bytes_max 10000"), "{text}");
}

#[test]
fn nothing_to_do_is_done() {
    let engine = plain_engine(&golden("llama"));
    assert!(generate(&engine, &[]).is_empty());
    assert!(score(&engine, &[]).is_empty());
}

#[test]
fn work_stops_on_request_and_finished_groups_stay_valid() {
    let config = EngineConfig { max_running_sequences: 2, ..EngineConfig::default() };
    let engine = engine(&golden("llama"), kernels(1), config);
    let requests = edge_requests();
    let all = generate(&engine, &requests);
    let stop = StopFlag::default();
    let mut handed_over = Vec::new();
    let result = engine.generate(&requests, &stop, &mut |idx, completions| {
        handed_over.push((idx, completions));
        stop.stop();
    });
    assert_eq!(result, Err(ModelError::Stopped));
    assert_eq!(handed_over.len(), 1);
    let (idx, completions) = &handed_over[0];
    assert_eq!(*completions, all[*idx]);
    let sequences = score_requests(&requests, &all);
    assert_eq!(engine.score(&sequences, &stop), Err(ModelError::Stopped));
}
