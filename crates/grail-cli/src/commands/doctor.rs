//! `grail doctor`: looks at everything that a role needs, and says what to do about what is not well.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use grail_infrastructure::clock::system_clock;
use grail_infrastructure::local::network::{NetworkFile, NetworkRole, Node, connect};
use grail_infrastructure::retry::RetryPolicy;
use grail_infrastructure::wallet::{Wallet, WalletFolder};
use grail_kernels::Isa;
use grail_ports::signer::Signer as _;
use tokio::time::timeout;

use super::localnet::{layout, runs};
use crate::cli::DoctorArgs;
use crate::config::{self, Config};
use crate::doctor::{CHECK_TIME, Finding, Report, Status, machine, network};
use crate::engine;
use crate::environment::variables;
use crate::exit::Outcome;
use crate::globals::Globals;
use crate::logs;
use crate::output;
use crate::wallets::Source;

/// Wallet that is looked at unless another is named: every local network has it.
const DEFAULT_WALLET: &str = "validator";

/// Does what the options ask for. A failed check is exit code 1.
pub fn run(args: &DoctorArgs, globals: &Globals) -> Result<Outcome> {
    let flags = |config: &mut Config| {
        globals.overlay(config);
        if args.dir.is_some() {
            config.network.dir.clone_from(&args.dir);
        }
        if args.wallet.is_some() {
            config.wallet.name.clone_from(&args.wallet);
        }
    };
    let mut report = Report::default();
    match config::resolve(globals.config.as_deref(), variables(), flags) {
        Err(error) => {
            let next_step = "docs/configuration.md lists every setting";
            report.add("configuration", Finding::fail(error.to_string(), next_step));
        }
        Ok(config) => {
            logs::init(config.log, None)?;
            let told = format!("network {}, protocol {}", config.network.name, config.protocol);
            report.add("configuration", Finding::pass(told));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("while starting the runtime")?;
            runtime.block_on(examine(&mut report, &config));
        }
    }
    tell(&report, args.json)?;
    Ok(if report.status == Status::Fail { Outcome::Rejected } else { Outcome::Done })
}

async fn examine(report: &mut Report, config: &Config) {
    let dir = runs::chosen(config.network.dir.as_deref());
    let name = config.wallet.name.as_deref().unwrap_or(DEFAULT_WALLET);
    match &dir {
        Ok(dir) => {
            wallet(report, config, dir, name);
            outside(report, dir, name).await;
        }
        Err(error) => {
            report.add("wallet", Finding::skipped("no network, so no folder of wallets"));
            report.add("chain", Finding::fail(error.to_string(), "start one: `grail localnet`"));
            skip(report, &["registration", "permit", "stake", "beacon", "bucket"]);
        }
    }
    let model_bytes = model_bytes(config, dir.as_deref().ok());
    let kv_bytes = u64::try_from(config.engine.kv_bytes_max).unwrap_or(u64::MAX);
    report.add("memory", machine::memory(model_bytes, kv_bytes, machine::available_memory()));
    report.add("processor", machine::processor(Isa::detect(), engine::threads(config.engine)));
    let folder = dir.unwrap_or_else(|_| PathBuf::from("."));
    report.add("disk", machine::disk(&folder, machine::free_bytes(&folder)));
}

fn wallet(report: &mut Report, config: &Config, dir: &Path, name: &str) {
    let wallets = layout::wallets(dir);
    let hotkey = &config.wallet.hotkey;
    let finding = match Source::from_config(&config.wallet) {
        Err(error) => Finding::fail(format!("{error:#}"), "check wallet.password_file"),
        Ok(source) => {
            let loaded = Wallet::load(&wallets, name, hotkey, &source.finder());
            let path = WalletFolder::new(&wallets, name)
                .and_then(|folder| folder.hotkey_path(hotkey))
                .unwrap_or_default();
            machine::wallet(&loaded, &path)
        }
    };
    report.add("wallet", finding);
}

async fn outside(report: &mut Report, dir: &Path, name: &str) {
    let rest = ["registration", "permit", "stake", "beacon", "bucket"];
    let once = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let node = match timeout(CHECK_TIME, connect(dir, name, once)).await {
        Ok(Ok(node)) => node,
        Ok(Err(error)) => {
            let next_step = "start the network with `grail localnet`, or check --dir and --wallet";
            report.add("chain", Finding::fail(error.to_string(), next_step));
            return skip(report, &rest);
        }
        Err(_) => {
            report.run("chain", std::future::pending()).await;
            return skip(report, &rest);
        }
    };
    let is_validator = node.entry.role == NetworkRole::Validator;
    // A local network has a time of its own, which its beacon and store go by.
    report.run("chain", network::chain(&*node.chain, None)).await;
    membership(report, &node, is_validator).await;
    let Ok(Ok(head)) = timeout(CHECK_TIME, node.chain.head()).await else {
        return skip(report, &["beacon", "bucket"]);
    };
    let now_ms = head.timestamp_ms;
    report.run("beacon", network::beacon(&*node.beacon, now_ms)).await;
    // Two doctors at once do not read each other's object.
    let nonce = (system_clock())();
    report.run("bucket", network::bucket(&*node.buckets, nonce, now_ms)).await;
}

async fn membership(report: &mut Report, node: &Node, is_validator: bool) {
    let hotkey = node.wallet.hotkey();
    match timeout(CHECK_TIME, node.chain.metagraph()).await {
        Ok(Ok(metagraph)) => {
            report.add("registration", network::registration(&metagraph, hotkey));
            report.add("permit", network::permit(&metagraph, hotkey, is_validator));
            report.add("stake", network::stake(&metagraph, hotkey, is_validator));
        }
        Ok(Err(error)) => {
            let finding = Finding::fail(error.to_string(), "check the chain's endpoint");
            report.add("registration", finding);
            skip(report, &["permit", "stake"]);
        }
        Err(_) => {
            report.run("registration", std::future::pending()).await;
            skip(report, &["permit", "stake"]);
        }
    }
}

fn skip(report: &mut Report, names: &[&'static str]) {
    for name in names {
        report.add(name, Finding::skipped("something before it failed"));
    }
}

/// Returns the bytes of the weights that a role would load.
fn model_bytes(config: &Config, network: Option<&Path>) -> u64 {
    let kept = network.filter(|dir| NetworkFile::load(dir).is_ok()).map(layout::model);
    let model = config.localnet.model.clone().or(kept);
    let size = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    model
        .and_then(|path| size(&path).or_else(|| size(&path.join("model.safetensors"))))
        .map_or(0, |found| found.len())
}

fn tell(report: &Report, json: bool) -> Result<()> {
    if json {
        return Ok(output::line(&serde_json::to_string_pretty(report)?)?);
    }
    for line in &report.checks {
        let word = match line.status {
            Status::Pass => "pass",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
            Status::Skipped => "skip",
        };
        output::line(&format!("{word}  {:<14} {}", line.name, line.told))?;
        if !line.next_step.is_empty() {
            output::line(&format!("      {:<14} → {}", "", line.next_step))?;
        }
    }
    Ok(())
}
