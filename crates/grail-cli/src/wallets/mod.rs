//! Which folder of wallets is meant, and where passwords of its keys come from.

mod passwords;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub use self::passwords::{Source, secret_line};
use crate::cli::{EncryptionArgs, WalletsArgs};
use crate::commands::localnet::{layout, runs};
use crate::config::{Config, NetworkConfig};
use crate::environment::variable;

/// Where btcli and the Python packages keep wallets, below the home folder.
const STANDARD_FOLDER: &str = ".bittensor/wallets";

/// A folder of wallets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is that of a local network, whose money has no value.
    pub is_local: bool,
}

impl Folder {
    /// Returns whether new coldkeys in it get a password.
    pub fn hides_coldkeys(&self, wish: EncryptionArgs) -> bool {
        wish.encrypt || !(self.is_local || wish.no_encrypt)
    }
}

/// Returns the folder of wallets that is meant: what the flags say, else the settings, else the
/// network's own.
///
/// # Errors
/// When there is no local network, or no home folder.
pub fn folder(args: &WalletsArgs, config: &Config) -> Result<Folder> {
    let local = |dir: &Path| Folder { path: layout::wallets(dir), is_local: true };
    let other = |path: &Path| Ok(Folder { path: at_home(path)?, is_local: false });
    let is_local = match &args.network {
        Some(name) => is_local(name)?,
        None => config.network.is_local(),
    };
    match (&args.path, &args.dir, &config.wallet.path) {
        (Some(path), _, _) | (None, None, Some(path)) => other(path),
        (None, Some(dir), _) => Ok(local(dir)),
        (None, None, None) if is_local => {
            let dir = runs::chosen(config.network.dir.as_deref());
            Ok(local(&dir.context(
                "for wallets of a real network, say which with --network, or their folder with --path",
            )?))
        }
        (None, None, None) => other(&Path::new("~").join(STANDARD_FOLDER)),
    }
}

/// Returns whether `network` is one on this machine.
fn is_local(network: &str) -> Result<bool> {
    let network = NetworkConfig { name: network.to_owned(), ..NetworkConfig::default() };
    if !network.is_local() {
        network.nodes().map_err(|reason| anyhow::anyhow!("--network: {reason}"))?;
    }
    Ok(network.is_local())
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
        let of = |args: &WalletsArgs, config: &Config| folder(args, config).unwrap().path;
        let none = WalletsArgs::default();
        assert_eq!(of(&none, &config), Path::new("net/wallets"));
        config.wallet.path = Some("set".into());
        assert_eq!(of(&none, &config), Path::new("set"));
        let dir = WalletsArgs { dir: Some("other".into()), ..none.clone() };
        assert_eq!(of(&dir, &config), Path::new("other/wallets"));
        let path = WalletsArgs { path: Some("flag".into()), ..none };
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
