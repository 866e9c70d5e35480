//! The one place where the process's environment is read.

use std::ffi::OsString;

/// Returns all variables of the process.
pub fn variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// Returns one variable of the process, for secrets and names that are no settings.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}
