//! `grail doctor`: looks at everything that a role needs, and says what to do about what is not well.

mod real;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use grail_infrastructure::clock::system_clock;
use grail_infrastructure::local::network::{NetworkError, NetworkFile, NetworkRole, Node, connect};
use grail_infrastructure::retry::RetryPolicy;
use grail_infrastructure::wallet::{Wallet, WalletFolder};
use grail_kernels::Isa;
use grail_ports::chain::Chain;
use grail_ports::signer::Signer as _;
use grail_protocol::ids::Hotkey;
use tokio::time::timeout;

use super::localnet::{layout, runs, stores};
use super::remote;
use crate::cli::{DoctorArgs, DoctorRole};
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
        config.overlay_place(&args.place);
    };
    let mut report = Report::default();
    match config::resolve(globals.config.as_deref(), variables(), flags) {
        Err(error) => {
            let next_step = "docs/configuration.md lists every setting";
            report.add("configuration", Finding::fail(error.to_string(), next_step));
        }
        Ok(config) => {
            logs::init(config.log, None)?;
            let network = config.network.shared_name();
            let told = format!("network {network}, protocol {}", config.protocol);
            report.add("configuration", Finding::pass(told));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("while starting the runtime")?;
            runtime.block_on(async {
                match config.network.is_local() {
                    true => examine(&mut report, &config, args.role).await,
                    false => examine_real(&mut report, &config, args.role).await,
                }
            });
        }
    }
    tell(&report, args.json)?;
    Ok(if report.status == Status::Fail { Outcome::Rejected } else { Outcome::Done })
}

async fn examine(report: &mut Report, config: &Config, role: Option<DoctorRole>) {
    let dir = runs::chosen(config.network.dir.as_deref());
    let name = config.wallet.name.as_deref().unwrap_or(DEFAULT_WALLET);
    match &dir {
        Ok(dir) => {
            wallet_in(report, config, &layout::wallets(dir), name, &config.wallet.hotkey);
            outside(report, dir, name, role).await;
        }
        Err(error) => {
            report.add("wallet", Finding::skipped("no network, so no folder of wallets"));
            report.add("chain", Finding::fail(error.to_string(), "start one: `grail localnet`"));
            skip(report, &["registration", "permit", "stake", "beacon", "bucket"]);
        }
    }
    let kept = dir.as_deref().ok().filter(|dir| NetworkFile::load(dir).is_ok()).map(layout::model);
    let model = config.localnet.model.clone().or(kept);
    let folder = dir.unwrap_or_else(|_| PathBuf::from("."));
    this_machine(report, config, model.as_deref().and_then(model_bytes).unwrap_or(0), &folder);
}

async fn examine_real(report: &mut Report, config: &Config, role: Option<DoctorRole>) {
    let known = real::examine(report, config, role.unwrap_or(DoctorRole::Miner)).await;
    let start = config.training.model.as_deref().and_then(model_bytes);
    let home = remote::home(config).unwrap_or_else(|_| PathBuf::from("."));
    // The folder is made when a role starts; until then its disk is that of what is there.
    let folder = home.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    this_machine(report, config, known.or(start).unwrap_or(0), folder);
}

fn this_machine(report: &mut Report, config: &Config, model_bytes: u64, folder: &Path) {
    let kv_bytes = u64::try_from(config.engine.kv_bytes_max).unwrap_or(u64::MAX);
    report.add("memory", machine::memory(model_bytes, kv_bytes, machine::available_memory()));
    report.add("processor", machine::processor(Isa::detect(), engine::threads(config.engine)));
    report.add("disk", machine::disk(folder, machine::free_bytes(folder)));
}

/// Opens a wallet and tells how that went.
fn wallet_in(
    report: &mut Report,
    config: &Config,
    wallets: &Path,
    name: &str,
    hotkey: &str,
) -> Option<Wallet> {
    let source = match Source::from_config(&config.wallet) {
        Ok(source) => source,
        Err(error) => {
            report.add("wallet", Finding::fail(format!("{error:#}"), "check wallet.password_file"));
            return None;
        }
    };
    let loaded = Wallet::load(wallets, name, hotkey, &source.finder());
    let path = WalletFolder::new(wallets, name)
        .and_then(|folder| folder.hotkey_path(hotkey))
        .unwrap_or_default();
    report.add("wallet", machine::wallet(&loaded, &path));
    loaded.ok()
}

async fn outside(report: &mut Report, dir: &Path, name: &str, role: Option<DoctorRole>) {
    let rest = ["registration", "permit", "stake", "beacon", "bucket"];
    let once = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
    let mut node = match timeout(CHECK_TIME, connect(dir, name, once)).await {
        Ok(Ok(node)) => node,
        Ok(Err(error)) => {
            let next_step = match error {
                NetworkError::UnknownNeuron { .. } => {
                    "`grail mine --wallet NAME` registers the wallet; or check --dir and --wallet"
                }
                _ => "start the network with `grail localnet`, or check --dir and --wallet",
            };
            report.add("chain", Finding::fail(error.to_string(), next_step));
            return skip(report, &rest);
        }
        Err(_) => {
            report.run("chain", std::future::pending()).await;
            return skip(report, &rest);
        }
    };
    let is_validator = match role {
        Some(role) => role == DoctorRole::Validator,
        None => node.entry.role == NetworkRole::Validator,
    };
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
    let store = config::read(&Config::default(), &layout::config(dir)).unwrap_or_default().store;
    let look = async {
        match stores::settle(&mut node, &store).await {
            Ok(()) => network::bucket(&*node.buckets, nonce, now_ms).await,
            Err(error) => Finding::fail(format!("{error:#}"), "docs/storage.md says what it needs"),
        }
    };
    report.run("bucket", look).await;
}

async fn membership(report: &mut Report, node: &Node, is_validator: bool) {
    let hotkey = node.wallet.hotkey();
    let look = async {
        match node.chain.metagraph().await {
            Ok(metagraph) => network::registration(&metagraph, hotkey),
            Err(error) => Finding::fail(error.to_string(), "check the chain's endpoint"),
        }
    };
    report.run("registration", look).await;
    standing(report, &*node.chain, hotkey, is_validator).await;
}

/// Looks at permit and stake.
async fn standing(report: &mut Report, chain: &dyn Chain, hotkey: Hotkey, is_validator: bool) {
    match timeout(CHECK_TIME, chain.metagraph()).await {
        Ok(Ok(metagraph)) => {
            report.add("permit", network::permit(&metagraph, hotkey, is_validator));
            report.add("stake", network::stake(&metagraph, hotkey, is_validator));
        }
        Ok(Err(_)) | Err(_) => skip(report, &["permit", "stake"]),
    }
}

fn skip(report: &mut Report, names: &[&'static str]) {
    for name in names {
        report.add(name, Finding::skipped("something before it failed"));
    }
}

/// Returns the bytes of the weights of a GGUF file or a model folder, if it is there.
fn model_bytes(path: &Path) -> Option<u64> {
    let size = |path: &Path| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    size(path).or_else(|| size(&path.join("model.safetensors"))).map(|found| found.len())
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
