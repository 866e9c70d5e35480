//! Everything read here is of one block, whatever the chain does meanwhile.

use std::sync::Arc;

use grail_protocol::ids::BlockHash;

use super::error::{Trouble, unreadable};
use super::node::Node;
use super::runtime::{Runtime, Runtimes};
use crate::substrate::{StorageItem, Value};

/// Most entries of a map that is read whole: one for each neuron of a subnet, and some that left.
const ENTRIES_MAX: usize = 20_000;

/// A block, to be read with its own runtime's metadata.
pub struct View<'a> {
    node: &'a Node,
    /// Hash of the block.
    pub hash: BlockHash,
    /// The runtime at the block.
    pub runtime: Arc<Runtime>,
}

/// A storage item and its keys.
pub type Item<'a> = (&'a str, &'a str, &'a [Value]);

impl<'a> View<'a> {
    /// Opens the block `hash`.
    pub async fn at(node: &'a Node, runtimes: &Runtimes, hash: BlockHash) -> Result<Self, Trouble> {
        Ok(Self { node, hash, runtime: runtimes.at(node, hash).await? })
    }

    /// Reads a value; `None` only for optional items.
    pub async fn value(
        &self,
        pallet: &str,
        item: &str,
        keys: &[Value],
    ) -> Result<Option<Value>, Trouble> {
        let values = self.values(&[(pallet, item, keys)]).await?;
        Ok(values.into_iter().next().flatten())
    }

    /// Reads several values with one question, in order.
    pub async fn values(&self, items: &[Item<'_>]) -> Result<Vec<Option<Value>>, Trouble> {
        let mut found = Vec::with_capacity(items.len());
        let mut keys = Vec::with_capacity(items.len());
        for (pallet, item, item_keys) in items {
            let item = self.item(pallet, item)?;
            keys.push(item.key(item_keys).map_err(|e| unreadable(item.name(), e))?);
            found.push(item);
        }
        let values = self.node.values(&keys, self.hash).await?;
        found
            .iter()
            .zip(values)
            .map(|(item, value)| {
                item.decode(value.as_deref()).map_err(|e| unreadable(item.name(), e))
            })
            .collect()
    }

    /// Reads every entry of a map under `keys`: the rest of its key, and its raw value.
    pub async fn entries(
        &self,
        pallet: &str,
        item: &str,
        keys: &[Value],
    ) -> Result<Vec<(Vec<Value>, Result<Value, Trouble>)>, Trouble> {
        let item = self.item(pallet, item)?;
        let prefix = item.key(keys).map_err(|e| unreadable(item.name(), e))?;
        let found = self.node.keys(&prefix, self.hash, ENTRIES_MAX).await?;
        let values = self.node.values(&found, self.hash).await?;
        let mut entries = Vec::with_capacity(found.len());
        for (key, value) in found.iter().zip(values) {
            let key = item.read_key(key).map_err(|e| unreadable(item.name(), e))?;
            let Some(value) = value else {
                return Err(unreadable(item.name(), "a key of the map has no value"));
            };
            let value = match item.decode(Some(&value)) {
                Ok(Some(value)) => Ok(value),
                Ok(None) => Err(unreadable(item.name(), "a key of the map has no value")),
                Err(error) => Err(unreadable(item.name(), error)),
            };
            entries.push((key.into_iter().skip(keys.len()).collect(), value));
        }
        Ok(entries)
    }

    /// Returns the storage key of an item.
    pub fn key(&self, pallet: &str, item: &str, keys: &[Value]) -> Result<Vec<u8>, Trouble> {
        let item = self.item(pallet, item)?;
        item.key(keys).map_err(|error| unreadable(item.name(), error))
    }

    /// Returns whether the runtime has a storage item: newer ones have more.
    pub fn has(&self, pallet: &str, item: &str) -> bool {
        self.item(pallet, item).is_ok()
    }

    /// Calls a function of the runtime with encoded arguments.
    pub async fn call(&self, function: &str, arguments: &[u8]) -> Result<Vec<u8>, Trouble> {
        Ok(self.node.runtime_call(function, arguments, self.hash).await?)
    }

    fn item(&self, pallet: &str, item: &str) -> Result<StorageItem<'_>, Trouble> {
        let found = self.runtime.metadata.storage(pallet, item);
        found.map_err(|error| unreadable(&format!("{pallet}.{item}"), error))
    }
}
