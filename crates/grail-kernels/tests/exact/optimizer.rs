//! An optimiser step with packed copies: the same numbers as a step without, packed afterwards.

use grail_kernels::math::f32_to_bf16;
use grail_kernels::{AdamW, PackedMatrix, TrainingState, WeightCopy};
use proptest::prelude::*;

use crate::{ALL, assert_same, config, size, values};

const SETTINGS: AdamW =
    AdamW { lr: 3e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 3 };

/// Parameters, gradients and moments.
struct Buffers([Vec<f32>; 4]);

impl Buffers {
    fn new(len: usize, seed: u64) -> Self {
        let mut buffers = [0, 1, 2, 3].map(|idx| values(seed ^ idx, len));
        buffers[3].iter_mut().for_each(|v| *v = v.abs());
        Self(buffers)
    }

    fn state(&mut self) -> TrainingState<'_> {
        let [params, grads, exp_avg, exp_avg_sq] = &mut self.0;
        TrainingState { params, grads, exp_avg, exp_avg_sq }
    }
}

fn rows_of(matrix: &PackedMatrix) -> Vec<f32> {
    let mut all = vec![0.0; matrix.n() * matrix.k()];
    for (row, out) in all.chunks_exact_mut(matrix.k()).enumerate() {
        matrix.unpack_row(row, out);
    }
    all
}

/// A stale matrix of zeros.
fn stale(n: usize, k: usize, half: bool) -> PackedMatrix {
    if half {
        PackedMatrix::pack_bf16(n, k, &vec![0; n * k])
    } else {
        PackedMatrix::pack_f32(n, k, &vec![0.0; n * k])
    }
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn copies_follow_the_update(n in size(150), k in size(150), first in 0..=150usize, seed: u64, half: bool) {
        // One matrix out of two parts in the other order than they lie in, with other parameters
        // before, between and behind them.
        let first = first.min(n);
        let second_part = 7..7 + (n - first) * k;
        let first_part = second_part.end + 5..second_part.end + 5 + first * k;
        let len = first_part.end + 40_000;
        let stacked = |params: &[f32]| {
            let all = [&params[first_part.clone()], &params[second_part.clone()]].concat();
            let rounded = |x: f32| f32::from_bits(u32::from(f32_to_bf16(x)) << 16);
            all.into_iter().map(|x| if half { rounded(x) } else { x }).collect::<Vec<f32>>()
        };
        let mut want = Buffers::new(len, seed);
        ALL[0].adamw(want.state(), 0.5, SETTINGS, &mut []);
        for kernels in ALL.iter() {
            let mut got = Buffers::new(len, seed);
            let (mut packed, mut transposed) = (stale(n, k, half), stale(k, n, half));
            let parts = vec![first_part.clone(), second_part.clone()];
            let copy = WeightCopy { parts, packed: &mut packed, transposed: &mut transposed };
            prop_assert!(kernels.adamw(got.state(), 0.5, SETTINGS, &mut [copy]));
            for (got, want) in got.0.iter().zip(&want.0) {
                assert_same("adamw", kernels, got, want);
            }
            assert_same("packed", kernels, &rows_of(&packed), &stacked(&want.0[0]));
            assert_same("transposed", kernels, &rows_of(&transposed.transposed()), &rows_of(&packed));
        }
    }
}

#[test]
fn weights_are_stored_without_an_update() {
    let params = values(1, 70 * 33);
    for kernels in ALL.iter() {
        let (mut packed, mut transposed) = (stale(70, 33, false), stale(33, 70, false));
        let copy = WeightCopy {
            parts: vec![0..33, 33..70 * 33],
            packed: &mut packed,
            transposed: &mut transposed,
        };
        kernels.store_weights(&params, &mut [copy]);
        assert_same("packed", kernels, &rows_of(&packed), &params);
        assert_same("transposed", kernels, &rows_of(&transposed.transposed()), &params);
    }
}

#[test]
fn an_update_that_overflows_is_told() {
    for kernels in ALL.iter() {
        let mut buffers = Buffers::new(100_000, 5);
        buffers.0[0][77_777] = f32::MAX;
        let settings = AdamW { lr: f32::MAX, ..SETTINGS };
        assert!(!kernels.adamw(buffers.state(), 1.0, settings, &mut []));
    }
}

#[test]
fn parts_must_not_overlap() {
    let mut buffers = Buffers::new(100, 1);
    let (mut packed, mut transposed) = (stale(4, 5, true), stale(5, 4, true));
    let parts = vec![0..10, 5..15];
    let copy = WeightCopy { parts, packed: &mut packed, transposed: &mut transposed };
    let step = || ALL[0].adamw(buffers.state(), 1.0, SETTINGS, &mut [copy]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(step));
    assert!(outcome.is_err());
}

#[test]
fn the_norm_does_not_depend_on_threads() {
    let x = values(3, 300_001);
    let want = ALL[0].norm(&x);
    let exact = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!((f64::from(want) / exact - 1.0).abs() < 1e-6);
    for kernels in ALL.iter() {
        assert_eq!(kernels.norm(&x).to_bits(), want.to_bits(), "{kernels:?}");
    }
    assert_eq!(ALL[0].norm(&[]), 0.0);
}
