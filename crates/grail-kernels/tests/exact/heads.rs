//! What happens to logits: races, greedy choices, log-probabilities and their gradients.

use crate::{ALL, assert_same, config, reference, values};
use grail_kernels::Kernels;
use grail_kernels::math::{exp, f32_to_bf16, ln};
use grail_kernels::{
    EntropyTerm, HeadOptions, HeadQuery, HeadToken, KernelError, PackedMatrix, Pick, RaceKey,
    RaceOutcome, SoftmaxStats,
};
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
            let (max, sum, _) = reference::softmax(logits);
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

    #[test]
    fn entropy_terms_are_their_definition(rows in 1..5usize, vocab in vocab(), seed: u64) {
        let mut logits = logits(seed, rows * vocab);
        // A token that cannot be drawn has no log-probability.
        if vocab > 1 {
            logits[vocab - 1] = f32::NEG_INFINITY;
        }
        let tokens: Vec<u32> = (0..rows).map(|row| ((row * 7919) % vocab) as u32).collect();
        let (coef, bonus) = (values(seed ^ 1, rows), values(seed ^ 2, rows));
        let (mut stats, mut terms, mut want) = (Vec::new(), Vec::new(), Vec::new());
        for (row, logits) in logits.chunks(vocab).enumerate() {
            let (max, sum, entropy) = reference::softmax(logits);
            let ln_sum = ln(sum);
            want.extend(logits.iter().enumerate().map(|(v, x)| {
                let p = exp(x - max) / sum;
                let slope = if p > 0.0 { p * (((x - max) - ln_sum) + entropy) } else { 0.0 };
                let onehot = if v == tokens[row] as usize { 1.0 } else { 0.0 };
                coef[row] * (onehot - p) - bonus[row] * slope
            }));
            stats.push(SoftmaxStats { max, sum, ln_sum });
            terms.push(EntropyTerm { coef: bonus[row], entropy });
        }
        for kernels in ALL.iter() {
            let mut gradient = logits.clone();
            kernels.policy_block_backward(&mut gradient, 0, &tokens, &coef, &terms, &stats);
            assert_same("policy_block_backward", kernels, &gradient, &want);
        }
    }
}

