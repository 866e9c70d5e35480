//! The methods that answer once. Source: spec/bittensor.md section 2.

use std::sync::Arc;

use grail_protocol::ids::{BlockHash, BlockNumber, Digest, Hotkey};
use serde_json::{Value as Json, json};

use super::Node;
use super::apis::View;
use super::calls::understand;
use super::error::RpcError;
use crate::local::chain::LocalChainError;
use crate::local::chain::extrinsic::Transaction;
use crate::local::chain::header::{Header, blake2_256};
use crate::local::chain::recent::SealedBlock;
use crate::local::chain::state::PoolRefusal;
use crate::local::chain::{BlockRow, DatabaseFault};
use crate::substrate::{Era, Extrinsic, SigningContext};

/// Most keys on one page, and most keys of one query.
const KEYS_MAX: u64 = 1000;

/// Blocks back to which the chain itself knows hashes. Source: `System.BlockHashCount`.
const BLOCK_HASH_COUNT: u64 = 2400;

/// What this node answers.
const METHODS: [&str; 33] = [
    "account_nextIndex",
    "author_pendingExtrinsics",
    "author_submitAndWatchExtrinsic",
    "author_submitExtrinsic",
    "author_unwatchExtrinsic",
    "chain_getBlock",
    "chain_getBlockHash",
    "chain_getFinalisedHead",
    "chain_getFinalizedHead",
    "chain_getHead",
    "chain_getHeader",
    "chain_getRuntimeVersion",
    "chain_subscribeFinalizedHeads",
    "chain_subscribeNewHeads",
    "chain_unsubscribeFinalizedHeads",
    "chain_unsubscribeNewHeads",
    "payment_queryInfo",
    "rpc_methods",
    "state_call",
    "state_getKeysPaged",
    "state_getMetadata",
    "state_getRuntimeVersion",
    "state_getStorage",
    "state_getStorageAt",
    "state_queryStorageAt",
    "state_subscribeRuntimeVersion",
    "state_unsubscribeRuntimeVersion",
    "system_accountNextIndex",
    "system_chain",
    "system_health",
    "system_name",
    "system_properties",
    "system_version",
];

/// Answers `method`.
pub async fn call(node: &Arc<Node>, method: &str, params: &[Json]) -> Result<Json, RpcError> {
    if method == "author_submitExtrinsic" {
        let hash = submit(node, bytes(params, 0)?).await?;
        return Ok(json!(hex(&hash.0)));
    }
    node.call(method, params)
}

/// Takes an extrinsic into the pool and returns its hash. The transaction waits for the disk.
pub async fn submit(node: &Arc<Node>, bytes: Vec<u8>) -> Result<Digest, RpcError> {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || node.submit(bytes))
        .await
        .map_err(|error| RpcError::internal(error.to_string()))?
}

impl Node {
    fn call(&self, method: &str, params: &[Json]) -> Result<Json, RpcError> {
        Ok(match method {
            "system_chain" => {
                json!(format!("Bittensor {} (development)", self.chain.rules().network))
            }
            "system_name" => json!("GRAIL local chain"),
            "system_version" => json!(env!("CARGO_PKG_VERSION")),
            "system_properties" => {
                json!({
                    "ss58Format": 42,
                    "tokenDecimals": 9,
                    "tokenSymbol": "TAO",
                    "isDevelopment": true,
                })
            }
            "system_health" => json!({"peers": 0, "isSyncing": false, "shouldHavePeers": false}),
            "rpc_methods" => json!({"methods": METHODS.as_slice()}),
            "state_getRuntimeVersion" | "chain_getRuntimeVersion" => {
                self.block(params, 0)?;
                self.runtime().version()
            }
            "state_getMetadata" => {
                let runtime = self.runtime();
                json!(hex(runtime.metadata_in(14).ok_or_else(RpcError::trap)?))
            }
            "system_accountNextIndex" | "account_nextIndex" => {
                json!(self.chain.next_nonce(account(params)?))
            }
            "chain_getHead" => json!(hex(&self.chain.head().hash.0)),
            "chain_getBlockHash" => self.block_hash(params)?,
            "chain_getFinalizedHead" | "chain_getFinalisedHead" => {
                let finalised = self.chain.heads().borrow().finalised;
                json!(self.hash_at(finalised)?.map(|hash| hex(&hash.0)))
            }
            "chain_getHeader" => {
                self.found(params)?.map_or(Json::Null, |(_, header)| header_json(&header))
            }
            "chain_getBlock" => self.found(params)?.map_or(Json::Null, |(row, header)| {
                json!({
                    "block": {
                        "header": header_json(&header),
                        "extrinsics": self.body(&row, header.number),
                    },
                    "justifications": null,
                })
            }),
            "state_getStorage" | "state_getStorageAt" => {
                let key = bytes(params, 0)?;
                let block = self.block(params, 1)?;
                json!(self.storage(&block).get(&key).map(|value| hex(value)))
            }
            "state_queryStorageAt" => self.query(params)?,
            "state_getKeysPaged" => self.keys(params)?,
            "state_call" => {
                let method = text(params, 0)?;
                let args = bytes(params, 1)?;
                let (block, runtime) = (self.block(params, 2)?, self.runtime());
                let view = View { rules: self.chain.rules(), runtime: &runtime, block: &block };
                json!(hex(&view.call(method, &args)?))
            }
            "payment_queryInfo" => {
                let extrinsic = bytes(params, 0)?;
                let (block, runtime) = (self.block(params, 1)?, self.runtime());
                let view = View { rules: self.chain.rules(), runtime: &runtime, block: &block };
                let (ref_time, fee) = view.fee(&extrinsic)?;
                json!({
                    "weight": {"ref_time": ref_time, "proof_size": 0},
                    "class": "normal",
                    "partialFee": fee.to_string(),
                })
            }
            "author_pendingExtrinsics" => {
                json!(self.chain.pending().iter().map(|bytes| hex(bytes)).collect::<Vec<_>>())
            }
            _ => return Err(RpcError::unknown_method()),
        })
    }

