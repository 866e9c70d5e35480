//! `exp`, `ln` and `tanh` in f32, written once for any number of lanes.
//!
//! The coefficients come from `scripts/fit.py`.

use crate::simd::Arith;

/// 1.5 * 2^23: adding it leaves an integer in the low bits.
const ROUNDER: u32 = 0x4b40_0000;
const INVERSE_LN2: u32 = 0x3fb8_aa3b;
/// ln 2 rounded to 14 bits, so that its product with an exponent is exact, and the rest.
const LN2_HIGH: u32 = 0x3f31_7400;
const LN2_LOW: u32 = 0xb7f4_0417;
const SIGN: u32 = 1 << 31;
/// From here on `exp` is infinite (the next f32 below gives the largest finite result).
const EXP_HIGH: f32 = 88.722_84;
/// Below this `exp` would be subnormal.
const EXP_LOW: f32 = -87.336_54;
/// Of `q` in `exp(r) = 1 + r + r^2 q(r)`, highest degree first.
const EXP_Q: [u32; 5] = [0x3ab5_27a8, 0x3c09_1c57, 0x3d2a_ac55, 0x3e2a_aa4a, 0x3eff_fffe];
/// Of `p` in `ln(1 + f) = f - f^2 / 2 + f^3 p(f)`, highest degree first.
const LN_P: [u32; 9] = [
    0x3d8a_8cc2,
    0xbdee_cc43,
    0x3df3_19a8,
    0xbdfe_1904,
    0x3e11_a36a,
    0xbe2a_ae30,
    0x3e4c_d1eb,
    0xbe80_0002,
    0x3eaa_aaa5,
];
/// Of `t` in `tanh(x) = x + x^3 t(x^2)`, highest degree first.
const TANH_T: [u32; 6] =
    [0x3ae4_52af, 0xbbfb_33d8, 0x3caf_c87c, 0xbd5c_c085, 0x3e08_86ed, 0xbeaa_aaa5];
/// Up to here the polynomial is used for `tanh`.
const TANH_EDGE: f32 = 0.75;
/// `2 sqrt(2 / pi)` and 0.044715 times that.
const GELU_1: u32 = 0x3fcc_422a;
const GELU_3: u32 = 0x3d92_2279;
/// The bits of the largest f32 not above sqrt(1/2).
const ROOT_HALF: u32 = 0x3f35_04f3;
const ONE: u32 = 0x3f80_0000;
const MANTISSA: u32 = 0x007f_ffff;

#[inline(always)]
fn constant<A: Arith>(a: A, bits: u32) -> A::F {
    a.splat(f32::from_bits(bits))
}

#[inline(always)]
fn horner<A: Arith>(a: A, coefficients: &[u32], x: A::F) -> A::F {
    let mut sum = constant(a, coefficients[0]);
    for &coefficient in &coefficients[1..] {
        sum = a.fma(sum, x, constant(a, coefficient));
    }
    sum
}

/// See [`crate::math::exp`].
#[inline(always)]
pub(crate) fn exp<A: Arith>(a: A, x: A::F) -> A::F {
    let y = exp_in_range(a, x);
    let y = a.select(a.gt(a.splat(EXP_HIGH), x), y, a.splat(f32::INFINITY));
    let y = a.select(a.gt(a.splat(EXP_LOW), x), a.splat(0.0), y);
    a.select(a.is_nan(x), x, y)
}

/// `exp` of arguments that are not above zero: the same bits for less. NaN gives anything.
#[inline(always)]
pub(crate) fn exp_not_positive<A: Arith>(a: A, x: A::F) -> A::F {
    a.select(a.gt(a.splat(EXP_LOW), x), a.splat(0.0), exp_in_range(a, x))
}

/// `exp` where the result is a normal number; elsewhere it gives anything.
#[inline(always)]
fn exp_in_range<A: Arith>(a: A, x: A::F) -> A::F {
    let shifted = a.fma(x, constant(a, INVERSE_LN2), constant(a, ROUNDER));
    let n = a.sub(shifted, constant(a, ROUNDER));
    let high = a.fma(n, constant(a, LN2_HIGH ^ SIGN), x);
    let low = a.mul(n, constant(a, LN2_LOW ^ SIGN));
    let r = a.add(high, low);
    let q = horner(a, &EXP_Q, r);
    // The low part joins the small terms, so that it is not lost in the rounding of r.
    let y = a.add(high, a.fma(a.mul(r, r), q, low));
    let y = a.add(y, a.splat(1.0));
    let n = a.sub_bits(a.to_bits(shifted), a.splat_bits(ROUNDER));
    a.of_bits(a.add_bits(a.to_bits(y), a.shl(n, 23)))
}

/// See [`crate::math::ln`].
#[inline(always)]
pub(crate) fn ln<A: Arith>(a: A, x: A::F) -> A::F {
    let bits = a.add_bits(a.to_bits(x), a.splat_bits(ONE - ROOT_HALF));
    let k = a.to_f32(a.sub_bits(a.shr(bits, 23), a.splat_bits(127)));
    let m = a.add_bits(a.and_bits(bits, a.splat_bits(MANTISSA)), a.splat_bits(ROOT_HALF));
    let f = a.sub(a.of_bits(m), a.splat(1.0));
    let p = horner(a, &LN_P, f);
    let square = a.mul(f, f);
    let y = a.fma(a.mul(square, f), p, a.mul(k, constant(a, LN2_LOW)));
    let y = a.fma(square, a.splat(-0.5), y);
    a.fma(k, constant(a, LN2_HIGH), a.add(f, y))
}

