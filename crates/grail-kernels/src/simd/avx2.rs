//! AVX2 with FMA: two registers of eight lanes.

use super::{Arith, LANES, Operation, Simd};
use std::arch::x86_64::*;

/// The token of AVX2 with FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Sixteen f32.
#[derive(Clone, Copy)]
pub(crate) struct F(__m256, __m256);
/// Sixteen u32.
#[derive(Clone, Copy)]
pub(crate) struct I(__m256i, __m256i);
/// Sixteen truth values: all bits of a lane, or none.
#[derive(Clone, Copy)]
pub(crate) struct M(__m256, __m256);

/// Runs `operation` compiled for AVX2 with FMA.
///
/// # Safety
/// The CPU must have avx2 and fma.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Avx2(()))
}

// SAFETY (every block below): the token exists only inside `run`, so the CPU has AVX2 and FMA. Loads
// and stores take references to arrays of sixteen, or repeat the caller's own promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, just above")]
impl Arith for Avx2 {
    type F = F;
    type I = I;
    type M = M;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        unsafe { F(_mm256_set1_ps(x), _mm256_set1_ps(x)) }
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        unsafe { F(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        unsafe { F(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        unsafe { F(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        unsafe { F(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        unsafe { F(_mm256_sqrt_ps(a.0), _mm256_sqrt_ps(a.1)) }
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        unsafe { F(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn gt(self, a: F, b: F) -> M {
        unsafe { M(_mm256_cmp_ps::<_CMP_GT_OQ>(a.0, b.0), _mm256_cmp_ps::<_CMP_GT_OQ>(a.1, b.1)) }
    }
    #[inline(always)]
    fn is_nan(self, a: F) -> M {
        unsafe {
            M(_mm256_cmp_ps::<_CMP_UNORD_Q>(a.0, a.0), _mm256_cmp_ps::<_CMP_UNORD_Q>(a.1, a.1))
        }
    }
    #[inline(always)]
    fn select(self, mask: M, a: F, b: F) -> F {
        unsafe { F(_mm256_blendv_ps(b.0, a.0, mask.0), _mm256_blendv_ps(b.1, a.1, mask.1)) }
    }
    #[inline(always)]
    fn to_bits(self, a: F) -> I {
        unsafe { I(_mm256_castps_si256(a.0), _mm256_castps_si256(a.1)) }
    }
    #[inline(always)]
    fn of_bits(self, a: I) -> F {
        unsafe { F(_mm256_castsi256_ps(a.0), _mm256_castsi256_ps(a.1)) }
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> I {
        unsafe { I(_mm256_set1_epi32(x.cast_signed()), _mm256_set1_epi32(x.cast_signed())) }
    }
    #[inline(always)]
    fn add_bits(self, a: I, b: I) -> I {
        unsafe { I(_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub_bits(self, a: I, b: I) -> I {
        unsafe { I(_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1)) }
    }
    #[inline(always)]
    fn and_bits(self, a: I, b: I) -> I {
        unsafe { I(_mm256_and_si256(a.0, b.0), _mm256_and_si256(a.1, b.1)) }
    }
    #[inline(always)]
    fn xor_bits(self, a: I, b: I) -> I {
        unsafe { I(_mm256_xor_si256(a.0, b.0), _mm256_xor_si256(a.1, b.1)) }
    }
    #[inline(always)]
    fn shl(self, a: I, count: u32) -> I {
        unsafe {
            let count = _mm256_set1_epi32(count.cast_signed());
            I(_mm256_sllv_epi32(a.0, count), _mm256_sllv_epi32(a.1, count))
        }
    }
    #[inline(always)]
    fn shr(self, a: I, count: u32) -> I {
        unsafe {
            let count = _mm256_set1_epi32(count.cast_signed());
            I(_mm256_srlv_epi32(a.0, count), _mm256_srlv_epi32(a.1, count))
        }
    }
    #[inline(always)]
    fn select_bits(self, mask: M, a: I, b: I) -> I {
        self.to_bits(self.select(mask, self.of_bits(a), self.of_bits(b)))
    }
    #[inline(always)]
    fn mul_wide(self, a: I, b: I) -> (I, I) {
        let (high_0, low_0) = unsafe { mul_wide(a.0, b.0) };
        let (high_1, low_1) = unsafe { mul_wide(a.1, b.1) };
        (I(high_0, high_1), I(low_0, low_1))
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        unsafe { F(_mm256_cvtepi32_ps(a.0), _mm256_cvtepi32_ps(a.1)) }
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Simd for Avx2 {
    const WIDE: bool = false;

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> F {
        unsafe { self.load_ptr(x.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, a: F, x: &mut [f32; LANES]) {
        unsafe { self.store_ptr(a, x.as_mut_ptr()) }
    }
    #[inline(always)]
    fn load_bits(self, x: &[u32; LANES]) -> I {
        unsafe {
            I(_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast()))
        }
    }
    #[inline(always)]
    fn store_bits(self, a: I, x: &mut [u32; LANES]) {
        unsafe {
            _mm256_storeu_si256(x.as_mut_ptr().cast(), a.0);
            _mm256_storeu_si256(x.as_mut_ptr().add(8).cast(), a.1);
        }
    }
    #[inline(always)]
    fn first(self, n: usize) -> M {
        unsafe {
            let n = _mm256_set1_epi32(n.min(LANES) as i32);
            let low = _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            let high = _mm256_cmpgt_epi32(n, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
            M(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high))
        }
    }
    #[inline(always)]
    fn or(self, a: M, b: M) -> M {
        unsafe { M(_mm256_or_ps(a.0, b.0), _mm256_or_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn any(self, a: M) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_or_ps(a.0, a.1)) != 0 }
    }
    #[inline(always)]
    fn all(self, a: M) -> bool {
        unsafe { _mm256_movemask_ps(_mm256_and_ps(a.0, a.1)) == 0xff }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> F {
        unsafe { F(_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8))) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: F, x: *mut f32) {
        unsafe {
            _mm256_storeu_ps(x, a.0);
            _mm256_storeu_ps(x.add(8), a.1);
        }
    }
    #[inline(always)]
    fn transpose_quads(self, [a, b, c, d]: [I; 4]) -> [I; 4] {
        let [r0, r1, r2, r3] = unsafe { transpose_quads(a.0, b.0, c.0, d.0) };
        let [s0, s1, s2, s3] = unsafe { transpose_quads(a.1, b.1, c.1, d.1) };
        [I(r0, s0), I(r1, s1), I(r2, s2), I(r3, s3)]
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // Into L2: a block of weights that waits for its turn would push others out of L1.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, x: *const u16) -> F {
        unsafe { F(load_bf16(x), load_bf16(x.add(8))) }
    }
}

/// The (high, low) halves of eight u32 products.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn mul_wide(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    // SAFETY: as the caller promises.
    unsafe {
        let even = _mm256_mul_epu32(a, b);
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(a), _mm256_srli_epi64::<32>(b));
        let high = _mm256_blend_epi32::<0xAA>(_mm256_srli_epi64::<32>(even), odd);
        let low = _mm256_blend_epi32::<0xAA>(even, _mm256_slli_epi64::<32>(odd));
        (high, low)
    }
}

/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn transpose_quads(a: __m256i, b: __m256i, c: __m256i, d: __m256i) -> [__m256i; 4] {
    // SAFETY: as the caller promises.
    unsafe {
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// # Safety
/// The CPU must have AVX2, and eight u16 must be readable at `x`.
#[inline(always)]
unsafe fn load_bf16(x: *const u16) -> __m256 {
    // SAFETY: as the caller promises.
    unsafe {
        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.cast()));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}
