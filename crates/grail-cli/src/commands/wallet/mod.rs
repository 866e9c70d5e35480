//! `grail wallet`: makes, imports and shows wallets; signs and verifies with their keys.

mod make;
mod show;
mod sign;

use anyhow::Result;

use crate::cli::WalletCommand;
use crate::config::Config;
use crate::exit::Outcome;

/// Does what the options ask for.
pub fn run(command: &WalletCommand, config: &Config) -> Result<Outcome> {
    match command {
        WalletCommand::New(args) => make::new(args, config),
        WalletCommand::Import(args) => make::import(args, config),
        WalletCommand::List(args) => show::list(args, config),
        WalletCommand::Show(args) => show::show(args, config),
        WalletCommand::Sign(args) => sign::sign(args, config),
        WalletCommand::Verify(args) => sign::verify(args),
    }
}
