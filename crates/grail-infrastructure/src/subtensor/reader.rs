//! What a process reads of the chain: over one connection for all its hotkeys, each thing once a
//! block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grail_ports::chain::{Block, ChainError, Hyperparameters, Metagraph};
use grail_ports::observer::{NoObserver, Observer};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Digest, Hotkey};
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use super::adapter::{Subtensor, SubtensorConfig};
use super::commitments;
use super::error::{Trouble, unreadable};
use super::heads::Heads;
use super::kept::Kept;
use super::metagraph;
use super::node::{MakeArchive, Node};
use super::rpc::{Connector, RpcClient, RpcConfig, WebSocketConnector};
use super::runtime::Runtimes;
use super::subnet::Subnet;
use super::view::View;

/// What each hotkey has committed.
type Committed = Arc<BTreeMap<Hotkey, Vec<u8>>>;

/// A connection to the nodes of a network, for any number of hotkeys on one subnet; clones share it.
#[derive(Clone)]
pub struct Connection {
    reader: Arc<Reader>,
}

impl Connection {
    /// Connects to the network's nodes.
    ///
    /// # Errors
    /// When none answers within the time of a call, or what answers is not subtensor.
    pub async fn open(config: SubtensorConfig) -> Result<Self, ChainError> {
        Self::open_observed(config, Arc::new(NoObserver)).await
    }

