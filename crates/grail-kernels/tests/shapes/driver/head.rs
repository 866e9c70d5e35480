//! What is done with logits: the race, the largest, log-probabilities, and the head that does it all.

use super::choices::{Choices, Kind};
use super::{ALL, assert_same, reference};
use grail_kernels::math::{ln, tanh};
use grail_kernels::{
    HeadOptions, HeadQuery, HeadToken, PackedMatrix, Pick, RaceKey, RaceOutcome, SoftmaxStats,
};

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

fn key(choices: &mut Choices<'_>) -> RaceKey {
    let (high, low) = (choices.seed(), choices.seed());
    RaceKey([(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32])
}

fn tokens(choices: &mut Choices<'_>, rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|_| choices.below(vocab) as u32).collect()
}

/// Winners and scores of races, and the largest logits.
pub(super) fn race(choices: &mut Choices<'_>) {
    let (logits, vocab) = logits(choices);
    let rows = logits.len() / vocab;
    let keys: Vec<RaceKey> = (0..rows).map(|_| key(choices)).collect();
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

/// Log-probabilities.
pub(super) fn log_softmax(choices: &mut Choices<'_>) {
    let (logits, vocab) = logits(choices);
    let rows = logits.len() / vocab;
    let tokens = tokens(choices, rows, vocab);
    // A row of minus infinity has no softmax; whether that is said is tested elsewhere.
    if logits.chunks(vocab).any(|row| reference::max(row) == f32::NEG_INFINITY) {
        return;
    }
    let logprob = |(row, &token): (&[f32], &u32)| {
        let (max, sum, _) = reference::softmax(row);
        (row[token as usize] - max) - ln(sum)
    };
    let want: Vec<f32> = logits.chunks(vocab).zip(&tokens).map(logprob).collect();
    for kernels in ALL.iter() {
        let mut got = vec![0.0; rows];
        kernels.log_softmax_of(&logits, vocab, &tokens, &mut got).expect("every row has a softmax");
        assert_same("log_softmax_of", kernels, &got, &want);
    }
}

/// The fused head: every row with a choice and a claim of its own.
pub(super) fn fused(choices: &mut Choices<'_>) {
    let most = choices.of(&[300, 3_300]);
    let vocab = choices.size(most);
    let k = choices.size(70);
    let rows = choices.size((200_000 / vocab / k).clamp(1, 100));
    let spread = choices.of(&[1.0, 0.01, 30.0]);
    let mut x = choices.values(rows * k, Kind::Moderate);
    x.iter_mut().for_each(|x| *x *= spread);
    let w = choices.values(vocab * k, Kind::Moderate);
    let soft_cap = choices.flag().then_some(2.5);
    let options = HeadOptions { soft_cap, entropy: choices.flag() };
    let queries: Vec<HeadQuery> = (0..rows)
        .map(|_| HeadQuery { pick: pick(choices), claimed: claim(choices, vocab) })
        .collect();
    let of_x = |i: usize, at: usize| x[i * k + at];
    let mut logits = reference::product((rows, vocab, k), of_x, |j, at| w[j * k + at], None, None);
    if let Some(cap) = soft_cap {
        logits.iter_mut().for_each(|x| *x = cap * tanh(*x / cap));
    }
    let weight = PackedMatrix::pack_f32(vocab, k, &w);
    for kernels in ALL.iter() {
        let got = kernels.head(&x, &weight, &queries, options).expect("every row has a softmax");
        for ((got, logits), query) in got.iter().zip(logits.chunks(vocab)).zip(&queries) {
            let (max, sum, entropy) = reference::softmax(logits);
            assert_eq!(got.stats, SoftmaxStats { max, sum, ln_sum: ln(sum) }, "{kernels:?}");
            let bits = |x: Option<f32>| x.map(f32::to_bits);
            assert_eq!(bits(got.entropy), bits(options.entropy.then_some(entropy)), "{kernels:?}");
            let scores = match query.pick {
                Pick::None | Pick::Greedy => logits.to_vec(),
                Pick::Race { key, step, temperature } => {
                    reference::race_scores(logits, key, step, temperature)
                }
            };
            let token = |token: u32| {
                let (logit, score) = (logits[token as usize], scores[token as usize]);
                HeadToken { token, logit, score }
            };
            let winner = (query.pick != Pick::None).then(|| token(reference::argmax(&scores)));
            assert_eq!(got.winner, winner, "{kernels:?}");
            assert_eq!(got.claimed, query.claimed.map(token), "{kernels:?}");
        }
    }
}

fn pick(choices: &mut Choices<'_>) -> Pick {
    match choices.below(4) {
        0 => Pick::None,
        1 => Pick::Greedy,
        _ => Pick::Race {
            key: key(choices),
            step: choices.below(1 << 16) as u32,
            temperature: choices.of(&[1.0, 0.5, 1.7, 1e-3, 1e4]),
        },
    }
}

fn claim(choices: &mut Choices<'_>, vocab: usize) -> Option<u32> {
    choices.flag().then(|| choices.below(vocab) as u32)
}
