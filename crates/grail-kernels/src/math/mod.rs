//! The project's own elementary functions: rule 5.
//!
//! They consist of IEEE operations only, in the order written here, so that every instruction set
//! (and another implementation that follows these comments) gives the same bits. The f32 functions
//! are written once for any number of lanes; the public functions are their one-lane form.

mod double;
mod single;

pub use double::{cos_sin, exp_f64, ln_f64, pow_f64, powi_f64};
pub(crate) use single::{
    exp as exp_lanes, exp_not_positive as exp_not_positive_lanes, gelu_tanh as gelu_tanh_lanes,
    gelu_tanh_slope, ln as ln_lanes, ln_1p_neg as ln_1p_neg_lanes, tanh as tanh_lanes,
};

use crate::simd::scalar::{self, Scalar};

/// Returns `a * b + c` with a single rounding, on any CPU.
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    scalar::fma(a, b, c)
}

/// Returns `e^x`, within 0.88 ulp over all f32 (measured exhaustively).
///
/// Below -87.336544 (where the result would be subnormal) it is 0, as a rule of this function and
/// not by a CPU mode; above 88.72283 it is infinity; NaN stays NaN.
///
/// # Definition
/// Every line is one operation, constants are f32 given by their bits:
/// ```text
/// t = fma(x, 0x3fb8aa3b, 0x4b400000)           1/ln 2; 1.5 * 2^23 rounds t to an integer
/// n = t - 0x4b400000
/// h = fma(n, 0xbf317400, x)                    -ln 2, high part
/// l = n * 0x37f40417                           -ln 2, low part
/// r = h + l
/// q = 0x3ab527a8
/// q = fma(q, r, c) for c in 0x3c091c57, 0x3d2aac55, 0x3e2aaa4a, 0x3efffffe
/// s = r * r
/// y = fma(s, q, l)
/// y = h + y
/// y = y + 1
/// result: the bits of y plus ((bits of t - 0x4b400000) << 23), modulo 2^32
/// ```
pub fn exp(x: f32) -> f32 {
    single::exp(Scalar, x)
}

/// Returns the natural logarithm of a positive normal f32, within 0.84 ulp (measured exhaustively).
///
/// For other arguments (zero, subnormal, negative, infinite, NaN) the result means nothing.
/// `ln(1) = 0` exactly.
///
/// # Definition
/// Every line is one operation, constants are f32 given by their bits (integers where marked):
/// ```text
/// b = bits of x, plus the integer 0x004afb0d
/// k = the integer (b >> 23) - 127, as f32      the exponent
/// m = the f32 of bits (b & 0x007fffff) + 0x3f3504f3     in [sqrt(1/2), sqrt(2))
/// f = m - 1
/// p = 0x3d8a8cc2
/// p = fma(p, f, c) for c in 0xbdeecc43, 0x3df319a8, 0xbdfe1904, 0x3e11a36a,
///                           0xbe2aae30, 0x3e4cd1eb, 0xbe800002, 0x3eaaaaa5
/// s = f * f
/// g = s * f
/// l = k * 0xb7f40417                           ln 2, low part
/// y = fma(g, p, l)
/// y = fma(s, -0.5, y)
/// y = f + y
/// result: fma(k, 0x3f317400, y)                ln 2, high part
/// ```
pub fn ln(x: f32) -> f32 {
    single::ln(Scalar, x)
}

/// Returns `ln(1 - v)` for `v` in `[0, 1 - 2^-24]`, within 1.44 ulp (measured exhaustively).
///
/// # Definition
/// `u = 1 - v; d = (1 - u) - v; result = ln(u) + d / u`, each operation rounded, with [`ln`].
/// `d` is what the rounding of `u` lost, so small `v` keep their accuracy.
pub fn ln_1p_neg(v: f32) -> f32 {
    single::ln_1p_neg(Scalar, v)
}

/// Returns `1 / (1 + exp(-x))`, by these three roundings after [`exp`].
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Returns `x / (1 + exp(-x))`, by these two roundings after [`exp`].
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Returns the hyperbolic tangent, within 1.06 ulp (measured at every f32 of [2^-12, 10], sampled
/// elsewhere).
///
/// NaN stays NaN, zeros keep their sign, and from 9.0109 on the result is 1.
///
/// # Definition
/// Every line is one operation, constants are f32 given by their bits; `exp` is [`exp`]:
/// ```text
/// a = |x|
/// where a > 0.75:
///   e = exp(a + a) + 1              both sums rounded
///   y = 1 - 2 / e                   both operations rounded
/// elsewhere:
///   s = a * a
///   t = 0x3ae452af
///   t = fma(t, s, c) for c in 0xbbfb33d8, 0x3cafc87c, 0xbd5cc085, 0x3e0886ed, 0xbeaaaaa5
///   y = fma(s * a, t, a)
/// result: y with the sign of x
/// ```
pub fn tanh(x: f32) -> f32 {
    single::tanh(Scalar, x)
}

/// Returns GELU by its `tanh` formula, `x / 2 * (1 + tanh(u))` with
/// `u = sqrt(2 / pi) * (x + 0.044715 x^3)`: what checkpoints call `gelu_pytorch_tanh`.
///
/// Computed as `x / (1 + exp(-2 u))`, which is the same number without the cancellation that the
/// `tanh` form has for negative `x`. The relative error is below `2.7 (1 + max(0, -2 u))` half
/// units in the last place (measured on `[-14, 14]`).
///
/// # Definition
/// Every line is one operation, constants are f32 given by their bits; `exp` is [`exp`]:
/// ```text
/// s = x * x
/// i = fma(s, 0x3d922279, 0x3fcc422a)        2 sqrt(2/pi) 0.044715; 2 sqrt(2/pi)
/// e = 1 + exp(-(x * i))                     product and sum rounded
/// result: x / e
/// ```
pub fn gelu_tanh(x: f32) -> f32 {
    single::gelu_tanh(Scalar, x)
}

/// Rounds to bf16, to nearest even. NaN stays NaN (quiet, sign and leading payload kept).
#[inline]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Rounding could carry a payload into infinity.
        return (bits >> 16) as u16 | 0x0040;
    }
    let even = (bits >> 16) & 1;
    ((bits + 0x7fff + even) >> 16) as u16
}

/// Returns the f32 that has exactly the value of these bf16 bits.
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounds a slice to bf16 by [`f32_to_bf16`].
///
/// # Panics
/// If the lengths differ.
pub fn f32_to_bf16_slice(x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len(), "f32_to_bf16_slice: lengths differ");
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f32_to_bf16(x);
    }
}

/// Widens a slice of bf16 bits, exactly.
///
/// # Panics
/// If the lengths differ.
pub fn bf16_to_f32_slice(bits: &[u16], out: &mut [f32]) {
    assert_eq!(bits.len(), out.len(), "bf16_to_f32_slice: lengths differ");
    for (out, &bits) in out.iter_mut().zip(bits) {
        *out = bf16_to_f32(bits);
    }
}
