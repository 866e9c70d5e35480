//! Matrix products.

use crate::{ALL, assert_same, config, reference, size, values};
use grail_kernels::math::{bf16_to_f32, f32_to_bf16};
use grail_kernels::{
    GateFunction, GatedOutput, Init, LinearOutput, MatRef, PackedMatrix, Projection,
};
use proptest::prelude::*;

/// A product small enough for a scalar loop, sometimes large enough for several threads.
fn shape() -> impl Strategy<Value = (usize, usize, usize)> {
    let small = (1..=40usize, size(150), size(80));
    // Longer than one and two blocks of the reduction.
    let long = (1..=7usize, size(70), prop_oneof![250..=600usize, 1_000..=2_200usize]);
    let tall = (90..=220usize, size(70), 1..=30usize);
    prop_oneof![4 => small, 1 => long, 1 => tall]
}

fn pack_columns(k: usize, n: usize, b: &[f32]) -> PackedMatrix {
    let mut packed = PackedMatrix::default();
    ALL[0].pack_columns(k, n, b, &mut packed);
    packed
}

proptest! {
    #![proptest_config(config(120))]

    #[test]
    fn products_are_their_definition(
        (m, n, k) in shape(),
        seed: u64,
        carry: bool,
        biased: bool,
        transposed: bool,
    ) {
        let (x, w) = (values(seed, m * k), values(seed ^ 1, n * k));
        let (start, bias) = (values(seed ^ 2, m * n), values(seed ^ 3, n));
        let bias = biased.then_some(bias.as_slice());
        // The same numbers, stored as [k, m].
        let x_columns: Vec<f32> = (0..k * m).map(|i| x[i % m * k + i / m]).collect();
        let a = if transposed {
            MatRef::row_major(&x_columns, k, m).transposed()
        } else {
            MatRef::row_major(&x, m, k)
        };
        let half: Vec<u16> = w.iter().map(|&x| f32_to_bf16(x)).collect();
        let widened: Vec<f32> = half.iter().map(|&bits| bf16_to_f32(bits)).collect();
        let w_columns: Vec<f32> = (0..k * n).map(|i| w[i % n * k + i / n]).collect();
        let cases = [
            (PackedMatrix::pack_f32(n, k, &w), &w),
            (pack_columns(k, n, &w_columns), &w),
            (PackedMatrix::pack_f32(n, k, &w).transposed().transposed(), &w),
            (PackedMatrix::pack_bf16(n, k, &half), &widened),
        ];
        let (init, start_values) =
            if carry { (Init::Carry, Some(start.as_slice())) } else { (Init::Zero, None) };
        for (packed, w) in cases {
            let want = reference::product(
                (m, n, k), |i, k| x[i * a.cols + k], |j, i| w[j * k + i], start_values, bias,
            );
            for kernels in ALL.iter() {
                let mut c = start.clone();
                kernels.gemm(a, &packed, &mut c, init, bias);
                assert_same("gemm", kernels, &c, &want);
            }
        }
    }

    /// A row's result does not depend on the rows beside it.
    #[test]
    fn products_are_batch_invariant(m in 2..=40usize, n in size(130), k in size(300), seed: u64) {
        let (x, w) = (values(seed, m * k), PackedMatrix::pack_f32(n, k, &values(seed ^ 1, n * k)));
        for kernels in ALL.iter() {
            let mut together = vec![0.0; m * n];
            kernels.linear(&x, &w, None, &mut together);
            for row in 0..m {
                let mut alone = vec![0.0; n];
                kernels.linear(&x[row * k..][..k], &w, None, &mut alone);
                assert_same("linear", kernels, &alone, &together[row * n..][..n]);
            }
        }
    }

    /// `dW = dy^T x` as a carried product equals a chain over rows, in any two pieces.
    #[test]
    fn weight_gradients_carry_over_micro_batches(rows in 2..=30usize, n in size(70), k in size(70), seed: u64) {
        let (dy, x) = (values(seed, rows * n), values(seed ^ 1, rows * k));
        let want = reference::product(
            (n, k, rows), |i, row| dy[row * n + i], |j, row| x[row * k + j], None, None,
        );
        let cut = rows / 2;
        for kernels in ALL.iter() {
            let mut dw = vec![0.0; n * k];
            for range in [0..cut, cut..rows] {
                let count = range.len();
                let dy = MatRef::row_major(&dy[range.start * n..range.end * n], count, n).transposed();
                let x = pack_columns(count, k, &x[range.start * k..range.end * k]);
                kernels.gemm(dy, &x, &mut dw, Init::Carry, None);
            }
            assert_same("dW", kernels, &dw, &want);
        }
    }
}

/// Large enough that every thread gets tasks, in both directions of the grid.
#[test]
fn large_products_do_not_depend_on_threads_or_isa() {
    for (m, n, k) in [(300, 200, 64), (3, 1_500, 300), (200, 60, 513)] {
        let (x, w) = (values(1, m * k), values(2, n * k));
        let packed = PackedMatrix::pack_f32(n, k, &w);
        let mut want = None;
        for kernels in ALL.iter() {
            let mut y = vec![0.0; m * n];
            kernels.linear(&x, &packed, None, &mut y);
            let want = want.get_or_insert_with(|| {
                reference::product(
                    (m, n, k),
                    |i, at| x[i * k + at],
                    |j, at| w[j * k + at],
                    None,
                    None,
                )
            });
            assert_same("large", kernels, &y, want);
        }
    }
}

