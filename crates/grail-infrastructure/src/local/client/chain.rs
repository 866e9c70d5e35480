//! The chain port over HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use grail_ports::chain::{Block, Chain, ChainError, Hyperparameters, Metagraph, WeightSubmission};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Hotkey, Netuid};

use super::http::{ClientError, Http};
use crate::local::chain::adapter::commitment;
use crate::local::chain::extrinsic::{Call, SignedExtrinsic};
use crate::local::chain::refusal::Refusal;
use crate::local::chain::state::COMMITMENT_BYTES_MAX;
use crate::local::chain::weights::quantise;
use crate::local::wire::{MetagraphJson, SigningTerms, Submitted};
use crate::retry::RetryPolicy;

/// Most times that a call is signed anew because another process used its nonce.
const SIGNINGS_MAX: u32 = 4;

/// What a client knows of its chain beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainIdentity {
    /// Name of the network.
    pub network: String,
    /// The subnet.
    pub netuid: Netuid,
    /// Time from block to block, milliseconds.
    pub block_time_ms: u64,
}

/// An embedded chain in another process.
pub struct HttpChain {
    http: Http,
    identity: ChainIdentity,
    signer: Arc<dyn Signer>,
    retry: RetryPolicy,
    metagraph: Mutex<Option<Arc<Metagraph>>>,
}

impl HttpChain {
    /// Returns the port for the holder of `signer`'s hotkey. `retry` is for calls that change the
    /// chain; reads are tried once.
    pub fn new(
        http: Http,
        identity: ChainIdentity,
        signer: Arc<dyn Signer>,
        retry: RetryPolicy,
    ) -> Self {
        Self { http, identity, signer, retry, metagraph: Mutex::new(None) }
    }

    /// Gives this hotkey a uid, where anybody may register, and returns the block that will
    /// include it.
    ///
    /// # Errors
    /// [`ChainError::Refused`] when it is registered already, or registration is closed.
    pub async fn register(&self) -> Result<BlockNumber, ChainError> {
        self.submit(Call::Register { hotkey: self.signer.hotkey(), stake: 0 }).await
    }

    /// Signs `call` and sends it until there is an answer. The same signed call is included once,
    /// however often it arrives.
    async fn submit(&self, call: Call) -> Result<BlockNumber, ChainError> {
        let name = call.name();
        let mut signings = 0;
        loop {
            let extrinsic = self.sign(call.clone()).await.map_err(chain_error(name))?;
            let send = || self.http.post_json::<Submitted>("/chain/submit", &extrinsic);
            let outcome =
                self.retry.run(|error| matches!(error, ClientError::Unavailable(_)), send).await;
            signings += 1;
            match outcome {
                Ok(submitted) => return Ok(submitted.block),
                Err(ClientError::Refused {
                    refusal: Refusal::BadNonce { .. } | Refusal::Outdated { .. },
                    ..
                }) if signings < SIGNINGS_MAX => {}
                Err(error) => return Err(chain_error(name)(error)),
            }
        }
    }

    async fn sign(&self, call: Call) -> Result<SignedExtrinsic, ClientError> {
        let path = format!("/chain/account/{}", self.signer.hotkey());
        let terms: SigningTerms = self
            .retry
            .run(
                |error| matches!(error, ClientError::Unavailable(_)),
                || self.http.expect_json(&path),
            )
            .await?;
        let genesis = self.http.genesis();
        Ok(SignedExtrinsic::sign(&*self.signer, genesis, terms.nonce, terms.valid_until, call))
    }

    fn cached_metagraph(&self, block: BlockNumber) -> Option<Arc<Metagraph>> {
        let cache = self.metagraph.lock().unwrap_or_else(PoisonError::into_inner);
        cache.as_ref().filter(|metagraph| metagraph.block == block).cloned()
    }
}

#[async_trait]
impl Chain for HttpChain {
    fn netuid(&self) -> Netuid {
        self.identity.netuid
    }

    fn network(&self) -> &str {
        &self.identity.network
    }

    fn block_time_ms(&self) -> u64 {
        self.identity.block_time_ms
    }

    async fn head(&self) -> Result<Block, ChainError> {
        self.http.expect_json("/chain/head").await.map_err(chain_error("head"))
    }

    async fn block(&self, number: BlockNumber) -> Result<Option<Block>, ChainError> {
        let path = format!("/chain/block/{number}");
        let block: Option<Block> = self.http.get_json(&path).await.map_err(chain_error("block"))?;
        match block {
            Some(block) if block.number != number => Err(ChainError::Malformed {
                call: "block".into(),
                reason: format!("asked for block {number}, got {}", block.number),
            }),
            answer => Ok(answer),
        }
    }

    async fn metagraph(&self) -> Result<Arc<Metagraph>, ChainError> {
        let head = self.head().await?;
        if let Some(metagraph) = self.cached_metagraph(head.number) {
            return Ok(metagraph);
        }
        let json: MetagraphJson =
            self.http.expect_json("/chain/metagraph").await.map_err(chain_error("metagraph"))?;
        let metagraph = Arc::new(Metagraph::from(json));
        let mut cache = self.metagraph.lock().unwrap_or_else(PoisonError::into_inner);
        *cache = Some(Arc::clone(&metagraph));
        Ok(metagraph)
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        let call = "hyperparameters";
        self.http.expect_json("/chain/hyperparameters").await.map_err(chain_error(call))
    }

    async fn commitments(&self) -> Result<Arc<BTreeMap<Hotkey, Vec<u8>>>, ChainError> {
        let call = "commitments";
        let texts: BTreeMap<Hotkey, String> =
            self.http.expect_json("/chain/commitments").await.map_err(chain_error(call))?;
        let malformed = |reason: &str| ChainError::Malformed {
            call: call.to_owned(),
            reason: reason.to_owned(),
        };
        let mut commitments = BTreeMap::new();
        for (hotkey, text) in texts {
            let data =
                hex::decode(text).map_err(|_| malformed("a commitment is not hexadecimal"))?;
            if data.len() > COMMITMENT_BYTES_MAX {
                return Err(malformed("a commitment has more than 128 bytes"));
            }
            commitments.insert(hotkey, data);
        }
        Ok(Arc::new(commitments))
    }

    async fn set_commitment(&self, data: &[u8]) -> Result<(), ChainError> {
        self.submit(commitment(self.netuid(), data)?).await?;
        Ok(())
    }

    async fn set_weights(&self, weights: &WeightSubmission) -> Result<BlockNumber, ChainError> {
        let (uids, values) =
            quantise(&weights.weights).map_err(|refusal| refusal.into_error("set_weights"))?;
        self.submit(Call::SetWeights {
            netuid: self.netuid().0,
            mechanism: 0,
            uids,
            weights: values,
            version_key: weights.version_key,
        })
        .await
    }
}

/// Words a client's error for the port.
fn chain_error(call: &str) -> impl Fn(ClientError) -> ChainError {
    move |error| match error {
        ClientError::Unavailable(reason) => ChainError::Unavailable(reason),
        ClientError::Refused { call, refusal } => refusal.into_error(&call),
        other => ChainError::Malformed { call: call.to_owned(), reason: other.to_string() },
    }
}
