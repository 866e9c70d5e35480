//! Sixteen lanes in plain Rust, for any CPU: slow, and the same bits.

use super::scalar::Scalar;
use super::{Arith, LANES, Simd};

/// The token of the portable path; every CPU has it.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map<A: Copy, R>(a: [A; LANES], f: impl Fn(A) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, R>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Arith for Portable {
    type F = [f32; LANES];
    type I = [u32; LANES];
    type M = [bool; LANES];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| Scalar.add(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| Scalar.sub(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| Scalar.mul(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| Scalar.div(a, b))
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| Scalar.fma(a[lane], b[lane], c[lane]))
    }
    #[inline(always)]
    fn gt(self, a: Self::F, b: Self::F) -> Self::M {
        zip(a, b, |a, b| a > b)
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        map(a, f32::is_nan)
    }
    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| Scalar.select(mask[lane], a[lane], b[lane]))
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        map(a, f32::to_bits)
    }
    #[inline(always)]
    fn of_bits(self, a: Self::I) -> Self::F {
        map(a, f32::from_bits)
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn add_bits(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| Scalar.add_bits(a, b))
    }
    #[inline(always)]
    fn sub_bits(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| Scalar.sub_bits(a, b))
    }
    #[inline(always)]
    fn and_bits(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| Scalar.and_bits(a, b))
    }
    #[inline(always)]
    fn xor_bits(self, a: Self::I, b: Self::I) -> Self::I {
        zip(a, b, |a, b| Scalar.xor_bits(a, b))
    }
    #[inline(always)]
    fn shl(self, a: Self::I, count: u32) -> Self::I {
        map(a, |a| a << count)
    }
    #[inline(always)]
    fn shr(self, a: Self::I, count: u32) -> Self::I {
        map(a, |a| a >> count)
    }
    #[inline(always)]
    fn select_bits(self, mask: Self::M, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|lane| Scalar.select_bits(mask[lane], a[lane], b[lane]))
    }
    #[inline(always)]
    fn mul_wide(self, a: Self::I, b: Self::I) -> (Self::I, Self::I) {
        (zip(a, b, |a, b| Scalar.mul_wide(a, b).0), zip(a, b, u32::wrapping_mul))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        map(a, |a| Scalar.to_f32(a))
    }
}

impl Simd for Portable {
    const WIDE: bool = false;

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, a: Self::F, x: &mut [f32; LANES]) {
        *x = a;
    }
    #[inline(always)]
    fn load_bits(self, x: &[u32; LANES]) -> Self::I {
        *x
    }
    #[inline(always)]
    fn store_bits(self, a: Self::I, x: &mut [u32; LANES]) {
        *x = a;
    }
    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        std::array::from_fn(|lane| lane < n)
    }
    #[inline(always)]
    fn or(self, a: Self::M, b: Self::M) -> Self::M {
        zip(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn any(self, a: Self::M) -> bool {
        a.contains(&true)
    }
    #[inline(always)]
    fn all(self, a: Self::M) -> bool {
        !a.contains(&false)
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> Self::F {
        // SAFETY: the caller vouches for sixteen readable f32.
        unsafe { x.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: Self::F, x: *mut f32) {
        // SAFETY: the caller vouches for sixteen writable f32.
        unsafe { x.cast::<[f32; LANES]>().write_unaligned(a) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, x: *const u16) -> Self::F {
        // SAFETY: the caller vouches for sixteen readable u16.
        let bits = unsafe { x.cast::<[u16; LANES]>().read_unaligned() };
        map(bits, |bits| f32::from_bits(u32::from(bits) << 16))
    }
}
