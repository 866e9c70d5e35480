//! Passwords of key files, and the environment variables that other wallets keep them in.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// What such a variable's name starts with.
const VARIABLE_PREFIX: &str = "BT_PW_";

/// A password; zeroed when dropped and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<String>);

/// A variable whose value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value of {0} is not base64 of a scrambled password; set it with the wallet's own tool, or \
     unset it"
)]
pub struct UnreadableVariable(pub String);

impl Password {
    /// Returns the password `text`.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// Returns the password's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the password that `value` holds in the variable `name`: base64 of the password, each
    /// byte XORed with the variable's name. That hides it from a glance, and from nobody else.
    ///
    /// # Errors
    /// When the value is not such text.
    pub fn from_variable(name: &str, value: &str) -> Result<Self, UnreadableVariable> {
        let refuse = || UnreadableVariable(name.to_owned());
        let mut bytes = Zeroizing::new(STANDARD.decode(value.trim()).map_err(|_| refuse())?);
        scramble(&mut bytes, name);
        let text = String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            refuse()
        })?;
        Ok(Self(Zeroizing::new(text)))
    }

    /// Returns the value that the variable `name` has for this password.
    pub fn to_variable(&self, name: &str) -> String {
        let mut bytes = Zeroizing::new(self.as_bytes().to_vec());
        scramble(&mut bytes, name);
        STANDARD.encode(&*bytes)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Returns the name of the variable for the key file at `path`.
pub fn variable_for(path: &Path) -> String {
    let path = path.to_string_lossy().replace(['/', '.'], "_").to_uppercase();
    format!("{VARIABLE_PREFIX}{path}")
}

fn scramble(bytes: &mut [u8], name: &str) {
    for (byte, key) in bytes.iter_mut().zip(name.bytes().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_survives_its_variable_and_is_never_shown() {
        let name = variable_for(Path::new("/home/u/.bittensor/wallets/w/coldkey"));
        let password = Password::new(Zeroizing::new("pässwörd with spaces".repeat(9)));
        let value = password.to_variable(&name);
        assert!(!value.contains("rd with"));
        assert_eq!(Password::from_variable(&name, &value), Ok(password.clone()));
        assert_eq!(format!("{password:?}"), "Password(…)");
    }

    #[test]
    fn a_damaged_value_is_named_by_its_variable() {
        for value in ["*", "AAA", "////"] {
            let error = Password::from_variable("BT_PW_X", value).unwrap_err().to_string();
            assert!(error.contains("BT_PW_X") && !error.contains(value), "{error}");
        }
    }
}
