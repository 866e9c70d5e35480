//! Bounds the error of the elementary functions, and pins their bits.

use grail_kernels::math::{exp, gelu_tanh, ln, ln_1p_neg, sigmoid, silu, tanh};

/// The error of `got` in units in the last place of the f32 nearest to `want`.
fn ulp(got: f32, want: f64) -> f64 {
    let nearest = (want as f32).abs().max(f32::MIN_POSITIVE);
    let unit = f64::from(f32::from_bits(nearest.to_bits() & 0x7f80_0000)) * (-23f64).exp2();
    (f64::from(got) - want).abs() / unit
}

/// The largest error of `f`, and where it is, over the floats with bits in the range, every `step`-th.
fn worst(
    f: fn(f32) -> f32,
    reference: fn(f64) -> f64,
    bits: std::ops::RangeInclusive<u32>,
    step: usize,
) -> (f64, f32) {
    let error = |bits| {
        let x = f32::from_bits(bits);
        (ulp(f(x), reference(f64::from(x))), x)
    };
    bits.step_by(step).map(error).fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
}

const EXP_HIGHEST: u32 = 0x42b1_7217;
const EXP_LOWEST: u32 = 0xc2ae_ac4f;
const ONE: u32 = 0x3f80_0000;

fn check(step: usize) {
    let errors = [
        ("exp", worst(exp, f64::exp, 0..=EXP_HIGHEST, step), EXP_ULP),
        ("exp, negative", worst(exp, f64::exp, 1 << 31..=EXP_LOWEST, step), EXP_ULP),
        ("ln", worst(ln, f64::ln, 1 << 23..=0x7f7f_ffff, step), LN_ULP),
        ("ln_1p_neg", worst(ln_1p_neg, |v| (-v).ln_1p(), 0..=ONE - 1, step), LN_1P_NEG_ULP),
        ("tanh", worst(tanh, f64::tanh, 0..=0x7f7f_ffff, step), TANH_ULP),
    ];
    for (function, (error, at), bound) in errors {
        assert!(error < bound, "{function}({at:e}) is wrong by {error} ulp, bound {bound}");
    }
}

/// As the documentation of the functions says.
const EXP_ULP: f64 = 0.88;
const LN_ULP: f64 = 0.84;
const LN_1P_NEG_ULP: f64 = 1.44;
const TANH_ULP: f64 = 1.06;
/// Half units of the last place, for arguments whose exponential does not matter.
const GELU_ULP: f64 = 2.7;
/// The first f32 whose `tanh` is 1.
const TANH_ONE: f32 = 9.010_914;

#[test]
fn errors_are_within_the_stated_bounds_on_a_sample() {
    check(1_009);
}

#[test]
#[ignore = "needs minutes in release mode: every f32"]
fn errors_are_within_the_stated_bounds_on_every_f32() {
    check(1);
}

#[test]
fn exp_is_defined_everywhere() {
    let highest = f32::from_bits(EXP_HIGHEST);
    assert!(exp(highest).is_finite());
    assert_eq!(exp(highest.next_up()), f32::INFINITY);
    assert_eq!(exp(f32::INFINITY), f32::INFINITY);
    let lowest = f32::from_bits(EXP_LOWEST);
    assert!(exp(lowest) >= f32::MIN_POSITIVE, "{:e}", exp(lowest));
    assert_eq!(exp(lowest.next_down()), 0.0);
    assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
    assert!(exp(f32::NAN).is_nan());
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-0.0), 1.0);
}

#[test]
fn ln_and_the_sigmoids_hit_their_exact_values() {
    assert_eq!(ln(1.0).to_bits(), 0);
    assert_eq!(ln_1p_neg(0.0).to_bits(), 0);
    assert_eq!(sigmoid(0.0), 0.5);
    assert_eq!(sigmoid(-100.0), 0.0);
    assert_eq!(sigmoid(100.0), 1.0);
    assert_eq!(silu(-100.0), 0.0);
    assert_eq!(silu(50.0), 50.0);
}

#[test]
fn tanh_is_odd_and_ends_at_one() {
    assert_eq!(tanh(0.0).to_bits(), 0);
    assert_eq!(tanh(-0.0).to_bits(), 1 << 31);
    assert_eq!(tanh(f32::INFINITY), 1.0);
    assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
    assert_eq!(tanh(TANH_ONE), 1.0);
    assert!(tanh(TANH_ONE.next_down()) < 1.0);
    assert!(tanh(f32::NAN).is_nan() && tanh(-f32::NAN).is_nan());
    assert_eq!(tanh(1e-40), 1e-40, "subnormals stay");
    for bits in (0..0x7f80_0000).step_by(100_003) {
        let x = f32::from_bits(bits);
        assert_eq!(tanh(-x).to_bits(), tanh(x).to_bits() | 1 << 31, "{x:e}");
    }
}

