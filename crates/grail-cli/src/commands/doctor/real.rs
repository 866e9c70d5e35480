//! Looks at a role on a real network: its wallet, chain, beacon and bucket, and the trainer's.

use std::sync::Arc;

use anyhow::{Error, Result};
use grail_infrastructure::clock::system_clock;
use grail_infrastructure::subtensor::Subtensor;
use grail_infrastructure::wallet::Wallet;
use grail_ports::signer::Signer;
use grail_protocol::constants::TRAINER_UID;
use tokio::time::timeout;

use super::{skip, wallet_in};
use crate::cli::{DoctorRole, WalletsArgs};
use crate::commands::remote;
use crate::config::Config;
use crate::doctor::{CHECK_TIME, Finding, Report, network, subnet};
use crate::wallets;

/// Looks at everything outside; returns the bytes of the newest checkpoint's weights, if known.
pub async fn examine(report: &mut Report, config: &Config, role: DoctorRole) -> Option<u64> {
    let wallet = wallet(report, config).map(Arc::new);
    let now_ms = system_clock()();
    let chain = match within(connect(config, wallet.clone())).await {
        Ok(chain) => {
            report.run("chain", network::chain(&chain, Some(now_ms))).await;
            Some(chain)
        }
        Err(error) => {
            let next_step = "check network.name, network.endpoints and network.netuid";
            report.add("chain", Finding::fail(format!("{error:#}"), next_step));
            None
        }
    };
    match (&chain, &wallet) {
        (Some(chain), Some(wallet)) => membership(report, chain, wallet, role).await,
        _ => skip(report, &["registration", "permit", "stake"]),
    }
    beacon(report, config, now_ms).await;
    let buckets = match remote::buckets(&config.store) {
        Ok(buckets) => buckets,
        Err(error) => {
            let next_step = "docs/storage.md lists the variables of the keys";
            report.add("bucket", Finding::fail(format!("{error:#}"), next_step));
            skip(report, &["published", "trainer"]);
            return None;
        }
    };
    report.run("bucket", network::bucket(&buckets, now_ms, now_ms)).await;
    match (&chain, &wallet) {
        (Some(chain), Some(wallet)) => {
            report.run("published", subnet::published(chain, wallet.hotkey(), &buckets)).await;
        }
        _ => skip(report, &["published"]),
    }
    let Some(chain) = &chain else {
        skip(report, &["trainer"]);
        return None;
    };
    let mut model_bytes = None;
    let look = async {
        let (finding, bytes) = subnet::trainer(chain, &buckets).await;
        model_bytes = bytes;
        finding
    };
    report.run("trainer", look).await;
    chain.close().await;
    model_bytes
}

async fn within<T>(look: impl Future<Output = Result<T>>) -> Result<T> {
    let late = || Error::msg(format!("no answer within {} s", CHECK_TIME.as_secs()));
    timeout(CHECK_TIME, look).await.map_err(|_| late())?
}

fn wallet(report: &mut Report, config: &Config) -> Option<Wallet> {
    let name = config.wallet.name.as_deref().unwrap_or(remote::DEFAULT_WALLET);
    let place = wallets::folder(&WalletsArgs::default(), config)
        .and_then(|folder| Ok((folder, wallets::names(name, None, &config.wallet.hotkey)?)));
    match place {
        Ok((folder, (name, hotkey))) => wallet_in(report, config, &folder.path, name, hotkey),
        Err(error) => {
            let next_step = "check wallet.path, wallet.name and wallet.hotkey";
            report.add("wallet", Finding::fail(format!("{error:#}"), next_step));
            None
        }
    }
}

/// Connects to the chain; it can be looked at without a wallet.
async fn connect(config: &Config, wallet: Option<Arc<Wallet>>) -> Result<Subtensor> {
    let netuid = remote::netuid(config)?;
    let settings = config.network.subtensor(netuid).map_err(Error::msg)?;
    let signer = wallet.unwrap_or_else(|| Arc::new(Wallet::from_seed(&[0; 32])));
    Ok(Subtensor::connect(settings, signer as Arc<dyn Signer>).await?)
}

async fn membership(report: &mut Report, chain: &Subtensor, wallet: &Wallet, role: DoctorRole) {
    let registered = async {
        match chain.registration().await {
            Ok(uid) if role == DoctorRole::Trainer && uid != TRAINER_UID => Finding::fail(
                format!("{} has uid {uid}, and uid {TRAINER_UID} is the trainer", wallet.hotkey()),
                "use the wallet that has it, or another role",
            ),
            Ok(uid) => Finding::pass(format!("{} has uid {uid}", wallet.hotkey())),
            Err(error) => {
                Finding::fail(error.to_string(), "register it, or check --wallet and --hotkey")
            }
        }
    };
    report.run("registration", registered).await;
    super::standing(report, chain, wallet.hotkey(), role == DoctorRole::Validator).await;
}

async fn beacon(report: &mut Report, config: &Config, now_ms: u64) {
    let look = async {
        match remote::beacon(&config.beacon).await {
            Ok((beacon, _)) => network::beacon(&beacon, now_ms).await,
            Err(error) => {
                Finding::fail(format!("{error:#}"), "check beacon.chain and beacon.relays")
            }
        }
    };
    report.run("beacon", look).await;
}
