//! Tells what a wallet holds, without opening anything.

use anyhow::{Result, ensure};
use grail_infrastructure::wallet::encryption::Encryption;
use grail_infrastructure::wallet::{WalletError, WalletFolder, is_open_to_others, read_keyfile};
use grail_protocol::ids::Hotkey;
use serde::Serialize;
use std::path::{Path, PathBuf};

use crate::cli::{WalletListArgs, WalletShowArgs};
use crate::config::Config;
use crate::exit::Outcome;
use crate::output;
use crate::wallets;

/// Version of the JSON.
const SCHEMA_VERSION: u32 = 1;

/// A wallet as JSON.
#[derive(Serialize)]
struct Shown {
    name: String,
    path: PathBuf,
    coldkey: ShownKey,
    hotkeys: Vec<ShownHotkey>,
}

/// A key as JSON; `null` is what no file tells without a password.
#[derive(Serialize)]
struct ShownKey {
    address: Option<Hotkey>,
    has_secret: bool,
    encryption: Option<String>,
    open_to_others: bool,
}

#[derive(Serialize)]
struct ShownHotkey {
    name: String,
    #[serde(flatten)]
    key: ShownKey,
}

#[derive(Serialize)]
struct Answer {
    schema_version: u32,
    wallets: Vec<Shown>,
}

/// `grail wallet list`.
pub fn list(args: &WalletListArgs, config: &Config) -> Result<Outcome> {
    let dir = wallets::folder(&args.wallets, config)?.path;
    let names = WalletFolder::list(&dir)?;
    let folders: Vec<WalletFolder> =
        names.iter().map(|name| WalletFolder::new(&dir, name)).collect::<Result<_, _>>()?;
    if args.json {
        return json(&folders);
    }
    if folders.is_empty() {
        output::line(&format!(
            "no wallets in {}; make one with `grail wallet new`",
            dir.display()
        ))?;
    }
    folders.iter().try_for_each(describe)?;
    Ok(Outcome::Done)
}

/// `grail wallet show`.
pub fn show(args: &WalletShowArgs, config: &Config) -> Result<Outcome> {
    let (name, only) = args
        .name
        .split_once('/')
        .map_or((args.name.as_str(), None), |(name, hotkey)| (name, Some(hotkey)));
    let folder = WalletFolder::new(&wallets::folder(&args.wallets, config)?.path, name)?;
    ensure!(
        folder.dir().is_dir(),
        "no wallet at {}; check its name and folder, or create it first",
        folder.dir().display()
    );
    if let Some(hotkey) = only {
        let key = shown(&folder.hotkey_path(hotkey)?, folder.hotkey_address(hotkey)?)?;
        ensure!(
            key.has_secret || key.address.is_some(),
            "wallet {name} has no hotkey {hotkey}; it has {}",
            folder.hotkeys()?.join(", ")
        );
    }
    if args.json {
        return json(&[folder]);
    }
    describe(&folder)?;
    Ok(Outcome::Done)
}

fn json(folders: &[WalletFolder]) -> Result<Outcome> {
    let wallets = folders.iter().map(wallet).collect::<Result<_>>()?;
    let answer = Answer { schema_version: SCHEMA_VERSION, wallets };
    output::line(&serde_json::to_string_pretty(&answer)?)?;
    Ok(Outcome::Done)
}

/// Prints the addresses of a wallet.
pub fn describe(folder: &WalletFolder) -> Result<()> {
    let wallet = wallet(folder)?;
    output::line(&format!("{:<8} {}", "wallet", wallet.name))?;
    if wallet.coldkey.has_secret || wallet.coldkey.address.is_some() {
        output::line(&format!("{:<8} {}", "coldkey", words(&wallet.coldkey, "")))?;
    }
    for hotkey in &wallet.hotkeys {
        output::line(&format!("{:<8} {}", "hotkey", words(&hotkey.key, &hotkey.name)))?;
    }
    Ok(())
}

fn words(key: &ShownKey, name: &str) -> String {
    let address = key.address.map_or("(known only with its password)".to_owned(), Hotkey::to_ss58);
    let encryption = key.encryption.as_ref().map(|kind| format!("encrypted ({kind})"));
    let kept = match (key.has_secret, encryption) {
        (false, _) => Some("address only".to_owned()),
        (true, encryption) => encryption,
    };
    let open = key.open_to_others.then(|| "readable by others: chmod 600 it".to_owned());
    let name = Some(name.to_owned()).filter(|name| !name.is_empty());
    [Some(address), name, kept, open].into_iter().flatten().collect::<Vec<_>>().join("  ")
}

fn wallet(folder: &WalletFolder) -> Result<Shown> {
    let hotkeys = folder.hotkeys()?.into_iter().map(|name| {
        let key = shown(&folder.hotkey_path(&name)?, folder.hotkey_address(&name)?)?;
        Ok(ShownHotkey { name, key })
    });
    Ok(Shown {
        name: folder.name().to_owned(),
        path: folder.dir().to_owned(),
        coldkey: shown(&folder.coldkey_path(), folder.coldkey_address()?)?,
        hotkeys: hotkeys.collect::<Result<_>>()?,
    })
}

fn shown(path: &Path, address: Option<Hotkey>) -> Result<ShownKey> {
    let encryption = match read_keyfile(path) {
        Ok(bytes) => Some(Encryption::of(&bytes)),
        Err(WalletError::Missing(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(ShownKey {
        address,
        has_secret: encryption.is_some(),
        encryption: encryption.flatten().map(|encryption| encryption.to_string()),
        open_to_others: is_open_to_others(path),
    })
}
