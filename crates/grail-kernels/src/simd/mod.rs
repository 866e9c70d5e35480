//! The sixteen-lane vector that every kernel is written on.
//!
//! A kernel is one generic function over [`Simd`]; an instruction set is one implementation of it.
//! Each method is one IEEE operation per lane (or exact integer arithmetic), so that all
//! implementations give the same bits by construction. The lane count is part of the contract:
//! rule 3 sums rows in sixteen lanes.
//!
//! An implementation is a zero-sized token. Only [`crate::isa::Verified`] makes one, after it has
//! seen that the CPU has the instructions; that is what makes the safe methods sound.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;
pub(crate) mod scalar;

/// Lanes of a vector, positions of a KV block, lanes of a rule-3 reduction.
pub(crate) const LANES: usize = 16;

/// Element-wise arithmetic on some number of f32 lanes, and on their bits.
pub(crate) trait Arith: Copy {
    /// Lanes of f32.
    type F: Copy;
    /// Lanes of u32 (signed where a method says so).
    type I: Copy;
    /// Lanes of truth values.
    type M: Copy;

    fn splat(self, x: f32) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// `a > b`; false where either is NaN.
    fn gt(self, a: Self::F, b: Self::F) -> Self::M;
    fn is_nan(self, a: Self::F) -> Self::M;
    /// `mask ? a : b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;

    fn to_bits(self, a: Self::F) -> Self::I;
    fn of_bits(self, a: Self::I) -> Self::F;
    fn splat_bits(self, x: u32) -> Self::I;
    fn add_bits(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_bits(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_bits(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_bits(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl(self, a: Self::I, count: u32) -> Self::I;
    /// Shifts in zeros.
    fn shr(self, a: Self::I, count: u32) -> Self::I;
    fn select_bits(self, mask: Self::M, a: Self::I, b: Self::I) -> Self::I;
    /// The 64-bit products of u32 lanes, as (high, low) halves.
    fn mul_wide(self, a: Self::I, b: Self::I) -> (Self::I, Self::I);
    /// Converts *signed* 32-bit lanes, rounding to nearest even.
    fn to_f32(self, a: Self::I) -> Self::F;

    fn neg(self, a: Self::F) -> Self::F {
        self.of_bits(self.xor_bits(self.to_bits(a), self.splat_bits(1 << 31)))
    }
}

/// Sixteen lanes, with loads and stores.
pub(crate) trait Simd: Arith + Send + Sync {
    /// True where 24 accumulators of sixteen lanes fit in registers.
    const WIDE: bool;

    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, a: Self::F, x: &mut [f32; LANES]);
    fn load_bits(self, x: &[u32; LANES]) -> Self::I;
    fn store_bits(self, a: Self::I, x: &mut [u32; LANES]);
    /// Truth in the first `n` lanes (all, from sixteen on).
    fn first(self, n: usize) -> Self::M;
    fn or(self, a: Self::M, b: Self::M) -> Self::M;
    fn any(self, a: Self::M) -> bool;
    fn all(self, a: Self::M) -> bool;

    /// # Safety
    /// Sixteen f32 must be readable at `x`.
    unsafe fn load_ptr(self, x: *const f32) -> Self::F;
    /// # Safety
    /// Sixteen f32 must be writable at `x`.
    unsafe fn store_ptr(self, a: Self::F, x: *mut f32);
    /// Widens sixteen bf16.
    ///
    /// # Safety
    /// Sixteen u16 must be readable at `x`.
    unsafe fn load_bf16_ptr(self, x: *const u16) -> Self::F;

    /// Asks for the cache line at `at`, which need not be readable, to be brought near. Changes
    /// nothing but the time of later loads.
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        let _ = at;
    }

    /// Transposes the 4 x 4 matrix that each quad of lanes forms across four vectors: lane
    /// `4 q + j` of result `r` is lane `4 q + r` of argument `j`.
    #[inline(always)]
    fn transpose_quads(self, a: [Self::I; 4]) -> [Self::I; 4] {
        let mut rows = [[0; LANES]; 4];
        for (a, row) in a.into_iter().zip(&mut rows) {
            self.store_bits(a, row);
        }
        let mut out = a;
        for (r, out) in out.iter_mut().enumerate() {
            let mut lanes = [0; LANES];
            for (lane, value) in lanes.iter_mut().enumerate() {
                *value = rows[lane % 4][lane / 4 * 4 + r];
            }
            *out = self.load_bits(&lanes);
        }
        out
    }

    /// Loads up to sixteen values; the lanes beyond are `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        match x.first_chunk::<LANES>() {
            Some(chunk) => self.load(chunk),
            None => {
                let mut padded = [fill; LANES];
                padded[..x.len()].copy_from_slice(x);
                self.load(&padded)
            }
        }
    }

    /// Stores the first `x.len()` lanes, at most sixteen.
    #[inline(always)]
    fn store_part(self, a: Self::F, x: &mut [f32]) {
        match x.first_chunk_mut::<LANES>() {
            Some(chunk) => self.store(a, chunk),
            None => {
                let mut padded = [0.0; LANES];
                self.store(a, &mut padded);
                let n = x.len();
                x.copy_from_slice(&padded[..n]);
            }
        }
    }

    /// The larger of each pair: `a > b ? a : b`.
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.gt(a, b), a, b)
    }

    /// Adds the lanes in the tree of rule 3.
    #[inline(always)]
    fn tree_sum(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        tree_sum(lanes)
    }

    /// The largest lane; the order of comparison does not matter without NaN.
    #[inline(always)]
    fn max_lane(self, a: Self::F) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(a, &mut lanes);
        lanes.into_iter().fold(f32::NEG_INFINITY, |best, x| if x > best { x } else { best })
    }
}

/// Adds sixteen lanes in the fixed tree of rule 3:
/// `(((0+8)+(4+12)) + ((2+10)+(6+14))) + (((1+9)+(5+13)) + ((3+11)+(7+15)))`.
#[inline(always)]
pub(crate) fn tree_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// A kernel, ready to run on any instruction set.
///
/// Every function on the way from `run` to a vector operation must be `#[inline(always)]`, and no
/// closure may contain one: a function compiled on its own lacks the CPU features of its caller,
/// and each of its vector operations becomes a call (thirty times slower, the same bits).
pub(crate) trait Operation {
    type Output;
    /// Computes the result with the vectors of `simd`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
