//! NEON: four registers of four lanes.

use super::{Arith, LANES, Operation, Simd};
use std::arch::aarch64::*;

/// The token of NEON, which every AArch64 CPU that we support has.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Sixteen f32.
type F = [float32x4_t; 4];
/// Sixteen u32, or sixteen truth values: all bits of a lane, or none.
type I = [uint32x4_t; 4];

/// Runs `operation` with NEON.
pub(crate) fn run<O: Operation>(operation: O) -> O::Output {
    operation.run(Neon(()))
}

#[inline(always)]
fn map<A: Copy, R>(a: [A; 4], f: impl Fn(A) -> R) -> [R; 4] {
    let [a0, a1, a2, a3] = a;
    [f(a0), f(a1), f(a2), f(a3)]
}

#[inline(always)]
fn zip<A: Copy, B: Copy, R>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> R) -> [R; 4] {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a, b);
    [f(a0, b0), f(a1, b1), f(a2, b2), f(a3, b3)]
}

#[inline(always)]
fn select(mask: I, a: I, b: I) -> I {
    // SAFETY: as below.
    let one = |mask, a, b| unsafe { vbslq_u32(mask, a, b) };
    let [m0, m1, m2, m3] = mask;
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a, b);
    [one(m0, a0, b0), one(m1, a1, b1), one(m2, a2, b2), one(m3, a3, b3)]
}

// SAFETY (every block below): NEON belongs to the base of the AArch64 targets that this module is
// compiled for. Loads and stores take references to arrays of sixteen, or repeat the caller's own
// promise.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, just above")]
impl Arith for Neon {
    type F = F;
    type I = I;
    type M = I;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [unsafe { vdupq_n_f32(x) }; 4]
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        zip(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        zip(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        zip(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        zip(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    fn sqrt(self, a: F) -> F {
        map(a, |a| unsafe { vsqrtq_f32(a) })
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // `vfmaq_f32` adds the product of its last two arguments to the first.
        let one = |a, b, c| unsafe { vfmaq_f32(c, a, b) };
        let ([a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3]) = (a, b, c);
        [one(a0, b0, c0), one(a1, b1, c1), one(a2, b2, c2), one(a3, b3, c3)]
    }
    #[inline(always)]
    fn gt(self, a: F, b: F) -> I {
        zip(a, b, |a, b| unsafe { vcgtq_f32(a, b) })
    }
    #[inline(always)]
    fn is_nan(self, a: F) -> I {
        map(a, |a| unsafe { vmvnq_u32(vceqq_f32(a, a)) })
    }
    #[inline(always)]
    fn select(self, mask: I, a: F, b: F) -> F {
        self.of_bits(select(mask, self.to_bits(a), self.to_bits(b)))
    }
    #[inline(always)]
    fn to_bits(self, a: F) -> I {
        map(a, |a| unsafe { vreinterpretq_u32_f32(a) })
    }
    #[inline(always)]
    fn of_bits(self, a: I) -> F {
        map(a, |a| unsafe { vreinterpretq_f32_u32(a) })
    }
    #[inline(always)]
    fn splat_bits(self, x: u32) -> I {
        [unsafe { vdupq_n_u32(x) }; 4]
    }
    #[inline(always)]
    fn add_bits(self, a: I, b: I) -> I {
        zip(a, b, |a, b| unsafe { vaddq_u32(a, b) })
    }
    #[inline(always)]
    fn sub_bits(self, a: I, b: I) -> I {
        zip(a, b, |a, b| unsafe { vsubq_u32(a, b) })
    }
    #[inline(always)]
    fn and_bits(self, a: I, b: I) -> I {
        zip(a, b, |a, b| unsafe { vandq_u32(a, b) })
    }
    #[inline(always)]
    fn xor_bits(self, a: I, b: I) -> I {
        zip(a, b, |a, b| unsafe { veorq_u32(a, b) })
    }
    #[inline(always)]
    fn shl(self, a: I, count: u32) -> I {
        map(a, |a| unsafe { vshlq_u32(a, vdupq_n_s32(count.cast_signed())) })
    }
    #[inline(always)]
    fn shr(self, a: I, count: u32) -> I {
        // A negative count shifts right.
        map(a, |a| unsafe { vshlq_u32(a, vdupq_n_s32(-count.cast_signed())) })
    }
    #[inline(always)]
    fn select_bits(self, mask: I, a: I, b: I) -> I {
        select(mask, a, b)
    }
    #[inline(always)]
    fn mul_wide(self, a: I, b: I) -> (I, I) {
        let high = zip(a, b, |a, b| unsafe {
            let low_half = vmull_u32(vget_low_u32(a), vget_low_u32(b));
            let high_half = vmull_high_u32(a, b);
            vcombine_u32(vshrn_n_u64::<32>(low_half), vshrn_n_u64::<32>(high_half))
        });
        (high, zip(a, b, |a, b| unsafe { vmulq_u32(a, b) }))
    }
    #[inline(always)]
    fn to_f32(self, a: I) -> F {
        map(a, |a| unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(a)) })
    }
}

#[expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
impl Simd for Neon {
    // 32 registers of four lanes hold six rows of one sixteen-lane vector, not of four.
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
        [0, 4, 8, 12].map(|lane| unsafe { vld1q_u32(x.as_ptr().add(lane)) })
    }
    #[inline(always)]
    fn store_bits(self, a: I, x: &mut [u32; LANES]) {
        for (a, x) in a.into_iter().zip(x.chunks_exact_mut(4)) {
            unsafe { vst1q_u32(x.as_mut_ptr(), a) };
        }
    }
    #[inline(always)]
    fn first(self, n: usize) -> I {
        let mask: [u32; LANES] = std::array::from_fn(|lane| if lane < n { u32::MAX } else { 0 });
        self.load_bits(&mask)
    }
    #[inline(always)]
    fn or(self, a: I, b: I) -> I {
        zip(a, b, |a, b| unsafe { vorrq_u32(a, b) })
    }
    #[inline(always)]
    fn any(self, a: I) -> bool {
        let [a0, a1, a2, a3] = a;
        unsafe { vmaxvq_u32(vorrq_u32(vorrq_u32(a0, a1), vorrq_u32(a2, a3))) != 0 }
    }
    #[inline(always)]
    fn all(self, a: I) -> bool {
        let [a0, a1, a2, a3] = a;
        unsafe { vminvq_u32(vandq_u32(vandq_u32(a0, a1), vandq_u32(a2, a3))) == u32::MAX }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> F {
        [0, 4, 8, 12].map(|lane| unsafe { vld1q_f32(x.add(lane)) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, a: F, x: *mut f32) {
        for (index, a) in a.into_iter().enumerate() {
            unsafe { vst1q_f32(x.add(4 * index), a) };
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        // Stable Rust has no intrinsic for it. A prefetch cannot fault.
        unsafe {
            std::arch::asm!(
                "prfm pldl2keep, [{at}]",
                at = in(reg) at,
                options(nostack, readonly, preserves_flags)
            );
        }
    }
    #[inline(always)]
    unsafe fn load_bf16_ptr(self, x: *const u16) -> F {
        [0, 4, 8, 12]
            .map(|lane| unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(x.add(lane)))) })
    }
}
