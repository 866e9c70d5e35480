//! `exp`, `ln`, `cos` and `sin` in f64, for tables that are rounded to f32 once.
//!
//! Plain series with rational coefficients: no fused operations, no library calls, so every CPU
//! gives the same bits. Speed does not matter here; each is good to a few units of 1e-16, far more
//! than a rounding to f32 can see.

/// ln 2 in two parts; the high one has 32 bits, so its product with an exponent is exact.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// pi / 2 in three parts of 33, 33 and 53 bits: products of the first two with integers up to
/// 2^20 are exact.
const HALF_PI: [f64; 3] = [
    f64::from_bits(0x3ff9_21fb_5440_0000),
    f64::from_bits(0x3dd0_b461_1a60_0000),
    f64::from_bits(0x3ba3_198a_2e03_7073),
];

/// Largest angle of [`cos_sin`], in radians: about a million positions at frequency 1.
const ANGLE_MAX: f64 = 1.0e6;

/// Returns `e^x` for `x` in `[-700, 700]`, relative error below 1e-15.
///
/// # Panics
/// Outside that range, or on NaN.
pub fn exp_f64(x: f64) -> f64 {
    assert!(x.abs() <= 700.0, "exp_f64: {x} is outside [-700, 700]");
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    // Taylor to r^17 / 17!: below 1e-22 for |r| <= 0.35.
    let mut sum = 1.0;
    for power in (1..=17).rev() {
        sum = 1.0 + r / f64::from(power) * sum;
    }
    sum * power_of_two(n as i64)
}

/// Returns the natural logarithm of a positive normal f64, absolute error below 1e-15 (or relative,
/// where that is more).
///
/// # Panics
/// If `x` is not positive, normal and finite.
pub fn ln_f64(x: f64) -> f64 {
    assert!(x > 0.0 && x.is_normal(), "ln_f64: {x} is not a positive normal number");
    let bits = x.to_bits();
    let mut k = ((bits >> 52) as i64) - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m /= 2.0;
        k += 1;
    }
    // ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| <= 0.172: s^24 / 25 is below 1e-19.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for power in (0..=12).rev() {
        sum = sum * square + 1.0 / f64::from(2 * power + 1);
    }
    let k = k as f64;
    k * LN2_HIGH + (2.0 * s * sum + k * LN2_LOW)
}

/// Returns `base^exponent` as `exp(exponent * ln(base))`; relative error below 1e-15 times
/// `1 + |exponent * ln(base)|`.
///
/// # Panics
/// If `base` is not positive and normal, or the result is beyond `e^700`.
pub fn pow_f64(base: f64, exponent: f64) -> f64 {
    exp_f64(exponent * ln_f64(base))
}

/// Returns `base^exponent` by repeated squaring, lowest bit of `exponent` first.
pub fn powi_f64(base: f64, mut exponent: u64) -> f64 {
    let (mut result, mut square) = (1.0, base);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
        square *= square;
        exponent >>= 1;
    }
    result
}

/// Returns `(cos x, sin x)` for `x` in `[-1e6, 1e6]` radians, absolute error below 1e-15.
///
/// # Panics
/// Outside that range, or on NaN.
pub fn cos_sin(x: f64) -> (f64, f64) {
    assert!(x.abs() <= ANGLE_MAX, "cos_sin: {x} is outside [-1e6, 1e6]");
    let n = (x * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = ((x - n * HALF_PI[0]) - n * HALF_PI[1]) - n * HALF_PI[2];
    // Taylor to r^19 / 19! and r^20 / 20!, |r| <= 0.79: below 1e-19.
    let square = r * r;
    let (mut cos, mut sin) = (1.0, 1.0);
    for term in (1..=10).rev() {
        cos = 1.0 - square / f64::from((2 * term - 1) * 2 * term) * cos;
        sin = 1.0 - square / f64::from(2 * term * (2 * term + 1)) * sin;
    }
    let sin = r * sin;
    match (n as i64).rem_euclid(4) {
        0 => (cos, sin),
        1 => (-sin, cos),
        2 => (-cos, -sin),
        _ => (sin, -cos),
    }
}

fn power_of_two(n: i64) -> f64 {
    // `exp_f64` gives -1010..=1010, whose powers are normal.
    f64::from_bits(((n + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_constants_add_up() {
        assert_eq!(LN2_HIGH + LN2_LOW, std::f64::consts::LN_2);
        assert_eq!(HALF_PI[0] + HALF_PI[1] + HALF_PI[2], std::f64::consts::FRAC_PI_2);
    }

    #[test]
    fn results_agree_with_the_standard_library() {
        for step in -7000..=7000 {
            let x = f64::from(step) / 10.01;
            let (got, want) = (exp_f64(x), x.exp());
            assert!((got / want - 1.0).abs() < 1e-15, "exp({x}) = {got:e}, want {want:e}");
            let (cos, sin) = cos_sin(x * 1400.0);
            assert!((cos - (x * 1400.0).cos()).abs() < 1e-15, "cos({})", x * 1400.0);
            assert!((sin - (x * 1400.0).sin()).abs() < 1e-15, "sin({})", x * 1400.0);
            let y = want.max(1e-300);
            let bound = 1e-15 * y.ln().abs().max(1.0);
            assert!((ln_f64(y) - y.ln()).abs() < bound, "ln({y:e})");
        }
        assert!((pow_f64(1e6, -0.75) / 1e6f64.powf(-0.75) - 1.0).abs() < 1e-14);
        assert_eq!(powi_f64(3.0, 5), 243.0);
        assert_eq!(powi_f64(0.9, 0), 1.0);
    }

    #[test]
    fn exact_values_are_exact() {
        assert_eq!(cos_sin(0.0), (1.0, 0.0));
        assert_eq!(exp_f64(0.0), 1.0);
        assert_eq!(ln_f64(1.0), 0.0);
        assert_eq!(ln_f64(2.0), std::f64::consts::LN_2);
    }
}