    fn submit(&self, bytes: Vec<u8>) -> Result<Digest, RpcError> {
        let runtime = self.runtime();
        let metadata = &runtime.metadata;
        let mut inner = bytes.as_slice();
        let whole = <Vec<u8> as parity_scale_codec::Decode>::decode(&mut inner);
        if whole.is_err() || !inner.is_empty() {
            return Err(RpcError::no_extrinsic());
        }
        let Ok(Extrinsic::Signed(signed)) = metadata.decode_extrinsic(&bytes) else {
            return Err(RpcError::unreadable_extrinsic());
        };
        let call =
            metadata.decode_call(&signed.call).map_err(|_| RpcError::unreadable_extrinsic())?;
        let call = understand(metadata, &call).map_err(|_| RpcError::unreadable_extrinsic())?;
        // The runtime checks an extrinsic as if it stood in the next block.
        let next = self.chain.head().number.0.saturating_add(1);
        let birth = signed.with.era.birth(next);
        let ancient = signed.with.era != Era::Immortal
            && (birth >= next || next.saturating_sub(birth) > BLOCK_HASH_COUNT);
        let birth_hash = self.hash_at(BlockNumber(birth))?.filter(|_| !ancient);
        let birth_hash =
            birth_hash.ok_or_else(|| RpcError::pool(PoolRefusal::AncientBirthBlock))?;
        let context = SigningContext {
            genesis: self.chain.genesis().0,
            spec_version: runtime.spec_version,
            transaction_version: runtime.transaction_version,
        };
        let verified = signed
            .verify(metadata, &context, birth_hash.0)
            .map_err(|error| RpcError::internal(error.to_string()))?;
        if verified.is_err() {
            return Err(RpcError::pool(PoolRefusal::BadProof));
        }
        let hash = blake2_256(&bytes);
        let (signer, nonce) = (Hotkey(signed.account), signed.with.nonce);
        let transaction = Transaction { bytes, hash, signer, nonce, call };
        self.chain
            .submit_transaction(transaction)
            .map_err(|error: LocalChainError| RpcError::of_chain(&error))?;
        Ok(hash)
    }

