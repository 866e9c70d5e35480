//! Which roundings a forward pass makes between its operations.

use std::fmt;
use std::str::FromStr;

use grail_protocol::constants::NUMERICS_EXACT;

/// How activations are kept between operations. It changes bits, so a rollout names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// As they are computed, in f32: the contract `exact-1`.
    #[default]
    Exact,
    /// Rounded to bf16, as inference engines on GPUs keep them: what projections, norms, attention
    /// and the gated MLP give, and the residual stream after each addition. Sums inside an
    /// operation and the LM head stay f32. Keys are rounded once more, after their rotation, where
    /// a cache keeps them: generating reads them from there, scoring has those of its own pass. So
    /// the two differ a little, as on that hardware, and each is still a function of its request
    /// alone.
    Bf16,
}

impl Runtime {
    /// Returns the name of the numerics in a rollout's header.
    pub fn numerics(self) -> &'static str {
        match self {
            Self::Exact => NUMERICS_EXACT,
            Self::Bf16 => "bf16-1",
        }
    }

    /// Returns the name in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Bf16 => "bf16",
        }
    }

    /// Rounds values on their way from one operation to the next.
    #[inline]
    pub(crate) fn pass(self, values: &mut [f32]) {
        match self {
            Self::Exact => {}
            Self::Bf16 => round(values),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no runtime's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no runtime {0:?}; choose exact or bf16")]
pub struct UnknownRuntime(String);

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(name: &str) -> Result<Self, UnknownRuntime> {
        [Self::Exact, Self::Bf16]
            .into_iter()
            .find(|runtime| runtime.name() == name)
            .ok_or_else(|| UnknownRuntime(name.to_owned()))
    }
}

/// Rounds to the nearest bf16, ties to even; what is too large becomes infinite.
fn round(values: &mut [f32]) {
    for value in values {
        let bits = value.to_bits();
        // Half of the last place, less one where the last kept bit is 0: ties go to even.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
        // The sum could carry a NaN into a number.
        *value = if value.is_nan() { *value } else { f32::from_bits(rounded) };
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_back_and_others_refused() {
        for runtime in [Runtime::Exact, Runtime::Bf16] {
            assert_eq!(runtime.to_string().parse(), Ok(runtime));
        }
        assert_ne!(Runtime::Exact.numerics(), Runtime::Bf16.numerics());
        assert!("fp8".parse::<Runtime>().unwrap_err().to_string().contains("exact or bf16"));
    }

    #[test]
    fn exact_values_pass_as_they_are() {
        let mut values = [1.000_000_1, f32::MIN_POSITIVE, -0.0];
        Runtime::Exact.pass(&mut values);
        assert_eq!(
            values.map(f32::to_bits),
            [1.000_000_1, f32::MIN_POSITIVE, -0.0].map(f32::to_bits)
        );
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_format(bits in any::<u32>()) {
            let value = f32::from_bits(bits);
            let mut values = [value];
            Runtime::Bf16.pass(&mut values);
            if value.is_nan() {
                prop_assert!(values[0].is_nan());
            } else {
                prop_assert_eq!(values[0].to_bits(), bf16::from_f32(value).to_f32().to_bits());
            }
        }
    }
}