/// The error grows with the exponent for negative arguments, as that of any exponential does.
#[test]
fn gelu_is_accurate_relative_to_its_exponent() {
    for bits in (0x3000_0000..0x4160_0000u32).step_by(997).flat_map(|bits| [bits, bits | 1 << 31]) {
        let x = f64::from(f32::from_bits(bits));
        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
        let want = x / (1.0 + (-2.0 * u).exp());
        if want.abs() > 1e-36 {
            let error = (f64::from(gelu_tanh(x as f32)) / want - 1.0).abs();
            let bound = GELU_ULP * (-24f64).exp2() * (1.0 + (-2.0 * u).max(0.0));
            assert!(error < bound, "gelu_tanh({x:e}) is wrong by {error:e}, bound {bound:e}");
        }
    }
    assert_eq!(gelu_tanh(0.0).to_bits(), 0);
    assert_eq!(gelu_tanh(-0.0).to_bits(), 1 << 31);
    assert_eq!(gelu_tanh(-100.0), 0.0);
    assert_eq!(gelu_tanh(100.0), 100.0);
    assert!(gelu_tanh(f32::NAN).is_nan());
}

/// FNV-1a over the bits of `f` at every `step`-th float of a range.
fn digest(f: fn(f32) -> f32, bits: std::ops::RangeInclusive<u32>) -> u64 {
    bits.step_by(10_007).fold(0xcbf2_9ce4_8422_2325, |hash, bits| {
        let result = f(f32::from_bits(bits)).to_bits();
        (hash ^ u64::from(result)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[test]
fn bits_are_golden() {
    let exps = [0.5, 1.0, -1.0, 10.0, -87.0, 88.0, 1e-8].map(|x| exp(x).to_bits());
    let want =
        [0x3fd3_094c, 0x402d_f854, 0x3ebc_5ab2, 0x46ac_14ee, 0x00b3_3687, 0x7ef8_82b7, 0x3f80_0000];
    assert_eq!(exps, want);
    let lns = [0.5, 2.0, 3.0, 0.1, 1e30, 1e-30, 0.999].map(|x| ln(x).to_bits());
    let want =
        [0xbf31_7218, 0x3f31_7218, 0x3f8c_9f54, 0xc013_5d8e, 0x428a_27b5, 0xc28a_27b5, 0xba83_22ca];
    assert_eq!(lns, want);
    let tanhs = [0.1, 0.5, 0.75, 0.750_000_1, -1.0, 3.0, 8.0].map(|x| tanh(x).to_bits());
    let want =
        [0x3dcc_1ebc, 0x3eec_9a9f, 0x3f22_991f, 0x3f22_9920, 0xbf42_f7d6, 0x3f7e_bbe9, 0x3f7f_fffc];
    assert_eq!(tanhs, want);
    let gelus = [0.1, 1.0, -1.0, 3.0, -3.0, 10.0, -10.0].map(|x| gelu_tanh(x).to_bits());
    let want =
        [0x3d5d_1d05, 0x3f57_585c, 0xbe22_9e90, 0x403f_c468, 0xbb6e_6153, 0x4120_0000, 0x8223_e47d];
    assert_eq!(gelus, want);
    assert_eq!(digest(tanh, 0..=0x7f7f_ffff), 0x37a9_7f7d_a76f_4c57);
    assert_eq!(digest(gelu_tanh, 1 << 31..=0xff7f_ffff), 0x113d_ab41_d1f6_ea97);
    assert_eq!(digest(exp, 0..=EXP_HIGHEST), 0x6fcc_26fa_70bd_811f);
    assert_eq!(digest(exp, 1 << 31..=EXP_LOWEST), 0xa35b_6d1e_7ee0_feab);
    assert_eq!(digest(ln, 1 << 23..=0x7f7f_ffff), 0x8f52_c272_a135_7b3b);
    assert_eq!(digest(ln_1p_neg, 0..=ONE - 1), 0xb21d_57e6_00f2_9db0);
    assert_eq!(digest(silu, 0..=0x7f7f_ffff), 0x8697_d9ff_663e_9bf5);
}
