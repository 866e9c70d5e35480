//! Joins a real network: wallet, chain, beacon and bucket lie outside this program.
//!
//! What can be known without asking anybody is asked for first, so that a role that lacks something
//! says so before it says anything to the outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_infrastructure::clock::system_clock;
use grail_infrastructure::drand::{Drand, DrandBeacon, DrandChain, describe};
use grail_infrastructure::local::network::{NetworkRole, NeuronEntry, Node};
use grail_infrastructure::object_store::{BucketSecrets, S3Buckets};
use grail_infrastructure::subtensor::{Connection, SealBeacon};
use grail_infrastructure::wallet::Wallet;
use grail_monitoring::{Metrics, RoleContext};
use grail_ports::beacon::Beacon;
use grail_ports::signer::Signer;
use grail_protocol::constants::TRAINER_UID;
use grail_protocol::ids::Netuid;

use super::localnet::metering::metered;
use crate::cli::WalletsArgs;
use crate::config::{BeaconChain, BeaconConfig, Config, StoreConfig};
use crate::environment::variable;
use crate::wallets::{self, Source};

/// Wallet of a role that names none, as in Bittensor's tools.
pub const DEFAULT_WALLET: &str = "default";

/// What a role needs of this machine before it asks anybody.
pub struct Papers {
    netuid: Netuid,
    wallet: Arc<Wallet>,
    buckets: S3Buckets,
}

impl Papers {
    /// Gathers them.
    ///
    /// # Errors
    /// With all that is missing and where to set it.
    pub fn gather(config: &Config) -> Result<Self> {
        let wallet = wallet(config).map(Arc::new);
        match (netuid(config), wallet, buckets(&config.store)) {
            (Ok(netuid), Ok(wallet), Ok(buckets)) => Ok(Self { netuid, wallet, buckets }),
            (netuid, wallet, buckets) => {
                let missing = [netuid.err(), wallet.err(), buckets.err()];
                let mut missing: Vec<anyhow::Error> = missing.into_iter().flatten().collect();
                if missing.len() == 1 {
                    return Err(missing.remove(0));
                }
                let told: Vec<String> =
                    missing.iter().map(|error| format!("\n  * {error:#}")).collect();
                bail!("several things are missing:{}", told.concat())
            }
        }
    }
}

/// Returns what `papers` act with on the network of `config`; the role keeps its state below `home`.
///
/// # Errors
/// When the chain or the beacon does not answer, or the hotkey may not play `role`.
pub async fn join(
    papers: Papers,
    role: NetworkRole,
    config: &Config,
    home: &Path,
    metrics: &Metrics,
) -> Result<Node> {
    let Papers { netuid, wallet, buckets } = papers;
    let (drand, seals) = beacon(&config.beacon).await?;
    let mut settings = config.network.subtensor(netuid).map_err(anyhow::Error::msg)?;
    settings.beacon = seals;
    let network = settings.network.name.clone();
    let process =
        RoleContext { role: wallet.name().to_owned(), network: network.clone(), netuid, uid: None };
    let connection = Connection::open_observed(settings, metrics.observer(process))
        .await
        .with_context(|| format!("while connecting to network {network}"))?;
    let chain = connection.act_for(Arc::clone(&wallet) as Arc<dyn Signer>);
    let uid = chain.registration().await.context("while looking for our registration")?;
    if role == NetworkRole::Trainer && uid != TRAINER_UID {
        bail!(
            "hotkey {} has uid {uid}, but uid {TRAINER_UID} is the trainer of every subnet; use the \
             wallet that has it",
            wallet.hotkey()
        );
    }
    let name = wallet.name().to_owned();
    let dir = home.join("roles").join(format!("{name}-{}", wallet.hotkey_name()));
    std::fs::create_dir_all(&dir).with_context(|| format!("while making {}", dir.display()))?;
    let node = Node {
        entry: NeuronEntry { name, role, cheat: None, hotkey: wallet.hotkey(), uid },
        chain: Arc::new(chain),
        beacon: Arc::new(drand),
        buckets: Arc::new(buckets),
        wallet,
        dir,
    };
    Ok(metered(node, metrics, system_clock()))
}

