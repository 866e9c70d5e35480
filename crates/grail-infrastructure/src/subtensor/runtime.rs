//! Runtimes by version: metadata is read once each, so an upgrade needs no restart.

use std::sync::{Arc, Mutex, PoisonError};

use grail_protocol::ids::BlockHash;
use tracing::info;

use super::error::{Trouble, unreadable};
use super::node::{Node, RuntimeVersion};
use crate::substrate::Metadata;

/// Runtimes that are kept: the one in use, the one before, and one of an old block.
const KEPT_MAX: usize = 3;

/// Format of metadata that is asked for first: it describes runtime APIs.
const FORMAT: u32 = 15;

/// What a runtime says of itself.
#[derive(Debug)]
pub struct Runtime {
    /// Its version.
    pub version: RuntimeVersion,
    /// Everything by name.
    pub metadata: Metadata,
    /// Time from block to block that it aims at, milliseconds, at least 1.
    pub block_time_ms: u64,
}

/// The runtimes seen of late, the newest use last.
#[derive(Debug, Default)]
pub struct Runtimes {
    kept: Mutex<Vec<Arc<Runtime>>>,
}

impl Runtimes {
    /// Returns the runtime at a block; its metadata is asked for if its version is not known.
    pub async fn at(&self, node: &Node, at: BlockHash) -> Result<Arc<Runtime>, Trouble> {
        let version = node.runtime_version(at).await?;
        if let Some(known) = self.find(version) {
            return Ok(known);
        }
        let metadata = load(node, at).await?;
        let block_time_ms = metadata
            .constant("Aura", "SlotDuration")
            .map_err(|error| unreadable("Aura.SlotDuration", error))?
            .as_uint::<u64>()
            .map_err(|error| unreadable("Aura.SlotDuration", error))?
            .max(1);
        let runtime = Arc::new(Runtime { version, metadata, block_time_ms });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = kept.last() {
            let (from, to) = (before.version.spec, version.spec);
            info!(from, to, "the chain runs another runtime; its metadata was read again");
        }
        kept.retain(|runtime| runtime.version != version);
        if kept.len() >= KEPT_MAX {
            kept.remove(0);
        }
        kept.push(runtime.clone());
        Ok(runtime)
    }

    fn find(&self, version: RuntimeVersion) -> Option<Arc<Runtime>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = kept.iter().position(|runtime| runtime.version == version)?;
        let runtime = kept.remove(index);
        kept.push(runtime.clone());
        Some(runtime)
    }

    /// Returns the runtime that was used last.
    pub fn newest(&self) -> Option<Arc<Runtime>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// Forgets every runtime, so that the next use reads its metadata anew.
    pub fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Reads the metadata at a block, of format 15 where the runtime offers it.
async fn load(node: &Node, at: BlockHash) -> Result<Metadata, Trouble> {
    let function = "Metadata_metadata_at_version";
    let answer = node.runtime_call(function, &FORMAT.to_le_bytes(), at).await;
    match answer {
        Ok(answer) => {
            let metadata =
                Metadata::parse_at_version(&answer).map_err(|e| unreadable(function, e))?;
            if let Some(metadata) = metadata {
                return Ok(metadata);
            }
        }
        // A runtime that is too old to have the function.
        Err(error) if error.is_node_error() && !super::node::is_pruned(&error) => {}
        Err(error) => return Err(error.into()),
    }
    let answer = node.metadata(at).await?;
    Metadata::parse(&answer).map_err(|e| unreadable("state_getMetadata", e))
}
