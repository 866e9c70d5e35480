//! Joins a local network that another process serves, as a member or as a newcomer.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_infrastructure::local::network::{
    NetworkFile, NetworkRole, Node, RemoteNetwork, connect,
};
use grail_infrastructure::local::store::credentials::{BucketKeys, CredentialsError};
use grail_infrastructure::retry::RetryPolicy;
use grail_infrastructure::wallet::Wallet;
use grail_ports::signer::Signer;

use super::localnet::layout;
use crate::config::WalletConfig;
use crate::wallets::Source;

/// Returns what the wallet `name` acts with in the network in `dir`.
///
/// A wallet that is no member joins as a miner: the network lets anybody register without stake.
pub async fn join(
    dir: &Path,
    name: &str,
    role: NetworkRole,
    settings: &WalletConfig,
) -> Result<Node> {
    let file = NetworkFile::load(dir)?;
    if let Some(entry) = file.neuron(name) {
        if entry.role != role {
            bail!(
                "wallet {name} is a {} of this network; choose another wallet, or the command for \
                 its role",
                role_name(entry.role)
            );
        }
        return Ok(connect(dir, name, RetryPolicy::default()).await?);
    }
    if role != NetworkRole::Miner {
        let known: Vec<&str> = file
            .neurons
            .iter()
            .filter(|entry| entry.role == role)
            .map(|entry| entry.name.as_str())
            .collect();
        bail!("this network has no {} called {name}; it has {}", role_name(role), known.join(", "));
    }
    let wallet = {
        let passwords = Source::from_config(settings)?;
        Wallet::load(&layout::wallets(dir), name, &settings.hotkey, &passwords.finder())
    };
    let wallet = wallet.with_context(|| {
        format!("while loading wallet {name}; make one with `grail wallet new {name}`")
    })?;
    let keys = bucket_keys(&layout::wallets(dir).join(name).join("bucket.json"), &wallet)?;
    let network = RemoteNetwork::reach(dir, RetryPolicy::default())
        .await
        .with_context(|| format!("while joining the network in {}", dir.display()))?;
    network.admit(Arc::new(wallet), keys).await.context("while registering")
}

fn bucket_keys(path: &Path, signer: &dyn Signer) -> Result<BucketKeys> {
    match BucketKeys::load(path) {
        Ok(keys) if keys.owner == signer.hotkey() => Ok(keys),
        Ok(_) => bail!("{} belongs to another wallet; move it away", path.display()),
        Err(CredentialsError::Missing(_)) => {
            let keys = BucketKeys::random(signer.hotkey()).context("while drawing bucket keys")?;
            keys.save(path)?;
            Ok(keys)
        }
        Err(error) => Err(error.into()),
    }
}

fn role_name(role: NetworkRole) -> &'static str {
    match role {
        NetworkRole::Trainer => "trainer",
        NetworkRole::Validator => "validator",
        NetworkRole::Miner => "miner",
    }
}
