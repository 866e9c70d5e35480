//! The chain port, for one hotkey on one subnet of subtensor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use grail_ports::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, WeightSubmission, WeightsStatus,
};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Digest, Hotkey, Netuid, Uid};
use tokio::sync::Mutex;
use tokio_util::sync::DropGuard;
use tracing::{info, warn};

use super::commitments;
use super::error::{Trouble, unreadable};
use super::heads::Heads;
use super::metagraph;
use super::network::Network;
use super::node::{MakeArchive, Node};
use super::pool;
use super::rpc::{Connector, RpcClient, RpcConfig, WebSocketConnector};
use super::runtime::{Runtime, Runtimes};
use super::submit::{Included, SubmitConfig, SubmitError, Submitter};
use super::subnet::{PALLET, Subnet, storage_index};
use super::view::View;
use super::weights::{self, Sent};
use crate::substrate::Value;

/// How subtensor is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubtensorConfig {
    /// The network.
    pub network: Network,
    /// The subnet.
    pub netuid: Netuid,
    /// Mechanism of the subnet whose weights are set.
    pub mechanism: u8,
    /// Connections and time-outs; the endpoints are the network's.
    pub rpc: RpcConfig,
    /// Whether the node tells of new heads, instead of being asked each time.
    pub follow_heads: bool,
    /// How calls are brought into blocks.
    pub submit: SubmitConfig,
}

impl SubtensorConfig {
    /// Returns the usual settings.
    pub fn new(network: Network, netuid: Netuid) -> Self {
        let rpc = RpcConfig::new(network.endpoints.clone());
        Self {
            network,
            netuid,
            mechanism: 0,
            rpc,
            follow_heads: false,
            submit: SubmitConfig::default(),
        }
    }
}

/// What is kept until the head moves.
struct Cached<T> {
    block: u64,
    value: T,
}

/// What each hotkey has committed.
type Committed = Arc<BTreeMap<Hotkey, Vec<u8>>>;

/// Subtensor, for one hotkey on one subnet.
pub struct Subtensor {
    config: SubtensorConfig,
    signer: Arc<dyn Signer>,
    node: Arc<Node>,
    runtimes: Runtimes,
    heads: Heads,
    block_time_ms: AtomicU64,
    metagraph: Mutex<Option<Arc<Metagraph>>>,
    commitments: Mutex<Option<Cached<Committed>>>,
    hyperparameters: Mutex<Option<Cached<Hyperparameters>>>,
    submitter: Submitter,
    sent: std::sync::Mutex<Option<Sent>>,
    _following: Option<DropGuard>,
}

impl Subtensor {
    /// Connects to the network's nodes.
    ///
    /// # Errors
    /// When none answers within the time of a call, or what answers is not subtensor.
    pub async fn connect(
        config: SubtensorConfig,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, ChainError> {
        let connector = Arc::new(WebSocketConnector::new(config.rpc.message_bytes_max));
        Self::connect_through(config, connector, signer).await
    }

    /// As [`Self::connect`], through connections that `connector` makes.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_through(
        config: SubtensorConfig,
        connector: Arc<dyn Connector>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, ChainError> {
        let rpc_config =
            RpcConfig { endpoints: config.network.endpoints.clone(), ..config.rpc.clone() };
        let archive: Option<MakeArchive> =
            (!config.network.archive_endpoints.is_empty()).then(|| {
                let endpoints = config.network.archive_endpoints.clone();
                let rpc_config = RpcConfig { endpoints, ..config.rpc.clone() };
                let connector = connector.clone();
                let make = move || RpcClient::start(rpc_config.clone(), connector.clone());
                Arc::new(make) as MakeArchive
            });
        let rpc = RpcClient::start(rpc_config, connector);
        let node = Arc::new(Node::new(rpc, archive, config.network.genesis));
        let heads = Heads::default();
        let following = config.follow_heads.then(|| heads.follow(node.clone()));
        let submitter = Submitter::new(config.submit);
        let subtensor = Self {
            config,
            signer,
            node,
            runtimes: Runtimes::default(),
            heads,
            block_time_ms: AtomicU64::new(1),
            metagraph: Mutex::default(),
            commitments: Mutex::default(),
            hyperparameters: Mutex::default(),
            submitter,
            sent: std::sync::Mutex::default(),
            _following: following,
        };
        let (_, view) = subtensor.best().await.map_err(|e| e.into_chain_error("connect", None))?;
        let (network, spec) = (&subtensor.config.network.name, view.runtime.version.spec);
        let netuid = subtensor.config.netuid.0;
        info!(%network, netuid, spec, "connected to subtensor");
        drop(view);
        Ok(subtensor)
    }

    /// Says goodbye to the nodes. Calls fail from then on.
    pub async fn close(&self) {
        self.node.rpc().close().await;
    }

    /// Opens the newest block.
    async fn best(&self) -> Result<(u64, View<'_>), Trouble> {
        let head = self.newest().await?;
        Ok((head.number.0, self.view(head.hash).await?))
    }

    async fn view(&self, hash: Digest) -> Result<View<'_>, Trouble> {
        let view = View::at(&self.node, &self.runtimes, hash).await?;
        self.block_time_ms.store(view.runtime.block_time_ms, Ordering::Relaxed);
        Ok(view)
    }