/// What the definitions say of a row of logits.
fn check_row(
    kernels: &Kernels,
    logits: &[f32],
    query: HeadQuery,
    entropy: bool,
    got: &grail_kernels::HeadRow,
) {
    let (max, sum, want_entropy) = reference::softmax(logits);
    let stats = SoftmaxStats { max, sum, ln_sum: ln(sum) };
    assert_eq!(got.stats, stats, "{kernels:?}");
    let wanted: Vec<f32> = entropy.then_some(want_entropy).into_iter().collect();
    let found: Vec<f32> = got.entropy.into_iter().collect();
    assert_same("entropy", kernels, &found, &wanted);
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

/// A vocabulary at and around the edges of blocks.
fn head_vocab() -> impl Strategy<Value = usize> {
    prop_oneof![
        4 => 1..300usize,
        2 => 1_000..3_200usize,
        1 => prop::sample::select(vec![1_023, 1_024, 1_025, 2_048]),
    ]
}

fn pick(seed: u64, temperature: f32) -> Pick {
    match seed % 5 {
        0 => Pick::None,
        1 => Pick::Greedy,
        _ => {
            let key = RaceKey([seed as u32, (seed >> 32) as u32, 3, 4]);
            Pick::Race { key, step: (seed % 97) as u32, temperature }
        }
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// The fused head has the bits of its separate steps: product, soft-cap, softmax, choice.
    #[test]
    fn the_head_is_its_definition(
        rows in prop_oneof![4 => 1..9usize, 1 => 45..60usize],
        vocab in head_vocab(),
        k in 1..40usize,
        seed: u64,
        capped: bool,
        entropy: bool,
        half: bool,
        temperature in prop_oneof![3 => 0.1f32..3.0, 1 => 1e-3f32..1e-1, 1 => 3.0f32..1e4],
    ) {
        let scale = 4.0 / (k as f32).sqrt();
        let x: Vec<f32> = values(seed, rows * k).iter().map(|x| x * scale * 4.0).collect();
        let w = values(seed ^ 1, vocab * k);
        let weight = if half {
            let bits: Vec<u16> = w.iter().map(|&x| f32_to_bf16(x)).collect();
            PackedMatrix::pack_bf16(vocab, k, &bits)
        } else {
            PackedMatrix::pack_f32(vocab, k, &w)
        };
        let queries: Vec<HeadQuery> = (0..rows)
            .map(|row| {
                let seed = seed.rotate_left(row as u32);
                let claimed = (seed % 3 > 0).then_some((seed >> 8) as u32 % vocab as u32);
                HeadQuery { pick: pick(seed, temperature), claimed }
            })
            .collect();
        let options = HeadOptions { soft_cap: capped.then_some(2.5), entropy };
        let mut logits = vec![0.0; rows * vocab];
        ALL[0].linear(&x, &weight, None, &mut logits);
        if capped {
            ALL[0].soft_cap(&mut logits, 2.5);
        }
        for kernels in ALL.iter() {
            let got = kernels.head(&x, &weight, &queries, options).expect("finite");
            for (row, got) in got.iter().enumerate() {
                let logits = &logits[row * vocab..][..vocab];
                check_row(kernels, logits, queries[row], entropy, got);
            }
        }
    }

    /// Logits of any size, minus infinities and coarse ties: what the race leaves out never wins.
    #[test]
    fn races_leave_out_losers_only(
        vocab in prop_oneof![1..300usize, 2_000..9_000usize],
        seed: u64,
        exponent in -40i32..39,
        t_exponent in -44i32..38,
        coarse: bool,
        masked: bool,
    ) {
        let (size, temperature) = (10f32.powi(exponent), 10f32.powi(t_exponent));
        prop_assume!(temperature > 0.0);
        let mut logits: Vec<f32> = values(seed, vocab).iter().map(|x| x * size).collect();
        if coarse {
            logits.iter_mut().for_each(|x| *x = (*x / size * 3.0).round() * size);
        }
        if masked {
            let mask = values(seed ^ 5, vocab);
            for (x, mask) in logits.iter_mut().zip(mask) {
                if mask > -0.5 {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
        let key = RaceKey([seed as u32, (seed >> 32) as u32, 1, 2]);
        let scores = reference::race_scores(&logits, key, 3, temperature);
        prop_assume!(scores.iter().all(|score| !score.is_nan()));
        let winner = reference::argmax(&scores);
        for kernels in ALL.iter() {
            let mut out = [RaceOutcome::default()];
            kernels
                .race(&logits, vocab, &[key], &[3], temperature, None, &mut out)
                .expect("no NaN");
            prop_assert_eq!(out[0].winner, winner, "{:?}", kernels);
            prop_assert_eq!(out[0].winner_score.to_bits(), scores[winner as usize].to_bits());
        }
    }

    /// A block's gradient is that block of the row's gradient.
    #[test]
    fn gradients_of_blocks_are_those_of_rows(rows in 1..6usize, vocab in head_vocab(), seed: u64) {
        let logits = logits(seed, rows * vocab);
        let tokens: Vec<u32> = (0..rows).map(|row| ((row * 7919) % vocab) as u32).collect();
        let coef = values(seed ^ 1, rows);
        let cut = vocab / 3;
        for kernels in ALL.iter() {
            let stats = kernels.softmax_stats(&logits, vocab).expect("finite");
            let mut whole = logits.clone();
            kernels.cross_entropy_backward(&mut whole, vocab, &tokens, &coef).expect("finite");
            for columns in [0..cut, cut..vocab] {
                let of = |all: &[f32]| -> Vec<f32> {
                    all.chunks(vocab).flat_map(|row| &row[columns.clone()]).copied().collect()
                };
                let mut block = of(&logits);
                kernels.cross_entropy_block_backward(
                    &mut block, columns.start, &tokens, &coef, &stats,
                );
                assert_same("block gradient", kernels, &block, &of(&whole));
            }
        }
    }
}

#[test]
fn a_head_without_a_softmax_is_an_error_that_names_the_row() {
    let (k, vocab) = (2, 1_500);
    let weight = PackedMatrix::pack_f32(vocab, k, &values(1, vocab * k));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let x = [1.0, 2.0, 3.0, 4.0, bad, 5.0];
        for kernels in ALL.iter() {
            let queries = [HeadQuery { pick: Pick::Greedy, claimed: None }; 3];
            let error = kernels
                .head(&x, &weight, &queries, HeadOptions::default())
                .expect_err("not finite");
            assert!(matches!(error, KernelError::NoSoftmax { row: 2 }), "{error}");
        }
    }
    for kernels in ALL.iter() {
        let none = kernels.head(&[], &weight, &[], HeadOptions::default()).expect("nothing");
        assert!(none.is_empty());
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
