//! The one place where the process's environment is read.

use std::ffi::OsString;

/// Returns all variables of the process.
pub fn variables() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}
