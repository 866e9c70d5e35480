//! Buckets of a local network on an S3 server instead of in its folder.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use grail_infrastructure::clock::{Clock, system_clock};
use grail_infrastructure::local::network::Node;
use grail_infrastructure::object_store::S3Buckets;
use grail_ports::chain::{Chain, ChainError};
use grail_ports::layer::{Call, Layer, Layered, PortError};
use grail_ports::object_store::{Buckets, ObjectInfo};

use crate::commands::remote::{buckets, secrets};
use crate::config::{Config, StoreConfig, StoreKind};

/// What the names of buckets begin with where the settings do not say it.
const PREFIX: &str = "grail";

/// Chooses what the names of a new network's buckets begin with, so that its roles do not meet the
/// objects of another one.
pub fn choose_names(config: &mut Config) {
    if config.store.kind == StoreKind::S3 && config.store.bucket.is_none() {
        config.store.bucket = Some(format!("{PREFIX}-{}", system_clock()()));
    }
}

/// Looks for the keys to the S3 server, if the settings ask for one: what can be known before
/// anything is made.
///
/// # Errors
/// When a key is missing or a setting makes no sense.
pub fn check(config: &StoreConfig) -> anyhow::Result<()> {
    match config.kind {
        StoreKind::Folder => Ok(()),
        StoreKind::S3 => buckets(config).map(drop),
    }
}

/// Gives a role its bucket on the S3 server, if the settings ask for one; makes it unless it exists.
///
/// # Errors
/// When a key is missing, or the server does not answer or refuses.
pub async fn settle(node: &mut Node, config: &StoreConfig) -> anyhow::Result<()> {
    if config.kind == StoreKind::Folder {
        return Ok(());
    }
    let name = name(config, node);
    let secrets = secrets(&StoreConfig { bucket: Some(name.clone()), ..config.clone() })?;
    let buckets = S3Buckets::new(config.s3(), &secrets)
        .with_context(|| format!("while opening bucket {name}"))?;
    buckets.create_own().await.with_context(|| format!("while making bucket {name}"))?;
    let time = ChainTime::new(Arc::clone(&node.chain));
    node.buckets = Arc::new(OnChainTime::new(Arc::new(buckets), time));
    Ok(())
}

/// Returns the name of a role's bucket.
pub fn name(config: &StoreConfig, node: &Node) -> String {
    format!("{}-{}", config.bucket.as_deref().unwrap_or(PREFIX), node.entry.uid)
}

/// Buckets whose objects bear the chain's time: that of a local network is counted in blocks, and a
/// server outside knows nothing of it. Both agree on how old an object is.
type OnChainTime = Layered<dyn Buckets, ChainTime>;

/// Most versions of objects whose time is remembered.
const REMEMBERED_MAX: usize = 20_000;

/// One version of an object: its key, its etag and the server's time of it, milliseconds.
type Version = (String, String, u64);

#[derive(Clone)]
struct ChainTime {
    chain: Arc<dyn Chain>,
    clock: Clock,
    /// The chain's time of each version of an object: one that was told once may not change, or the
    /// object would seem to be another.
    told: Arc<Mutex<BTreeMap<Version, u64>>>,
}

impl ChainTime {
    fn new(chain: Arc<dyn Chain>) -> Self {
        Self { chain, clock: system_clock(), told: Arc::default() }
    }

    /// Returns how far the chain is behind the clock, milliseconds.
    async fn lag_ms(&self) -> Result<u64, ChainError> {
        let head = self.chain.head().await?;
        Ok((self.clock)().saturating_sub(head.timestamp_ms))
    }

    /// Turns the server's time of an object into the chain's, which is `lag_ms` behind now.
    fn translate(&self, info: &mut ObjectInfo, lag_ms: u64) {
        let version = (info.key.clone(), info.etag.clone(), info.last_modified_ms);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        let shifted = info.last_modified_ms.saturating_sub(lag_ms);
        info.last_modified_ms = *told.entry(version).or_insert(shifted);
    }
}

impl Layer for ChainTime {
    async fn around<T, E, F>(&self, _: Call<'_>, make: impl Fn() -> F + Send + Sync) -> Result<T, E>
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send,
    {
        let mut answer = make().await?;
        if !objects(&mut answer).is_empty() {
            let lag_ms = self.lag_ms().await.map_err(|error| E::unavailable(error.to_string()))?;
            for object in objects(&mut answer) {
                self.translate(object, lag_ms);
            }
        }
        Ok(answer)
    }
}

/// Returns the objects that an answer describes: that of a head, or those of a listing.
fn objects<T: Any>(answer: &mut T) -> &mut [ObjectInfo] {
    let answer: &mut dyn Any = answer;
    if answer.is::<Vec<ObjectInfo>>() {
        return answer.downcast_mut::<Vec<_>>().map_or(&mut [], Vec::as_mut_slice);
    }
    answer.downcast_mut::<Option<_>>().map_or(&mut [], Option::as_mut_slice)
}

#[cfg(test)]
mod tests {
    use grail_testkit::{FakeChain, FakeChainConfig};

    use super::*;

    #[tokio::test]
    async fn an_object_keeps_the_time_that_it_was_told_with() {
        let handle = FakeChain::new(FakeChainConfig::default());
        let chain: Arc<dyn Chain> = handle.handle(grail_protocol::ids::Hotkey([1; 32]));
        let time = ChainTime::new(chain.clone());
        let head = chain.head().await.unwrap().timestamp_ms;
        let lag_ms = time.lag_ms().await.unwrap();
        let info = |etag: &str, at: u64| ObjectInfo {
            key: "k".to_owned(),
            size: 1,
            last_modified_ms: at,
            etag: etag.to_owned(),
        };
        let now = (time.clock)();
        let mut first = info("a", now - 500);
        time.translate(&mut first, lag_ms);
        assert!((first.last_modified_ms + 500).abs_diff(head) < 60_000, "as old as it was");
        let mut again = info("a", now - 500);
        time.translate(&mut again, lag_ms + 250);
        assert_eq!(again, first);
        let mut replaced = info("b", now);
        time.translate(&mut replaced, lag_ms);
        assert!(replaced.last_modified_ms > first.last_modified_ms);
    }
}
