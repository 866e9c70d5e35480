//! The chain port, for one hotkey on one subnet of subtensor.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use grail_ports::beacon::BeaconSchedule;
use grail_ports::chain::{
    Block, Chain, ChainError, Hyperparameters, Metagraph, SentWeights, WeightSubmission,
    WeightsStatus,
};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid, Uid};
use grail_protocol::timelock::{BeaconPublicKey, SealTo};
use tracing::info;

use super::commitments;
use super::error::{Trouble, unreadable};
use super::network::Network;
use super::pool;
use super::reader::{Connection, Reader};
use super::rpc::{Connector, RpcConfig};
use super::runtime::Runtime;
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
    /// The beacon whose rounds open sealed weights on this chain.
    pub beacon: SealBeacon,
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
            beacon: SealBeacon::default(),
        }
    }
}

/// The beacon that weights are sealed to; drand's quicknet unless a chain of one's own has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealBeacon {
    /// Its public key.
    pub key: BeaconPublicKey,
    /// When its rounds come out.
    pub schedule: BeaconSchedule,
}

impl Default for SealBeacon {
    fn default() -> Self {
        Self { key: weights::quicknet_key(), schedule: super::schedule::QUICKNET }
    }
}

/// Subtensor, for one hotkey on one subnet.
pub struct Subtensor {
    reader: Arc<Reader>,
    signer: Arc<dyn Signer>,
    submitter: Submitter,
    sent: std::sync::Mutex<Option<Sent>>,
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
        Ok(Connection::open(config).await?.act_for(signer))
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
        Ok(Connection::open_through(config, connector).await?.act_for(signer))
    }

    pub(super) fn new(reader: Arc<Reader>, signer: Arc<dyn Signer>) -> Self {
        let submitter = Submitter::new(reader.config.submit);
        Self { reader, signer, submitter, sent: std::sync::Mutex::default() }
    }

    /// Says goodbye to the nodes. Calls fail from then on.
    pub async fn close(&self) {
        self.reader.node.rpc().close().await;
    }

    /// Returns the uid of this hotkey.
    ///
    /// # Errors
    /// [`ChainError::Refused`] with what to do when it is not registered.
    pub async fn registration(&self) -> Result<Uid, ChainError> {
        let call = "registration";
        let (number, view) =
            self.reader.best().await.map_err(|error| error.into_chain_error(call, None))?;
        let subnet = self.subnet(&view, number).await?;
        if let Some(uid) = subnet.uid {
            return Ok(uid);
        }
        let (netuid, network) = (self.reader.config.netuid.0, &self.reader.config.network.name);
        let cost = match view.value(PALLET, "Burn", &[netuid.into()]).await {
            Ok(Some(cost)) => cost.as_uint::<u64>().ok().map(tao),
            // The price is a courtesy.
            Ok(None) | Err(_) => None,
        };
        let cost = cost.map(|cost| format!(" (now {cost} TAO, from its coldkey)"));
        Err(ChainError::Refused {
            call: call.to_owned(),
            name: "HotKeyNotRegisteredInSubNet".to_owned(),
            advice: format!(
                "hotkey {} is not registered on netuid {netuid} of {network}; register it{} with \
                 `btcli subnet register --netuid {netuid} --network {network}`, or check the wallet \
                 and NETUID",
                self.signer.hotkey(),
                cost.unwrap_or_default()
            ),
        })
    }

    async fn subnet(&self, view: &View<'_>, number: u64) -> Result<Subnet, ChainError> {
        Subnet::read(view, number, self.reader.config.netuid.0, self.signer.hotkey())
            .await
            .map_err(|error| error.into_chain_error("hyperparameters", None))
    }

    /// Registers this hotkey; `coldkey` pays and will own it.
    ///
    /// # Errors
    /// The chain's refusal, or why nobody knows.
    pub async fn register(&self, coldkey: &dyn Signer) -> Result<BlockNumber, ChainError> {
        const NAME: &str = "burned_register";
        let (netuid, hotkey) = (self.reader.config.netuid.0, self.signer.hotkey().0);
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
        self.submitter.submit(&self.reader.node, &self.reader.runtimes, signer, make).await
    }

    fn last_sent(&self) -> Option<Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works out once more what an earlier instance sent: from the state before the block that has it,
    /// or from today's if no node keeps that any more.
    async fn recall(&self, sent: &SentWeights) -> Result<Sent, ChainError> {
        const NAME: &str = "watch_weights";
        let block = sent.block.0;
        let then = match self.subnet_at(block.saturating_sub(1)).await {
            Err(ChainError::Pruned(_)) => None,
            other => other?,
        };
        let (subnet, block_time_ms) = match then {
            Some(found) => found,
            None => {
                let best = self.reader.best().await;
                let (number, view) = best.map_err(|error| error.into_chain_error(NAME, None))?;
                (self.subnet(&view, number).await?, view.runtime.block_time_ms)
            }
        };
        let (uid, weights) = weights::quantise(&subnet, &sent.submission)?;
        let opening = weights::opening(&subnet, block_time_ms, self.reader.config.beacon.schedule)
            .map_err(|error| error.into_chain_error(NAME, None))?;
        Ok(Sent { uid, weights, block, opening })
    }

    /// Returns the subnet at a block, and the time between blocks; `None` if there is no such block.
    async fn subnet_at(&self, number: u64) -> Result<Option<(Subnet, u64)>, ChainError> {
        let read = async {
            let Some(hash) = self.reader.node.block_hash(number).await? else { return Ok(None) };
            let view = View::at(&self.reader.node, &self.reader.runtimes, hash).await?;
            let (netuid, hotkey) = (self.reader.config.netuid.0, self.signer.hotkey());
            let subnet = Subnet::read(&view, number, netuid, hotkey).await?;
            Ok(Some((subnet, view.runtime.block_time_ms)))
        };
        read.await.map_err(|error: Trouble| {
            error.into_chain_error("watch_weights", Some(BlockNumber(number)))
        })
    }

    /// Looks for the weights that were sent, as the chain has them at its newest block.
    async fn look_for(&self, sent: &Sent) -> Result<WeightsStatus, Trouble> {
        let (number, view) = self.reader.best().await?;
        if number < sent.block {
            // A node that is behind the one that included them.
            return Ok(WeightsStatus::Sealed { opens: BlockNumber(sent.block) });
        }
        let netuid = self.reader.config.netuid.0;
        let index = storage_index(netuid, self.reader.config.mechanism);
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

/// Returns an amount of rao as TAO, of which one has 10^9, without needless zeros.
fn tao(rao: u64) -> String {
    let text = format!("{}.{:09}", rao / 1_000_000_000, rao % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
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
        self.reader.config.netuid
    }

    fn network(&self) -> &str {
        &self.reader.config.network.name
    }

    fn block_time_ms(&self) -> u64 {
        self.reader.block_time_ms()
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.reader.newest().await.map_err(|error| error.into_chain_error("head", None))
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        let read = self.reader.block(number.0).await;
        read.map_err(|error| error.into_chain_error("block", Some(number)))
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        self.reader.metagraph().await.map_err(|e| e.into_chain_error("metagraph", None))
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        let read = self.reader.hyperparameters(self.signer.hotkey()).await;
        read.map_err(|error| error.into_chain_error("hyperparameters", None))
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        self.reader.commitments().await.map_err(|e| e.into_chain_error("commitments", None))
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
        let netuid = self.reader.config.netuid.0;
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
            self.reader.best().await.map_err(|error| error.into_chain_error(NAME, None))?;
        let subnet = self.subnet(&view, number).await?;
        let (uid, weights) = weights::quantise(&subnet, submission)?;
        let trouble = |error: Trouble| error.into_chain_error(NAME, None);
        let beacon = self.reader.config.beacon;
        let block_time_ms = view.runtime.block_time_ms;
        let opening = weights::opening(&subnet, block_time_ms, beacon.schedule).map_err(trouble)?;
        let (netuid, mechanism) = (self.reader.config.netuid.0, self.reader.config.mechanism);
        let commit = match &opening {
            None => None,
            Some(opening) => {
                let mut entropy = [0; 32];
                getrandom::fill(&mut entropy)
                    .map_err(|e| trouble(unreadable("the system's randomness", e)))?;
                let hotkey = self.signer.hotkey();
                let to = SealTo { key: beacon.key, round: opening.round };
                let commit = weights::seal_to(to, hotkey, &weights, &entropy);
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
        self.reader.finalized().await.map_err(|error| error.into_chain_error("finalized", None))
    }

    async fn weights_status(&self) -> Result<WeightsStatus, ChainError> {
        let Some(sent) = self.last_sent() else { return Ok(WeightsStatus::Unknown) };
        self.look_for(&sent).await.map_err(|e| e.into_chain_error("weights_status", None))
    }

    async fn watch_weights(&self, sent: &SentWeights) -> Result<(), ChainError> {
        let sent = self.recall(sent).await?;
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
        Ok(())
    }
}
