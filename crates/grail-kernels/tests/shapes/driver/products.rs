//! Matrix products, plain and fused.

use super::choices::{Choices, Kind};
use super::{ALL, assert_same, reference};
use grail_kernels::math::{bf16_to_f32, f32_to_bf16};
use grail_kernels::{
    GateFunction, GatedOutput, Init, LinearOutput, MatRef, PackedMatrix, Projection,
};

/// Multiply-adds of one case: the definition is slow. The larger is enough for several threads.
const MULTIPLIES: [usize; 4] = [30_000, 30_000, 30_000, 500_000];

/// `(m, n, k)`.
fn shape(choices: &mut Choices<'_>) -> (usize, usize, usize) {
    let multiplies = choices.of(&MULTIPLIES);
    let k = choices.size(700);
    let n = choices.size((multiplies / k).clamp(1, 1_500));
    let m = choices.size((multiplies / k / n).clamp(1, 300));
    (m, n, k)
}

/// A weight `[n, k]` in one of the forms it can be packed from, and its values.
fn weight(choices: &mut Choices<'_>, n: usize, k: usize, kind: Kind) -> (PackedMatrix, Vec<f32>) {
    let values = choices.values(n * k, kind);
    match choices.below(4) {
        0 => (PackedMatrix::pack_f32(n, k, &values), values),
        1 => {
            let half: Vec<u16> = values.iter().map(|&x| f32_to_bf16(x)).collect();
            let widened = half.iter().map(|&bits| bf16_to_f32(bits)).collect();
            (PackedMatrix::pack_bf16(n, k, &half), widened)
        }
        2 => (PackedMatrix::pack_f32(n, k, &values).transposed().transposed(), values),
        _ => {
            let columns: Vec<f32> = (0..k * n).map(|i| values[i % n * k + i / n]).collect();
            let mut packed = PackedMatrix::default();
            ALL[0].pack_columns(k, n, &columns, &mut packed);
            (packed, values)
        }
    }
}

/// Any strides of the left operand, packed from any form, carried or not, with a bias or not.
pub(super) fn gemm(choices: &mut Choices<'_>) {
    let ((m, n, k), kind) = (shape(choices), choices.kind());
    let (packed, w) = weight(choices, n, k, kind);
    let (row_gap, column_gap) = (choices.below(4), choices.below(3));
    let by_columns = choices.flag();
    let (row_stride, col_stride) = if by_columns {
        (1 + column_gap, m * (1 + column_gap) + row_gap)
    } else {
        (k * (1 + column_gap) + row_gap, 1 + column_gap)
    };
    let data = choices.values((m - 1) * row_stride + (k - 1) * col_stride + 1, kind);
    let a = MatRef { data: &data, rows: m, cols: k, row_stride, col_stride };
    let start = choices.values(m * n, kind);
    let bias = choices.flag().then(|| choices.values(n, kind));
    let (init, carried) =
        if choices.flag() { (Init::Carry, Some(start.as_slice())) } else { (Init::Zero, None) };
    let x = |i: usize, k: usize| data[i * row_stride + k * col_stride];
    let want = reference::product((m, n, k), x, |j, at| w[j * k + at], carried, bias.as_deref());
    for kernels in ALL.iter() {
        let mut c = start.clone();
        kernels.gemm(a, &packed, &mut c, init, bias.as_deref());
        assert_same("gemm", kernels, &c, &want);
    }
}

/// Products that end in more than a store have the bits of the separate steps.
pub(super) fn fused(choices: &mut Choices<'_>) {
    let ((m, n, k), kind) = (shape(choices), choices.kind());
    let x = choices.values(m * k, kind);
    let (first, w1) = weight(choices, n, k, kind);
    let (second, w2) = weight(choices, n, k, kind);
    let bias = choices.flag().then(|| choices.values(n, kind));
    let function = choices.of(&[GateFunction::Silu, GateFunction::GeluTanh]);
    let before = choices.values(m * n, kind);
    let product = |w: &[f32], bias: Option<&[f32]>| {
        reference::product((m, n, k), |i, at| x[i * k + at], |j, at| w[j * k + at], None, bias)
    };
    let (y1, y2) = (product(&w1, bias.as_deref()), product(&w2, None));
    let sum: Vec<f32> = before.iter().zip(&y1).map(|(before, y)| before + y).collect();
    let first = Projection { weight: &first, bias: bias.as_deref(), then: None };
    let second = Projection { weight: &second, bias: None, then: None };
    let mut want_gated = vec![0.0; m * n];
    ALL[0].gate_mul(function, &y1, &y2, &mut want_gated);
    for kernels in ALL.iter() {
        let (mut one, mut two) = (before.clone(), before.clone());
        kernels.linear_each(
            &x,
            [
                LinearOutput { projection: first, y: &mut one },
                LinearOutput { projection: second, y: &mut two },
            ],
        );
        assert_same("linear_each, first", kernels, &one, &y1);
        assert_same("linear_each, second", kernels, &two, &y2);
        one.copy_from_slice(&before);
        kernels.linear_add(&x, first, &mut one);
        assert_same("linear_add", kernels, &one, &sum);
        for keep in [false, true] {
            let mut gated = before.clone();
            let kept = keep.then_some((one.as_mut_slice(), two.as_mut_slice()));
            let output = GatedOutput { gated: &mut gated, kept };
            kernels.linear_gated(&x, first, second, function, output);
            assert_same("linear_gated", kernels, &gated, &want_gated);
        }
        assert_same("kept gate", kernels, &one, &y1);
        assert_same("kept up", kernels, &two, &y2);
    }
}
