//! `grail wallet`: makes and shows the keys that roles act with on a local network.

use anyhow::{Context, Result};
use grail_infrastructure::wallet::{NewKey, Wallet};
use grail_ports::signer::Signer;

use super::localnet::{layout, runs};
use crate::cli::WalletCommand;
use crate::config::Config;
use crate::exit::Outcome;
use crate::output;

/// Does what the options ask for.
pub fn run(command: &WalletCommand, config: &Config) -> Result<Outcome> {
    match command {
        WalletCommand::New(args) => {
            let wallets = layout::wallets(&runs::chosen(
                args.dir.as_deref().or(config.network.dir.as_deref()),
            )?);
            let wallet = Wallet::create(&wallets, &args.name, layout::HOTKEY_NAME, NewKey::Random)
                .with_context(|| format!("while making wallet {}", args.name))?;
            show(&wallet)?;
            output::line(&format!(
                "kept in {}, not encrypted: fit for a local network only",
                wallets.join(&args.name).display()
            ))?;
        }
        WalletCommand::Show(args) => {
            let wallets = layout::wallets(&runs::chosen(
                args.dir.as_deref().or(config.network.dir.as_deref()),
            )?);
            let wallet = Wallet::load(&wallets, &args.name, layout::HOTKEY_NAME)
                .with_context(|| format!("while loading wallet {}", args.name))?;
            show(&wallet)?;
        }
    }
    Ok(Outcome::Done)
}

fn show(wallet: &Wallet) -> Result<()> {
    output::line(&format!("{:<8} {}", "wallet", wallet.name()))?;
    output::line(&format!("{:<8} {}", "hotkey", wallet.hotkey()))?;
    Ok(())
}
