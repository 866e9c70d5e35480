//! `grail lab calibrate`: thresholds for the tolerant profile, measured and signed.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_infrastructure::wallet::Wallet;
use grail_ports::signer::Signer;
use grail_protocol::calibration::{CALIBRATION_BYTES_MAX, Calibration, SAMPLES_MIN};
use grail_protocol::ids::Hotkey;
use indicatif::ProgressBar;
use serde_json::Value;

use super::{Start, rollouts_bar};
use crate::cli::LabCalibrateArgs;
use crate::commands::localnet::{layout, runs};
use crate::config::Config;
use crate::exit::Outcome;
use crate::files::{read_bounded, write_atomically};
use crate::lab::calibration;
use crate::lab::world::World;
use crate::output;
use crate::wallets::Source;

/// The one runtime besides the exact one.
const RUNTIME: &str = "bf16";

/// Does what the options ask for.
pub fn run(args: &LabCalibrateArgs, config: &Config) -> Result<Outcome> {
    if args.runtime != RUNTIME {
        bail!("--runtime {} is not one of this program's; use {RUNTIME}", args.runtime);
    }
    if (args.rollouts as usize) < SAMPLES_MIN {
        bail!("--rollouts {} is too few; give at least {SAMPLES_MIN}", args.rollouts);
    }
    if args.out.exists() {
        bail!("{} exists; remove it or name another file", args.out.display());
    }
    let wallet = args.wallet.as_deref().map(|name| wallet(args, config, name)).transpose()?;
    let start = Start {
        model: args.model.as_deref(),
        max_new_tokens: args.max_new_tokens,
        environment: &args.environment,
        seed: args.seed,
    };
    let scratch = tempfile::tempdir().context("while making a temporary folder")?;
    let (world, _base, _signals) = start.world(config, scratch.path(), None)?;
    let bar = rollouts_bar(args.rollouts);
    let calibration = calibration::fit(&world, args.rollouts, &bar)?;
    bar.finish_and_clear();
    let signer = wallet.unwrap_or_else(|| world.wallets().0.clone());
    write(&args.out, &calibration, &signer)?;
    let thresholds = &calibration.thresholds;
    output::line(&format!(
        "{} rollouts, {} tokens: margins up to {:.3} nats, {:.2} of 64 signs differ on average; a \
         token that loses by more than {:.3} nats is rejected",
        calibration.rollouts,
        calibration.tokens,
        thresholds.margin_clip,
        thresholds.sketch.mean,
        thresholds.margin_hard
    ))?;
    output::line(&format!(
        "wrote {} with digest {}, signed by {}",
        args.out.display(),
        calibration.digest(),
        signer.hotkey()
    ))?;
    Ok(Outcome::Done)
}

fn wallet(args: &LabCalibrateArgs, config: &Config, name: &str) -> Result<Arc<Wallet>> {
    let network = runs::chosen(args.dir.as_deref().or(config.network.dir.as_deref()))?;
    let passwords = Source::from_config(&config.wallet)?;
    let wallets = layout::wallets(&network);
    let wallet = Wallet::load(&wallets, name, &config.wallet.hotkey, &passwords.finder());
    Ok(Arc::new(wallet.with_context(|| format!("while loading wallet {name}"))?))
}

fn write(path: &Path, calibration: &Calibration, signer: &Wallet) -> Result<()> {
    let signed = calibration.sign(signer.hotkey(), &|message| signer.sign(message))?;
    write_atomically(path, signed.as_bytes())
        .with_context(|| format!("while writing {}", path.display()))
}

/// Reads a calibration, whoever signed it.
pub fn read(path: &Path) -> Result<Calibration> {
    let bytes = read_bounded(path, CALIBRATION_BYTES_MAX)
        .with_context(|| format!("while reading {}", path.display()))?;
    let signer = serde_json::from_slice(&bytes).ok().and_then(|value: Value| {
        let text = value.get("signer")?.as_str()?;
        text.parse::<Hotkey>().ok()
    });
    let trusted: Vec<Hotkey> = signer.into_iter().collect();
    let (calibration, _) = Calibration::open(&bytes, &trusted)
        .with_context(|| format!("{} cannot be used", path.display()))?;
    Ok(calibration)
}

/// Returns the calibration at `path`, fitted now if it is not there yet.
pub fn keep_or_fit(
    world: &World,
    path: &Path,
    rollouts: u32,
    bar: &ProgressBar,
) -> Result<Calibration> {
    if path.exists() {
        return read(path);
    }
    let calibration = calibration::fit(world, rollouts, bar)?;
    write(path, &calibration, world.wallets().0)?;
    Ok(calibration)
}