    async fn newest(&self) -> Result<Block, Trouble> {
        self.heads.head(&self.node, &self.runtimes, self.block_time()).await
    }

    fn block_time(&self) -> Duration {
        Duration::from_millis(self.block_time_ms.load(Ordering::Relaxed))
    }

    /// Returns the uid of this hotkey.
    ///
    /// # Errors
    /// [`ChainError::Refused`] with what to do when it is not registered.
    pub async fn registration(&self) -> Result<Uid, ChainError> {
        let call = "registration";
        let (number, view) =
            self.best().await.map_err(|error| error.into_chain_error(call, None))?;
        let subnet = self.subnet(&view, number).await?;
        subnet.uid.ok_or_else(|| {
            let (netuid, network) = (self.config.netuid.0, &self.config.network.name);
            ChainError::Refused {
                call: call.to_owned(),
                name: "HotKeyNotRegisteredInSubNet".to_owned(),
                advice: format!(
                    "hotkey {} is not registered on netuid {netuid} of {network}; register it \
                     with `btcli subnet register --netuid {netuid} --network {network}`, or check \
                     the wallet and NETUID",
                    self.signer.hotkey()
                ),
            }
        })
    }

    async fn subnet(&self, view: &View<'_>, number: u64) -> Result<Subnet, ChainError> {
        Subnet::read(view, number, self.config.netuid.0, self.signer.hotkey())
            .await
            .map_err(|error| error.into_chain_error("hyperparameters", None))
    }

    /// Registers this hotkey; `coldkey` pays and will own it.
    ///
    /// # Errors
    /// The chain's refusal, or why nobody knows.
    pub async fn register(&self, coldkey: &dyn Signer) -> Result<BlockNumber, ChainError> {
        const NAME: &str = "burned_register";
        let (netuid, hotkey) = (self.config.netuid.0, self.signer.hotkey().0);
        let included = self
            .submit(coldkey, |runtime| {
                let arguments = [("netuid", netuid.into()), ("hotkey", hotkey.into())];
                encode(runtime, PALLET, NAME, arguments)
            })
            .await
            .map_err(|error| error.into_chain_error(NAME))?;
        Ok(included.number)
    }

    async fn submit(
        &self,
        signer: &dyn Signer,
        make: impl Fn(&Runtime) -> Result<Vec<u8>, Trouble> + Send + Sync,
    ) -> Result<Included, SubmitError> {
        self.submitter.submit(&self.node, &self.runtimes, signer, make).await
    }

