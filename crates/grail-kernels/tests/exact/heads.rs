//! What happens to logits: races, greedy choices, log-probabilities and their gradients.

use crate::{ALL, assert_same, config, reference, values};
use grail_kernels::math::{exp, ln};
use grail_kernels::{KernelError, RaceKey, RaceOutcome};
use proptest::prelude::*;

fn logits(seed: u64, count: usize) -> Vec<f32> {
    values(seed, count).iter().map(|x| x * 12.0).collect()
}

fn vocab() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1..300usize, 1 => 8_100..20_000usize]
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn races_are_their_definition(
        rows in 1..8usize,
        vocab in vocab(),
        words: [u32; 4],
        seed: u64,
        temperature in 0.1f32..3.0,
    ) {
        let logits = logits(seed, rows * vocab);
        let keys: Vec<RaceKey> =
            (0..rows as u32).map(|row| RaceKey(words.map(|word| word.wrapping_mul(row + 1)))).collect();
        let steps: Vec<u32> = (0..rows as u32).map(|row| row * 31).collect();
        let claimed: Vec<u32> = (0..rows).map(|row| ((row * 7919) % vocab) as u32).collect();
        let want: Vec<RaceOutcome> = (0..rows)
            .map(|row| {
                let logits = &logits[row * vocab..][..vocab];
                let scores = reference::race_scores(logits, keys[row], steps[row], temperature);
                let winner = reference::argmax(&scores);
                RaceOutcome {
                    winner,
                    winner_score: scores[winner as usize],
                    claimed_score: scores[claimed[row] as usize],
                }
            })
            .collect();
        for kernels in ALL.iter() {
            let mut out = vec![RaceOutcome::default(); rows];
            kernels
                .race(&logits, vocab, &keys, &steps, temperature, Some(&claimed), &mut out)
                .expect("no NaN");
            prop_assert_eq!(&out, &want, "{:?}", kernels);
            kernels.race(&logits, vocab, &keys, &steps, temperature, None, &mut out).expect("no NaN");
            for (out, want) in out.iter().zip(&want) {
                prop_assert_eq!(out.claimed_score, want.winner_score);
                prop_assert_eq!(out.winner, want.winner);
            }
        }
    }

    #[test]
    fn greedy_takes_the_first_largest(rows in 1..8usize, vocab in vocab(), seed: u64, coarse: bool) {
        let mut logits = logits(seed, rows * vocab);
        if coarse {
            // Many ties.
            logits.iter_mut().for_each(|x| *x = x.round() / 4.0);
        }
        let want: Vec<u32> = logits.chunks(vocab).map(reference::argmax).collect();
        for kernels in ALL.iter() {
            let mut out = vec![0; rows];
            kernels.greedy(&logits, vocab, &mut out).expect("no NaN");
            prop_assert_eq!(&out, &want, "{:?}", kernels);
        }
    }

    #[test]
    fn log_probabilities_are_their_definition(rows in 1..8usize, vocab in vocab(), seed: u64) {
        let logits = logits(seed, rows * vocab);
        let tokens: Vec<u32> = (0..rows).map(|row| ((row * 7919) % vocab) as u32).collect();
        let coef = values(seed ^ 1, rows);
        let (mut want, mut want_gradient) = (Vec::new(), Vec::new());
        for (row, logits) in logits.chunks(vocab).enumerate() {
            let (max, sum) = reference::softmax_parts(logits);
            let token = tokens[row] as usize;
            want.push((logits[token] - max) - ln(sum));
            want_gradient.extend(logits.iter().enumerate().map(|(v, x)| {
                let onehot = if v == token { 1.0 } else { 0.0 };
                coef[row] * (onehot - exp(x - max) / sum)
            }));
        }
        for kernels in ALL.iter() {
            let mut out = vec![0.0; rows];
            kernels.log_softmax_of(&logits, vocab, &tokens, &mut out).expect("finite");
            assert_same("log_softmax_of", kernels, &out, &want);
            let mut gradient = logits.clone();
            kernels.cross_entropy_backward(&mut gradient, vocab, &tokens, &coef).expect("finite");
            assert_same("cross_entropy_backward", kernels, &gradient, &want_gradient);
        }
    }
}

