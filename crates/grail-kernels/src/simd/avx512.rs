//! AVX-512F: one register of sixteen lanes.

use super::{Arith, LANES, Operation, Simd};
use std::arch::x86_64::*;

/// The token of AVX-512F.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

/// Runs `operation` compiled for AVX-512F.
///
/// # Safety
/// The CPU must have avx512f.
#[target_feature(enable = "avx512f,avx2,fma")]
pub(crate) unsafe fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Avx512(()))
}

// SAFETY (every block below): the token exists only inside `run`, so the CPU has AVX-512F. Loads
// and stores take references to arrays of sixteen, or repeat the caller's own promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, just above")]
impl Arith for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F) -> Self::F {
        unsafe { _mm512_sqrt_ps(a) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn gt(self, a: Self::F, b: Self::F) -> Self::M {
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) }
    }
    #[inline(always)]
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F {
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }
    #[inline(always)]
    fn to_bits(self, a: Self::F) -> Self::I {
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    fn of_bits(self, a: Self::I) -> Self::F {
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> Self::I {
        unsafe { _mm512_set1_epi32(x.cast_signed()) }
    }
    #[inline(always)]
    fn add_bits(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_bits(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn and_bits(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn xor_bits(self, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    fn shl(self, a: Self::I, count: u32) -> Self::I {
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(count.cast_signed())) }
    }
    #[inline(always)]
    fn shr(self, a: Self::I, count: u32) -> Self::I {
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(count.cast_signed())) }
    }
    #[inline(always)]
    fn select_bits(self, mask: Self::M, a: Self::I, b: Self::I) -> Self::I {
        unsafe { _mm512_mask_blend_epi32(mask, b, a) }
    }
    #[inline(always)]
    fn mul_wide(self, a: Self::I, b: Self::I) -> (Self::I, Self::I) {
        unsafe {
            let even = _mm512_mul_epu32(a, b);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
            let high = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd);
            let low = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64::<32>(odd));
            (high, low)
        }
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        unsafe { _mm512_cvtepi32_ps(a) }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Simd for Avx512 {
    const WIDE: bool = true;

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::F {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: Self::F, x: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), a) }
    }
    #[inline(always)]
    fn load_bits(self, x: &[u32; LANES]) -> Self::I {
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }
    #[inline(always)]
    fn store_bits(self, a: Self::I, x: &mut [u32; LANES]) {
        unsafe { _mm512_storeu_si512(x.as_mut_ptr().cast(), a) }
    }
    #[inline(always)]
    fn first(self, n: usize) -> Self::M {
        if n >= LANES { u16::MAX } else { (1 << n) - 1 }
    }
    #[inline(always)]
    fn or(self, a: Self::M, b: Self::M) -> Self::M {
        a | b
    }
    #[inline(always)]
    fn any(self, a: Self::M) -> bool {
        a != 0
    }
    #[inline(always)]
    fn all(self, a: Self::M) -> bool {
        a == u16::MAX
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> Self::F {
        unsafe { _mm512_loadu_ps(x) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: Self::F, x: *mut f32) {
        unsafe { _mm512_storeu_ps(x, a) }
    }
    #[inline(always)]
    fn transpose_quads(self, [a, b, c, d]: [Self::I; 4]) -> [Self::I; 4] {
        unsafe {
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ]
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // Into L2: a block of weights that waits for its turn would push others out of L1.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, x: *const u16) -> Self::F {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}
