//! A network in a folder: makes it, opens it, and hands each neuron its ports.
//!
//! ```text
//! <dir>/network.json    what other processes must know    <dir>/chain.redb     the chain
//! <dir>/network.lock    held by the process that serves   <dir>/beacon.key     the beacon's secret
//! <dir>/wallets/<name>  wallet and bucket.json            <dir>/store/<bucket> objects
//! <dir>/roles/<name>    for the neuron itself
//! ```

mod file;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grail_ports::beacon::{Beacon, BeaconSchedule};
use grail_ports::chain::Chain;
use grail_ports::object_store::Buckets;
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Uid};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use self::file::{
    NETWORK_FILE, NETWORK_FILE_VERSION, NetworkFile, NetworkFileError, NetworkRole, NeuronEntry,
};
use super::beacon::{BeaconKeyError, LocalBeacon};
use super::chain::refusal::Refusal;
use super::chain::state::ChainRules;
use super::chain::{LocalChain, LocalChainError};
use super::client::{ChainIdentity, ClientError, Http, HttpBeacon, HttpBuckets, HttpChain};
use super::server::{Served, Server};
use super::store::credentials::{BucketKeys, CredentialsError};
use super::store::{FolderBuckets, FolderStore, OpenStoreError, StoreLimits};
use crate::clock::Clock;
use crate::files;
use crate::lock::{FolderLock, LockError};
use crate::retry::{RetryPolicy, Retrying};
use crate::wallet::{NewKey, Wallet, WalletError, is_plain_name};

const LOCK_FILE: &str = "network.lock";
const CHAIN_FILE: &str = "chain.redb";
const BEACON_FILE: &str = "beacon.key";
const STORE_FOLDER: &str = "store";
const WALLETS_FOLDER: &str = "wallets";
const ROLES_FOLDER: &str = "roles";
const BUCKET_FILE: &str = "bucket.json";
const HOTKEY_NAME: &str = "default";

/// What a new network is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Rules of the chain, its name and its times among them.
    pub rules: ChainRules,
    /// Milliseconds between two rounds of the beacon, at least 1; a window's randomness comes with
    /// the first round after the window's first block.
    pub beacon_period_ms: u64,
    /// Neurons, uid 0 first.
    pub neurons: Vec<NeuronConfig>,
    /// With a seed, every key and hash of the network follows from it; without one, from the
    /// operating system's randomness.
    pub seed: Option<[u8; 32]>,
}

/// A neuron of a new network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeuronConfig {
    /// Name of the neuron, of its wallet and of its folder.
    pub name: String,
    /// What it does.
    pub role: NetworkRole,
    /// How it cheats, for miners that are made to.
    pub cheat: Option<String>,
    /// Its stake.
    pub stake: u64,
}

/// A network whose folder this process holds.
pub struct LocalNetwork {
    dir: PathBuf,
    file: Mutex<NetworkFile>,
    chain: Arc<LocalChain>,
    beacon: Arc<LocalBeacon>,
    store: Arc<FolderStore>,
    _lock: FolderLock,
}

/// What a neuron acts with.
pub struct Node {
    /// Name, role, hotkey and uid.
    pub entry: NeuronEntry,
    /// Its wallet.
    pub wallet: Arc<Wallet>,
    /// The chain, for its hotkey.
    pub chain: Arc<dyn Chain>,
    /// The beacon.
    pub beacon: Arc<dyn Beacon>,
    /// Its bucket and those of its peers.
    pub buckets: Arc<dyn Buckets>,
    /// Folder for its own state, private to it.
    pub dir: PathBuf,
}

