//! Makes keys and takes over those that a person has.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use grail_infrastructure::wallet::{
    Key, Password, Scheme, WalletFolder, read_keyfile, read_secret,
};
use zeroize::Zeroizing;

use super::show::describe;
use crate::cli::{WalletImportArgs, WalletNewArgs};
use crate::config::Config;
use crate::environment::variable;
use crate::exit::Outcome;
use crate::output;
use crate::wallets::{self, Source};

/// Most bytes of a secret on standard input; a key file has about 600.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// `grail wallet new`.
pub fn new(args: &WalletNewArgs, config: &Config) -> Result<Outcome> {
    let (name, hotkey) = wallets::names(&args.name, args.hotkey.as_deref(), &config.wallet.hotkey)?;
    let place = wallets::folder(&args.wallets, config)?;
    let folder = WalletFolder::new(&place.path, name)?;
    // Asked first, so that a name that is taken costs nobody a password.
    let hotkey_path = folder.hotkey_path(hotkey)?;
    ensure!(
        !hotkey_path.exists() && !folder.hotkey_public_path(hotkey)?.exists(),
        "{} already exists; choose another name, or move the file away",
        hotkey_path.display()
    );
    let has_coldkey = folder.coldkey_path().exists() || folder.coldkey_public_path().exists();
    let random = || Key::random(Scheme::Sr25519, args.words).context("while making the key");
    let coldkey = if has_coldkey { None } else { Some(random()?) };
    let key = random()?;
    let hides_coldkey = coldkey.is_some() && place.hides_coldkeys(args.encryption);
    let password = match hides_coldkey || args.encrypt_hotkey {
        true => Some(Source::new(&args.password, &config.wallet)?.choose(&folder.coldkey_path())?),
        false => None,
    };
    if let Some(coldkey) = &coldkey {
        folder.write_coldkey(coldkey, password.as_ref().filter(|_| hides_coldkey))?;
    }
    folder.write_hotkey(hotkey, &key, password.as_ref().filter(|_| args.encrypt_hotkey))?;
    describe(&folder)?;
    kept(&folder, coldkey.is_some() && !hides_coldkey)?;
    if args.show_mnemonic {
        output::line("write these words down; they are shown this once:")?;
        for (what, key) in [("coldkey", coldkey.as_ref()), ("hotkey", Some(&key))] {
            if let Some(phrase) = key.and_then(Key::phrase) {
                output::line(&Zeroizing::new(format!("{what:<8} {}", *phrase.words())))?;
            }
        }
    }
    Ok(Outcome::Done)
}

/// `grail wallet import`.
pub fn import(args: &WalletImportArgs, config: &Config) -> Result<Outcome> {
    let (name, hotkey) = wallets::names(&args.name, args.hotkey.as_deref(), &config.wallet.hotkey)?;
    ensure!(
        !args.coldkey || !args.name.contains('/'),
        "{} names a hotkey, and --coldkey imports a coldkey; name the wallet alone",
        args.name
    );
    let place = wallets::folder(&args.wallets, config)?;
    let folder = WalletFolder::new(&place.path, name)?;
    let path = match args.coldkey {
        true => folder.coldkey_path(),
        false => folder.hotkey_path(hotkey)?,
    };
    ensure!(
        !path.exists(),
        "{} already exists; choose another name, or move the file away",
        path.display()
    );
    let source = Source::new(&args.password, &config.wallet)?;
    let content = secret(args)?;
    let from = args.secret_file.as_deref().unwrap_or(Path::new("the key file"));
    let find = source.finder();
    let key = read_secret(&content, args.scheme, |encryption| find(from, encryption))
        .context("while reading the secret")?;
    if !args.coldkey && key.scheme() != Scheme::Sr25519 {
        bail!("the key is {}, and hotkeys of this subnet are sr25519", key.scheme());
    }
    let is_hidden = match args.coldkey {
        true => place.hides_coldkeys(args.encryption),
        false => args.encryption.encrypt,
    };
    let password: Option<Password> = is_hidden.then(|| source.choose(&path)).transpose()?;
    match args.coldkey {
        true => folder.write_coldkey(&key, password.as_ref())?,
        false => folder.write_hotkey(hotkey, &key, password.as_ref())?,
    }
    describe(&folder)?;
    kept(&folder, args.coldkey && !is_hidden)?;
    Ok(Outcome::Done)
}

/// Returns the secret from where the options say; never from the command line itself.
fn secret(args: &WalletImportArgs) -> Result<Zeroizing<Vec<u8>>> {
    if let Some(path) = args.secret_file.as_deref().filter(|path| *path != Path::new("-")) {
        return Ok(read_keyfile(path)?);
    }
    if args.secret_file.is_some() {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 1));
        std::io::stdin()
            .take(SECRET_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .context("while reading standard input")?;
        ensure!(
            bytes.len() as u64 <= SECRET_BYTES_MAX,
            "standard input has more than {SECRET_BYTES_MAX} bytes, more than any key file"
        );
        return Ok(bytes);
    }
    if let Some(name) = &args.secret_env {
        let value = variable(name).and_then(|value| value.into_string().ok());
        let value = value.with_context(|| {
            format!("the environment variable {name} is not set; it should hold the secret")
        })?;
        return Ok(Zeroizing::new(value.into_bytes()));
    }
    let line = wallets::secret_line("phrase, seed or secret URI: ").context(
        "there is nobody to ask for the secret; name it with --secret-file or --secret-env",
    )?;
    Ok(Zeroizing::new(line.as_bytes().to_vec()))
}

fn kept(folder: &WalletFolder, is_open: bool) -> Result<()> {
    let dir = folder.dir().display();
    let note = match is_open {
        true => "; the coldkey is not encrypted, fit for a local network only",
        false => "",
    };
    Ok(output::line(&format!("kept in {dir}{note}"))?)
}
