//! Norms, activations, rotations, reductions and the optimiser.

use crate::{ALL, assert_same, config, reference, size, values};
use grail_kernels::math::{cos_sin, exp, gelu_tanh, pow_f64, tanh};
use grail_kernels::{AdamW, Direction, GateFunction, RopeTable, TrainingState};
use proptest::prelude::*;

const EPS: f32 = 1e-5;

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn reductions_are_their_definition(len in 0..300usize, seed: u64) {
        let (x, y) = (values(seed, len), values(seed ^ 1, len));
        for kernels in ALL.iter() {
            let got = [
                kernels.sum_squares(&x),
                kernels.reduce_sum(&x),
                kernels.reduce_dot(&x, &y),
                kernels.row_max(&x) + 0.0,
            ];
            let want = [
                reference::dot(&x, &x),
                reference::lanes(len, |sum, i| sum + x[i]),
                reference::dot(&x, &y),
                reference::max(&x) + 0.0,
            ];
            assert_same("reductions", kernels, &got, &want);
        }
    }

    #[test]
    fn rms_norm_is_its_definition(rows in 1..40usize, width in size(200), seed: u64) {
        let (x, weight) = (values(seed, rows * width), values(seed ^ 1, width));
        let mut want = Vec::new();
        let mut want_inv = Vec::new();
        for x in x.chunks(width) {
            let inv = 1.0 / (reference::dot(x, x) / width as f32 + EPS).sqrt();
            want_inv.push(inv);
            want.extend(x.iter().zip(&weight).map(|(x, w)| (x * inv) * w));
        }
        for kernels in ALL.iter() {
            let (mut y, mut inv) = (vec![0.0; x.len()], vec![0.0; rows]);
            kernels.rms_norm(&x, &weight, EPS, &mut y, Some(&mut inv));
            assert_same("rms_norm", kernels, &y, &want);
            assert_same("inv_rms", kernels, &inv, &want_inv);
        }
    }

    #[test]
    fn rms_norm_backward_is_its_definition(rows in 1..40usize, width in size(200), seed: u64) {
        let (x, weight) = (values(seed, rows * width), values(seed ^ 1, width));
        let (dy, before) = (values(seed ^ 2, rows * width), values(seed ^ 3, width));
        let inv: Vec<f32> = values(seed ^ 4, rows).iter().map(|x| x.abs() + 0.5).collect();
        let mut want_dx = Vec::new();
        let mut want_dweight = before.clone();
        for (row, (x, dy)) in x.chunks(width).zip(dy.chunks(width)).enumerate() {
            let inv = inv[row];
            let g: Vec<f32> = dy.iter().zip(&weight).map(|(dy, w)| dy * w).collect();
            let t = ((inv * inv) * inv) * (reference::dot(&g, x) / width as f32);
            want_dx.extend(g.iter().zip(x).map(|(g, x)| (-t).mul_add(*x, g * inv)));
            for ((sum, x), dy) in want_dweight.iter_mut().zip(x).zip(dy) {
                *sum = dy.mul_add(x * inv, *sum);
            }
        }
        for kernels in ALL.iter() {
            let (mut dx, mut dweight) = (vec![0.0; x.len()], before.clone());
            kernels.rms_norm_backward(&x, &weight, &inv, &dy, &mut dx, &mut dweight);
            assert_same("dx", kernels, &dx, &want_dx);
            assert_same("dweight", kernels, &dweight, &want_dweight);
        }
    }

    #[test]
    fn activations_are_their_definition(len in 0..400usize, seed: u64, large: bool) {
        let spread = if large { 120.0 } else { 4.0 };
        let gate: Vec<f32> = values(seed, len).iter().map(|x| x * spread).collect();
        let (up, dout) = (values(seed ^ 1, len), values(seed ^ 2, len));
        let (mut want, mut want_dgate, mut want_dup) = (Vec::new(), Vec::new(), Vec::new());
        for ((&g, &u), &d) in gate.iter().zip(&up).zip(&dout) {
            let bottom = 1.0 + exp(-g);
            let s = 1.0 / bottom;
            want.push(g / bottom * u);
            want_dgate.push((d * u) * (s * g.mul_add(1.0 - s, 1.0)));
            want_dup.push(d * (g / bottom));
        }
        for kernels in ALL.iter() {
            let (mut out, mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            kernels.gate_mul(GateFunction::Silu, &gate, &up, &mut out);
            assert_same("silu_mul", kernels, &out, &want);
            kernels.gate_mul_backward(GateFunction::Silu, &gate, &up, &dout, &mut dgate, &mut dup);
            assert_same("dgate", kernels, &dgate, &want_dgate);
            assert_same("dup", kernels, &dup, &want_dup);
            kernels.add_assign(&mut out, &up);
            let sums: Vec<f32> = want.iter().zip(&up).map(|(x, y)| x + y).collect();
            assert_same("add_assign", kernels, &out, &sums);
            kernels.scale(&mut out, 0.37);
            let scaled: Vec<f32> = sums.iter().map(|x| x * 0.37).collect();
            assert_same("scale", kernels, &out, &scaled);
        }
    }

    #[test]
    fn gelu_and_soft_cap_are_their_definition(len in 0..400usize, seed: u64, large: bool) {
        let spread = if large { 120.0 } else { 4.0 };
        let gate: Vec<f32> = values(seed, len).iter().map(|x| x * spread).collect();
        let (up, dout) = (values(seed ^ 1, len), values(seed ^ 2, len));
        let (one, three) = (f32::from_bits(0x3fcc_422a), f32::from_bits(0x3d92_2279));
        let (mut want, mut want_dgate, mut want_dup) = (Vec::new(), Vec::new(), Vec::new());
        for ((&g, &u), &d) in gate.iter().zip(&up).zip(&dout) {
            let square = g * g;
            let bottom = 1.0 + exp(-(g * square.mul_add(three, one)));
            let p = 1.0 / bottom;
            let inner = square.mul_add(3.0 * three, one);
            prop_assert_eq!((g / bottom).to_bits(), gelu_tanh(g).to_bits());
            want.push(g / bottom * u);
            want_dgate.push((d * u) * ((p * (1.0 - p)) * g).mul_add(inner, p));
            want_dup.push(d * (g / bottom));
        }
        let want_capped: Vec<f32> = gate.iter().map(|x| 3.7 * tanh(x / 3.7)).collect();
        for kernels in ALL.iter() {
            let (mut out, mut dgate, mut dup) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
            kernels.gate_mul(GateFunction::GeluTanh, &gate, &up, &mut out);
            assert_same("gelu_tanh_mul", kernels, &out, &want);
            kernels.gate_mul_backward(GateFunction::GeluTanh, &gate, &up, &dout, &mut dgate, &mut dup);
            assert_same("gelu dgate", kernels, &dgate, &want_dgate);
            assert_same("gelu dup", kernels, &dup, &want_dup);
            out.copy_from_slice(&gate);
            kernels.soft_cap(&mut out, 3.7);
            assert_same("soft_cap", kernels, &out, &want_capped);
            let mut dx = dout.clone();
            kernels.soft_cap_backward(&out, &mut dx, 3.7);
            let slope = |y: &f32| (-(y / 3.7)).mul_add(y / 3.7, 1.0);
            let want: Vec<f32> = dout.iter().zip(&out).map(|(d, y)| d * slope(y)).collect();
            assert_same("soft_cap_backward", kernels, &dx, &want);
        }
    }

    #[test]
    fn rope_is_its_definition(rows in 1..20usize, heads in 1..5usize, half in 1..40usize, seed: u64) {
        let head_dim = 2 * half;
        let table = RopeTable::new(head_dim, 10_000.0, 64);
        let x = values(seed, rows * heads * head_dim);
        let positions: Vec<u32> = (0..rows as u32).map(|row| (row * 17 + 3) % 64).collect();
        for direction in [Direction::Forward, Direction::Backward] {
            let mut want = x.clone();
            for (row, head) in want.chunks_mut(head_dim).enumerate() {
                let (cos, sin) = table.at(positions[row / heads] as usize);
                for i in 0..half {
                    let (a, b, c) = (head[i], head[i + half], cos[i]);
                    let s = if direction == Direction::Forward { sin[i] } else { -sin[i] };
                    head[i] = a * c - b * s;
                    head[i + half] = b * c + a * s;
                }
            }
            for kernels in ALL.iter() {
                let mut got = x.clone();
                kernels.rope(&mut got, heads, head_dim, &positions, &table, direction);
                assert_same("rope", kernels, &got, &want);
            }
        }
    }

    #[test]
    fn adamw_is_its_definition(len in 0..200usize, seed: u64, step in 1..1_000u64) {
        let settings = AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step };
        let (p, g, m) = (values(seed, len), values(seed ^ 1, len), values(seed ^ 2, len));
        let v: Vec<f32> = values(seed ^ 3, len).iter().map(|x| x.abs()).collect();
        let power = |beta: f32| (0..step).fold(1.0, |power, _| power * f64::from(beta));
        let mut want: [Vec<f64>; 3] = [vec![], vec![], vec![]];
        // Size of the terms of each value: rounding errors follow these, not the sum, in which
        // terms may cancel.
        let mut size: [Vec<f64>; 3] = [vec![], vec![], vec![]];
        for i in 0..len {
            let [p, g, m, v] = [p[i], g[i], m[i], v[i]].map(f64::from);
            let [lr, b1, b2] = [settings.lr, settings.beta1, settings.beta2].map(f64::from);
            let m_size = (b1 * m).abs() + ((1.0 - b1) * g).abs();
            let m = b1 * m + (1.0 - b1) * g;
            let v = b2 * v + (1.0 - b2) * g * g;
            let root = (v / (1.0 - power(settings.beta2))).sqrt() + f64::from(settings.eps);
            let p = p - lr * f64::from(settings.weight_decay) * p;
            let gain = lr / (1.0 - power(settings.beta1)) / root;
            want[0].push(p - gain * m);
            want[1].push(m);
            want[2].push(v);
            size[0].push(p.abs() + gain * m_size);
            size[1].push(m_size);
            size[2].push(v);
        }
        let mut first: Option<[Vec<f32>; 3]> = None;
        for kernels in ALL.iter() {
            let mut got = [p.clone(), m.clone(), v.clone()];
            let [params, m, v] = &mut got;
            let mut grads = g.clone();
            let state = TrainingState { params, grads: &mut grads, exp_avg: m, exp_avg_sq: v };
            prop_assert!(kernels.adamw(state, 1.0, settings, &mut []));
            prop_assert!(grads.iter().all(|g| *g == 0.0), "gradients are used up");
            for ((got, want), size) in got.iter().zip(&want).zip(&size) {
                for ((got, want), size) in got.iter().zip(want).zip(size) {
                    // Eight roundings of half an ulp, and room for values near zero.
                    let bound = 1e-6 * size + 1e-12;
                    prop_assert!((f64::from(*got) - want).abs() <= bound, "{got:e} is not {want:e}");
                }
            }
            let first = first.get_or_insert_with(|| got.clone());
            for (got, first) in got.iter().zip(first) {
                assert_same("adamw", kernels, got, first);
            }
        }
    }
}