/// Why a network could not be made, opened or joined.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A folder that a network must not be made in.
    #[error("{0} is not empty; choose another folder, or resume the network in it")]
    NotEmpty(PathBuf),
    /// A network that nobody can make.
    #[error("the network's configuration is invalid: {0}")]
    Config(String),
    /// No neuron of that name.
    #[error("no neuron `{name}` in this network; it has {known}")]
    UnknownNeuron {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Parts of the folder belong to different networks.
    #[error("{0} does not belong to this network; restore the folder from one backup")]
    Mixed(PathBuf),
    /// No server to connect to.
    #[error("the network in {0} has no endpoint; start it with `grail localnet` first")]
    NotServed(PathBuf),
    /// The folder is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// `network.json`.
    #[error(transparent)]
    File(#[from] NetworkFileError),
    /// The chain.
    #[error(transparent)]
    Chain(#[from] LocalChainError),
    /// The beacon.
    #[error(transparent)]
    Beacon(#[from] BeaconKeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenStoreError),
    /// A bucket.
    #[error(transparent)]
    Bucket(#[from] grail_ports::object_store::StoreError),
    /// Bucket credentials.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A wallet.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The server of the network.
    #[error("cannot reach the network: {0}")]
    Client(#[from] ClientError),
    /// The operating system refused.
    #[error("cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
    /// The address cannot be served.
    #[error("cannot serve on {address}: {source}; choose another port, or 0 for a free one")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The operating system's word.
        source: io::Error,
    },
}

impl LocalNetwork {
    /// Makes the network of `config` in the folder `dir`, which must be absent or empty, and opens
    /// it. A crash in between leaves `dir` as it was.
    ///
    /// # Errors
    /// When the folder is not empty or the configuration is invalid.
    pub fn create(dir: &Path, config: &NetworkConfig) -> Result<Self, NetworkError> {
        config.validate().map_err(NetworkError::Config)?;
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(NetworkError::NotEmpty(dir.to_owned()));
        }
        let draft = draft_of(dir)?;
        let lock = claim_draft(&draft)?;
        fill(&draft, config)?;
        files::sync_dir(&draft).map_err(io_error(&draft))?;
        fs::rename(&draft, dir).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                NetworkError::NotEmpty(dir.to_owned())
            }
            _ => NetworkError::Io { path: dir.to_owned(), source },
        })?;
        drop(lock);
        Self::open(dir)
    }

    /// Opens the network in the folder `dir`; the chain goes on at its height.
    ///
    /// # Errors
    /// When there is none, another process holds it, or a part of it is damaged.
    pub fn open(dir: &Path) -> Result<Self, NetworkError> {
        // Read before the lock file would be made in a folder that is no network.
        NetworkFile::load(dir)?;
        let lock = FolderLock::acquire(dir, LOCK_FILE)?;
        let file = NetworkFile::load(dir)?;
        let chain = LocalChain::open(&dir.join(CHAIN_FILE))?;
        if chain.genesis() != file.genesis {
            return Err(NetworkError::Mixed(dir.join(CHAIN_FILE)));
        }
        let (_, schedule) =
            file.beacon.check().map_err(|error| NetworkError::Config(error.to_string()))?;
        let beacon = LocalBeacon::open(&dir.join(BEACON_FILE), schedule, chain.clock())?;
        if *beacon.info() != file.beacon {
            return Err(NetworkError::Mixed(dir.join(BEACON_FILE)));
        }
        let limits = StoreLimits::default();
        let store = FolderStore::open(&dir.join(STORE_FOLDER), limits, chain.clock())?;
        Ok(Self {
            dir: dir.to_owned(),
            file: Mutex::new(file),
            chain,
            beacon: Arc::new(beacon),
            store: Arc::new(store),
            _lock: lock,
        })
    }

    /// Returns the network's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what `network.json` says.
    pub fn file(&self) -> NetworkFile {
        self.locked_file().clone()
    }

    /// Returns the chain; its [`LocalChain::run`] is the network's heartbeat.
    pub fn chain(&self) -> &Arc<LocalChain> {
        &self.chain
    }

    /// Returns the network's clock, that of its chain; the store and the beacon go by it.
    pub fn clock(&self) -> Clock {
        self.chain.clock()
    }

    /// Returns what the neuron `name` acts with, inside this process.
    ///
    /// # Errors
    /// When there is no such neuron, or its wallet or credentials are damaged.
    pub fn node(&self, name: &str) -> Result<Node, NetworkError> {
        let entry = entry_of(&self.locked_file(), name)?;
        let (wallet, keys) = load_identity(&self.dir, &entry)?;
        Ok(Node {
            chain: self.chain.chain_for(Arc::clone(&wallet) as Arc<dyn Signer>),
            beacon: Arc::clone(&self.beacon) as Arc<dyn Beacon>,
            buckets: Arc::new(FolderBuckets::new(Arc::clone(&self.store), keys)),
            dir: role_dir(&self.dir, name)?,
            wallet,
            entry,
        })
    }

    /// Adds a neuron to the network; its uid is there with the next block. Adding it again, as
    /// after a crash, is no error.
    ///
    /// # Errors
    /// When the name is taken by a different neuron, or no uid is free.
    pub fn add_neuron(&self, neuron: &NeuronConfig) -> Result<NeuronEntry, NetworkError> {
        let mut file = self.locked_file();
        if let Some(known) = file.neuron(&neuron.name) {
            if known.role == neuron.role && known.cheat == neuron.cheat {
                return Ok(known.clone());
            }
            let name = &neuron.name;
            return Err(NetworkError::Config(format!("`{name}` exists with another role")));
        }
        let seed = files::random_seed().map_err(io_error(&self.dir))?;
        let (wallet, keys) = ensure_identity(&self.dir, &neuron.name, &seed)?;
        self.store.create_bucket(&keys.grant())?;
        match self.chain.register(wallet.hotkey(), neuron.stake) {
            Ok(_) | Err(LocalChainError::Refused(Refusal::HotKeyAlreadyRegisteredInSubNet)) => {}
            Err(error) => return Err(error.into()),
        }
        let uid = self
            .chain
            .uid(wallet.hotkey())
            .ok_or(LocalChainError::Refused(Refusal::HotKeyNotRegisteredInSubNet))?;
        let entry = neuron.entry(wallet.hotkey(), uid);
        let mut changed = file.clone();
        changed.neurons.push(entry.clone());
        changed.save(&self.dir)?;
        *file = changed;
        Ok(entry)
    }

    /// Serves the network to other processes on `address` until `stop`, and writes the endpoint
    /// into `network.json`.
    ///
    /// # Errors
    /// When the address cannot be bound or the file not be written.
    pub async fn serve(
        &self,
        address: SocketAddr,
        stop: CancellationToken,
    ) -> Result<Server, NetworkError> {
        let served = Served {
            chain: Arc::clone(&self.chain),
            beacon: Arc::clone(&self.beacon),
            store: Arc::clone(&self.store),
        };
        let server = Server::start(served, address, stop)
            .await
            .map_err(|source| NetworkError::Bind { address, source })?;
        let mut file = self.locked_file();
        let endpoint = Some(server.endpoint());
        if file.endpoint != endpoint {
            let changed = NetworkFile { endpoint, ..file.clone() };
            changed.save(&self.dir)?;
            *file = changed;
        }
        Ok(server)
    }

    fn locked_file(&self) -> MutexGuard<'_, NetworkFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns what the neuron `name` of the network in the folder `dir` acts with, in another process
/// than the network's; unanswered calls are tried again as `retry` says.
///
/// # Errors
/// When the network is not served, or `name` is none of its neurons.
pub async fn connect(dir: &Path, name: &str, retry: RetryPolicy) -> Result<Node, NetworkError> {
    let file = NetworkFile::load(dir)?;
    let entry = entry_of(&file, name)?;
    let (wallet, keys) = load_identity(dir, &entry)?;
    let endpoint = file.endpoint.ok_or_else(|| NetworkError::NotServed(dir.to_owned()))?;
    let http = Http::new(&endpoint, file.genesis)?;
    retry.run(|error| matches!(error, ClientError::Unavailable(_)), || http.ping()).await?;
    let identity = ChainIdentity { network: file.name, netuid: file.netuid };
    let signer: Arc<dyn Signer> = Arc::clone(&wallet) as Arc<dyn Signer>;
    let beacon = HttpBeacon::new(http.clone(), &file.beacon)
        .map_err(|error| NetworkError::Config(error.to_string()))?;
    let chain = HttpChain::new(http.clone(), identity, Arc::clone(&signer), retry);
    let buckets = HttpBuckets::new(http, keys, signer);
    Ok(Node {
        chain: Arc::new(Retrying::new(Arc::new(chain) as Arc<dyn Chain>, retry)),
        beacon: Arc::new(Retrying::new(Arc::new(beacon) as Arc<dyn Beacon>, retry)),
        buckets: Arc::new(Retrying::new(Arc::new(buckets) as Arc<dyn Buckets>, retry)),
        dir: role_dir(dir, name)?,
        wallet,
        entry,
    })
}

impl NetworkConfig {
    /// Returns a network of one trainer (uid 0), one validator with all the stake (uid 1), and
    /// `miners` honest miners called `miner-1`, `miner-2`, …
    pub fn local(genesis_ms: u64, miners: u16) -> Self {
        let neuron = |name: String, role, stake| NeuronConfig { name, role, cheat: None, stake };
        let mut neurons = vec![
            neuron("trainer".into(), NetworkRole::Trainer, 0),
            neuron("validator".into(), NetworkRole::Validator, 1_000_000_000_000),
        ];
        neurons.extend((1..=miners).map(|k| neuron(format!("miner-{k}"), NetworkRole::Miner, 0)));
        let rules = ChainRules::local(genesis_ms);
        Self { beacon_period_ms: rules.block_time_ms, rules, neurons, seed: None }
    }

    fn validate(&self) -> Result<(), String> {
        self.rules.validate()?;
        if self.beacon_period_ms == 0 {
            return Err("beacon_period_ms must be at least 1".into());
        }
        for (index, neuron) in self.neurons.iter().enumerate() {
            if !is_plain_name(&neuron.name) {
                return Err(format!("`{}` is not a plain name for a neuron", neuron.name));
            }
            if self.neurons[..index].iter().any(|other| other.name == neuron.name) {
                return Err(format!("two neurons are called `{}`", neuron.name));
            }
        }
        Ok(())
    }
}

impl NeuronConfig {
    fn entry(&self, hotkey: Hotkey, uid: Uid) -> NeuronEntry {
        let Self { name, role, cheat, .. } = self.clone();
        NeuronEntry { name, role, cheat, hotkey, uid }
    }
}

/// Returns the folder beside `dir` in which a network is made before it is moved into place.
fn draft_of(dir: &Path) -> Result<PathBuf, NetworkError> {
    let Some(name) = dir.file_name() else {
        let dir = dir.display();
        return Err(NetworkError::Config(format!("`{dir}` does not end with a folder's name")));
    };
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".grail-draft");
    Ok(dir.with_file_name(draft))
}

