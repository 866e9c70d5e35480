//! Which folder of wallets is meant, and where passwords of its keys come from.

mod passwords;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::passwords::{Source, secret_line};
use crate::cli::WalletsArgs;
use crate::commands::localnet::{layout, runs};
use crate::config::Config;
use crate::environment::variable;

/// Where btcli and the Python packages keep wallets, below the home folder.
const STANDARD_FOLDER: &str = ".bittensor/wallets";

/// Returns the folder of wallets that is meant: what the flags say, else the settings, else the
/// network's own.
///
/// # Errors
/// When there is no local network, or no home folder.
pub fn folder(args: &WalletsArgs, config: &Config) -> Result<PathBuf> {
    match (&args.path, &args.dir, &config.wallet.path) {
        (Some(path), _, _) | (None, None, Some(path)) => at_home(path),
        (None, Some(dir), _) => Ok(layout::wallets(dir)),
        (None, None, None) if config.network.is_local() => {
            let dir = runs::chosen(config.network.dir.as_deref());
            Ok(layout::wallets(&dir.context("or name a folder of wallets with --path")?))
        }
        (None, None, None) => at_home(&Path::new("~").join(STANDARD_FOLDER)),
    }
}

/// Replaces a leading `~` as shells do; settings come from files that no shell has read.
fn at_home(path: &Path) -> Result<PathBuf> {
    let Ok(rest) = path.strip_prefix("~") else { return Ok(path.to_owned()) };
    let home = variable("HOME").filter(|home| !home.is_empty());
    let home = home.with_context(|| format!("HOME is not set; write {} out", path.display()))?;
    Ok(PathBuf::from(home).join(rest))
}

/// Returns the names of wallet and hotkey that `name` and `hotkey` mean: `cold/hot` names both.
///
/// # Errors
/// When the hotkey is named twice.
pub fn names<'a>(
    name: &'a str,
    hotkey: Option<&'a str>,
    default: &'a str,
) -> Result<(&'a str, &'a str)> {
    match (name.split_once('/'), hotkey) {
        (None, hotkey) => Ok((name, hotkey.unwrap_or(default))),
        (Some((cold, hot)), None) => Ok((cold, hot)),
        (Some((_, hot)), Some(other)) => {
            anyhow::bail!("the hotkey is named twice, as {hot} and as {other}; name it once")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_settings_and_settings_over_the_network() {
        let mut config = Config::default();
        config.network.dir = Some("net".into());
        let of = |args: &WalletsArgs, config: &Config| folder(args, config).unwrap();
        let none = WalletsArgs::default();
        assert_eq!(of(&none, &config), Path::new("net/wallets"));
        config.wallet.path = Some("set".into());
        assert_eq!(of(&none, &config), Path::new("set"));
        let dir = WalletsArgs { dir: Some("other".into()), path: None };
        assert_eq!(of(&dir, &config), Path::new("other/wallets"));
        let path = WalletsArgs { dir: None, path: Some("flag".into()) };
        assert_eq!(of(&path, &config), Path::new("flag"));
    }

    #[test]
    fn a_name_may_hold_both_names() {
        assert_eq!(names("w", None, "default").unwrap(), ("w", "default"));
        assert_eq!(names("w", Some("h"), "default").unwrap(), ("w", "h"));
        assert_eq!(names("w/h", None, "default").unwrap(), ("w", "h"));
        assert!(names("w/h", Some("i"), "default").is_err());
    }
}
