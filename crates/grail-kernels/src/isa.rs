//! Finds out which instruction sets this CPU has.

use crate::KernelError;
use crate::simd::{Operation, portable::Portable};
use std::fmt;
use std::str::FromStr;

/// An instruction set that the kernels are written for. All of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust with a software fused multiply-add: runs everywhere, about a hundred times slower.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2Fma,
    /// x86-64 with AVX-512F.
    Avx512,
    /// AArch64.
    Neon,
}

impl Isa {
    /// Every instruction set, slowest first.
    const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2Fma, Self::Avx512];

    /// Returns the fastest instruction set of this CPU.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Returns what this CPU can run, slowest first; never empty.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The name in configuration and logs: `portable`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2Fma => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Fma => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f") && Self::Avx2Fma.is_available(),
            // NEON with fused multiply-add is part of the AArch64 base.
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(any(not(target_arch = "x86_64"), not(target_arch = "aarch64")))]
            _ => false,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    /// Reads a [`Isa::name`]. Says nothing about this CPU.
    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| KernelError::UnknownIsa { name: name.chars().take(32).collect() })
    }
}

/// An instruction set that this CPU is known to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verified(Isa);

impl Verified {
    pub(crate) fn new(isa: Isa) -> Result<Self, KernelError> {
        if isa.is_available() {
            return Ok(Self(isa));
        }
        let available =
            Isa::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        Err(KernelError::UnavailableIsa { isa, available })
    }

    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    /// Runs `operation` compiled for this instruction set.
    #[inline]
    pub(crate) fn run<O: Operation>(self, operation: O) -> O::Output {
        match self.0 {
            // SAFETY: `new` has seen that the CPU has AVX2 and FMA.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Fma => unsafe { crate::simd::avx2::run(operation) },
            // SAFETY: `new` has seen that the CPU has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { crate::simd::avx512::run(operation) },
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => crate::simd::neon::run(operation),
            // `new` refuses the sets of other architectures, so only the portable one is left.
            _ => operation.run(Portable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>().unwrap(), isa);
        }
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("portable"), "{error}");
    }

    #[test]
    fn the_portable_path_is_always_there() {
        assert_eq!(Isa::available()[0], Isa::Portable);
        assert_eq!(Isa::available().last(), Some(&Isa::detect()));
    }

    #[test]
    fn an_absent_instruction_set_is_refused() {
        for isa in Isa::ALL {
            assert_eq!(Verified::new(isa).is_ok(), Isa::available().contains(&isa), "{isa}");
        }
    }
}
