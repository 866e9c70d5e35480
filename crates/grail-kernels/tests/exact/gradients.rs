//! Gradients against central differences of an f64 forward pass.

use crate::{ALL, values};
use grail_kernels::{AttentionOptions, AttentionSaved, AttentionShape, GateFunction, Kernels};

fn kernels() -> &'static Kernels {
    &ALL[ALL.len() - 1]
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Checks `gradient` against differences of `loss` around `x`.
fn check(what: &str, x: &[f32], gradient: &[f32], loss: impl Fn(&[f64]) -> f64) {
    const STEP: f64 = 1e-5;
    let x = widen(x);
    for index in (0..x.len()).step_by(1 + x.len() / 97) {
        let mut at = x.clone();
        at[index] = x[index] + STEP;
        let above = loss(&at);
        at[index] = x[index] - STEP;
        let want = (above - loss(&at)) / (2.0 * STEP);
        let got = f64::from(gradient[index]);
        let bound = 2e-5 * want.abs().max(1.0);
        assert!((got - want).abs() < bound, "{what}: value {index} is {got:e}, want {want:e}");
    }
}

fn weighted_sum(y: &[f64], weights: &[f32]) -> f64 {
    y.iter().zip(weights).map(|(y, &w)| y * f64::from(w)).sum()
}

#[test]
fn rms_norm() {
    let (rows, width, eps) = (3, 40, 1e-5);
    let (x, weight, dy) = (values(1, rows * width), values(2, width), values(3, rows * width));
    let (mut y, mut inv) = (x.clone(), vec![0.0; rows]);
    kernels().rms_norm(&x, &weight, eps, &mut y, Some(&mut inv));
    let (mut dx, mut dweight) = (x.clone(), vec![0.0; width]);
    kernels().rms_norm_backward(&x, &weight, &inv, &dy, &mut dx, &mut dweight);
    let loss = |x: &[f64], weight: &[f64]| {
        let row = |x: &[f64]| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let inv = 1.0 / (mean + f64::from(eps)).sqrt();
            x.iter().zip(weight).map(|(x, w)| x * inv * w).collect::<Vec<_>>()
        };
        weighted_sum(&x.chunks(width).flat_map(row).collect::<Vec<_>>(), &dy)
    };
    check("dx", &x, &dx, |x| loss(x, &widen(&weight)));
    check("dweight", &weight, &dweight, |weight| loss(&widen(&x), weight));
}

#[test]
fn silu_mul() {
    let (gate, up, dout) = (values(4, 50), values(5, 50), values(6, 50));
    let gate: Vec<f32> = gate.iter().map(|x| x * 5.0).collect();
    let (mut dgate, mut dup) = (gate.clone(), up.clone());
    kernels().gate_mul_backward(GateFunction::Silu, &gate, &up, &dout, &mut dgate, &mut dup);
    let loss = |gate: &[f64], up: &[f64]| {
        let y: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        weighted_sum(&y, &dout)
    };
    check("dgate", &gate, &dgate, |gate| loss(gate, &widen(&up)));
    check("dup", &up, &dup, |up| loss(&widen(&gate), up));
}

#[test]
fn soft_cap() {
    let (x, dout, cap) = (values(4, 50), values(6, 50), 1.5f32);
    let x: Vec<f32> = x.iter().map(|x| x * 3.0).collect();
    let mut capped = x.clone();
    kernels().soft_cap(&mut capped, cap);
    let mut dx = dout.clone();
    kernels().soft_cap_backward(&capped, &mut dx, cap);
    let cap = f64::from(cap);
    check("dx", &x, &dx, |x| {
        let y: Vec<f64> = x.iter().map(|x| cap * (x / cap).tanh()).collect();
        weighted_sum(&y, &dout)
    });
}

#[test]
fn gelu_tanh_mul() {
    let (gate, up, dout) = (values(4, 50), values(5, 50), values(6, 50));
    let gate: Vec<f32> = gate.iter().map(|x| x * 5.0).collect();
    let (mut dgate, mut dup) = (gate.clone(), up.clone());
    kernels().gate_mul_backward(GateFunction::GeluTanh, &gate, &up, &dout, &mut dgate, &mut dup);
    let gelu = |x: f64| {
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        0.5 * x * (1.0 + u.tanh())
    };
    let loss = |gate: &[f64], up: &[f64]| {
        let y: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| gelu(g) * u).collect();
        weighted_sum(&y, &dout)
    };
    check("dgate", &gate, &dgate, |gate| loss(gate, &widen(&up)));
    check("dup", &up, &dup, |up| loss(&widen(&gate), up));
}

