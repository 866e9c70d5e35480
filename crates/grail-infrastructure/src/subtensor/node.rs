//! Asks nodes typed questions, checks the form of the answers, and that it is still the same chain.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use grail_protocol::ids::BlockHash;
use serde_json::{Value as Json, json};

use super::rpc::{ConnectionCount, Repeat, RpcClient, RpcError, Subscription};
use crate::substrate::Header;

/// Most keys of a page; nodes refuse more than 1,000.
pub const PAGE_KEYS_MAX: usize = 1_000;

/// Most keys whose values are asked for at once.
const VALUES_MAX: usize = 256;

/// Most consensus logs of a header; blocks have three.
const LOGS_MAX: usize = 64;

/// Longest wait for what takes a node long: metadata and whole subnets.
const LONG_CALL: Duration = Duration::from_secs(60);

/// Version of a runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// Changes with every upgrade.
    pub spec: u32,
    /// Changes with the format of extrinsics.
    pub transaction: u32,
}

/// A block with its extrinsics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// Header of the block.
    pub header: Header,
    /// Extrinsics, each with its length prefix.
    pub extrinsics: Vec<Vec<u8>>,
}

/// Makes the client of the archive nodes when it is needed first.
pub type MakeArchive = Arc<dyn Fn() -> RpcClient + Send + Sync>;

/// The nodes of one chain.
pub struct Node {
    rpc: RpcClient,
    archive: Option<(MakeArchive, OnceLock<Box<Node>>)>,
    identity: Mutex<Identity>,
}

#[derive(Clone, Copy, Default)]
struct Identity {
    genesis: Option<BlockHash>,
    /// The connection that was seen to serve it.
    checked: ConnectionCount,
}

impl Node {
    /// Asks through `rpc`; what its nodes have dropped is asked of the archive nodes, if any.
    /// Without `genesis`, the chain is the one that the first connection serves.
    pub fn new(rpc: RpcClient, archive: Option<MakeArchive>, genesis: Option<BlockHash>) -> Self {
        let identity = Mutex::new(Identity { genesis, checked: ConnectionCount::default() });
        Self { rpc, archive: archive.map(|make| (make, OnceLock::new())), identity }
    }

    /// Returns the client, for what takes no answer.
    pub fn rpc(&self) -> &RpcClient {
        &self.rpc
    }

