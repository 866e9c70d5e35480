//! How long an extrinsic may wait for its block.

use parity_scale_codec::Encode as _;

use super::decode::{DecodeErrorKind, take_array};

/// Longest period, blocks.
const PERIOD_MAX: u64 = 1 << 16;

/// Shortest period, blocks.
const PERIOD_MIN: u64 = 4;

/// The blocks that may carry an extrinsic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    /// Any block.
    Immortal,
    /// `period` blocks (a power of two, 4 to 65,536) from a block that is `phase` modulo `period`.
    Mortal {
        /// Blocks.
        period: u64,
        /// Below `period`, a multiple of a 4,096th of it.
        phase: u64,
    },
}

/// Two bytes that are no era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:#06x} is no era: its phase is not below its period")]
pub struct EraError(pub u16);

impl Era {
    /// Returns the era of at least `period` blocks that begins at block `current`, or for long
    /// periods up to a 4,096th of it earlier. The period is raised to a power of two within 4 to
    /// 65,536.
    pub fn mortal(period: u64, current: u64) -> Self {
        let period = period.clamp(PERIOD_MIN, PERIOD_MAX).next_power_of_two();
        let phase = current % period;
        Self::Mortal { period, phase: phase - phase % quantum(period) }
    }

    /// Returns the first block that may carry the extrinsic, for one made at block `current`: its
    /// hash is signed too.
    pub fn birth(self, current: u64) -> u64 {
        match self {
            Self::Immortal => 0,
            Self::Mortal { period, phase } => {
                // Before the first such block of the chain, eras begin with the chain.
                let current = current.max(phase);
                (current - phase) / period * period + phase
            }
        }
    }

    /// Returns the first block that may no longer carry the extrinsic, for one made at block
    /// `current`; `None` for never.
    pub fn death(self, current: u64) -> Option<u64> {
        match self {
            Self::Immortal => None,
            Self::Mortal { period, .. } => self.birth(current).checked_add(period),
        }
    }

    /// Returns one byte, or two.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Immortal => vec![0],
            Self::Mortal { period, phase } => {
                let exponent = period.trailing_zeros().saturating_sub(1).clamp(1, 15);
                let phase = (phase / quantum(period)) << 4;
                let phase = u16::try_from(phase & 0xfff0).expect("16 bits are kept");
                let exponent = u16::try_from(exponent).expect("at most 15");
                (exponent | phase).encode()
            }
        }
    }

    /// Reads an era from the front of `bytes`.
    pub(super) fn decode(bytes: &mut &[u8]) -> Result<Result<Self, EraError>, DecodeErrorKind> {
        let [first] = take_array(bytes)?;
        if first == 0 {
            return Ok(Ok(Self::Immortal));
        }
        let [second] = take_array(bytes)?;
        Ok(Self::from_code(u16::from_le_bytes([first, second])))
    }

    fn from_code(code: u16) -> Result<Self, EraError> {
        let period = 2_u64 << (code % 16);
        let phase = u64::from(code >> 4) * quantum(period);
        if period >= PERIOD_MIN && phase < period {
            Ok(Self::Mortal { period, phase })
        } else {
            Err(EraError(code))
        }
    }
}

/// The unit of phases: an era has 12 bits for its phase.
fn quantum(period: u64) -> u64 {
    (period >> 12).max(1)
}
