//! Options of `grail wallet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use grail_infrastructure::wallet::Scheme;

/// What to do with wallets. Layout and key files are those of btcli and the Python packages.
#[derive(Debug, Subcommand)]
pub enum WalletCommand {
    /// Make a hotkey, and the wallet's coldkey if it has none; nothing is ever overwritten.
    New(WalletNewArgs),
    /// List the wallets of a folder.
    List(WalletListArgs),
    /// Print a wallet's addresses; asks for no password.
    Show(WalletShowArgs),
    /// Take over a key from its phrase, seed, private key, secret URI or key file.
    Import(WalletImportArgs),
    /// Sign a message and print the signature.
    Sign(WalletSignArgs),
    /// Check a signature; exit code 0 if it is valid, 1 if not.
    Verify(WalletVerifyArgs),
}

/// Where wallets lie.
#[derive(Clone, Debug, Default, Args)]
pub struct WalletsArgs {
    /// Network whose wallets are meant, as of the roles (default local).
    #[arg(long, value_name = "NAME", conflicts_with_all = ["path", "dir"])]
    pub network: Option<String>,
    /// Folder of wallets; default: wallet.path, else that of the local network, and on other
    /// networks ~/.bittensor/wallets.
    #[arg(long, value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// Folder of a local network; default: the running or newest ./grail-localnet/run-NNN.
    #[arg(long, value_name = "DIR", conflicts_with = "path")]
    pub dir: Option<PathBuf>,
}

/// Where the password of an encrypted key comes from. Without any of these it is looked for in
/// wallet.password_file, then in the variables BT_PW_… of other wallets, then asked for.
#[derive(Clone, Debug, Default, Args)]
pub struct PasswordArgs {
    /// Environment variable that holds the password.
    #[arg(long, value_name = "VARIABLE", conflicts_with = "password_file")]
    pub password_env: Option<String>,
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// Whether a new key gets a password.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct EncryptionArgs {
    /// Put the key under a password; coldkeys outside of a local network are anyway.
    #[arg(long)]
    pub encrypt: bool,
    /// Leave the coldkey without a password, although it is not one of a local network.
    #[arg(long, conflicts_with = "encrypt")]
    pub no_encrypt: bool,
}

/// Options of `grail wallet new`.
#[derive(Debug, Args)]
pub struct WalletNewArgs {
    /// Name of the wallet, or WALLET/HOTKEY.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Name of the hotkey (default `default`).
    #[arg(long, value_name = "NAME")]
    pub hotkey: Option<String>,
    /// Words of the phrases: 12, 15, 18, 21 or 24.
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub words: usize,
    /// Print the phrases, once; they are the only backup of a key.
    #[arg(long)]
    pub show_mnemonic: bool,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    /// Put the hotkey under the same password; roles then ask for it at their start.
    #[arg(long)]
    pub encrypt_hotkey: bool,
    #[command(flatten)]
    pub password: PasswordArgs,
    #[command(flatten)]
    pub wallets: WalletsArgs,
}

/// Options of `grail wallet list`.
#[derive(Debug, Args)]
pub struct WalletListArgs {
    #[command(flatten)]
    pub wallets: WalletsArgs,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `grail wallet show`.
#[derive(Debug, Args)]
pub struct WalletShowArgs {
    /// Name of the wallet.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub wallets: WalletsArgs,
    /// Answer as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Options of `grail wallet import`.
#[derive(Debug, Args)]
#[command(after_help = "\
The secret is asked for without echo unless --secret-file or --secret-env names it; it is no option \
because other users can see those. It may be a phrase, a seed or private key in hexadecimal digits, a \
secret URI (PHRASE//hard/soft///password), or a whole key file, encrypted or not: its password then \
is the one that is given, and also the new one's.")]
pub struct WalletImportArgs {
    /// Name of the wallet, or WALLET/HOTKEY.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Name of the hotkey (default `default`).
    #[arg(long, value_name = "NAME", conflicts_with = "coldkey")]
    pub hotkey: Option<String>,
    /// Import as the wallet's coldkey instead.
    #[arg(long)]
    pub coldkey: bool,
    /// File with the secret; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Environment variable that holds the secret.
    #[arg(long, value_name = "VARIABLE", conflicts_with = "secret_file")]
    pub secret_env: Option<String>,
    /// Scheme of a bare secret: sr25519 or ed25519; a key file says its own.
    #[arg(long, value_name = "SCHEME", default_value_t = Scheme::Sr25519)]
    pub scheme: Scheme,
    #[command(flatten)]
    pub encryption: EncryptionArgs,
    #[command(flatten)]
    pub password: PasswordArgs,
    #[command(flatten)]
    pub wallets: WalletsArgs,
}

/// Options of `grail wallet sign`.
#[derive(Debug, Args)]
pub struct WalletSignArgs {
    /// Name of the wallet, or WALLET/HOTKEY.
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub message: MessageArgs,
    /// Name of the hotkey (default `default`).
    #[arg(long, value_name = "NAME", conflicts_with = "coldkey")]
    pub hotkey: Option<String>,
    /// Sign with the coldkey instead.
    #[arg(long)]
    pub coldkey: bool,
    /// Sign <Bytes>MESSAGE</Bytes>, which can be no transaction.
    #[arg(long)]
    pub wrap: bool,
    #[command(flatten)]
    pub password: PasswordArgs,
    #[command(flatten)]
    pub wallets: WalletsArgs,
}

/// A message.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct MessageArgs {
    /// The message as text.
    #[arg(value_name = "MESSAGE")]
    pub text: Option<String>,
    /// The message as hexadecimal digits.
    #[arg(long, value_name = "HEX")]
    pub hex: Option<String>,
    /// The message as the content of a file, at most 64 MiB.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Options of `grail wallet verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
A signature over <Bytes>MESSAGE</Bytes>, as browser wallets make it, is valid for MESSAGE too.")]
pub struct WalletVerifyArgs {
    /// Address of the key that is said to have signed.
    #[arg(value_name = "SS58")]
    pub address: String,
    /// The signature: 128 hexadecimal digits, with or without 0x.
    #[arg(value_name = "SIGNATURE")]
    pub signature: String,
    #[command(flatten)]
    pub message: MessageArgs,
    /// Scheme of the key: sr25519 or ed25519.
    #[arg(long, value_name = "SCHEME", default_value_t = Scheme::Sr25519)]
    pub scheme: Scheme,
}