#[test]
fn empty_products_are_defined() {
    for kernels in ALL.iter() {
        let none = PackedMatrix::pack_f32(3, 0, &[]);
        let mut c = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        kernels.gemm(MatRef::row_major(&[], 2, 0), &none, &mut c, Init::Carry, Some(&[0.5; 3]));
        assert_eq!(c, [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]);
        kernels.linear(&[], &none, None, &mut c);
        assert_eq!(c, [0.0; 6]);
        kernels.linear(&[], &PackedMatrix::pack_f32(2, 2, &[1.0; 4]), None, &mut []);
    }
}

#[test]
#[should_panic(expected = "does not hold")]
fn a_view_beyond_its_data_is_refused() {
    let x = [0.0; 5];
    let view = MatRef { data: &x, rows: 2, cols: 3, row_stride: 3, col_stride: 1 };
    let w = PackedMatrix::pack_f32(1, 3, &[1.0; 3]);
    ALL[0].gemm(view, &w, &mut [0.0; 2], Init::Zero, None);
}

proptest! {
    #![proptest_config(config(60))]

    /// Fused products have the bits of the separate steps.
    #[test]
    fn fused_products_are_their_steps(
        (m, n, k) in shape(),
        seed: u64,
        biased: bool,
        half: bool,
        kept: bool,
    ) {
        let x = values(seed, m * k);
        let weight = |salt: u64, n: usize| {
            let w = values(seed ^ salt, n * k);
            if half {
                let bits: Vec<u16> = w.iter().map(|&x| f32_to_bf16(x)).collect();
                PackedMatrix::pack_bf16(n, k, &bits)
            } else {
                PackedMatrix::pack_f32(n, k, &w)
            }
        };
        // A second width that shares no panel edge with the first.
        let narrow = n / 3 + 1;
        let (w0, w1, w2) = (weight(1, n), weight(2, n), weight(3, narrow));
        let (b0, b1, b2) = (values(seed ^ 4, n), values(seed ^ 5, n), values(seed ^ 6, narrow));
        let biases = [&b0, &b1, &b2].map(|b| biased.then_some(b.as_slice()));
        let [p0, p1, p2] = [(&w0, biases[0]), (&w1, biases[1]), (&w2, biases[2])]
            .map(|(weight, bias)| Projection { weight, bias, then: kept.then_some(&w2) });
        let stream = values(seed ^ 7, m * n);
        for kernels in ALL.iter() {
            let [y0, y1, y2] = [p0, p1, p2].map(|Projection { weight, bias, .. }| {
                let mut y = vec![0.0; m * weight.n()];
                kernels.linear(&x, weight, bias, &mut y);
                y
            });
            let (mut z0, mut z1, mut z2) = (vec![9.0; m * n], vec![9.0; m * n], vec![9.0; m * narrow]);
            kernels.linear_each(&x, [
                LinearOutput { projection: p0, y: &mut z0 },
                LinearOutput { projection: p2, y: &mut z2 },
                LinearOutput { projection: p1, y: &mut z1 },
            ]);
            for (z, y) in [(&z0, &y0), (&z1, &y1), (&z2, &y2)] {
                assert_same("linear_each", kernels, z, y);
            }

            let (mut got, mut want) = (stream.clone(), stream.clone());
            kernels.linear_add(&x, p0, &mut got);
            kernels.add_assign(&mut want, &y0);
            assert_same("linear_add", kernels, &got, &want);

            for function in [GateFunction::Silu, GateFunction::GeluTanh] {
                let (mut gated, mut want) = (vec![9.0; m * n], vec![0.0; m * n]);
                let output = GatedOutput {
                    gated: &mut gated,
                    kept: kept.then_some((z0.as_mut_slice(), z1.as_mut_slice())),
                };
                kernels.linear_gated(&x, p0, p1, function, output);
                kernels.gate_mul(function, &y0, &y1, &mut want);
                assert_same("linear_gated", kernels, &gated, &want);
            }
            for (z, y) in [(&z0, &y0), (&z1, &y1)] {
                assert_same("kept", kernels, z, y);
            }
        }
    }
}

proptest! {
    #![proptest_config(config(40))]

    /// A rectangle of a packed matrix multiplies as if it had been packed alone.
    #[test]
    fn parts_of_a_matrix_are_matrices(
        (m, n, k) in shape(),
        seed: u64,
        panel in 0..3usize,
        cut: (u8, u8, u8),
        carry: bool,
    ) {
        let first = (panel * 64).min(n / 64 * 64);
        let columns = first..first + (n - first) * usize::from(cut.0) / 255;
        let first = k * usize::from(cut.1) / 255;
        let steps = first..first + (k - first) * usize::from(cut.2) / 255;
        let (x, w) = (values(seed, m * steps.len()), values(seed ^ 1, n * k));
        let packed = PackedMatrix::pack_f32(n, k, &w);
        let part: Vec<f32> =
            w.chunks(k).flat_map(|row| &row[steps.clone()]).copied().collect();
        let part = &part[columns.start * steps.len()..columns.end * steps.len()];
        let part = PackedMatrix::pack_f32(columns.len(), steps.len(), part);
        let start = values(seed ^ 2, m * columns.len());
        let init = if carry { Init::Carry } else { Init::Zero };
        let a = MatRef::row_major(&x, m, steps.len());
        for kernels in ALL.iter() {
            let (mut got, mut want) = (start.clone(), start.clone());
            kernels.gemm_part(a, &packed, columns.clone(), steps.clone(), &mut got, init);
            kernels.gemm(a, &part, &mut want, init, None);
            assert_same("gemm_part", kernels, &got, &want);
        }
    }
}
