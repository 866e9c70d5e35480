//! Bounds the error of the elementary functions, and pins their bits.

use grail_kernels::math::{exp, ln, ln_1p_neg, sigmoid, silu};

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
    ];
    for (function, (error, at), bound) in errors {
        assert!(error < bound, "{function}({at:e}) is wrong by {error} ulp, bound {bound}");
    }
}

/// As the documentation of the functions says.
const EXP_ULP: f64 = 0.88;
const LN_ULP: f64 = 0.84;
const LN_1P_NEG_ULP: f64 = 1.44;

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
    assert_eq!(digest(exp, 0..=EXP_HIGHEST), 0x6fcc_26fa_70bd_811f);
    assert_eq!(digest(exp, 1 << 31..=EXP_LOWEST), 0xa35b_6d1e_7ee0_feab);
    assert_eq!(digest(ln, 1 << 23..=0x7f7f_ffff), 0x8f52_c272_a135_7b3b);
    assert_eq!(digest(ln_1p_neg, 0..=ONE - 1), 0xb21d_57e6_00f2_9db0);
    assert_eq!(digest(silu, 0..=0x7f7f_ffff), 0x8697_d9ff_663e_9bf5);
}
