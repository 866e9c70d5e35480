//! `grail model`: imports foreign formats and shows what a folder holds.

use std::path::Path;

use anyhow::{Context, Result};
use grail_model::formats::{ImportProgress, import_model};
use grail_ports::model::{ModelInfo, ModelProvider};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::{ModelCommand, ModelImportArgs, ModelShowArgs};
use crate::config::Config;
use crate::engine;
use crate::exit::Outcome;
use crate::output;

/// Does what the options ask for.
pub fn run(command: &ModelCommand, config: &Config) -> Result<Outcome> {
    match command {
        ModelCommand::Import(args) => import(args, config),
        ModelCommand::Show(args) => show(args, config),
    }
}

fn import(args: &ModelImportArgs, config: &Config) -> Result<Outcome> {
    let bar = progress_bar();
    let report = import_model(&args.source, &args.out, &mut |step: ImportProgress<'_>| {
        bar.set_length(as_u64(step.n_total));
        bar.set_position(as_u64(step.n_done));
        bar.set_message(step.item.to_owned());
    });
    bar.finish_and_clear();
    let report = report.with_context(|| format!("while importing {}", args.source.display()))?;
    let types: Vec<String> =
        report.source_types.iter().map(|(name, count)| format!("{count} {name}")).collect();
    output::line(&format!(
        "imported {} tensors ({})",
        n_tensors(&report.source_types),
        types.join(", ")
    ))?;
    // A model that was imported must also load: what is wrong with it shows here, not in a window.
    print_info(&args.out, &load_info(&args.out, config)?, false)?;
    Ok(Outcome::Done)
}

fn n_tensors(types: &std::collections::BTreeMap<&'static str, usize>) -> usize {
    types.values().sum()
}

fn show(args: &ModelShowArgs, config: &Config) -> Result<Outcome> {
    print_info(&args.dir, &load_info(&args.dir, config)?, args.json)?;
    Ok(Outcome::Done)
}

fn load_info(dir: &Path, config: &Config) -> Result<ModelInfo> {
    let model = engine::provider(config.engine)?.load(dir)?;
    Ok(model.info().clone())
}

/// What `grail model show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    folder: String,
    architecture: &'a str,
    parameters: u64,
    hidden_size: u32,
    vocab_size: u32,
    max_position_embeddings: u32,
    eos_token_ids: &'a [u32],
    numerics: &'a str,
    checkpoint_digest: String,
    tokenizer_digest: String,
}

fn print_info(dir: &Path, info: &ModelInfo, json: bool) -> Result<()> {
    let shown = Shown {
        folder: dir.display().to_string(),
        architecture: &info.architecture,
        parameters: info.parameters,
        hidden_size: info.hidden_size,
        vocab_size: info.vocab_size,
        max_position_embeddings: info.max_position_embeddings,
        eos_token_ids: &info.eos_token_ids,
        numerics: &info.numerics,
        checkpoint_digest: info.checkpoint_digest.to_hex(),
        tokenizer_digest: info.tokenizer_digest.to_hex(),
    };
    if json {
        output::line(&serde_json::to_string_pretty(&shown)?)?;
        return Ok(());
    }
    let eos: Vec<String> = shown.eos_token_ids.iter().map(u32::to_string).collect();
    for (name, value) in [
        ("folder", shown.folder),
        ("architecture", shown.architecture.to_owned()),
        ("parameters", shown.parameters.to_string()),
        ("hidden size", shown.hidden_size.to_string()),
        ("vocabulary", shown.vocab_size.to_string()),
        ("context", format!("{} tokens", shown.max_position_embeddings)),
        ("end tokens", eos.join(", ")),
        ("numerics", shown.numerics.to_owned()),
        ("checkpoint digest", shown.checkpoint_digest),
        ("tokenizer digest", shown.tokenizer_digest),
    ] {
        output::line(&format!("{name:<18} {value}"))?;
    }
    Ok(())
}

/// Returns a bar on standard error; it draws nothing when that is no terminal.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