/// Makes the draft folder empty and ours.
fn claim_draft(draft: &Path) -> Result<FolderLock, NetworkError> {
    files::create_private_dir(draft).map_err(io_error(draft))?;
    let lock = FolderLock::acquire(draft, LOCK_FILE)?;
    // Nobody else holds it, so whatever is in it was left by a crash.
    for entry in fs::read_dir(draft).map_err(io_error(draft))? {
        let entry = entry.map_err(io_error(draft))?;
        let path = entry.path();
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_error(&path))?;
    }
    Ok(lock)
}

/// Writes every part of a new network; `network.json` comes last.
fn fill(dir: &Path, config: &NetworkConfig) -> Result<(), NetworkError> {
    let seed = match config.seed {
        Some(seed) => Zeroizing::new(seed),
        None => files::random_seed().map_err(io_error(dir))?,
    };
    let mut identities = Vec::new();
    for neuron in &config.neurons {
        let seed = subseed(&seed, &format!("neuron/{}", neuron.name));
        identities.push(ensure_identity(dir, &neuron.name, &seed)?);
    }
    let stakes: Vec<(Hotkey, u64)> = identities
        .iter()
        .zip(&config.neurons)
        .map(|((wallet, _), neuron)| (wallet.hotkey(), neuron.stake))
        .collect();
    let chain_seed = subseed(&seed, "chain");
    let chain =
        LocalChain::create(&dir.join(CHAIN_FILE), config.rules.clone(), &chain_seed, &stakes)?;
    let beacon_path = dir.join(BEACON_FILE);
    LocalBeacon::create_key(&beacon_path, &subseed(&seed, "beacon"))?;
    let genesis_ms = config.rules.genesis_ms;
    let schedule = BeaconSchedule { genesis_ms, period_ms: config.beacon_period_ms };
    let beacon = LocalBeacon::open(&beacon_path, schedule, chain.clock())?;
    let limits = StoreLimits::default();
    let store = FolderStore::create(&dir.join(STORE_FOLDER), limits, chain.clock())?;
    let mut neurons = Vec::new();
    for ((wallet, keys), (neuron, uid)) in identities.iter().zip(config.neurons.iter().zip(0..)) {
        store.create_bucket(&keys.grant())?;
        neurons.push(neuron.entry(wallet.hotkey(), Uid(uid)));
    }
    let file = NetworkFile {
        version: NETWORK_FILE_VERSION,
        name: config.rules.network.clone(),
        netuid: config.rules.netuid,
        endpoint: None,
        genesis: chain.genesis(),
        genesis_ms,
        block_time_ms: config.rules.block_time_ms,
        beacon: beacon.info().clone(),
        neurons,
    };
    Ok(file.save(dir)?)
}

