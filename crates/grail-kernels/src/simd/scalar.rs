//! One lane: the definition that the vector implementations repeat sixteen times.

use super::Arith;

/// The token of plain f32 arithmetic.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

/// `a * b + c` with one rounding, without help from the CPU or from libm.
///
/// The product of two f32 is exact in f64. The sum is rounded *to odd* in f64 (the error of the
/// addition is exact by Knuth's two-sum), and a value rounded to odd with at least two spare bits
/// rounds to f32 as the infinitely precise one would (Boldo and Melquiond, 2008).
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    fma_by_round_to_odd(a, b, c)
}

#[inline(always)]
fn fma_by_round_to_odd(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    let addend_seen = sum - product;
    let error = (product - (sum - addend_seen)) + (addend - addend_seen);
    let bits = sum.to_bits();
    let outward = (error > 0.0) == (sum > 0.0);
    let neighbour = if outward { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    // False for a NaN error, which an infinite sum leaves.
    let inexact = (error > 0.0) | (error < 0.0);
    f64::from_bits(if inexact & (bits & 1 == 0) { neighbour } else { bits }) as f32
}

impl Arith for Scalar {
    type F = f32;
    type I = u32;
    type M = bool;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn sqrt(self, a: f32) -> f32 {
        a.sqrt()
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        fma(a, b, c)
    }
    #[inline(always)]
    fn gt(self, a: f32, b: f32) -> bool {
        a > b
    }
    #[inline(always)]
    fn is_nan(self, a: f32) -> bool {
        a.is_nan()
    }
    #[inline(always)]
    fn select(self, mask: bool, a: f32, b: f32) -> f32 {
        if mask { a } else { b }
    }
    #[inline(always)]
    fn to_bits(self, a: f32) -> u32 {
        a.to_bits()
    }
    #[inline(always)]
    fn of_bits(self, a: u32) -> f32 {
        f32::from_bits(a)
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> u32 {
        x
    }
    #[inline(always)]
    fn add_bits(self, a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn sub_bits(self, a: u32, b: u32) -> u32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn and_bits(self, a: u32, b: u32) -> u32 {
        a & b
    }
    #[inline(always)]
    fn xor_bits(self, a: u32, b: u32) -> u32 {
        a ^ b
    }
    #[inline(always)]
    fn shl(self, a: u32, count: u32) -> u32 {
        a << count
    }
    #[inline(always)]
    fn shr(self, a: u32, count: u32) -> u32 {
        a >> count
    }
    #[inline(always)]
    fn select_bits(self, mask: bool, a: u32, b: u32) -> u32 {
        if mask { a } else { b }
    }
    #[inline(always)]
    fn mul_wide(self, a: u32, b: u32) -> (u32, u32) {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    }
    #[inline(always)]
    fn to_f32(self, a: u32) -> f32 {
        a.cast_signed() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::fma_by_round_to_odd;
    use proptest::prelude::*;

    fn check(a: f32, b: f32, c: f32) {
        let (got, want) = (fma_by_round_to_odd(a, b, c), a.mul_add(b, c));
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "fma({a:e}, {b:e}, {c:e}) = {got:e}, want {want:e}");
    }

    #[test]
    fn fma_edges_match_the_standard_library() {
        let edges =
            [0.0, 1.0, 1.5, 3.0, f32::MIN_POSITIVE, 1e-45, 1e-30, 1e30, f32::MAX, f32::EPSILON];
        let signed: Vec<f32> =
            edges.iter().flat_map(|&x| [x, -x]).chain([f32::INFINITY, f32::NAN]).collect();
        for &a in &signed {
            for &b in &signed {
                for &c in &signed {
                    check(a, b, c);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn fma_matches_the_standard_library(a: u32, b: u32, c: u32) {
            check(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        }

        /// Sums that nearly cancel or tie, where double rounding would show.
        #[test]
        fn fma_matches_near_ties(a in 1u32 << 23..1 << 24, b in 1u32 << 23..1 << 24, shift in 0i32..60, step in -2i32..3) {
            let (a, b) = (a as f32, b as f32);
            let c = f32::from_bits((a * b).to_bits().wrapping_add_signed(step));
            for c in [c, -c, c * (-shift as f32).exp2(), -c * (-shift as f32).exp2()] {
                check(a, b, c);
            }
        }
    }
}
