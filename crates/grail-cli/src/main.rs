//! The grail command: parses, resolves one configuration, builds everything once, hands it down.

mod base_model;
mod bench;
mod cli;
mod commands;
mod config;
mod default_model;
mod doctor;
mod engine;
mod env_vars;
mod environment;
mod exit;
mod explain;
mod files;
mod globals;
mod human_duration;
mod inference;
mod lab;
mod logs;
mod memory;
mod output;
mod problems;
mod report;
mod serve;
mod wallets;
mod window_context;

use std::process::ExitCode;

use clap::Parser as _;
use grail_infrastructure::local::network::NetworkRole;

use crate::cli::{BenchCommand, Cli, Command};
use crate::config::{Config, ConfigError};
use crate::exit::Outcome;
use crate::globals::Globals;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            output::error_line(&format!("error: {}", message(&error)));
            let usage = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if usage { exit::USAGE } else { exit::FAILED })
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Outcome> {
    let globals = Globals::from(cli);
    match &cli.command {
        Command::Localnet(args) => commands::localnet::run(args, &globals),
        Command::Mine(args) => commands::role::run(NetworkRole::Miner, args, &globals),
        Command::Validate(args) => commands::role::run(NetworkRole::Validator, args, &globals),
        Command::Train(args) => commands::role::run(NetworkRole::Trainer, args, &globals),
        Command::Verify(args) => {
            let config = simple(&globals, args.threads);
            Ok(decided(config.and_then(|config| commands::verify::run(args, &config))))
        }
        Command::Explain(args) => {
            let config = simple(&globals, args.threads);
            Ok(decided(config.and_then(|config| commands::explain::run(args, &config))))
        }
        Command::Model(command) => commands::model::run(command, &simple(&globals, None)?),
        Command::Wallet(command) => commands::wallet::run(command, &simple(&globals, None)?),
        Command::Doctor(args) => commands::doctor::run(args, &globals),
        Command::Bench(command) => {
            let BenchCommand::Engine(args) = command;
            commands::bench::run(command, &simple(&globals, args.threads)?)
        }
        Command::Lab(command) => commands::lab::run(command, &globals),
        Command::Sft(args) => commands::sft::run(args, &simple(&globals, args.threads)?),
        Command::Generate(args) => commands::generate::run(args, &simple(&globals, args.threads)?),
        Command::Serve(args) => commands::serve::run(args, &simple(&globals, args.threads)?),
    }
}

/// Exit code 1 means rejected, so every failure before a verdict must be a 2.
fn decided(outcome: anyhow::Result<Outcome>) -> Outcome {
    outcome.unwrap_or_else(|error| {
        output::error_line(&format!("error: {}", message(&error)));
        Outcome::Undecided
    })
}

/// Returns the error and its causes; a cause that its parent has in its own text is not said twice.
fn message(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match told.as_str() {
        "" => cause,
        told if told.contains(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

/// Resolves the configuration of a command without settings of its own, and sets up the logs.
fn simple(globals: &Globals, threads: Option<usize>) -> anyhow::Result<Config> {
    let flags = |config: &mut Config| {
        globals.overlay(config);
        if let Some(threads) = threads {
            config.engine.threads = threads;
        }
    };
    let config = config::resolve(globals.config.as_deref(), environment::variables(), flags)?;
    logs::init(config.log, None)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn no_cause_is_said_twice() {
        let io = || std::io::Error::other("disk full");
        let error = anyhow::Error::new(io()).context("cannot write m: disk full");
        assert_eq!(message(&error), "cannot write m: disk full");
        let error = Err::<(), _>(io()).context("while saving").unwrap_err();
        assert_eq!(message(&error), "while saving: disk full");
    }
}
