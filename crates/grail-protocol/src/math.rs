//! The logarithm of the race, by IEEE operations alone, so that every machine gets the same bits.
//!
//! The contract `exact-1` defines it; the engine computes the same function in wide registers.

/// ln 2 cut to 15 bits, so that its product with an exponent is exact, and the rest.
const LN2_HIGH: f32 = f32::from_bits(0x3f31_7400);
const LN2_LOW: f32 = f32::from_bits(0xb7f4_0417);

/// Of `p` in `ln(1 + f) = f - f^2 / 2 + f^3 p(f)`, highest degree first; fitted for f32.
const COEFFICIENTS: [u32; 9] = [
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

/// The bits of the largest f32 not above sqrt(1/2).
const ROOT_HALF: u32 = 0x3f35_04f3;
const ONE: u32 = 0x3f80_0000;
const MANTISSA: u32 = 0x007f_ffff;

/// Returns the natural logarithm of a positive normal f32, within 0.83 ulp; `ln(1) = 0` exactly.
///
/// For other arguments the result means nothing, but is the same everywhere.
pub fn ln(x: f32) -> f32 {
    let bits = x.to_bits().wrapping_add(ONE - ROOT_HALF);
    // The exponent is small enough to be exact in f32; `as` is the conversion to nearest.
    let k = ((bits >> 23) as i32 - 127) as f32;
    // Mantissa in [sqrt(1/2), sqrt(2)), so that f is small on both sides of 1.
    let f = f32::from_bits((bits & MANTISSA) + ROOT_HALF) - 1.0;
    let mut p = f32::from_bits(COEFFICIENTS[0]);
    for &coefficient in &COEFFICIENTS[1..] {
        p = p.mul_add(f, f32::from_bits(coefficient));
    }
    let square = f * f;
    let y = (square * f).mul_add(p, k * LN2_LOW);
    let y = square.mul_add(-0.5, y);
    k.mul_add(LN2_HIGH, f + y)
}

/// Returns `ln(1 - v)` for `v` in `[0, 1 - 2^-24]`, within 1.5 ulp.
pub fn ln_1p_neg(v: f32) -> f32 {
    let u = 1.0 - v;
    // What rounding `u` lost; without it a small `v` would be lost altogether.
    let lost = (1.0 - u) - v;
    ln(u) + lost / u
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distance in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let rounded = want as f32;
        let ulp = f64::from(f32::from_bits(rounded.abs().to_bits() + 1)) - f64::from(rounded.abs());
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn the_logarithm_is_accurate_and_exact_at_one() {
        assert_eq!(ln(1.0), 0.0);
        // Every 4,099th (a prime) positive normal f32.
        for bits in (0x0080_0000u32..0x7f80_0000).step_by(4_099) {
            let x = f32::from_bits(bits);
            let off = ulps(ln(x), f64::from(x).ln());
            assert!(off < 0.83, "ln({x:e}) is off by {off} ulp");
        }
    }

    #[test]
    fn small_arguments_keep_their_digits() {
        for exponent in 1..=32 {
            let v = 0.75f32 / f32::from_bits((127 + exponent) << 23);
            let off = ulps(ln_1p_neg(v), (-f64::from(v)).ln_1p());
            assert!(off < 1.5, "ln(1 - {v:e}) is off by {off} ulp");
        }
    }
}