    fn identity(&self) -> Identity {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the hash of the chain's first block.
    ///
    /// # Errors
    /// When no node answers, or the node serves another chain.
    pub async fn genesis(&self) -> Result<BlockHash, RpcError> {
        const METHOD: &str = "chain_getBlockHash";
        let before = self.identity();
        let connection = self.rpc.connections();
        if let (Some(genesis), true) = (before.genesis, before.checked == connection) {
            return Ok(genesis);
        }
        let answer = self.rpc.call(METHOD, json!([0]), Repeat::Allowed).await?;
        let found = hash(METHOD, &answer)?;
        let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(expected) = identity.genesis
            && expected != found
        {
            drop(identity);
            let peer = self.rpc.peer().unwrap_or_else(|_| "the node".to_owned());
            let reason = format!(
                "{peer} serves another chain: its first block is {found}, not {expected}; check \
                 the network's endpoints"
            );
            self.rpc.leave(&reason);
            return Err(RpcError::Malformed { method: METHOD, reason });
        }
        // A connection made meanwhile is checked by the next call.
        *identity = Identity { genesis: Some(found), checked: connection };
        if connection == ConnectionCount::default() {
            // The call itself made the first connection.
            identity.checked = self.rpc.connections();
        }
        Ok(found)
    }

    async fn ask(&self, method: &'static str, params: Json) -> Result<Json, RpcError> {
        self.ask_with(method, params, None).await
    }

    async fn ask_with(
        &self,
        method: &'static str,
        params: Json,
        limit: Option<Duration>,
    ) -> Result<Json, RpcError> {
        self.genesis().await?;
        let answer = match limit {
            None => self.rpc.call(method, params, Repeat::Allowed).await,
            Some(limit) => self.rpc.call_within(method, params, Repeat::Allowed, limit).await,
        }?;
        // The answer may come from a connection that was made in between.
        self.genesis().await?;
        Ok(answer)
    }

    /// As [`Self::ask`], of the archive nodes if the others have dropped the state.
    async fn ask_state(
        &self,
        method: &'static str,
        params: Json,
        limit: Option<Duration>,
    ) -> Result<Json, RpcError> {
        let error = match self.ask_with(method, params.clone(), limit).await {
            Err(error) if is_pruned(&error) => error,
            outcome => return outcome,
        };
        let Some((make, archive)) = &self.archive else { return Err(error) };
        let genesis = self.identity().genesis;
        let archive = archive.get_or_init(|| Box::new(Node::new(make(), None, genesis)));
        match archive.ask_with(method, params, limit).await {
            // Absent there too: the first answer says more.
            Err(other) if is_pruned(&other) => Err(error),
            outcome => outcome,
        }
    }

    /// Returns the header of a block, or of the best one; `None` for an unknown block.
    pub async fn header(&self, at: Option<BlockHash>) -> Result<Option<Header>, RpcError> {
        const METHOD: &str = "chain_getHeader";
        let params = at.map_or_else(|| json!([]), |at| json!([text(at)]));
        let answer = self.ask(METHOD, params).await?;
        if answer.is_null() { Ok(None) } else { header(METHOD, &answer).map(Some) }
    }

    /// Returns the best block's header.
    pub async fn best(&self) -> Result<Header, RpcError> {
        let header = self.header(None).await?;
        header.ok_or_else(|| malformed("chain_getHeader", "there is no best block"))
    }

    /// Returns the hash of the newest final block.
    pub async fn finalized(&self) -> Result<BlockHash, RpcError> {
        const METHOD: &str = "chain_getFinalizedHead";
        hash(METHOD, &self.ask(METHOD, json!([])).await?)
    }

    /// Returns the hash of block `number` on the best chain; `None` above the head.
    pub async fn block_hash(&self, number: u64) -> Result<Option<BlockHash>, RpcError> {
        const METHOD: &str = "chain_getBlockHash";
        let answer = self.ask(METHOD, json!([number])).await?;
        if answer.is_null() { Ok(None) } else { hash(METHOD, &answer).map(Some) }
    }

    /// Returns a block; `None` if the node does not know it.
    pub async fn body(&self, at: BlockHash) -> Result<Option<Body>, RpcError> {
        const METHOD: &str = "chain_getBlock";
        let answer = self.ask(METHOD, json!([text(at)])).await?;
        if answer.is_null() {
            return Ok(None);
        }
        let block = &answer["block"];
        let extrinsics = block["extrinsics"]
            .as_array()
            .ok_or_else(|| malformed(METHOD, "a block without extrinsics"))?;
        Ok(Some(Body {
            header: header(METHOD, &block["header"])?,
            extrinsics: extrinsics
                .iter()
                .map(|extrinsic| bytes(METHOD, extrinsic))
                .collect::<Result<_, _>>()?,
        }))
    }

    /// Returns the runtime's version at a block.
    pub async fn runtime_version(&self, at: BlockHash) -> Result<RuntimeVersion, RpcError> {
        const METHOD: &str = "state_getRuntimeVersion";
        let answer = self.ask_state(METHOD, json!([text(at)]), None).await?;
        let number = |name: &str| {
            let number = answer[name].as_u64().and_then(|number| u32::try_from(number).ok());
            number.ok_or_else(|| malformed(METHOD, &format!("there is no number {name}")))
        };
        Ok(RuntimeVersion {
            spec: number("specVersion")?,
            transaction: number("transactionVersion")?,
        })
    }

    /// Returns the value of a storage key at a block.
    pub async fn storage(&self, key: &[u8], at: BlockHash) -> Result<Option<Vec<u8>>, RpcError> {
        const METHOD: &str = "state_getStorage";
        let answer = self.ask_state(METHOD, json!([hex_text(key), text(at)]), None).await?;
        optional_bytes(METHOD, &answer)
    }

    /// Returns the values of storage keys at a block, in order.
    pub async fn values(
        &self,
        keys: &[Vec<u8>],
        at: BlockHash,
    ) -> Result<Vec<Option<Vec<u8>>>, RpcError> {
        const METHOD: &str = "state_queryStorageAt";
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(VALUES_MAX) {
            let keys: Vec<String> = keys.iter().map(|key| hex_text(key)).collect();
            let answer = self.ask_state(METHOD, json!([keys, text(at)]), Some(LONG_CALL)).await?;
            let changes = answer[0]["changes"]
                .as_array()
                .ok_or_else(|| malformed(METHOD, "it has no list of values"))?;
            let of = |key: &str| changes.iter().find(|change| change[0].as_str() == Some(key));
            for key in &keys {
                // A key that is left out is not an absent value: those are null.
                let change = of(key).ok_or_else(|| malformed(METHOD, "a key was left out"))?;
                values.push(optional_bytes(METHOD, &change[1])?);
            }
        }
        Ok(values)
    }

    /// Returns the keys that start with `prefix` at a block, sorted; at most `most` of them.
    ///
    /// # Errors
    /// As [`RpcError`]; when there are more.
    pub async fn keys(
        &self,
        prefix: &[u8],
        at: BlockHash,
        most: usize,
    ) -> Result<Vec<Vec<u8>>, RpcError> {
        const METHOD: &str = "state_getKeysPaged";
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let start = keys.last().map_or(prefix, Vec::as_slice);
            let params = json!([hex_text(prefix), PAGE_KEYS_MAX, hex_text(start), text(at)]);
            let answer = self.ask_state(METHOD, params, Some(LONG_CALL)).await?;
            let page = answer.as_array().ok_or_else(|| malformed(METHOD, "it is no list"))?;
            for key in page {
                let key = bytes(METHOD, key)?;
                let is_next = keys.last().is_none_or(|last| *last < key);
                if !key.starts_with(prefix) || !is_next {
                    return Err(malformed(METHOD, "keys of another prefix, or out of order"));
                }
                keys.push(key);
            }
            if keys.len() > most {
                let reason = format!("there are more than {most} keys");
                return Err(RpcError::Malformed { method: METHOD, reason });
            }
            if page.len() < PAGE_KEYS_MAX {
                return Ok(keys);
            }
        }
    }