/// Returns where the roles of a network keep their state: the folder of the settings, else one for
/// each subnet in the user's folder of data.
///
/// # Errors
/// When there is no subnet, or no home folder.
pub fn home(config: &Config) -> Result<PathBuf> {
    if let Some(dir) = &config.network.dir {
        return Ok(dir.clone());
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    let data = data.context("HOME is not set; name a folder for the role's state with --dir")?;
    let subnet = format!("{}-{}", config.network.shared_name(), netuid(config)?);
    Ok(data.join("grail").join(subnet))
}

/// Returns the subnet that is meant.
///
/// # Errors
/// When nothing says which.
pub fn netuid(config: &Config) -> Result<Netuid> {
    config.network.netuid().with_context(|| {
        format!(
            "which subnet of {} is meant is not said; give --netuid N, or set network.netuid",
            config.network.shared_name()
        )
    })
}

/// Returns the wallet of the settings, whose hotkey may be encrypted.
///
/// # Errors
/// When there is none, or no password of it.
pub fn wallet(config: &Config) -> Result<Wallet> {
    let folder = wallets::folder(&WalletsArgs::default(), config)?.path;
    let name = config.wallet.name.as_deref().unwrap_or(DEFAULT_WALLET);
    let (name, hotkey) = wallets::names(name, None, &config.wallet.hotkey)?;
    let passwords = Source::from_config(&config.wallet)?;
    let loaded = Wallet::load(&folder, name, hotkey, &passwords.finder());
    loaded.with_context(|| {
        format!(
            "while loading hotkey {hotkey} of wallet {name} in {}; make one with `grail wallet new \
             {name} --path {}`, or name another with --wallet and --hotkey",
            folder.display(),
            folder.display()
        )
    })
}

/// Returns our bucket and the way to those of peers, with the keys from the environment or files.
///
/// # Errors
/// When a key is missing or a setting makes no sense.
pub fn buckets(config: &StoreConfig) -> Result<S3Buckets> {
    let secrets = secrets(config)?;
    S3Buckets::new(config.s3(), &secrets).context("while opening our bucket")
}

/// Returns the keys to our bucket.
///
/// # Errors
/// With the variable that is not set.
pub fn secrets(config: &StoreConfig) -> Result<BucketSecrets> {
    let text = |name: &str| variable(name).and_then(|value| value.into_string().ok());
    let secrets = BucketSecrets::from_environment(config.bucket.as_deref(), |name| {
        text(name).or_else(|| in_keys_dir(config.keys_dir.as_deref()?, name, text))
    });
    secrets.context("while looking for the keys to our bucket")
}

/// Returns the value of the variable `X_FILE` where `X` is a file of the folder of keys and not set.
fn in_keys_dir(
    folder: &Path,
    name: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let plain = name.strip_suffix("_FILE")?;
    let path = folder.join(plain);
    let is_there = variable(plain).is_none() && path.is_file();
    is_there.then(|| path.to_str().map(str::to_owned))?
}

/// Returns the beacon of the settings, and what weights are sealed to.
///
/// # Errors
/// When its chain is not known, or nothing can be sealed to it.
pub async fn beacon(config: &BeaconConfig) -> Result<(DrandBeacon, SealBeacon)> {
    let relays = config.drand();
    let chain = match config.chain {
        BeaconChain::Named(chain) => chain,
        BeaconChain::Hash(hash) => {
            describe(hash, &relays).await.context("while learning the beacon's chain")?
        }
    };
    let drand = Drand::new(chain, relays, system_clock()).context("while opening the beacon")?;
    let beacon = DrandBeacon::new(Arc::new(drand)).context("while opening the beacon")?;
    // Subtensor opens sealed weights with quicknet; a chain of one's own with the beacon it has.
    let seals = match chain {
        DrandChain::Own(_) => SealBeacon { key: beacon.public_key(), schedule: beacon.schedule() },
        DrandChain::Quicknet | DrandChain::Default => SealBeacon::default(),
    };
    Ok((beacon, seals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_in_files_named_after_their_variables() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("R2_WRITE_ACCESS_KEY_ID"), "id").unwrap();
        let of = |name: &str, set: Option<&'static str>| {
            in_keys_dir(folder.path(), name, |asked| {
                set.filter(|known| *known == asked).map(str::to_owned)
            })
        };
        let path = of("R2_WRITE_ACCESS_KEY_ID_FILE", None).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "id");
        // A variable that is set wins, and what is no file is nothing.
        assert_eq!(of("R2_WRITE_ACCESS_KEY_ID_FILE", Some("R2_WRITE_ACCESS_KEY_ID")), None);
        assert_eq!(of("R2_READ_ACCESS_KEY_ID_FILE", None), None);
        assert_eq!(of("R2_WRITE_ACCESS_KEY_ID", None), None);
    }

    #[test]
    fn each_subnet_has_a_home_of_its_own() {
        let mut config = Config::for_real_network();
        config.network.name = "finney".to_owned();
        let of = |config: &Config| home(config).unwrap();
        assert!(of(&config).ends_with("grail/finney-81"));
        config.network.netuid = Some(7);
        assert!(of(&config).ends_with("grail/finney-7"));
        config.network.dir = Some("state".into());
        assert_eq!(of(&config), Path::new("state"));
        config.network = crate::config::NetworkConfig::default();
        config.network.name = "test".to_owned();
        let error = home(&config).unwrap_err().to_string();
        assert!(error.contains("--netuid"), "{error}");
    }
}