    /// As [`Self::open`]; `observer` is told of questions to nodes and of connections.
    ///
    /// # Errors
    /// As there.
    pub async fn open_observed(
        config: SubtensorConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ChainError> {
        let connector = Arc::new(WebSocketConnector::new(config.rpc.message_bytes_max));
        Self::open_with(config, connector, observer).await
    }

    /// As [`Self::open`], through connections that `connector` makes.
    ///
    /// # Errors
    /// As there.
    pub async fn open_through(
        config: SubtensorConfig,
        connector: Arc<dyn Connector>,
    ) -> Result<Self, ChainError> {
        Self::open_with(config, connector, Arc::new(NoObserver)).await
    }

    async fn open_with(
        config: SubtensorConfig,
        connector: Arc<dyn Connector>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ChainError> {
        let reader = Reader::new(config, connector, &observer);
        let (_, view) = reader.best().await.map_err(|e| e.into_chain_error("connect", None))?;
        let (network, spec) = (&reader.config.network.name, view.runtime.version.spec);
        let netuid = reader.config.netuid.0;
        info!(%network, netuid, spec, "connected to subtensor");
        drop(view);
        Ok(Self { reader: Arc::new(reader) })
    }

    /// Says goodbye to the nodes. Calls of all who share the connection fail from then on.
    pub async fn close(&self) {
        self.reader.node.rpc().close().await;
    }

    /// Returns the chain port for the holder of `signer`'s hotkey.
    pub fn act_for(&self, signer: Arc<dyn Signer>) -> Subtensor {
        Subtensor::new(self.reader.clone(), signer)
    }
}

/// Reads at one block each time, and keeps what it has read until the head moves.
pub(super) struct Reader {
    pub(super) config: SubtensorConfig,
    pub(super) node: Arc<Node>,
    pub(super) runtimes: Runtimes,
    heads: Heads,
    block_time_ms: AtomicU64,
    metagraph: Kept<Arc<Metagraph>>,
    commitments: Kept<Committed>,
    hyperparameters: Kept<Hyperparameters>,
    _following: Option<DropGuard>,
}

impl Reader {
    fn new(
        config: SubtensorConfig,
        connector: Arc<dyn Connector>,
        observer: &Arc<dyn Observer>,
    ) -> Self {
        let rpc_config =
            RpcConfig { endpoints: config.network.endpoints.clone(), ..config.rpc.clone() };
        let archive: Option<MakeArchive> =
            (!config.network.archive_endpoints.is_empty()).then(|| {
                let endpoints = config.network.archive_endpoints.clone();
                let rpc_config = RpcConfig { endpoints, ..config.rpc.clone() };
                let (connector, observer) = (connector.clone(), observer.clone());
                let make = move || {
                    let (connector, observer) = (connector.clone(), observer.clone());
                    RpcClient::start_observed(rpc_config.clone(), connector, observer)
                };
                Arc::new(make) as MakeArchive
            });
        let rpc = RpcClient::start_observed(rpc_config, connector, observer.clone());
        let node = Arc::new(Node::new(rpc, archive, config.network.genesis));
        let heads = Heads::default();
        let following = config.follow_heads.then(|| heads.follow(node.clone()));
        Self {
            config,
            node,
            runtimes: Runtimes::default(),
            heads,
            block_time_ms: AtomicU64::new(1),
            metagraph: Kept::default(),
            commitments: Kept::default(),
            hyperparameters: Kept::default(),
            _following: following,
        }
    }

    /// Returns the time from block to block that the runtime aims at, milliseconds.
    pub(super) fn block_time_ms(&self) -> u64 {
        self.block_time_ms.load(Ordering::Relaxed)
    }

    /// Opens the newest block.
    pub(super) async fn best(&self) -> Result<(u64, View<'_>), Trouble> {
        let (head, view) = self.open_head(self.newest().await?).await?;
        Ok((head.number.0, view))
    }

    /// Opens the block `head`, or the newest one if a re-organisation took away what the node told of.
    async fn open_head(&self, head: Block) -> Result<(Block, View<'_>), Trouble> {
        match self.view(head.hash).await {
            Err(gone) if gone.is_pruned() && self.heads.forget(head.hash) => {
                let head = self.newest().await?;
                Ok((head, self.view(head.hash).await?))
            }
            view => Ok((head, view?)),
        }
    }

    async fn view(&self, hash: Digest) -> Result<View<'_>, Trouble> {
        let view = View::at(&self.node, &self.runtimes, hash).await?;
        self.block_time_ms.store(view.runtime.block_time_ms, Ordering::Relaxed);
        Ok(view)
    }

    /// Returns the newest block.
    pub(super) async fn newest(&self) -> Result<Block, Trouble> {
        let block_time = Duration::from_millis(self.block_time_ms());
        self.heads.head(&self.node, &self.runtimes, block_time).await
    }

    /// Returns the block at `number`, or `None` if the chain is not there yet.
    pub(super) async fn block(&self, number: u64) -> Result<Option<Block>, Trouble> {
        let Some(hash) = self.node.block_hash(number).await? else { return Ok(None) };
        self.heads.block(&self.node, &self.runtimes, number, hash).await.map(Some)
    }

    /// Returns the newest block that no re-organisation can take away.
    pub(super) async fn finalized(&self) -> Result<BlockNumber, Trouble> {
        let hash = self.node.finalized().await?;
        let header = self.node.header(Some(hash)).await?;
        let header = header.ok_or_else(|| unreadable("the final head", "it has no header"))?;
        Ok(BlockNumber(header.number.into()))
    }

    /// Returns the metagraph at the head.
    pub(super) async fn metagraph(&self) -> Result<Arc<Metagraph>, Trouble> {
        let head = self.newest().await?;
        let read = async {
            let (head, view) = self.open_head(head).await?;
            let netuid = self.config.netuid;
            let read = metagraph::read(&view, netuid, head.number.0).await?;
            let absent = || {
                let reason = format!("there is no subnet {netuid} on this chain; check NETUID");
                unreadable("get_metagraph", reason)
            };
            read.map(Arc::new).ok_or_else(absent)
        };
        self.metagraph.get(head.number.0, read).await
    }

    /// Returns the rules that bind validators, as of the head. They are the same for everybody;
    /// `hotkey` is whoever asks.
    pub(super) async fn hyperparameters(&self, hotkey: Hotkey) -> Result<Hyperparameters, Trouble> {
        let head = self.newest().await?;
        let read = async {
            let (head, view) = self.open_head(head).await?;
            let netuid = self.config.netuid.0;
            Ok(Subnet::read(&view, head.number.0, netuid, hotkey).await?.hyperparameters())
        };
        self.hyperparameters.get(head.number.0, read).await
    }

    /// Returns what hotkeys have committed; those of an older block while the chain cannot be read.
    pub(super) async fn commitments(&self) -> Result<Committed, Trouble> {
        let fresh = async {
            let head = self.newest().await?;
            let read = async {
                let (_, view) = self.open_head(head).await?;
                commitments::read(&view, self.config.netuid.0).await.map(Arc::new)
            };
            self.commitments.get(head.number.0, read).await
        };
        let error = match fresh.await {
            Ok(map) => return Ok(map),
            Err(error) => error,
        };
        let Some((block, good)) = self.commitments.last().await else { return Err(error) };
        warn!(%error, block, "commitments are those of an older block");
        Ok(good)
    }
}