#[test]
fn long_passes_do_not_depend_on_threads() {
    // Long enough for every thread, and not a multiple of anything.
    let len = 100_003;
    let (x, y) = (values(7, len), values(8, len));
    let silu = |x: f32| x / (1.0 + exp(-x));
    let want: Vec<f32> = x.iter().zip(&y).map(|(&x, &y)| silu(x) * y).collect();
    for kernels in ALL.iter() {
        let mut out = vec![0.0; len];
        kernels.gate_mul(GateFunction::Silu, &x, &y, &mut out);
        assert_same("long silu_mul", kernels, &out, &want);
    }
}

#[test]
fn a_maximum_reports_nan() {
    let mut x = values(1, 100);
    x[77] = f32::NAN;
    for kernels in ALL.iter() {
        assert!(kernels.row_max(&x).is_nan());
        assert_eq!(kernels.row_max(&[]), f32::NEG_INFINITY);
    }
}

#[test]
fn the_rope_table_holds_rounded_cosines() {
    let table = RopeTable::new(64, 100_000.0, 2_048);
    for position in [0usize, 1, 2, 1_000, 2_047] {
        let (cos, sin) = table.at(position);
        for pair in 0..32 {
            let angle = position as f64 * 100_000f64.powf(-(pair as f64) / 32.0);
            assert!((f64::from(cos[pair]) - angle.cos()).abs() < 3e-8, "{position} {pair}");
            assert!((f64::from(sin[pair]) - angle.sin()).abs() < 3e-8, "{position} {pair}");
            let ours = cos_sin(position as f64 * pow_f64(100_000.0, -((2 * pair) as f64 / 64.0)));
            assert_eq!((cos[pair], sin[pair]), (ours.0 as f32, ours.1 as f32));
        }
    }
}

#[test]
fn a_scaled_rope_table_is_scaled_before_it_is_rounded() {
    let frequencies = [1.0, 0.37, 0.004];
    let table = RopeTable::from_frequencies(6, &frequencies, 1.1, 100);
    for position in [0usize, 1, 99] {
        let (cos, sin) = table.at(position);
        for (pair, frequency) in frequencies.iter().enumerate() {
            let ours = cos_sin(position as f64 * frequency);
            let want = ((ours.0 * 1.1) as f32, (ours.1 * 1.1) as f32);
            assert_eq!((cos[pair], sin[pair]), want);
        }
    }
}