#[test]
fn cross_entropy() {
    let (rows, vocab) = (3, 50);
    let logits: Vec<f32> = values(7, rows * vocab).iter().map(|x| x * 6.0).collect();
    let (tokens, coef) = ([4, 49, 0], values(8, rows));
    let mut gradient = logits.clone();
    kernels().cross_entropy_backward(&mut gradient, vocab, &tokens, &coef).expect("finite");
    check("dlogits", &logits, &gradient, |logits| {
        let logprob = |(row, logits): (usize, &[f64])| {
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            f64::from(coef[row]) * (logits[tokens[row] as usize] - sum.ln())
        };
        logits.chunks(vocab).enumerate().map(logprob).sum()
    });
}

/// Causal attention of one packed batch in f64.
fn attention_f64(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    sequences: &[usize],
    shape: AttentionShape,
    options: AttentionOptions,
) -> Vec<f64> {
    let dim = shape.head_dim;
    let group = shape.heads / shape.kv_heads;
    let scale = options.scale.map_or(1.0 / (dim as f64).sqrt(), f64::from);
    let cap = |score: f64| match options.soft_cap.map(f64::from) {
        Some(cap) => cap * (score / cap).tanh(),
        None => score,
    };
    let mut out = Vec::new();
    for pair in sequences.windows(2) {
        for row in pair[0]..pair[1] {
            let window = options.window.map_or(usize::MAX, |window| window as usize);
            let seen = pair[0].max((row + 1).saturating_sub(window))..=row;
            for head in 0..shape.heads {
                let q = &q[(row * shape.heads + head) * dim..][..dim];
                let kv = |j: usize| (j * shape.kv_heads + head / group) * dim;
                let p: Vec<f64> = seen
                    .clone()
                    .map(|j| {
                        let product: f64 = q.iter().zip(&k[kv(j)..]).map(|(q, k)| q * k).sum();
                        cap(product * scale).exp()
                    })
                    .collect();
                let sum: f64 = p.iter().sum();
                out.extend((0..dim).map(|d| {
                    let mixed = seen.clone().zip(&p).map(|(j, p)| p * v[kv(j) + d]);
                    mixed.sum::<f64>() / sum
                }));
            }
        }
    }
    out
}

fn check_attention(options: AttentionOptions) {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 24 };
    let sequences = [0, 21, 24];
    let q: Vec<f32> = values(9, 24 * 96).iter().map(|x| x * 2.0).collect();
    let (k, v, dout) = (values(10, 24 * 48), values(11, 24 * 48), values(12, 24 * 96));
    let (mut out, mut saved) = (vec![0.0; q.len()], AttentionSaved::default());
    kernels().attention_train(&q, &k, &v, &sequences, &mut out, shape, options, &mut saved);
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    kernels().attention_backward(&dout, &q, &k, &v, &out, &saved, &mut dq, &mut dk, &mut dv);
    let attention =
        |q: &[f64], k: &[f64], v: &[f64]| attention_f64(q, k, v, &sequences, shape, options);
    let loss = |q: &[f64], k: &[f64], v: &[f64]| weighted_sum(&attention(q, k, v), &dout);
    let (q64, k64, v64) = (widen(&q), widen(&k), widen(&v));
    check("dq", &q, &dq, |q| loss(q, &k64, &v64));
    check("dk", &k, &dk, |k| loss(&q64, k, &v64));
    check("dv", &v, &dv, |v| loss(&q64, &k64, v));
    for (got, want) in out.iter().zip(attention(&q64, &k64, &v64)) {
        assert!((f64::from(*got) - want).abs() < 3e-6, "attention: {got:e}, want {want:e}");
    }
}

#[test]
fn attention() {
    check_attention(AttentionOptions::default());
}

#[test]
fn attention_in_a_window() {
    check_attention(AttentionOptions { window: Some(7), ..AttentionOptions::default() });
}

#[test]
fn attention_with_a_soft_cap_and_a_scale() {
    let (scale, soft_cap) = (Some(0.4), Some(1.5));
    check_attention(AttentionOptions { scale, soft_cap, ..AttentionOptions::default() });
    check_attention(AttentionOptions { scale, soft_cap, window: Some(12) });
}

/// Exactness must not be bought with error: a product of depth 1536 against f64.
#[test]
fn products_are_accurate() {
    let (m, n, k) = (6, 64, 1_536);
    let (x, w) = (values(13, m * k), values(14, n * k));
    let mut y = vec![0.0; m * n];
    kernels().linear(&x, &grail_kernels::PackedMatrix::pack_f32(n, k, &w), None, &mut y);
    let (mut squares, mut errors) = (0.0, 0.0);
    for (index, &y) in y.iter().enumerate() {
        let (x, w) = (&x[index / n * k..][..k], &w[index % n * k..][..k]);
        let want: f64 = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum();
        squares += want * want;
        errors += (f64::from(y) - want).powi(2);
    }
    let relative = (errors / squares).sqrt();
    // Measured 1.1e-6: the square root of 1536 times half a unit in the last place, about.
    assert!(relative < 2e-6, "relative error {relative:e}");
}