    fn block_hash(&self, params: &[Json]) -> Result<Json, RpcError> {
        let one = |value: &Json| -> Result<Json, RpcError> {
            let number = match value {
                Json::String(text) => text
                    .strip_prefix("0x")
                    .map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16))
                    .ok(),
                other => other.as_u64(),
            };
            let number = number.ok_or_else(|| RpcError::invalid_params("expected a number"))?;
            Ok(json!(self.hash_at(BlockNumber(number))?.map(|hash| hex(&hash.0))))
        };
        match params.first() {
            None | Some(Json::Null) => Ok(json!(hex(&self.chain.head().hash.0))),
            Some(Json::Array(numbers)) if numbers.len() <= super::BATCH_MAX => {
                numbers.iter().map(one).collect::<Result<Vec<_>, _>>().map(Json::Array)
            }
            Some(number) => one(number),
        }
    }

    fn hash_at(&self, number: BlockNumber) -> Result<Option<BlockHash>, RpcError> {
        Ok(self.chain.block(number).map_err(|error| fault(&error))?.map(|row| row.hash))
    }

    /// Returns the block that the parameter names, the head if it names none, or `None` if there
    /// is no such block.
    fn found(&self, params: &[Json]) -> Result<Option<(BlockRow, Header)>, RpcError> {
        let block_time = self.chain.rules().block_time_ms;
        let hash = hash(params, 0)?.unwrap_or_else(|| self.chain.head().hash);
        if let Some(block) = self.chain.sealed(hash) {
            return Ok(Some((block.row.clone(), block.row.header(block.number, block_time))));
        }
        let Some(number) = self.chain.number_of(hash).map_err(|error| fault(&error))? else {
            return Ok(None);
        };
        let row = self.chain.block(number).map_err(|error| fault(&error))?;
        let row = row.filter(|row| row.hash == hash);
        Ok(row.map(|row| (row.clone(), row.header(number, block_time))))
    }

    /// Returns the block that the parameter `index` names with its state; the head if it names none.
    fn block(&self, params: &[Json], index: usize) -> Result<Arc<SealedBlock>, RpcError> {
        let named = hash(params, index)?;
        let hash = named.unwrap_or_else(|| self.chain.head().hash);
        if let Some(block) = self.chain.sealed(hash) {
            return Ok(block);
        }
        match self.chain.number_of(hash).map_err(|error| fault(&error))? {
            Some(_) => Err(RpcError::pruned(&hex(&hash.0))),
            None => Err(RpcError::unknown_block(&hex(&hash.0))),
        }
    }

    /// Returns the extrinsics of a block: its time, which the chain puts first, and the others.
    fn body(&self, row: &BlockRow, number: BlockNumber) -> Vec<String> {
        let time = [("now", row.timestamp_ms.into())];
        let inherent = self.runtime().metadata.encode_call("Timestamp", "set", time).ok();
        let inherent = inherent.filter(|_| number.0 > 0).map(|call| {
            // Version 5 without signature, as the real node's blocks have it.
            let bare = [vec![5], call].concat();
            hex(&parity_scale_codec::Encode::encode(&bare))
        });
        let extrinsics = row.extrinsics.iter().filter_map(|included| included.bytes.as_deref());
        inherent.into_iter().chain(extrinsics.map(hex)).collect()
    }

    fn query(&self, params: &[Json]) -> Result<Json, RpcError> {
        let keys = params.first().and_then(Json::as_array);
        let keys = keys.ok_or_else(|| RpcError::invalid_params("expected a list of keys"))?;
        let count = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        if count > KEYS_MAX {
            return Err(RpcError::page_too_large(count, KEYS_MAX));
        }
        let block = self.block(params, 1)?;
        let storage = self.storage(&block);
        let mut changes = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            let value = storage.get(&bytes(keys, index)?);
            changes.push(json!([key, value.map(|value| hex(value))]));
        }
        Ok(json!([{"block": hex(&block.row.hash.0), "changes": changes}]))
    }

    fn keys(&self, params: &[Json]) -> Result<Json, RpcError> {
        let prefix = bytes(params, 0)?;
        let count = params.get(1).and_then(Json::as_u64);
        let count = count.ok_or_else(|| RpcError::invalid_params("expected a number of keys"))?;
        if count > KEYS_MAX {
            return Err(RpcError::page_too_large(count, KEYS_MAX));
        }
        let start = match params.get(2) {
            None | Some(Json::Null) => None,
            Some(_) => Some(bytes(params, 2)?),
        };
        let block = self.block(params, 3)?;
        let storage = self.storage(&block);
        let first = start.clone().unwrap_or_default().max(prefix.clone());
        let page = storage
            .range(first..)
            .map(|(key, _)| key)
            .filter(|key| start.as_ref() != Some(key))
            .take_while(|key| key.starts_with(&prefix))
            .take(usize::try_from(count).unwrap_or(usize::MAX));
        Ok(json!(page.map(|key| hex(key)).collect::<Vec<_>>()))
    }

    /// Returns the header of the block `number` of the chain as JSON.
    pub(super) fn header_at(&self, number: BlockNumber) -> Option<Json> {
        let row = self.chain.block(number).ok()??;
        Some(header_json(&row.header(number, self.chain.rules().block_time_ms)))
    }
}

fn header_json(header: &Header) -> Json {
    json!({
        "parentHash": hex(&header.parent.0),
        "number": format!("{:#x}", header.number.0),
        "stateRoot": hex(&header.state_root.0),
        "extrinsicsRoot": hex(&header.extrinsics_root.0),
        "digest": {"logs": header.logs.iter().map(|log| hex(log)).collect::<Vec<_>>()},
    })
}

fn fault(error: &DatabaseFault) -> RpcError {
    RpcError::internal(error.to_string())
}

fn account(params: &[Json]) -> Result<Hotkey, RpcError> {
    text(params, 0)?.parse().map_err(|_| RpcError::invalid_params("Length is bad"))
}

fn text(params: &[Json], index: usize) -> Result<&str, RpcError> {
    let text = params.get(index).and_then(Json::as_str);
    text.ok_or_else(|| RpcError::invalid_params("expected text"))
}

/// Reads bytes in hex with `0x`.
pub fn bytes(params: &[Json], index: usize) -> Result<Vec<u8>, RpcError> {
    let text = text(params, index)?;
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode(digits).map_err(|error| match error {
        hex::FromHexError::InvalidHexCharacter { c, index } => {
            let at = index + text.len() - digits.len();
            // The real node's reader adds where in the parameter it stands: behind its quotes.
            let column = text.len() + 2;
            let why = format!("invalid hex character: {c}, at {at} at line 1 column {column}");
            RpcError::invalid_params(why)
        }
        other => RpcError::invalid_params(other.to_string()),
    })
}

fn hash(params: &[Json], index: usize) -> Result<Option<BlockHash>, RpcError> {
    if params.get(index).is_none_or(Json::is_null) {
        return Ok(None);
    }
    let bytes = bytes(params, index)?;
    let hash = bytes.try_into().map_err(|_| RpcError::invalid_params("expected 32 bytes"))?;
    Ok(Some(Digest(hash)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}
