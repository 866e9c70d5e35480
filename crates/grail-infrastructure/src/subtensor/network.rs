//! Names of networks and what they stand for.

use grail_protocol::ids::{BlockHash, Digest};

use super::rpc::{Endpoint, InvalidEndpoint};

/// A network by name, or nodes of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Name, such as `finney`; the address for nodes of one's own.
    pub name: String,
    /// Nodes in the order in which they are tried.
    pub endpoints: Vec<Endpoint>,
    /// Nodes that keep the state of every block, asked when the others have dropped it.
    pub archive_endpoints: Vec<Endpoint>,
    /// Hash of the first block, where it is known: a node of another chain is not believed.
    pub genesis: Option<BlockHash>,
}

/// Text that is neither the name of a network nor an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownNetwork {
    /// No such name.
    #[error("there is no network `{0}`; use {names}, or an endpoint such as wss://HOST:PORT", names = NAMES.join(", "))]
    Name(String),
    /// A bad address.
    #[error(transparent)]
    Endpoint(#[from] InvalidEndpoint),
}

/// The names of networks.
pub const NAMES: [&str; 5] = ["finney", "test", "archive", "devnet", "local"];

const FINNEY_ARCHIVES: [&str; 2] =
    ["wss://archive.chain.opentensor.ai:443", "wss://archive.sub.latent.to:443"];

/// Hash of the main network's first block. Source: `spec/bittensor.md`, section 1.
const FINNEY_GENESIS: Digest = Digest([
    0x2f, 0x05, 0x55, 0xcc, 0x76, 0xfc, 0x28, 0x40, 0xa2, 0x5a, 0x6e, 0xa3, 0xb9, 0x63, 0x71, 0x46,
    0x80, 0x6f, 0x1f, 0x44, 0xb0, 0x90, 0xc1, 0x75, 0xff, 0xde, 0x2a, 0x7e, 0x5a, 0xb3, 0x6c, 0x03,
]);

impl Network {
    /// Returns the network `name`, or the one whose node is at this address.
    ///
    /// Source: `spec/bittensor.md`, networks and endpoints.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(name: &str) -> Result<Self, UnknownNetwork> {
        let (endpoints, archives): (&[&str], &[&str]) = match name {
            "finney" => (
                &[
                    "wss://entrypoint-finney.opentensor.ai:443",
                    "wss://lite.chain.opentensor.ai:443",
                    "wss://lite.sub.latent.to:443",
                ],
                &FINNEY_ARCHIVES,
            ),
            "archive" => (&FINNEY_ARCHIVES, &[]),
            "test" => (&["wss://test.finney.opentensor.ai:443"], &[]),
            "devnet" => (&["wss://dev.chain.opentensor.ai:443"], &[]),
            "local" => (&["ws://127.0.0.1:9944"], &[]),
            address if address.starts_with("ws://") || address.starts_with("wss://") => {
                let endpoint = Endpoint::parse(address)?;
                return Ok(Self {
                    name: endpoint.to_string(),
                    endpoints: vec![endpoint],
                    archive_endpoints: Vec::new(),
                    genesis: None,
                });
            }
            other => {
                let shown: String = other.chars().take(40).collect();
                return Err(UnknownNetwork::Name(shown.escape_debug().to_string()));
            }
        };
        let parse = |addresses: &[&str]| {
            addresses.iter().map(|address| Endpoint::parse(address)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            name: name.to_owned(),
            endpoints: parse(endpoints)?,
            archive_endpoints: parse(archives)?,
            genesis: matches!(name, "finney" | "archive").then_some(FINNEY_GENESIS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        for name in NAMES {
            let network = Network::parse(name).unwrap();
            assert_eq!(network.name, name);
            assert!(!network.endpoints.is_empty(), "{name}");
        }
        let own = Network::parse("wss://node.example:443/key").unwrap();
        assert_eq!(own.name, "wss://node.example:443", "no key in what is shown");
        assert_eq!(own.endpoints[0].url(), "wss://node.example:443/key");
        let error = Network::parse("fineny").unwrap_err().to_string();
        assert!(error.contains("`fineny`") && error.contains("finney, test"), "{error}");
        assert!(Network::parse("ws://").is_err());
        assert!(Network::parse("").is_err());
    }
}
