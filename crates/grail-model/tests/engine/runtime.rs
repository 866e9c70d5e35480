//! The bf16 runtime: an engine of its own, deterministic and near the exact one.

use grail_kernels::Kernels;
use grail_model::{Engine, EngineConfig, Runtime};
use grail_ports::model::{Completion, Score};

use crate::models::{
    NAMES, bf16, bits, edge_requests, engine, generate, isas, kernels, model_in, plain_engine,
    score, score_requests, sketched, tokens,
};

fn rounded(engine: Engine) -> Engine {
    engine.with_runtime(Runtime::Bf16)
}

#[test]
fn its_tokens_depend_on_the_request_alone() {
    for name in NAMES {
        let model = bf16(name);
        let dir = model_in(&model);
        let plain = rounded(plain_engine(&dir));
        let requests = sketched(&plain, edge_requests());
        let groups = generate(&plain, &requests);
        let sequences = score_requests(&requests, &groups);
        let scores = score(&plain, &sequences);
        let alone: Vec<Vec<Completion>> = requests
            .iter()
            .map(|request| generate(&plain, std::slice::from_ref(request)).remove(0))
            .collect();
        assert_eq!(alone, groups, "{name}: alone and in a batch");
        let config = EngineConfig {
            max_running_sequences: 3,
            prefill_rows_max: 5,
            layer_rows_max: 7,
            score_rows_max: 50,
            ..EngineConfig::default()
        };
        for isa in isas() {
            for threads in [1, 3] {
                let kernels = Kernels::with_isa(isa, threads).unwrap();
                let engine = rounded(engine(&dir, kernels, config));
                assert_eq!(generate(&engine, &requests), groups, "{name} {isa} {threads}");
                assert_eq!(score(&engine, &sequences), scores, "{name} {isa} {threads}");
            }
        }
    }
}

/// Largest difference of log-probabilities, nats.
fn drift(completions: &[&Completion], scores: &[Score]) -> f32 {
    let logprobs = completions.iter().zip(scores).flat_map(|(completion, score)| {
        completion.logprobs.iter().zip(&score.logprobs).map(|(a, b)| (a - b).abs())
    });
    logprobs.fold(0.0, f32::max)
}

#[test]
fn it_is_near_the_exact_engine_and_never_equal() {
    for name in NAMES {
        let model = bf16(name);
        let dir = model_in(&model);
        let (exact, rounded) = (plain_engine(&dir), rounded(plain_engine(&dir)));
        let requests = sketched(&exact, edge_requests());
        let groups = generate(&rounded, &requests);
        let completions: Vec<&Completion> = groups.iter().flatten().collect();
        let sequences = score_requests(&requests, &groups);
        let verdicts = score(&exact, &sequences);
        let own = score(&rounded, &sequences);
        assert!(drift(&completions, &verdicts) < 0.3, "{name}: {}", drift(&completions, &verdicts));
        assert!(drift(&completions, &own) < 0.3, "{name}: {}", drift(&completions, &own));
        let differs = |scores: &[Score]| {
            let pairs = completions.iter().zip(scores);
            pairs.filter(|(a, b)| a.hidden_digest != b.hidden_digest).count()
        };
        assert_eq!(differs(&verdicts), completions.len(), "{name}: no digest is an exact one");
        // A cache in bf16 holds other keys than a pass of its own.
        assert!(differs(&own) > completions.len() / 2, "{name}: decoding is not scoring");
        let distance: u32 = completions
            .iter()
            .zip(&verdicts)
            .flat_map(|(a, b)| a.sketches.iter().zip(&b.sketches))
            .map(|(a, b)| a.distance(*b))
            .sum();
        let n_sketches: usize = completions.iter().map(|c| c.sketches.len()).sum();
        let mean = f64::from(distance) / n_sketches as f64;
        assert!(mean < 6.0, "{name}: {mean} of 64 signs");
    }
}

#[test]
fn every_value_that_reaches_the_head_is_a_bf16_one() {
    let model = bf16("llama");
    let engine = rounded(plain_engine(&model_in(&model)));
    let requests = score_requests(&edge_requests(), &generate(&engine, &edge_requests()));
    let mut request = requests[0].clone();
    request.rows = true;
    let rows = score(&engine, &[request]).remove(0).rows;
    assert!(!rows.is_empty() && rows.iter().all(|value| value.to_bits() & 0xffff == 0));
}

#[test]
fn the_exact_engine_is_what_an_engine_is_unless_it_is_told() {
    let model = bf16("llama");
    let dir = model_in(&model);
    let logits = |engine: &Engine| bits(&engine.logits(&tokens(40, 2)).unwrap());
    let plain = plain_engine(&dir);
    assert_eq!(plain.runtime(), Runtime::Exact);
    let told = engine(&dir, kernels(1), EngineConfig::default()).with_runtime(Runtime::Exact);
    assert_eq!(logits(&plain), logits(&told));
    assert_ne!(logits(&plain), logits(&rounded(told)));
}