    fn last_sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for the weights that were sent, as the chain has them at its newest block.
    async fn look_for(&self, sent: &Sent) -> Result<WeightsStatus, Trouble> {
        let (number, view) = self.best().await?;
        if number < sent.block {
            // A node that is behind the one that included them.
            return Ok(WeightsStatus::Sealed { opens: BlockNumber(sent.block) });
        }
        let netuid = self.config.netuid.0;
        let index = storage_index(netuid, self.config.mechanism);
        let member = [Value::from(netuid), Value::from(self.signer.hotkey().0)];
        let row = [Value::from(index), Value::from(sent.uid.0)];
        let values = view
            .values(&[
                (PALLET, "Uids", &member),
                (PALLET, "Weights", &row),
                (PALLET, "SubnetEpochIndex", &[Value::from(netuid)]),
                (PALLET, "LastUpdate", &[Value::from(index)]),
            ])
            .await?;
        let lost = |reason: &str| Ok(WeightsStatus::Lost { reason: reason.to_owned() });
        let bad = |error| unreadable("the row of weights", error);
        let uid = match &values[0] {
            None => return lost("the hotkey is no longer registered; register it again"),
            Some(uid) => Uid(uid.as_uint().map_err(bad)?),
        };
        if uid != sent.uid {
            return lost("the hotkey has another uid now");
        }
        let row = values[1].clone().unwrap_or(Value::List(Vec::new()));
        if weights::is_row(&row, &sent.weights)? {
            return Ok(WeightsStatus::Landed);
        }
        let Some(opening) = sent.opening else {
            return lost(
                "the chain has other weights of this uid; a re-organisation took them, or \
                         another program sets weights with this hotkey",
            );
        };
        let epoch: u64 = values[2].as_ref().map_or(Ok(0), Value::as_uint).map_err(bad)?;
        if epoch > opening.epoch {
            return lost("the epoch that should have opened them is over; the chain dropped them");
        }
        let updated = match &values[3] {
            None => None,
            Some(updates) => match updates.item(usize::from(sent.uid.0)) {
                Ok(update) => Some(update.as_uint::<u64>().map_err(bad)?),
                Err(_) => None,
            },
        };
        if updated.is_some_and(|updated| updated < sent.block) {
            return lost("the chain does not know of them any more; a re-organisation took them");
        }
        Ok(WeightsStatus::Sealed { opens: BlockNumber(opening.block) })
    }
}

fn encode<'a>(
    runtime: &Runtime,
    pallet: &str,
    name: &str,
    arguments: impl IntoIterator<Item = (&'a str, Value)>,
) -> Result<Vec<u8>, Trouble> {
    let call = runtime.metadata.encode_call(pallet, name, arguments);
    call.map_err(|error| unreadable(&format!("{pallet}.{name}"), error))
}

#[async_trait]
impl Chain for Subtensor {
    fn netuid(&self) -> Netuid {
        self.config.netuid
    }

    fn network(&self) -> &str {
        &self.config.network.name
    }

