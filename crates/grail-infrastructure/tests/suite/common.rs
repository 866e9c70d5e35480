//! A small network for tests: a trainer, a validator, a miner, and ways to reach them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::network::{LocalNetwork, NetworkConfig, Node, connect};
use grail_infrastructure::local::server::Server;
use grail_infrastructure::retry::RetryPolicy;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

pub const GENESIS_MS: u64 = 1_700_000_000_000;

/// Tries once: in tests nothing is ever away without a reason.
pub const ONCE: RetryPolicy = RetryPolicy {
    attempts: 1,
    delay: Duration::ZERO,
    delay_max: Duration::ZERO,
    deadline: Duration::from_secs(5),
};

pub fn config() -> NetworkConfig {
    NetworkConfig {
        seed: Some([7; 32]),
        beacon_period_ms: 500,
        ..NetworkConfig::local(GENESIS_MS, 2)
    }
}

/// A served network in a temporary folder; a block comes whenever a call waits for one.
pub struct Served {
    pub network: LocalNetwork,
    pub server: Server,
    pub stop: CancellationToken,
    folder: TempDir,
    _blocks: DropGuard,
}

impl Served {
    pub async fn start(config: &NetworkConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = LocalNetwork::create(&folder.path().join("net"), config).unwrap();
        let stop = CancellationToken::new();
        let server = network.serve(loopback(), stop.clone()).await.unwrap();
        let _blocks = blocks_on_demand(network.chain());
        Self { network, server, stop, folder, _blocks }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("net")
    }

    pub async fn remote(&self, name: &str) -> Node {
        connect(&self.dir(), name, ONCE).await.unwrap()
    }
}

/// Finishes the block being built whenever it has a call, for as long as the guard lives.
pub fn blocks_on_demand(chain: &Arc<LocalChain>) -> DropGuard {
    let (stop, chain) = (CancellationToken::new(), Arc::clone(chain));
    let stopped = stop.clone();
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        let mut looks = tokio::time::interval(Duration::from_millis(1));
        loop {
            looks.tick().await;
            if !chain.pending().is_empty() {
                chain.advance(1).unwrap();
            }
        }
    }));
    stop.drop_guard()
}

pub fn loopback() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// Returns the message of a failed result and its debug text, to look for words and secrets in.
pub fn message<T, E: std::fmt::Display>(outcome: Result<T, E>) -> String {
    outcome.err().expect("it should fail").to_string()
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
