//! The command line: every command, option and help text, and nothing that acts on them.

mod evidence;
mod inference;
mod lab;
mod models;
mod network;
mod wallet;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

pub use self::evidence::{ExplainArgs, FactsArgs, RolloutPlace, VerifyArgs};
pub use self::inference::{GenerateArgs, ServeArgs};
pub use self::lab::{LabAttacksArgs, LabCalibrateArgs, LabCommand, LabSequentialArgs};
pub use self::models::{
    BenchCommand, BenchEngineArgs, ModelCommand, ModelImportArgs, ModelShowArgs, SftArgs,
};
pub use self::network::{DoctorArgs, DoctorRole, LocalnetArgs, PlaceArgs, RoleArgs};
pub use self::wallet::{
    EncryptionArgs, MessageArgs, PasswordArgs, WalletCommand, WalletImportArgs, WalletListArgs,
    WalletNewArgs, WalletShowArgs, WalletSignArgs, WalletVerifyArgs, WalletsArgs,
};

const AFTER_HELP: &str = "\
Try it:
  grail localnet                 a whole verified subnet on this machine, in minutes
  grail localnet --cheats copied-file --windows 4 --report run.json
  grail verify FILE --checkpoint DIR
  grail explain FILE --rollout 0/3 --checkpoint DIR
  grail generate --chat 'What is 12 + 7?'
  grail serve --port 8000        an OpenAI-compatible server

Options can also be set in a file (--config) and by GRAIL_* variables; flags win over variables, \
variables over the file. docs/configuration.md lists them all.";

/// Verifiable post-training for language models: miners prove their rollouts, validators check
/// them bit for bit, a trainer learns from what was accepted.
#[derive(Debug, Parser)]
#[command(
    name = "grail",
    version,
    about,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Tell more: -v what each role does, -vv every rollout.
    #[arg(short, long, action = ArgAction::Count, global = true, display_order = 900)]
    pub verbose: u8,
    /// Write log lines as JSON.
    #[arg(long, global = true, display_order = 901)]
    pub log_json: bool,
    /// Read settings from this TOML file; a key that is not known is an error.
    #[arg(long, global = true, value_name = "FILE", display_order = 902)]
    pub config: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole subnet on this machine: chain, beacon, store, miners, validator and trainer.
    Localnet(LocalnetArgs),
    /// Mine: generate rollouts, prove them, upload them before the window's deadline.
    Mine(RoleArgs),
    /// Validate: fetch the miners' files, verify, score, publish verdicts and set weights.
    Validate(RoleArgs),
    /// Train on validated rollouts and publish checkpoints.
    Train(RoleArgs),
    /// Check a rollout file offline with the validator's own code.
    Verify(VerifyArgs),
    /// Tell why a rollout passes or fails, or what a published verdict means.
    Explain(Box<ExplainArgs>),
    /// Import a model, or show what a folder holds.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Make, import and show wallets; sign and verify with their keys.
    #[command(subcommand)]
    Wallet(WalletCommand),
    /// Check everything that a role needs, and say what to do about what is not well.
    Doctor(DoctorArgs),
    /// Generate text: from a prompt, or as an answer to a message.
    Generate(GenerateArgs),
    /// Serve a model: OpenAI's API, and token ids in and out.
    Serve(ServeArgs),
    /// Make a starting model: supervised training on an environment's own solutions.
    Sft(SftArgs),
    /// Measure the engine on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Attack the proof: honest and cheating miners on a real model, and what validators see.
    #[command(subcommand)]
    Lab(LabCommand),
}

/// Options that choose the environment.
#[derive(Clone, Debug, Default, Args)]
pub struct EnvironmentArgs {
    /// Environment that poses the problems: `arithmetic` (default) or `sat`.
    #[arg(long, value_name = "ID")]
    pub environment: Option<String>,
    /// Its parameters as JSON, such as '{"difficulty":2}'.
    #[arg(long, value_name = "JSON")]
    pub environment_params: Option<String>,
    /// Its difficulty, 1 to 5 for `arithmetic`; short for the parameter `difficulty`.
    #[arg(long, value_name = "N")]
    pub difficulty: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            assert!(command.get_about().is_some(), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