/// See [`crate::math::ln_1p_neg`].
#[inline(always)]
pub(crate) fn ln_1p_neg<A: Arith>(a: A, v: A::F) -> A::F {
    let one = a.splat(1.0);
    let u = a.sub(one, v);
    let lost = a.sub(a.sub(one, u), v);
    a.add(ln(a, u), a.div(lost, u))
}

/// See [`crate::math::tanh`].
#[inline(always)]
pub(crate) fn tanh<A: Arith>(a: A, x: A::F) -> A::F {
    let one = a.splat(1.0);
    let sign = a.and_bits(a.to_bits(x), a.splat_bits(SIGN));
    let size = a.of_bits(a.xor_bits(a.to_bits(x), sign));
    let square = a.mul(size, size);
    let near = a.fma(a.mul(square, size), horner(a, &TANH_T, square), size);
    let bottom = a.add(exp(a, a.add(size, size)), one);
    let far = a.sub(one, a.div(a.splat(2.0), bottom));
    let y = a.select(a.gt(size, a.splat(TANH_EDGE)), far, near);
    a.of_bits(a.xor_bits(a.to_bits(y), sign))
}

/// `exp(-2 u)`, where `u` is the argument of the `tanh` in GELU.
#[inline(always)]
fn gelu_exp<A: Arith>(a: A, x: A::F, square: A::F) -> A::F {
    let inner = a.fma(square, constant(a, GELU_3), constant(a, GELU_1));
    exp(a, a.neg(a.mul(x, inner)))
}

/// See [`crate::math::gelu_tanh`].
#[inline(always)]
pub(crate) fn gelu_tanh<A: Arith>(a: A, x: A::F) -> A::F {
    let bottom = a.add(a.splat(1.0), gelu_exp(a, x, a.mul(x, x)));
    a.div(x, bottom)
}

/// The value and the derivative of [`gelu_tanh`]; see [`crate::Kernels::gate_mul_backward`].
#[inline(always)]
pub(crate) fn gelu_tanh_slope<A: Arith>(a: A, x: A::F) -> (A::F, A::F) {
    let one = a.splat(1.0);
    let square = a.mul(x, x);
    let bottom = a.add(one, gelu_exp(a, x, square));
    let s = a.div(one, bottom);
    let inner = a.fma(square, a.mul(a.splat(3.0), constant(a, GELU_3)), constant(a, GELU_1));
    let bend = a.mul(a.mul(s, a.sub(one, s)), x);
    (a.div(x, bottom), a.fma(bend, inner, s))
}

#[cfg(test)]
mod tests {
    use crate::isa::{Isa, Verified};
    use crate::math;
    use crate::simd::{LANES, Operation, Simd};

    /// A function in both its forms.
    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        ExpNotPositive,
        Ln,
        Ln1pNeg,
        Tanh,
        GeluTanh,
    }

    struct Apply(Function, [f32; LANES]);

    impl Operation for Apply {
        type Output = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> [f32; LANES] {
            let x = simd.load(&self.1);
            let y = match self.0 {
                Function::Exp => super::exp(simd, x),
                Function::ExpNotPositive => super::exp_not_positive(simd, x),
                Function::Ln => super::ln(simd, x),
                Function::Ln1pNeg => super::ln_1p_neg(simd, x),
                Function::Tanh => super::tanh(simd, x),
                Function::GeluTanh => super::gelu_tanh(simd, x),
            };
            let mut out = [0.0; LANES];
            simd.store(y, &mut out);
            out
        }
    }

    fn check(function: Function, inputs: impl Iterator<Item = f32>) {
        let scalar = match function {
            Function::Exp | Function::ExpNotPositive => math::exp,
            Function::Ln => math::ln,
            Function::Ln1pNeg => math::ln_1p_neg,
            Function::Tanh => math::tanh,
            Function::GeluTanh => math::gelu_tanh,
        };
        let inputs: Vec<f32> = inputs.collect();
        for isa in Isa::available() {
            let verified = Verified::new(isa).unwrap();
            for chunk in inputs.chunks_exact(LANES) {
                let chunk: [f32; LANES] = chunk.try_into().unwrap();
                let got = verified.run(Apply(function, chunk));
                for (x, got) in chunk.into_iter().zip(got) {
                    let want = scalar(x);
                    let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                    assert!(same, "{isa}: {x:e} ({:#x}): {got:e}, scalar {want:e}", x.to_bits());
                }
            }
        }
    }

    #[test]
    fn lanes_and_scalars_agree() {
        let everywhere = || (0..=u32::MAX).step_by(40_009).map(f32::from_bits);
        check(Function::Exp, everywhere());
        let not_positive = (1 << 31..=0xff80_0000).step_by(20_011).map(f32::from_bits);
        check(Function::ExpNotPositive, not_positive.chain([0.0; LANES]));
        check(Function::Ln, (1 << 23..0x7f80_0000).step_by(20_011).map(f32::from_bits));
        check(Function::Ln1pNeg, (0..0x3f80_0000).step_by(10_007).map(f32::from_bits));
        check(Function::Tanh, everywhere());
        check(Function::GeluTanh, everywhere());
    }
}
