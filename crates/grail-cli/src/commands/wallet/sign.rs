//! Signs messages, and checks signatures.

use anyhow::{Context, Result, bail};
use grail_infrastructure::wallet::{WalletFolder, wrapped};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Hotkey, Signature};

use crate::cli::{MessageArgs, WalletSignArgs, WalletVerifyArgs};
use crate::config::Config;
use crate::exit::Outcome;
use crate::files::read_bounded;
use crate::output;
use crate::wallets::{self, Source};

/// Largest file that is signed.
const MESSAGE_BYTES_MAX: u64 = 64 << 20;

/// `grail wallet sign`.
pub fn sign(args: &WalletSignArgs, config: &Config) -> Result<Outcome> {
    let (name, hotkey) = wallets::names(&args.name, args.hotkey.as_deref(), &config.wallet.hotkey)?;
    let folder = WalletFolder::new(&wallets::folder(&args.wallets, config)?.path, name)?;
    let message = message(&args.message)?;
    let source = Source::new(&args.password, &config.wallet)?;
    let find = source.finder();
    let key = match args.coldkey {
        true => folder.coldkey(&find)?,
        false => folder.hotkey(hotkey, &find)?,
    };
    let signature = match args.wrap {
        true => key.sign(&wrapped(&message)),
        false => key.sign(&message),
    };
    output::line(&format!("0x{}", hex::encode(signature.0)))?;
    Ok(Outcome::Done)
}

/// `grail wallet verify`.
pub fn verify(args: &WalletVerifyArgs) -> Result<Outcome> {
    let address: Hotkey = args.address.parse()?;
    let digits = args.signature.strip_prefix("0x").unwrap_or(&args.signature);
    let signature = Signature::try_from(digits.to_owned())?;
    let message = message(&args.message)?;
    if args.scheme.verify_wrapped(address, &message, &signature) {
        output::line(&format!("valid: {address} signed this message"))?;
        return Ok(Outcome::Done);
    }
    output::line(&format!(
        "not valid: it is no {} signature of {address} for this message",
        args.scheme
    ))?;
    Ok(Outcome::Rejected)
}

fn message(args: &MessageArgs) -> Result<Vec<u8>> {
    match (&args.text, &args.hex, &args.file) {
        (Some(text), _, _) => Ok(text.as_bytes().to_vec()),
        (_, Some(digits), _) => hex::decode(digits.strip_prefix("0x").unwrap_or(digits))
            .context("--hex takes an even number of hexadecimal digits"),
        (_, _, Some(path)) => read_bounded(path, MESSAGE_BYTES_MAX)
            .with_context(|| format!("while reading {}", path.display())),
        (None, None, None) => bail!("there is no message; give text, --hex or --file"),
    }
}