/// Enough rows for every thread, each longer than a piece.
#[test]
fn large_batches_do_not_depend_on_threads_or_isa() {
    let (rows, vocab) = (5, 49_155);
    let logits = logits(3, rows * vocab);
    let keys = vec![RaceKey([9, 8, 7, 6]); rows];
    let steps = [0, 1, 2, 3, u32::MAX];
    let want: Vec<u32> = (0..rows)
        .map(|row| {
            let logits = &logits[row * vocab..][..vocab];
            reference::argmax(&reference::race_scores(logits, keys[row], steps[row], 1.0))
        })
        .collect();
    for kernels in ALL.iter() {
        let mut out = vec![RaceOutcome::default(); rows];
        kernels.race(&logits, vocab, &keys, &steps, 1.0, None, &mut out).expect("no NaN");
        assert_eq!(out.iter().map(|out| out.winner).collect::<Vec<_>>(), want, "{kernels:?}");
    }
}

/// The race must draw from the softmax: one token with probability 1/2 among many.
#[test]
fn races_sample_the_softmax() {
    let vocab = 65;
    let mut logits = vec![0.0; vocab];
    logits[40] = 64f32.ln();
    let rows = 4_000;
    let all = logits.repeat(rows);
    let keys = vec![RaceKey([1, 2, 3, 4]); rows];
    let steps: Vec<u32> = (0..rows as u32).collect();
    let mut out = vec![RaceOutcome::default(); rows];
    let kernels = &ALL[ALL.len() - 1];
    kernels.race(&all, vocab, &keys, &steps, 1.0, None, &mut out).expect("no NaN");
    let wins = out.iter().filter(|out| out.winner == 40).count();
    // Five standard deviations around one half.
    assert!((1_842..=2_158).contains(&wins), "{wins} of {rows}");
    let low = out.iter().filter(|out| out.winner < 32).count();
    assert!((845..=1_155).contains(&low), "{low} of {rows}");
}

#[test]
fn a_row_of_minus_infinity_is_won_by_the_first_token() {
    let logits = [f32::NEG_INFINITY; 20];
    for kernels in ALL.iter() {
        let mut token = [7];
        kernels.greedy(&logits, 20, &mut token).expect("no NaN");
        assert_eq!(token, [0]);
        let mut out = [RaceOutcome::default()];
        kernels.race(&logits, 20, &[RaceKey([0; 4])], &[0], 1.0, None, &mut out).expect("no NaN");
        assert_eq!(out[0].winner, 0);
        let error = kernels.log_softmax_of(&logits, 20, &[0], &mut [0.0]).expect_err("no softmax");
        assert!(matches!(error, KernelError::NoSoftmax { row: 0 }), "{error}");
    }
}

#[test]
fn nan_is_an_error_that_names_the_row() {
    let vocab = 8_300;
    let mut logits = logits(1, 3 * vocab);
    logits[2 * vocab + 8_299] = f32::NAN;
    for kernels in ALL.iter() {
        let error = kernels.greedy(&logits, vocab, &mut [0; 3]).expect_err("NaN");
        assert!(matches!(error, KernelError::NanLogits { row: 2 }), "{error}");
        let (keys, mut out) = ([RaceKey([0; 4]); 3], [RaceOutcome::default(); 3]);
        let error =
            kernels.race(&logits, vocab, &keys, &[0; 3], 1.0, None, &mut out).expect_err("NaN");
        assert!(matches!(error, KernelError::NanLogits { row: 2 }), "{error}");
        let error =
            kernels.log_softmax_of(&logits, vocab, &[0; 3], &mut [0.0; 3]).expect_err("NaN");
        assert!(matches!(error, KernelError::NoSoftmax { row: 2 }), "{error}");
        let mut gradient = logits.clone();
        let error = kernels
            .cross_entropy_backward(&mut gradient, vocab, &[0; 3], &[1.0; 3])
            .expect_err("NaN");
        assert!(matches!(error, KernelError::NoSoftmax { row: 2 }), "{error}");
    }
    // An infinite logit has no softmax either, even if another token was asked for.
    let mut logits = [0.0; 17];
    logits[16] = f32::INFINITY;
    for kernels in ALL.iter() {
        assert!(kernels.log_softmax_of(&logits, 17, &[0], &mut [0.0]).is_err());
    }
}