    fn block_time_ms(&self) -> u64 {
        self.block_time_ms.load(Ordering::Relaxed)
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.newest().await.map_err(|error| error.into_chain_error("head", None))
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        let read = async {
            let Some(hash) = self.node.block_hash(number.0).await? else { return Ok(None) };
            self.heads.block(&self.node, &self.runtimes, number.0, hash).await.map(Some)
        };
        read.await.map_err(|error: Trouble| error.into_chain_error("block", Some(number)))
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        let mut cached = self.metagraph.lock().await;
        let read = async {
            let head = self.newest().await?;
            if let Some(known) = &*cached
                && known.block >= head.number
            {
                return Ok(known.clone());
            }
            let view = self.view(head.hash).await?;
            let netuid = self.config.netuid;
            let read = metagraph::read(&view, netuid, head.number.0).await?;
            let absent = || {
                let reason = format!("there is no subnet {netuid} on this chain; check NETUID");
                unreadable("get_metagraph", reason)
            };
            Ok(Arc::new(read.ok_or_else(absent)?))
        };
        let fresh = read.await.map_err(|e: Trouble| e.into_chain_error("metagraph", None))?;
        *cached = Some(fresh.clone());
        Ok(fresh)
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        let mut cached = self.hyperparameters.lock().await;
        let head = self.head().await?;
        if let Some(known) = &*cached
            && known.block >= head.number.0
        {
            return Ok(known.value);
        }
        let view = self
            .view(head.hash)
            .await
            .map_err(|error| error.into_chain_error("hyperparameters", None))?;
        let value = self.subnet(&view, head.number.0).await?.hyperparameters();
        *cached = Some(Cached { block: head.number.0, value });
        Ok(value)
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        let mut cached = self.commitments.lock().await;
        let read = async {
            let head = self.newest().await?;
            if let Some(known) = &*cached
                && known.block >= head.number.0
            {
                return Ok((known.block, known.value.clone()));
            }
            let view = self.view(head.hash).await?;
            let map = commitments::read(&view, self.config.netuid.0).await?;
            Ok((head.number.0, Arc::new(map)))
        };
        match (read.await, &*cached) {
            (Ok((block, value)), _) => {
                *cached = Some(Cached { block, value: value.clone() });
                Ok(value)
            }
            (Err(error), Some(good)) => {
                let error: Trouble = error;
                warn!(%error, block = good.block, "commitments are those of an older block");
                Ok(good.value.clone())
            }
            (Err(error), None) => Err(error.into_chain_error("commitments", None)),
        }
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        const NAME: &str = "set_commitment";
        let Some(info) = commitments::info(data) else {
            let name = "TooManyFieldsInCommitmentInfo";
            let advice = pool::advice(name).to_owned();
            return Err(ChainError::Refused {
                call: NAME.to_owned(),
                name: name.to_owned(),
                advice,
            });
        };
        let netuid = self.config.netuid.0;
        self.submit(&*self.signer, |runtime| {
            let arguments = [("netuid", netuid.into()), ("info", info.clone())];
            encode(runtime, "Commitments", NAME, arguments)
        })
        .await
        .map_err(|error| error.into_chain_error(NAME))?;
        Ok(())
    }

    async fn set_weights(&self, submission: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        const NAME: &str = "set_weights";
        let (number, view) =
            self.best().await.map_err(|error| error.into_chain_error(NAME, None))?;
        let subnet = self.subnet(&view, number).await?;
        let (uid, weights) = weights::quantise(&subnet, submission)?;
        let trouble = |error: Trouble| error.into_chain_error(NAME, None);
        let opening = weights::opening(&subnet, view.runtime.block_time_ms).map_err(trouble)?;
        let (netuid, mechanism) = (self.config.netuid.0, self.config.mechanism);
        let commit = match &opening {
            None => None,
            Some(opening) => {
                let mut entropy = [0; 32];
                getrandom::fill(&mut entropy)
                    .map_err(|e| trouble(unreadable("the system's randomness", e)))?;
                let hotkey = self.signer.hotkey();
                let commit = weights::seal(hotkey, &weights, opening.round, &entropy);
                Some((commit.map_err(trouble)?, *opening))
            }
        };
        let included = self
            .submit(&*self.signer, |runtime| match &commit {
                None => weights::open_call(runtime, netuid, mechanism, &weights),
                Some((commit, opening)) => {
                    let version = subnet.commit_reveal_version;
                    weights::sealed_call(runtime, netuid, mechanism, commit, opening, version)
                }
            })
            .await
            .map_err(|error| error.into_chain_error(NAME))?;
        let block = included.number;
        let opens = opening.map(|opening| opening.block);
        info!(uid = uid.0, netuid, block = block.0, opens, "the chain accepted weights");
        let sent = Sent { uid, weights, block: block.0, opening };
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        Ok(block)
    }

    async fn finalized(&self) -> Result<BlockNumber, ChainError> {
        let read = async {
            let hash = self.node.finalized().await?;
            let header = self.node.header(Some(hash)).await?;
            let header = header.ok_or_else(|| unreadable("the final head", "it has no header"))?;
            Ok(BlockNumber(header.number.into()))
        };
        read.await.map_err(|error: Trouble| error.into_chain_error("finalized", None))
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        let Some(sent) = self.last_sent() else { return Ok(WeightsStatus::Unknown) };
        self.look_for(&sent).await.map_err(|e| e.into_chain_error("weights_status", None))
    }
}
