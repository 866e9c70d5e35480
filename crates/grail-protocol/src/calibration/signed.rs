//! A calibration in a file: canonical JSON under its maker's signature.

use serde_json::Value;

use super::{CALIBRATION_BYTES_MAX, CALIBRATION_VERSION, Calibration};
use crate::canonical_json::canonical_json;
use crate::domain::prefix;
use crate::ids::{Hotkey, Signature};
use crate::prover::Sign;
use crate::signature::{self, BadSignature};

/// Keys of a file besides those of the calibration.
const SIGNER: &str = "signer";
const SIGNATURE: &str = "signature";

/// Why a calibration cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CalibrationError {
    /// More bytes than a calibration ever has.
    #[error("the calibration has {0} bytes, more than the {CALIBRATION_BYTES_MAX} allowed")]
    TooLarge(u64),
    /// Not this kind of JSON.
    #[error("the calibration cannot be read: {0}; measure it again")]
    Malformed(String),
    /// Written by another version.
    #[error(
        "the calibration has version {0}, this program reads {CALIBRATION_VERSION}; measure it again"
    )]
    WrongVersion(u64),
    /// Made by somebody whom the operator does not trust.
    #[error("the calibration is signed by {0}, which is not among calibration.signers")]
    UnknownSigner(Hotkey),
    /// Changed after it was signed.
    #[error("the calibration was changed or is not its signer's: {0}")]
    BadSignature(#[from] BadSignature),
    /// Its numbers cannot be judged by.
    #[error("the calibration cannot be used: {}; measure it again", .0.join("; "))]
    Invalid(Vec<String>),
}

impl Calibration {
    /// Returns the content as canonical JSON, without signature.
    pub(super) fn canonical(&self) -> String {
        canonical_json(&self.to_value())
    }

    /// Returns the file: one line of canonical JSON with the signature of `signer`; `sign` must use
    /// its secret key.
    ///
    /// # Errors
    /// [`CalibrationError::Invalid`] when nobody could use it.
    pub fn sign(&self, signer: Hotkey, sign: &Sign<'_>) -> Result<String, CalibrationError> {
        self.refuse_invalid()?;
        let signature = sign(&message(&self.canonical()));
        let mut value = self.to_value();
        if let Value::Object(fields) = &mut value {
            fields.insert(SIGNER.to_owned(), String::from(signer).into());
            fields.insert(SIGNATURE.to_owned(), String::from(signature).into());
        }
        Ok(canonical_json(&value))
    }

    /// Reads a file, and returns the calibration with its signer, who must be one of `trusted`.
    ///
    /// # Errors
    /// When it is not whole, of this version, of a trusted signer, and usable.
    pub fn open(bytes: &[u8], trusted: &[Hotkey]) -> Result<(Self, Hotkey), CalibrationError> {
        match bytes.len() as u64 {
            size if size > CALIBRATION_BYTES_MAX => return Err(CalibrationError::TooLarge(size)),
            _ => {}
        }
        let malformed = |error: serde_json::Error| CalibrationError::Malformed(error.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(malformed)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(version) if version == u64::from(CALIBRATION_VERSION) => {}
            Some(version) => return Err(CalibrationError::WrongVersion(version)),
            None => return Err(CalibrationError::Malformed("there is no version".to_owned())),
        }
        let mut text = |key: &str| match value.as_object_mut().and_then(|it| it.remove(key)) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(CalibrationError::Malformed(format!("there is no {key}"))),
        };
        let unreadable =
            |error: &dyn std::fmt::Display| CalibrationError::Malformed(error.to_string());
        let signer = Hotkey::try_from(text(SIGNER)?).map_err(|error| unreadable(&error))?;
        let signature =
            Signature::try_from(text(SIGNATURE)?).map_err(|error| unreadable(&error))?;
        // Cheapest first; a stranger's file is not worth a signature check.
        if !trusted.contains(&signer) {
            return Err(CalibrationError::UnknownSigner(signer));
        }
        let calibration: Self = serde_json::from_value(value).map_err(malformed)?;
        signature::verify(signer, &message(&calibration.canonical()), &signature)?;
        calibration.refuse_invalid()?;
        Ok((calibration, signer))
    }

    fn refuse_invalid(&self) -> Result<(), CalibrationError> {
        match self.complaints() {
            complaints if complaints.is_empty() => Ok(()),
            complaints => Err(CalibrationError::Invalid(complaints)),
        }
    }

    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("text keys and numbers are always JSON")
    }
}

/// Returns the message that a signer signs.
fn message(canonical: &str) -> Vec<u8> {
    [prefix("calibration"), canonical.as_bytes().to_vec()].concat()
}
