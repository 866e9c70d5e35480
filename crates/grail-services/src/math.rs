//! Elementary functions in f64 that give the same bits on every machine.
//!
//! The system's `exp` and `cos` differ between platforms, and a trainer's step must be reproducible
//! from its rollouts and seed alone. Only IEEE additions, multiplications and divisions are used.

/// Returns e to the power `x`; relative error below 1e-15 for |x| ≤ 700, saturating outside.
pub fn exp(x: f64) -> f64 {
    // ln 2 in two parts, so that `x - k * ln 2` loses no bits for the k that occur.
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-700.0, 700.0);
    let k = (x * std::f64::consts::LOG2_E).round();
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    // Taylor's series by Horner's rule: |r| ≤ 0.35, so term 14 is below 1e-17.
    let mut sum = 1.0;
    for n in (1..=14).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    // 2^k by doubling or halving is exact for |k| ≤ 1010.
    let base = if k < 0.0 { 0.5 } else { 2.0 };
    let mut scale = 1.0;
    let mut left = k.abs();
    while left >= 1.0 {
        scale *= base;
        left -= 1.0;
    }
    sum * scale
}

/// Returns cos(π t) for `t` from 0 to 1 (clamped); absolute error below 1e-14.
pub fn cos_pi(t: f64) -> f64 {
    // cos 2a = 1 - 2 sin² a keeps the series' argument within π / 2.
    let a = t.clamp(0.0, 1.0) * std::f64::consts::FRAC_PI_2;
    let square = a * a;
    let mut sum = 1.0;
    for n in (1..=11).rev() {
        let n = f64::from(n);
        sum = 1.0 - sum * square / (2.0 * n * (2.0 * n + 1.0));
    }
    let sine = a * sum;
    1.0 - 2.0 * sine * sine
}

/// Adds `values` with a compensation for lost low bits, as Python 3.12's `sum` does.
///
/// Source: Neumaier's variant of Kahan summation. A sum that is not finite is returned plain.
pub fn compensated_sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0_f64, 0.0_f64);
    for value in values {
        let next = sum + value;
        lost += if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
        sum = next;
    }
    if lost != 0.0 && lost.is_finite() { sum + lost } else { sum }
}

/// Returns the mean of `values`, 0 if there are none.
pub fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut count = 0.0;
    let sum = compensated_sum(values.into_iter().inspect(|_| count += 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_system() {
        for i in -7_000..=7_000 {
            let x = f64::from(i) / 10.0;
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours / theirs - 1.0).abs() < 2e-15, "exp({x}) = {ours}, expected {theirs}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f64::NAN).is_nan());
        assert!(exp(f64::INFINITY).is_finite());
    }

    #[test]
    fn the_cosine_agrees_with_the_system() {
        for i in 0..=1_000 {
            let t = f64::from(i) / 1_000.0;
            assert!((cos_pi(t) - (t * std::f64::consts::PI).cos()).abs() < 1e-14, "at {t}");
        }
    }

    #[test]
    fn small_terms_survive_beside_a_large_one() {
        assert_eq!(compensated_sum([1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(compensated_sum([0.1; 10]), 1.0);
        assert_eq!(compensated_sum([]), 0.0);
        assert_eq!(mean([]), 0.0);
        assert_eq!(mean([1.0, 2.0, 6.0]), 3.0);
    }
}
