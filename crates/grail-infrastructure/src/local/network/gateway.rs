//! The way from a role to the network: the same adapters as to the real one, pointed at this one.
//!
//! Roles in the network's own process go this way too, over loopback, so that what runs here runs
//! there.

use std::sync::Arc;
use std::time::Duration;

use grail_ports::beacon::Beacon;
use grail_ports::chain::ChainError;
use grail_ports::observer::Observer;
use grail_ports::signer::Signer;
use grail_protocol::ids::Uid;

use super::NetworkError;
use super::file::NetworkFile;
use crate::clock::Clock;
use crate::drand::{Drand, DrandBeacon, DrandChain, DrandConfig, OwnChain};
use crate::subtensor::network::Network;
use crate::subtensor::rpc::{Backoff, Endpoint, RpcConfig};
use crate::subtensor::{Connection, SealBeacon, SubmitConfig, Subtensor, SubtensorConfig};
use crate::wallet::{Key, Scheme};

/// Longest time of a small call in blocks, which a node on the same machine answers at once: roles
/// must not miss a window because of one lost answer.
const CALL_BLOCKS: u32 = 10;

/// Shortest and longest such time, whatever the chain's pace.
const CALL_TIME_MIN: Duration = Duration::from_secs(1);
const CALL_TIME_MAX: Duration = Duration::from_secs(15);

/// Waits between attempts to connect: blocks are short here, and nobody else is asked.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(1) };

/// Who pays for registrations: the development account that every such chain gives money without
/// value.
const PAYER: &str = "//Alice";

/// A connection to the chain and to the beacon, for all roles of a process; clones share it.
#[derive(Clone)]
pub struct Gateway {
    connection: Connection,
    beacon: Arc<dyn Beacon>,
}

impl Gateway {
    /// Connects to the network of `file` at its `endpoint`, such as `http://127.0.0.1:9944`.
    /// `clock` says which rounds of the beacon are out; the server has the last word. `observer` is
    /// told of the connection to the chain.
    ///
    /// # Errors
    /// When nobody answers there, or another chain does.
    pub async fn open(
        file: &NetworkFile,
        endpoint: &str,
        clock: Clock,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, NetworkError> {
        let own =
            OwnChain::new(&file.beacon).map_err(|error| NetworkError::Config(error.to_string()))?;
        let chain = DrandChain::Own(own);
        let deadline = call_time(file);
        let relays = vec![endpoint.to_owned()];
        let relays =
            DrandConfig { relays, deadline, hedge_after: deadline, ..DrandConfig::public() };
        let config = |error: &dyn std::fmt::Display| NetworkError::Config(error.to_string());
        let drand = Drand::new(chain, relays, clock).map_err(|error| config(&error))?;
        let beacon = DrandBeacon::new(Arc::new(drand)).map_err(|error| config(&error))?;
        let address = endpoint.replacen("http", "ws", 1);
        let node = Endpoint::parse(&address).map_err(|error| config(&error))?;
        let seals = SealBeacon { key: beacon.public_key(), schedule: beacon.schedule() };
        let connection =
            Connection::open_observed(chain_config(file, node, seals), observer).await?;
        Ok(Self { connection, beacon: Arc::new(beacon) })
    }

    /// Ends the connection to the chain; its ports fail from then on.
    pub async fn close(&self) {
        self.connection.close().await;
    }

    /// Returns the chain port for the holder of `signer`'s hotkey.
    pub fn chain(&self, signer: Arc<dyn Signer>) -> Subtensor {
        self.connection.act_for(signer)
    }

    /// Returns the beacon port.
    pub fn beacon(&self) -> Arc<dyn Beacon> {
        Arc::clone(&self.beacon)
    }

    /// Returns the uid of `signer`'s hotkey, registering it first if it has none.
    ///
    /// # Errors
    /// When the chain refuses the registration, or no block comes that includes it.
    pub async fn register(&self, signer: Arc<dyn Signer>) -> Result<Uid, ChainError> {
        let chain = self.chain(signer);
        match chain.registration().await {
            Err(ChainError::Refused { .. }) => {}
            known => return known,
        }
        let payer = Key::from_secret_uri(Scheme::Sr25519, PAYER)
            .expect("the name of a development account is a secret URI")
            .into_pair();
        chain.register(&payer).await?;
        chain.registration().await
    }
}

fn call_time(file: &NetworkFile) -> Duration {
    let blocks = Duration::from_millis(file.block_time_ms).saturating_mul(CALL_BLOCKS);
    blocks.clamp(CALL_TIME_MIN, CALL_TIME_MAX)
}

fn chain_config(file: &NetworkFile, node: Endpoint, seals: SealBeacon) -> SubtensorConfig {
    let network = Network {
        name: file.name.clone(),
        endpoints: vec![node],
        archive_endpoints: Vec::new(),
        genesis: Some(file.genesis),
    };
    let config = SubtensorConfig::new(network, file.netuid);
    SubtensorConfig {
        rpc: RpcConfig {
            connect_timeout: call_time(file),
            call_timeout: call_time(file),
            backoff: BACKOFF,
            ..config.rpc
        },
        submit: SubmitConfig { grace: call_time(file), ..config.submit },
        beacon: seals,
        ..config
    }
}