/// Returns the wallet and the bucket keys of a neuron, making what is missing.
fn ensure_identity(
    dir: &Path,
    name: &str,
    seed: &[u8; 32],
) -> Result<(Wallet, BucketKeys), NetworkError> {
    let wallets = dir.join(WALLETS_FOLDER);
    let hotkey_seed = subseed(seed, "hotkey");
    let wallet = match Wallet::create(&wallets, name, HOTKEY_NAME, NewKey::Seed(hotkey_seed)) {
        Err(WalletError::Exists(_)) => Wallet::load(&wallets, name, HOTKEY_NAME)?,
        made => made?,
    };
    let path = bucket_file(dir, name);
    let keys = match BucketKeys::load(&path) {
        Err(CredentialsError::Missing(_)) => {
            let keys = BucketKeys::from_seed(wallet.hotkey(), &subseed(seed, "bucket"));
            keys.save(&path)?;
            keys
        }
        known => known?,
    };
    Ok((wallet, keys))
}

fn load_identity(
    dir: &Path,
    entry: &NeuronEntry,
) -> Result<(Arc<Wallet>, BucketKeys), NetworkError> {
    let wallet = Wallet::load(&dir.join(WALLETS_FOLDER), &entry.name, HOTKEY_NAME)?;
    let path = bucket_file(dir, &entry.name);
    let keys = BucketKeys::load(&path)?;
    if wallet.hotkey() != entry.hotkey {
        return Err(NetworkError::Mixed(dir.join(WALLETS_FOLDER).join(&entry.name)));
    }
    if keys.owner != entry.hotkey {
        return Err(NetworkError::Mixed(path));
    }
    Ok((Arc::new(wallet), keys))
}

fn entry_of(file: &NetworkFile, name: &str) -> Result<NeuronEntry, NetworkError> {
    file.neuron(name).cloned().ok_or_else(|| {
        let names: Vec<&str> = file.neurons.iter().map(|entry| entry.name.as_str()).collect();
        let name = name.chars().take(64).collect();
        NetworkError::UnknownNeuron { name, known: names.join(", ") }
    })
}

fn role_dir(dir: &Path, name: &str) -> Result<PathBuf, NetworkError> {
    let path = dir.join(ROLES_FOLDER).join(name);
    files::create_private_dir(&path).map_err(io_error(&path))?;
    Ok(path)
}

fn bucket_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(WALLETS_FOLDER).join(name).join(BUCKET_FILE)
}

/// Returns a secret that follows from `seed` and tells nothing about it or its siblings.
fn subseed(seed: &[u8; 32], what: &str) -> Zeroizing<[u8; 32]> {
    let hasher = Sha256::new()
        .chain_update(b"grail/v6/local-seed\0")
        .chain_update(seed)
        .chain_update(what.as_bytes());
    Zeroizing::new(hasher.finalize().into())
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Io { path, source }
}
