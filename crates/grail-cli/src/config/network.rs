//! The section for the network: a local one, a known one, or nodes of one's own.

use std::path::PathBuf;

use clap::ValueEnum;
use grail_infrastructure::subtensor::SubtensorConfig;
use grail_infrastructure::subtensor::network::{NAMES, Network};
use grail_infrastructure::subtensor::rpc::{Endpoint, RpcConfig};
use grail_protocol::ids::Netuid;
use serde::{Deserialize, Serialize};

use crate::human_duration::HumanDuration;

/// Name of the networks that `grail localnet` makes.
pub const LOCAL_NETWORK: &str = "local";

/// Name of a network that is known by the addresses of its nodes alone.
pub const CUSTOM_NETWORK: &str = "custom";

/// The main network, and the name of those of its nodes that keep every state.
const FINNEY: &str = "finney";
const ARCHIVE: &str = "archive";

/// The subnet on the main network. Source: reference 0.0.60, `NETUID`.
const FINNEY_NETUID: Netuid = Netuid(81);

/// Longest name of a network; it stands in every rollout file.
const NAME_BYTES_MAX: usize = 32;

/// How the newest block is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadFollowing {
    /// The node is asked.
    #[default]
    Poll,
    /// The node tells; it is asked where it does not.
    Subscribe,
}

/// Which network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Name of the network, or the address of one of its nodes.
    pub name: String,
    /// Folder of a local network; on a real one, of what its roles keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Addresses of nodes instead of the network's usual ones, in the order in which they are tried.
    pub endpoints: Vec<String>,
    /// Addresses of nodes that keep every state.
    pub archive_endpoints: Vec<String>,
    /// The subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netuid: Option<u16>,
    /// How the newest block is known.
    pub heads: HeadFollowing,
    /// Longest time until a connection stands.
    pub connect_timeout: HumanDuration,
    /// Longest time of a call.
    pub call_timeout: HumanDuration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let rpc = RpcConfig::new(Vec::new());
        Self {
            name: LOCAL_NETWORK.to_owned(),
            dir: None,
            endpoints: Vec::new(),
            archive_endpoints: Vec::new(),
            netuid: None,
            heads: HeadFollowing::default(),
            connect_timeout: rpc.connect_timeout.into(),
            call_timeout: rpc.call_timeout.into(),
        }
    }
}

impl NetworkConfig {
    /// Returns whether this is a network that `grail localnet` runs on this machine. With endpoints
    /// it is one that is reached through a node, whatever its name.
    pub fn is_local(&self) -> bool {
        self.name == LOCAL_NETWORK && self.endpoints.is_empty()
    }

    /// Returns the name that goes into rollout files, which all nodes of a subnet must share.
    pub fn shared_name(&self) -> &str {
        match self.name.as_str() {
            ARCHIVE => FINNEY,
            address if is_address(address) => CUSTOM_NETWORK,
            name => name,
        }
    }

    /// Returns the nodes of a real network.
    ///
    /// # Errors
    /// What is wrong with the name or an address.
    pub fn nodes(&self) -> Result<Network, String> {
        let is_known = is_address(&self.name) || NAMES.contains(&self.name.as_str());
        let known = match is_known {
            true => Some(Network::parse(&self.name).map_err(|error| error.to_string())?),
            false => None,
        };
        let mut network = match known {
            Some(known) => known,
            None if self.endpoints.is_empty() => {
                let shown: String = self.name.chars().take(NAME_BYTES_MAX).collect();
                return Err(format!(
                    "there is no network `{}`; use {}, the address of a node such as \
                     wss://HOST:PORT, or name the nodes of your own in network.endpoints",
                    shown.escape_debug(),
                    NAMES.join(", ")
                ));
            }
            None => Network {
                name: self.name.clone(),
                endpoints: Vec::new(),
                archive_endpoints: Vec::new(),
                genesis: None,
            },
        };
        self.shared_name().clone_into(&mut network.name);
        if !is_plain(&network.name) {
            return Err(format!(
                "`{}` cannot name a network; use 1 to {NAME_BYTES_MAX} letters, digits, `-` and `_`",
                network.name.escape_debug()
            ));
        }
        if !self.endpoints.is_empty() {
            network.endpoints = endpoints(&self.endpoints)?;
        }
        if !self.archive_endpoints.is_empty() {
            network.archive_endpoints = endpoints(&self.archive_endpoints)?;
        }
        Ok(network)
    }

    /// Returns the subnet that is meant; on the main network there is a usual one.
    pub fn netuid(&self) -> Option<Netuid> {
        let usual = (self.shared_name() == FINNEY).then_some(FINNEY_NETUID);
        self.netuid.map(Netuid).or(usual)
    }

    /// Returns how the subnet `netuid` of the network is spoken to.
    ///
    /// # Errors
    /// As [`NetworkConfig::nodes`].
    pub fn subtensor(&self, netuid: Netuid) -> Result<SubtensorConfig, String> {
        let mut config = SubtensorConfig::new(self.nodes()?, netuid);
        config.rpc.connect_timeout = self.connect_timeout.into();
        config.rpc.call_timeout = self.call_timeout.into();
        config.follow_heads = self.heads == HeadFollowing::Subscribe;
        Ok(config)
    }
}

fn is_address(text: &str) -> bool {
    text.starts_with("ws://") || text.starts_with("wss://")
}

fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_plain)
}

fn endpoints(addresses: &[String]) -> Result<Vec<Endpoint>, String> {
    let parse = |address: &String| Endpoint::parse(address).map_err(|error| error.to_string());
    addresses.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn network(name: &str, endpoints: &[&str]) -> NetworkConfig {
        let endpoints = endpoints.iter().map(|address| (*address).to_owned()).collect();
        NetworkConfig { name: name.to_owned(), endpoints, ..NetworkConfig::default() }
    }

    #[test]
    fn a_network_is_a_name_an_address_or_nodes_under_a_name() {
        assert!(NetworkConfig::default().is_local());
        let finney = network("finney", &[]);
        assert_eq!(finney.netuid(), Some(Netuid(81)));
        assert!(finney.nodes().unwrap().genesis.is_some());
        // Its archive nodes serve the same network, which rollout files name.
        assert_eq!(network("archive", &[]).nodes().unwrap().name, "finney");
        let own = network("finney", &["wss://mine.example:443"]).nodes().unwrap();
        assert_eq!((own.endpoints.len(), own.archive_endpoints.len()), (1, 2));
        assert!(own.genesis.is_some(), "a node of another chain is not believed");
        let address = network("ws://127.0.0.1:9944", &[]);
        assert_eq!(address.nodes().unwrap().name, "custom");
        assert_eq!(address.netuid(), None);
        for name in ["custom", "local", "my-net"] {
            let nodes = network(name, &["ws://127.0.0.1:9944"]);
            assert!(!nodes.is_local());
            assert_eq!(nodes.nodes().unwrap().name, name);
        }
        for bad in [
            network("fineny", &[]),
            network("custom", &[]),
            network("", &["ws://a:1"]),
            network("a b", &["ws://a:1"]),
            network("custom", &["http://a:1"]),
        ] {
            assert!(bad.nodes().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn settings_reach_the_adapter() {
        let mut config = network("test", &[]);
        config.heads = HeadFollowing::Subscribe;
        config.call_timeout = HumanDuration::from_millis(3_000);
        let subtensor = config.subtensor(Netuid(429)).unwrap();
        assert!(subtensor.follow_heads);
        assert_eq!(subtensor.rpc.call_timeout, Duration::from_secs(3));
    }
}
