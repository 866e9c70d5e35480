//! What is done with logits: the race, the largest, log-probabilities.

use super::choices::{Choices, Kind};
use super::{ALL, assert_same, reference};
use grail_kernels::math::ln;
use grail_kernels::{RaceKey, RaceOutcome};

/// Logits of some rows, and the size of the vocabulary; in some cases a few are minus infinity.
fn logits(choices: &mut Choices<'_>) -> (Vec<f32>, usize) {
    // Around one block of the kernels, and several.
    let most = choices.of(&[1_100, 9_000]);
    let vocab = choices.size(most);
    let rows = choices.size((20_000 / vocab).clamp(1, 40));
    let spread = choices.of(&[1.0, 20.0, 1e-3]);
    let mut logits = choices.values(rows * vocab, Kind::Moderate);
    logits.iter_mut().for_each(|x| *x *= spread);
    for _ in 0..choices.below(4) {
        let index = choices.below(logits.len());
        logits[index] = f32::NEG_INFINITY;
    }
    (logits, vocab)
}

fn tokens(choices: &mut Choices<'_>, rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|_| choices.below(vocab) as u32).collect()
}

/// Winners and scores of races, and the largest logits.
pub(super) fn race(choices: &mut Choices<'_>) {
    let (logits, vocab) = logits(choices);
    let rows = logits.len() / vocab;
    let keys: Vec<RaceKey> = (0..rows)
        .map(|_| {
            let (high, low) = (choices.seed(), choices.seed());
            RaceKey([(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32])
        })
        .collect();
    let steps: Vec<u32> = (0..rows).map(|_| choices.below(1 << 16) as u32).collect();
    let temperature = choices.of(&[1.0, 0.5, 1.7, 1e-3]);
    let claimed = choices.flag().then(|| tokens(choices, rows, vocab));
    let mut want = Vec::with_capacity(rows);
    let mut largest = Vec::with_capacity(rows);
    for (row, logits) in logits.chunks(vocab).enumerate() {
        let scores = reference::race_scores(logits, keys[row], steps[row], temperature);
        let winner = reference::argmax(&scores);
        let token = claimed.as_ref().map_or(winner, |claimed| claimed[row]);
        want.push((winner, scores[winner as usize], scores[token as usize]));
        largest.push(reference::argmax(logits));
    }
    for kernels in ALL.iter() {
        let mut out = vec![RaceOutcome::default(); rows];
        kernels
            .race(&logits, vocab, &keys, &steps, temperature, claimed.as_deref(), &mut out)
            .expect("the logits hold no NaN");
        for (out, want) in out.iter().zip(&want) {
            assert_eq!(out.winner, want.0, "{kernels:?}");
            let scores = [out.winner_score, out.claimed_score];
            assert_same("race", kernels, &scores, &[want.1, want.2]);
        }
        let mut got = vec![0; rows];
        kernels.greedy(&logits, vocab, &mut got).expect("the logits hold no NaN");
        assert_eq!(got, largest, "{kernels:?}");
    }
}

/// Log-probabilities, and their gradients.
pub(super) fn log_softmax(choices: &mut Choices<'_>) {
    let (logits, vocab) = logits(choices);
    let rows = logits.len() / vocab;
    let tokens = tokens(choices, rows, vocab);
    // A row of minus infinity has no softmax; whether that is said is tested elsewhere.
    if logits.chunks(vocab).any(|row| reference::max(row) == f32::NEG_INFINITY) {
        return;
    }
    let logprob = |(row, &token): (&[f32], &u32)| {
        let (max, sum) = reference::softmax_parts(row);
        (row[token as usize] - max) - ln(sum)
    };
    let want: Vec<f32> = logits.chunks(vocab).zip(&tokens).map(logprob).collect();
    for kernels in ALL.iter() {
        let mut got = vec![0.0; rows];
        kernels.log_softmax_of(&logits, vocab, &tokens, &mut got).expect("every row has a softmax");
        assert_same("log_softmax_of", kernels, &got, &want);
    }
}