    /// Calls a function of the runtime at a block.
    pub async fn runtime_call(
        &self,
        function: &str,
        arguments: &[u8],
        at: BlockHash,
    ) -> Result<Vec<u8>, RpcError> {
        const METHOD: &str = "state_call";
        let params = json!([function, hex_text(arguments), text(at)]);
        bytes(METHOD, &self.ask_state(METHOD, params, Some(LONG_CALL)).await?)
    }

    /// Returns the metadata of format 14, which every node has.
    pub async fn metadata(&self, at: BlockHash) -> Result<Vec<u8>, RpcError> {
        const METHOD: &str = "state_getMetadata";
        bytes(METHOD, &self.ask_state(METHOD, json!([text(at)]), Some(LONG_CALL)).await?)
    }

    /// Returns the nonce of an account's next extrinsic, those in the node's pool counted.
    pub async fn next_nonce(&self, address: &str) -> Result<u64, RpcError> {
        const METHOD: &str = "system_accountNextIndex";
        let answer = self.ask(METHOD, json!([address])).await?;
        answer.as_u64().ok_or_else(|| malformed(METHOD, "it is no number"))
    }

    /// Hands in an extrinsic and watches what becomes of it.
    ///
    /// # Errors
    /// The pool's refusal, or [`RpcError::Disconnected`] and [`RpcError::TimedOut`] when nobody
    /// knows whether the pool has it.
    pub async fn submit_and_watch(&self, extrinsic: &[u8]) -> Result<Subscription, RpcError> {
        self.genesis().await?;
        let params = json!([hex_text(extrinsic)]);
        let unwatch = "author_unwatchExtrinsic";
        self.rpc.subscribe("author_submitAndWatchExtrinsic", params, unwatch).await
    }

    /// Subscribes to the headers of best blocks.
    pub async fn subscribe_heads(&self) -> Result<Subscription, RpcError> {
        self.genesis().await?;
        let unsubscribe = "chain_unsubscribeNewHeads";
        self.rpc.subscribe("chain_subscribeNewHeads", json!([]), unsubscribe).await
    }
}

/// Reads the header that a subscription sent.
pub fn read_head(message: &Json) -> Result<Header, RpcError> {
    header("chain_subscribeNewHeads", message)
}

/// Returns whether the node says that it has dropped the block's state, or never had the block.
pub fn is_pruned(error: &RpcError) -> bool {
    match error {
        RpcError::Node { error, .. } => {
            error.says("State already discarded") || error.says("UnknownBlock")
        }
        _ => false,
    }
}

fn malformed(method: &'static str, reason: &str) -> RpcError {
    RpcError::Malformed { method, reason: reason.to_owned() }
}

fn hex_text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn text(hash: BlockHash) -> String {
    hex_text(&hash.0)
}

/// Reads `0x…`.
fn bytes(method: &'static str, value: &Json) -> Result<Vec<u8>, RpcError> {
    value
        .as_str()
        .and_then(|text| text.strip_prefix("0x"))
        .and_then(|digits| hex::decode(digits).ok())
        .ok_or_else(|| malformed(method, "it is no hexadecimal text"))
}

fn optional_bytes(method: &'static str, value: &Json) -> Result<Option<Vec<u8>>, RpcError> {
    if value.is_null() { Ok(None) } else { bytes(method, value).map(Some) }
}

fn hash(method: &'static str, value: &Json) -> Result<BlockHash, RpcError> {
    let bytes = bytes(method, value)?;
    let hash = bytes.try_into().map_err(|_| malformed(method, "it is no hash of 32 bytes"))?;
    Ok(grail_protocol::ids::Digest(hash))
}

fn header(method: &'static str, value: &Json) -> Result<Header, RpcError> {
    let number = value["number"]
        .as_str()
        .and_then(|text| text.strip_prefix("0x"))
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| malformed(method, "a header without its number"))?;
    let logs = value["digest"]["logs"]
        .as_array()
        .filter(|logs| logs.len() <= LOGS_MAX)
        .ok_or_else(|| malformed(method, "a header without its logs"))?;
    Ok(Header {
        parent: hash(method, &value["parentHash"])?.0,
        number,
        state_root: hash(method, &value["stateRoot"])?.0,
        extrinsics_root: hash(method, &value["extrinsicsRoot"])?.0,
        digest: logs.iter().map(|log| bytes(method, log)).collect::<Result<_, _>>()?,
    })
}
