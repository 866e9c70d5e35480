//! Joins a local network that another process serves, as a member or as a newcomer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use grail_infrastructure::local::client::{
    ChainIdentity, ClientError, Http, HttpBeacon, HttpBuckets, HttpChain, create_bucket,
};
use grail_infrastructure::local::network::{NetworkFile, NetworkRole, NeuronEntry, Node, connect};
use grail_infrastructure::local::store::credentials::{BucketKeys, CredentialsError};
use grail_infrastructure::retry::{RetryPolicy, Retrying};
use grail_infrastructure::wallet::Wallet;
use grail_ports::beacon::Beacon;
use grail_ports::chain::Chain;
use grail_ports::object_store::Buckets;
use grail_ports::signer::Signer;
use grail_protocol::ids::Uid;
use tokio::time::{Instant, sleep};

use super::localnet::layout;
use crate::config::WalletConfig;
use crate::wallets::Source;

/// Longest wait for the block that includes a registration.
const REGISTRATION_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks at the metagraph meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    enter(dir, &file, Arc::new(wallet)).await
}

/// Registers the wallet's hotkey and makes its bucket, as far as that was not done before.
async fn enter(dir: &Path, file: &NetworkFile, wallet: Arc<Wallet>) -> Result<Node> {
    let name = wallet.name().to_owned();
    let Some(endpoint) = &file.endpoint else {
        bail!("the network in {} is not running; start it with `grail localnet`", dir.display());
    };
    let retry = RetryPolicy::default();
    let http = Http::new(endpoint, file.genesis)?;
    retry
        .run(|error| matches!(error, ClientError::Unavailable(_)), || http.ping())
        .await
        .with_context(|| format!("while calling the network at {endpoint}; is it running?"))?;
    let signer: Arc<dyn Signer> = wallet.clone();
    let identity = ChainIdentity {
        network: file.name.clone(),
        netuid: file.netuid,
        block_time_ms: file.block_time_ms,
    };
    let chain = HttpChain::new(http.clone(), identity, signer.clone(), retry);
    let uid = register(&chain, &*signer).await?;
    let keys = bucket_keys(&layout::wallets(dir).join(&name).join("bucket.json"), &*signer)?;
    create_bucket(&http, &keys, &*signer).await.context("while making the bucket")?;
    let beacon = HttpBeacon::new(http.clone(), &file.beacon)?;
    let buckets = HttpBuckets::new(http, keys, signer);
    let role_dir = dir.join("roles").join(&name);
    std::fs::create_dir_all(&role_dir)
        .with_context(|| format!("while making {}", role_dir.display()))?;
    let hotkey = wallet.hotkey();
    Ok(Node {
        entry: NeuronEntry { name, role: NetworkRole::Miner, cheat: None, hotkey, uid },
        wallet,
        chain: Arc::new(Retrying::new(Arc::new(chain) as Arc<dyn Chain>, retry)),
        beacon: Arc::new(Retrying::new(Arc::new(beacon) as Arc<dyn Beacon>, retry)),
        buckets: Arc::new(Retrying::new(Arc::new(buckets) as Arc<dyn Buckets>, retry)),
        dir: role_dir,
    })
}

/// Returns the uid of our hotkey, registering it first if it has none.
async fn register(chain: &HttpChain, signer: &dyn Signer) -> Result<Uid> {
    let hotkey = signer.hotkey();
    let started = Instant::now();
    let mut asked = false;
    loop {
        if let Some(neuron) = chain.metagraph().await?.neuron(hotkey) {
            return Ok(neuron.uid);
        }
        if !asked {
            chain.register().await.context("while registering")?;
            asked = true;
        }
        if started.elapsed() > REGISTRATION_MAX {
            bail!("the registration of {hotkey} is in no block yet; does the network make blocks?");
        }
        sleep(LOOK_EVERY).await;
    }
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
