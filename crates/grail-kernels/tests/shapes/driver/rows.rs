//! Norms, gates, rotations and reductions.

use super::choices::{Choices, Kind};
use super::{ALL, assert_same, reference};
use grail_kernels::math::{exp, gelu_tanh};
use grail_kernels::{Direction, GateFunction, RopeTable};

const EPS: f32 = 1e-5;

/// A norm, and its gradients against the portable kernel's.
pub(super) fn rms_norm(choices: &mut Choices<'_>) {
    let width = choices.size(700);
    let rows = choices.size((30_000 / width).clamp(1, 300));
    let kind = choices.kind();
    let (x, weight) = (choices.values(rows * width, kind), choices.values(width, kind));
    let (dy, before) = (choices.values(rows * width, kind), choices.values(width, kind));
    let (mut want, mut want_inv) = (Vec::new(), Vec::new());
    for x in x.chunks(width) {
        let inv = 1.0 / (reference::dot(x, x) / width as f32 + EPS).sqrt();
        want_inv.push(inv);
        want.extend(x.iter().zip(&weight).map(|(x, w)| (x * inv) * w));
    }
    let mut first: Option<[Vec<f32>; 2]> = None;
    for kernels in ALL.iter() {
        let (mut y, mut inv) = (vec![0.0; x.len()], vec![0.0; rows]);
        kernels.rms_norm(&x, &weight, EPS, &mut y, Some(&mut inv));
        assert_same("rms_norm", kernels, &y, &want);
        assert_same("inv_rms", kernels, &inv, &want_inv);
        let mut got = [vec![0.0; x.len()], before.clone()];
        let [dx, dweight] = &mut got;
        kernels.rms_norm_backward(&x, &weight, &inv, &dy, dx, dweight);
        let [want_dx, want_dweight] = first.get_or_insert_with(|| got.clone());
        assert_same("norm dx", kernels, &got[0], want_dx);
        assert_same("norm dweight", kernels, &got[1], want_dweight);
    }
}

/// The gates of both kinds of MLP.
pub(super) fn gates(choices: &mut Choices<'_>) {
    let len = choices.of(&[40, 1_000, 40_000]);
    let len = choices.size(len) + choices.below(len);
    let spread = choices.of(&[1.0, 10.0, 100.0]);
    let mut gate = choices.values(len, Kind::Moderate);
    gate.iter_mut().for_each(|x| *x *= spread);
    let kind = choices.kind();
    let up = choices.values(len, kind);
    let silu = |(&g, &u): (&f32, &f32)| g / (1.0 + exp(-g)) * u;
    let want_silu: Vec<f32> = gate.iter().zip(&up).map(silu).collect();
    let want_gelu: Vec<f32> = gate.iter().zip(&up).map(|(&g, &u)| gelu_tanh(g) * u).collect();
    for kernels in ALL.iter() {
        let mut out = vec![0.0; len];
        kernels.gate_mul(GateFunction::Silu, &gate, &up, &mut out);
        assert_same("silu_mul", kernels, &out, &want_silu);
        kernels.gate_mul(GateFunction::GeluTanh, &gate, &up, &mut out);
        assert_same("gelu_tanh_mul", kernels, &out, &want_gelu);
    }
}

/// Rotations by any positions, and back.
pub(super) fn rope(choices: &mut Choices<'_>) {
    let head_dim = 2 * choices.size(64);
    let heads = choices.size(12);
    let rows = choices.size((20_000 / head_dim / heads).clamp(1, 300));
    let kind = choices.kind();
    let x = choices.values(rows * heads * head_dim, kind);
    let positions: Vec<u32> = (0..rows).map(|_| choices.below(512) as u32).collect();
    let table = RopeTable::new(head_dim, choices.of(&[10_000.0, 100_000.0, 1e6]), 512);
    for direction in [Direction::Forward, Direction::Backward] {
        let mut want = x.clone();
        for (row, head) in want.chunks_mut(head_dim).enumerate() {
            let (cos, sin) = table.at(positions[row / heads] as usize);
            let (left, right) = head.split_at_mut(head_dim / 2);
            for (i, (a, b)) in left.iter_mut().zip(right).enumerate() {
                let s = if direction == Direction::Forward { sin[i] } else { -sin[i] };
                (*a, *b) = (*a * cos[i] - *b * s, *b * cos[i] + *a * s);
            }
        }
        for kernels in ALL.iter() {
            let mut got = x.clone();
            kernels.rope(&mut got, heads, head_dim, &positions, &table, direction);
            assert_same("rope", kernels, &got, &want);
        }
    }
}

/// Sums in sixteen lanes.
pub(super) fn reductions(choices: &mut Choices<'_>) {
    let len = choices.size(3_000) - choices.below(2);
    let kind = choices.kind();
    let (x, y) = (choices.values(len, kind), choices.values(len, kind));
    let want = [
        reference::dot(&x, &x),
        reference::lanes(len, |sum, i| sum + x[i]),
        reference::dot(&x, &y),
    ];
    for kernels in ALL.iter() {
        let got = [kernels.sum_squares(&x), kernels.reduce_sum(&x), kernels.reduce_dot(&x, &y)];
        assert_same("reductions", kernels, &got, &want);
    }
}
