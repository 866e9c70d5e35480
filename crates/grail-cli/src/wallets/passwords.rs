//! Where passwords come from: a variable or file that was named, the settings, the variables of other
//! wallets, and last the person at the terminal.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use grail_infrastructure::wallet::encryption::Encryption;
use grail_infrastructure::wallet::{Password, read_keyfile, variable_for};
use zeroize::Zeroizing;

use crate::cli::PasswordArgs;
use crate::config::WalletConfig;
use crate::environment::variable;

/// The places to look in.
pub struct Source {
    given: Option<Password>,
}

impl Source {
    /// Returns the places that the flags and the settings name.
    ///
    /// # Errors
    /// When a variable or file that was named is not there.
    pub fn new(args: &PasswordArgs, config: &WalletConfig) -> Result<Self> {
        let given = match (&args.password_env, &args.password_file, &config.password_file) {
            (Some(name), _, _) => Some(from_variable(name)?),
            (None, Some(file), _) | (None, None, Some(file)) => Some(from_file(file)?),
            (None, None, None) => None,
        };
        Ok(Self { given })
    }

    /// As [`Source::new`], without flags.
    ///
    /// # Errors
    /// As [`Source::new`].
    pub fn from_config(config: &WalletConfig) -> Result<Self> {
        Self::new(&PasswordArgs::default(), config)
    }

    /// Returns what finds the password of a key file.
    pub fn finder(&self) -> impl Fn(&Path, Encryption) -> Option<Password> + '_ {
        |path, _| self.find(path)
    }

    fn find(&self, path: &Path) -> Option<Password> {
        self.given
            .clone()
            .or_else(|| of_other_wallets(path))
            .or_else(|| ask(&format!("password of {}: ", path.display())))
    }

    /// Returns the password for a new key file; a person types it twice.
    ///
    /// # Errors
    /// When there is none, or it is empty.
    pub fn choose(&self, path: &Path) -> Result<Password> {
        let password = match self.given.clone().or_else(|| of_other_wallets(path)) {
            Some(password) => password,
            None => {
                let first = ask(&format!("new password for {}: ", path.display()));
                let first = first.context(
                    "there is nobody to ask for a password; name one with --password-env or \
                     --password-file, or leave the key open with --no-encrypt",
                )?;
                let second = ask("the same again: ");
                ensure!(second.as_ref() == Some(&first), "the two passwords differ; try again");
                first
            }
        };
        ensure!(!password.as_bytes().is_empty(), "the password is empty; choose a longer one");
        Ok(password)
    }
}

/// Asks without echo; `None` if there is no terminal.
fn ask(question: &str) -> Option<Password> {
    secret_line(question).map(Password::new)
}

/// Asks for a secret without echo; `None` if there is no terminal.
pub fn secret_line(question: &str) -> Option<Zeroizing<String>> {
    if !io::stdin().is_terminal() {
        return None;
    }
    rpassword::prompt_password(question).ok().map(Zeroizing::new)
}

fn from_variable(name: &str) -> Result<Password> {
    let Some(value) = variable(name) else {
        bail!("the environment variable {name} is not set; it should hold the password")
    };
    let value = value.into_string().ok();
    let text = value.with_context(|| format!("the value of {name} is not UTF-8 text"))?;
    Ok(Password::new(Zeroizing::new(text)))
}

fn from_file(path: &Path) -> Result<Password> {
    let bytes = read_keyfile(path).context("while reading the password")?;
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| anyhow::anyhow!("{} is not UTF-8 text", path.display()))?;
    Ok(Password::new(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())))
}

/// Looks for the variable that btcli reads, by the path as it is given and by the absolute one.
fn of_other_wallets(path: &Path) -> Option<Password> {
    let absolute = std::path::absolute(path).ok();
    let names = [Some(path), absolute.as_deref()].into_iter().flatten().map(variable_for);
    for name in names {
        let Some(value) = variable(&name).and_then(|value| value.into_string().ok()) else {
            continue;
        };
        match Password::from_variable(&name, &Zeroizing::new(value)) {
            Ok(password) => return Some(password),
            Err(error) => tracing::warn!(%error, "a password was not read"),
        }
    }
    None
}
