//! The forward pass: hidden states, logits and log-probabilities of every position.

use grail_ports::model::StopFlag;
use grail_ports::reference::{ReferenceModel as _, TraceRequest};
use grail_testkit::contract;
use grail_testkit::vectors::{every_entry, float, floats, load, size, tokens};

/// As the vectors' README suggests, of the largest magnitude beyond 1 (logits go to 20 and more);
/// PyTorch sums in another order.
const TOLERANCE: f64 = 1e-4;

#[test]
fn the_forward_pass_agrees_with_pytorch() {
    let facts = load("e2e", "forward.json");
    let model = super::model::load();
    let tokens = tokens(&facts["tokens"]);
    let request = TraceRequest { tokens: tokens.clone(), prompt_len: 1, warp: None };
    let trace = model.trace(&[request], &StopFlag::default()).unwrap().remove(0);
    let all_logits = model.engine().logits(&tokens).unwrap();
    let vocab = model.engine().model_config().vocab_size;
    let mut largest = 0.0f64;
    let scale_of = |values: &[f64]| values.iter().fold(1.0f64, |most, value| most.max(value.abs()));
    let mut near = |got: &[f32], want: &[f64], scale: f64, what: &str| {
        assert_eq!(got.len(), want.len(), "{what}");
        for (got, want) in got.iter().zip(want) {
            let error = (f64::from(*got) - want).abs() / scale;
            largest = largest.max(error);
            assert!(error <= TOLERANCE, "{what}: {got}, expected {want}");
        }
    };
    every_entry("e2e", "forward.json", "positions", 8, |position| {
        let at = size(&position["position"]);
        let hidden = floats(&position["hidden"]);
        let row = &trace.rows[at * hidden.len()..][..hidden.len()];
        near(row, &hidden, scale_of(&hidden), "hidden state");
        let logits = floats(&position["logits"]);
        let row = &all_logits[at * vocab..][..vocab];
        near(row, &logits, scale_of(&logits), "logits");
        // The last position predicts nothing that is in the sequence.
        if !position["logprob_of_next"].is_null() {
            let want = [float(&position["logprob_of_next"])];
            // A difference of logits, and as exact as they are.
            near(&trace.logprobs[at..=at], &want, scale_of(&logits), "log-probability");
        }
    });
    println!("largest error {largest:e}");
}

#[test]
fn the_engine_passes_the_contract() {
    contract::model(&*super::model::load());
}
