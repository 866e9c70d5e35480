//! A network that another process serves, as a member or as a newcomer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_ports::object_store::Buckets;
use grail_ports::observer::NoObserver;
use grail_ports::signer::Signer;

use super::gateway::Gateway;
use super::identity::load_identity;
use super::{NetworkError, NetworkFile, NetworkRole, NeuronEntry, Node, entry_of, role_dir};
use crate::local::client::{ClientError, Http, HttpBuckets, create_bucket};
use crate::local::store::credentials::BucketKeys;
use crate::retry::{RetryPolicy, Retrying};
use crate::wallet::Wallet;

/// A network that another process serves.
pub struct RemoteNetwork {
    dir: PathBuf,
    file: NetworkFile,
    http: Http,
    gateway: Gateway,
    retry: RetryPolicy,
}

impl RemoteNetwork {
    /// Connects to the network in the folder `dir`; unanswered calls of store and beacon are tried
    /// again as `retry` says.
    ///
    /// # Errors
    /// When the network is not served, or another one answers in its place.
    pub async fn reach(dir: &Path, retry: RetryPolicy) -> Result<Self, NetworkError> {
        let file = NetworkFile::load(dir)?;
        let endpoint = file.endpoint.clone();
        let endpoint = endpoint.ok_or_else(|| NetworkError::NotServed(dir.to_owned()))?;
        let http = Http::new(&endpoint, file.genesis)?;
        retry.run(|error| matches!(error, ClientError::Unavailable(_)), || http.ping()).await?;
        // The time of this network is its chain's, so only the server knows which rounds are out.
        let gateway =
            Gateway::open(&file, &endpoint, Arc::new(|| u64::MAX), Arc::new(NoObserver)).await?;
        Ok(Self { dir: dir.to_owned(), file, http, gateway, retry })
    }

    /// Returns what `network.json` says.
    pub fn file(&self) -> &NetworkFile {
        &self.file
    }

    /// Makes `wallet` a miner of the network, as far as it is none yet: registers its hotkey and
    /// makes its bucket, whose `keys` must be the wallet's own.
    ///
    /// # Errors
    /// When the chain or the store refuses.
    pub async fn admit(&self, wallet: Arc<Wallet>, keys: BucketKeys) -> Result<Node, NetworkError> {
        let uid = self.gateway.register(Arc::clone(&wallet) as Arc<dyn Signer>).await?;
        create_bucket(&self.http, &keys, &*wallet).await?;
        let (name, hotkey) = (wallet.name().to_owned(), wallet.hotkey());
        let entry = NeuronEntry { name, role: NetworkRole::Miner, cheat: None, hotkey, uid };
        self.node(entry, wallet, keys)
    }

    /// Returns what the member `name` acts with.
    ///
    /// # Errors
    /// When there is no such neuron, or its wallet or credentials are damaged.
    pub fn member(&self, name: &str) -> Result<Node, NetworkError> {
        let entry = entry_of(&self.file, name)?;
        let (wallet, keys) = load_identity(&self.dir, &entry)?;
        self.node(entry, wallet, keys)
    }

    fn node(
        &self,
        entry: NeuronEntry,
        wallet: Arc<Wallet>,
        keys: BucketKeys,
    ) -> Result<Node, NetworkError> {
        let signer: Arc<dyn Signer> = Arc::clone(&wallet) as Arc<dyn Signer>;
        let buckets = HttpBuckets::new(self.http.clone(), keys, Arc::clone(&signer));
        Ok(Node {
            chain: Arc::new(self.gateway.chain(signer)),
            beacon: Arc::new(Retrying::new(self.gateway.beacon(), self.retry)),
            buckets: Arc::new(Retrying::new(Arc::new(buckets) as Arc<dyn Buckets>, self.retry)),
            dir: role_dir(&self.dir, &entry.name)?,
            wallet,
            entry,
        })
    }
}

/// Returns what the neuron `name` of the network in the folder `dir` acts with, in another process
/// than the network's; unanswered calls are tried again as `retry` says.
///
/// # Errors
/// When `name` is none of the network's neurons, or the network is not served.
pub async fn connect(dir: &Path, name: &str, retry: RetryPolicy) -> Result<Node, NetworkError> {
    // What is wrong with the folder shows before anybody is called.
    entry_of(&NetworkFile::load(dir)?, name)?;
    RemoteNetwork::reach(dir, retry).await?.member(name)
}
