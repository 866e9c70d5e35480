//! A network in a folder: makes it, opens it, and hands each neuron its ports.
//!
//! ```text
//! <dir>/network.json    what other processes must know    <dir>/chain.redb     the chain
//! <dir>/network.lock    held by the process that serves   <dir>/beacon.key     the beacon's secret
//! <dir>/wallets/<name>  wallet and bucket.json            <dir>/store/<bucket> objects
//! <dir>/roles/<name>    for the neuron itself
//! ```

mod config;
mod draft;
mod file;
mod gateway;
mod identity;
mod remote;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grail_ports::beacon::Beacon;
use grail_ports::chain::{Chain, ChainError};
use grail_ports::object_store::Buckets;
use grail_ports::observer::{NoObserver, Observer};
use grail_ports::signer::Signer;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use self::config::{NetworkConfig, NeuronConfig};
pub use self::file::{
    NETWORK_FILE, NETWORK_FILE_VERSION, NetworkFile, NetworkFileError, NetworkRole, NeuronEntry,
};
pub use self::gateway::Gateway;
use self::identity::{ensure_identity, load_identity};
pub use self::remote::{RemoteNetwork, connect};
use super::beacon::{BeaconKeyError, LocalBeacon};
use super::chain::refusal::Refusal;
use super::chain::{LocalChain, LocalChainError, Pulses};
use super::client::ClientError;
use super::rpc;
use super::server::{Served, Server};
use super::store::credentials::CredentialsError;
use super::store::{FolderBuckets, FolderStore, OpenStoreError, StoreLimits};
use crate::clock::Clock;
use crate::files;
use crate::lock::{FolderLock, LockError};
use crate::wallet::{Wallet, WalletError};

const LOCK_FILE: &str = "network.lock";
const CHAIN_FILE: &str = "chain.redb";
const BEACON_FILE: &str = "beacon.key";
const STORE_FOLDER: &str = "store";
const WALLETS_FOLDER: &str = "wallets";
const ROLES_FOLDER: &str = "roles";

/// A network whose folder this process holds.
pub struct LocalNetwork {
    dir: PathBuf,
    file: Mutex<NetworkFile>,
    chain: Arc<LocalChain>,
    beacon: Arc<LocalBeacon>,
    store: Arc<FolderStore>,
    rpc: Arc<rpc::Node>,
    /// Made when the first role of this process asks for it.
    gateway: OnceCell<Gateway>,
    observer: Arc<dyn Observer>,
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
    /// The chain that the network serves.
    #[error("while calling the network's chain: {0}")]
    Outside(#[from] ChainError),
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
        draft::make(dir, config)?;
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
        let beacon = Arc::new(beacon);
        let pulses: Arc<dyn Pulses> = Arc::clone(&beacon) as Arc<dyn Pulses>;
        chain.follow(&pulses);
        let limits = StoreLimits::default();
        let store = FolderStore::open(&dir.join(STORE_FOLDER), limits, chain.clock())?;
        let rpc = rpc::Node::new(Arc::clone(&chain), rpc::Runtime::current());
        Ok(Self {
            dir: dir.to_owned(),
            file: Mutex::new(file),
            rpc,
            chain,
            beacon,
            store: Arc::new(store),
            gateway: OnceCell::new(),
            observer: Arc::new(NoObserver),
            _lock: lock,
        })
    }

    /// Lets `observer` be told of the connection that the roles of this process share.
    pub fn observe(&mut self, observer: Arc<dyn Observer>) {
        self.observer = observer;
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

    /// Returns the chain as a node of the real one, with the switches that make it misbehave.
    pub fn rpc(&self) -> &Arc<rpc::Node> {
        &self.rpc
    }

    /// Returns the network's clock, that of its chain; the store and the beacon go by it.
    pub fn clock(&self) -> Clock {
        self.chain.clock()
    }

    /// Returns what the neuron `name` acts with, in this process, which must serve the network.
    ///
    /// # Errors
    /// When there is no such neuron, its wallet or credentials are damaged, or the network is not
    /// served.
    pub async fn node(&self, name: &str) -> Result<Node, NetworkError> {
        let file = self.file();
        let entry = entry_of(&file, name)?;
        let (wallet, keys) = load_identity(&self.dir, &entry)?;
        let gateway = self.gateway.get_or_try_init(|| async {
            let endpoint = file.endpoint.as_ref();
            let endpoint = endpoint.ok_or_else(|| NetworkError::NotServed(self.dir.clone()))?;
            Gateway::open(&file, endpoint, self.clock(), Arc::clone(&self.observer)).await
        });
        let gateway = gateway.await?;
        Ok(Node {
            chain: Arc::new(gateway.chain(Arc::clone(&wallet) as Arc<dyn Signer>)),
            beacon: gateway.beacon(),
            buckets: Arc::new(FolderBuckets::new(Arc::clone(&self.store), keys)),
            dir: role_dir(&self.dir, name)?,
            wallet,
            entry,
        })
    }

    /// Ends what the roles of this process speak through, so that the end of the server is no fault.
    pub async fn disconnect(&self) {
        if let Some(gateway) = self.gateway.get() {
            gateway.close().await;
        }
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
            node: Arc::clone(&self.rpc),
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

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Io { path, source }
}
