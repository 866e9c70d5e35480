//! Publishes the public facts of each validated window, so that anyone can check its files offline.

use std::sync::Arc;

use bytes::Bytes;
use grail_infrastructure::local::network::Node;
use grail_ports::events::{Event, EventSink};
use grail_protocol::ids::Window;
use grail_protocol::randomness::{validation_challenge, window_randomness};
use grail_services::context::{block_with_beacon, seal_of};
use tokio::sync::mpsc;
use tracing::warn;

use crate::window_context::{SealContext, VERSION, WindowContext};

/// Windows that may wait to be published; a validator finishes them one after another.
const QUEUE: usize = 64;

/// Hands events on, and validated windows to a [`Publisher`] as well.
pub struct ContextSink {
    inner: Arc<dyn EventSink>,
    windows: mpsc::Sender<Window>,
}

/// Publishes what its sink hands over.
pub struct Publisher {
    windows: mpsc::Receiver<Window>,
}

/// Returns a sink for a validator and the publisher to run beside it.
pub fn publish_after(inner: Arc<dyn EventSink>) -> (Arc<dyn EventSink>, Publisher) {
    let (sender, windows) = mpsc::channel(QUEUE);
    (Arc::new(ContextSink { inner, windows: sender }), Publisher { windows })
}

impl EventSink for ContextSink {
    fn emit(&self, event: Event) {
        if let Event::WindowValidated { window, .. } = event {
            // A queue that is full says that the bucket is down, which is told elsewhere.
            let _ = self.windows.try_send(window);
        }
        self.inner.emit(event);
    }
}

impl Publisher {
    /// Publishes until the sink is gone.
    pub async fn run(mut self, node: &Node) {
        while let Some(window) = self.windows.recv().await {
            if let Err(reason) = publish(node, window).await {
                warn!(%window, reason, "the facts for offline verification were not published");
            }
        }
    }
}

async fn publish(node: &Node, window: Window) -> Result<(), String> {
    let (chain, beacon) = (&*node.chain, &*node.beacon);
    let start = block_with_beacon(chain, beacon, window.start()).await;
    let end = block_with_beacon(chain, beacon, window.end()).await;
    let start = start.map_err(|error| error.to_string())?.ok_or("its first block is not there")?;
    let end = end.map_err(|error| error.to_string())?.ok_or("its deadline is not over")?;
    let seal = seal_of(chain, beacon, window).await.map_err(|error| error.to_string())?;
    let seal = seal.ok_or("its first block is not there")?;
    let opening = beacon.round(seal.round).await.map_err(|error| error.to_string())?;
    let opening = opening.ok_or("the round that opens its files is not out")?;
    let context = WindowContext {
        version: VERSION,
        network: chain.network().to_owned(),
        netuid: chain.netuid(),
        window,
        randomness: window_randomness(&start.block.hash, &start.beacon).0,
        challenge: validation_challenge(&end.block.hash, &end.beacon).0,
        seal: SealContext { beacon_key: seal.key, round: seal.round, signature: opening.signature },
    };
    let bucket = node.buckets.own();
    let json = Bytes::from(context.to_json());
    bucket.put(&WindowContext::key(window), json).await.map_err(|error| error.to_string())
}
