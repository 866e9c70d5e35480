//! How a checkpoint publishes the statistics that its sketches are whitened with.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::sketch::{UnusableWhitening, Whitening};

/// The statistics as text, with the name of the text that they were measured on.
///
/// Everybody can measure them again: the LM-head inputs over a fixed public text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhiteningRecord {
    /// SHA-256 of the text.
    pub text: Digest,
    /// Mean of each hidden dimension: little-endian f32, hexadecimal.
    pub mean: String,
    /// One over the deviation of each: the same.
    pub scale: String,
}

/// A record that holds no usable statistics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableRecord {
    /// Not a list of floats in hexadecimal.
    #[error("{0} is not a list of f32 as hexadecimal digits")]
    NotFloats(&'static str),
    /// Floats that nothing can be whitened with.
    #[error(transparent)]
    Values(#[from] UnusableWhitening),
}

impl WhiteningRecord {
    /// Writes statistics that were measured on a text.
    pub fn new(text: Digest, whitening: &Whitening) -> Self {
        let hex = |values: &[f32]| {
            hex::encode(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())
        };
        Self { text, mean: hex(whitening.mean()), scale: hex(whitening.scale()) }
    }

    /// Reads the statistics.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn read(&self) -> Result<Whitening, UnusableRecord> {
        let mean = floats(&self.mean).ok_or(UnusableRecord::NotFloats("mean"))?;
        let scale = floats(&self.scale).ok_or(UnusableRecord::NotFloats("scale"))?;
        Ok(Whitening::new(mean, scale)?)
    }
}

fn floats(text: &str) -> Option<Vec<f32>> {
    let bytes = hex::decode(text).ok()?;
    let (words, rest) = bytes.as_chunks();
    rest.is_empty().then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_to_the_last_bit() {
        let whitening =
            Whitening::new(vec![0.1, -3e-9, f32::MAX], vec![1.0, 1e6, f32::MIN_POSITIVE]).unwrap();
        let record = WhiteningRecord::new(Digest([1; 32]), &whitening);
        assert!(record.mean.starts_with("cdcccc3d"), "{}", record.mean);
        assert_eq!(record.read(), Ok(whitening));
    }

    #[test]
    fn a_record_that_is_no_statistics_is_refused() {
        let good = WhiteningRecord {
            text: Digest([1; 32]),
            mean: "00000000".into(),
            scale: "0000803f".into(),
        };
        assert!(good.read().is_ok());
        let read = |mean: &str, scale: &str| {
            WhiteningRecord { mean: mean.into(), scale: scale.into(), ..good.clone() }.read()
        };
        assert_eq!(read("0000000", "0000803f"), Err(UnusableRecord::NotFloats("mean")));
        assert_eq!(read("00000000", "0000803f00"), Err(UnusableRecord::NotFloats("scale")));
        assert_eq!(read("00000000", "zz00803f"), Err(UnusableRecord::NotFloats("scale")));
        for (mean, scale) in [
            ("", ""),
            ("0000000000000000", "0000803f"),
            ("0000c07f", "0000803f"),
            ("00000000", "00000000"),
            ("00000000", "000080bf"),
            ("00000000", "0000807f"),
        ] {
            let read = read(mean, scale);
            assert!(matches!(read, Err(UnusableRecord::Values(_))), "{mean} {scale}: {read:?}");
        }
    }
}
