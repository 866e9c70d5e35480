//! The sections for wallet, beacon and store, none of which holds a secret.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use grail_infrastructure::drand::{DrandChain, DrandConfig, UnknownDrandChain};
use grail_infrastructure::object_store::{Addressing, Patience, S3Settings};
use grail_protocol::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::human_duration::HumanDuration;

/// Name of a wallet's hotkey unless another is given.
const DEFAULT_HOTKEY: &str = "default";

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalletConfig {
    /// Folder of wallets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Name of the wallet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Name of its hotkey.
    pub hotkey: String,
    /// File whose first line is the password of encrypted keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl Default for WalletConfig {
    fn default() -> Self {
        Self { path: None, name: None, hotkey: DEFAULT_HOTKEY.to_owned(), password_file: None }
    }
}

/// A chain of drand by its name, or any chain of quicknet's kind by its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BeaconChain {
    /// One that this program knows.
    Named(DrandChain),
    /// One that its relays describe; the hash tells whether they do it truly.
    Hash(Digest),
}

impl FromStr for BeaconChain {
    type Err = UnknownDrandChain;

    fn from_str(text: &str) -> Result<Self, UnknownDrandChain> {
        match text.parse::<Digest>() {
            Ok(hash) => Ok(Self::Hash(hash)),
            Err(_) => text.parse().map(Self::Named),
        }
    }
}

impl fmt::Display for BeaconChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(chain) => f.write_str(chain.name()),
            Self::Hash(hash) => f.write_str(&hash.to_hex()),
        }
    }
}

impl TryFrom<String> for BeaconChain {
    type Error = UnknownDrandChain;

    fn try_from(text: String) -> Result<Self, UnknownDrandChain> {
        text.parse()
    }
}

impl From<BeaconChain> for String {
    fn from(chain: BeaconChain) -> Self {
        chain.to_string()
    }
}

/// Public randomness of real networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BeaconConfig {
    /// Which chain of drand.
    pub chain: BeaconChain,
    /// Relays in the order in which they are asked; empty means drand's public ones.
    pub relays: Vec<String>,
    /// Longest time for one round, all relays together.
    pub deadline: HumanDuration,
    /// Wait for one relay before the next one is asked as well.
    pub hedge_after: HumanDuration,
    /// Rounds that are remembered.
    pub cache_rounds: usize,
}

impl Default for BeaconConfig {
    fn default() -> Self {
        let public = DrandConfig::public();
        Self {
            chain: BeaconChain::Named(DrandChain::Quicknet),
            relays: Vec::new(),
            deadline: public.deadline.into(),
            hedge_after: public.hedge_after.into(),
            cache_rounds: public.cache_rounds,
        }
    }
}

impl BeaconConfig {
    /// Returns how relays are asked.
    pub fn drand(&self) -> DrandConfig {
        let public = DrandConfig::public();
        DrandConfig {
            relays: if self.relays.is_empty() { public.relays } else { self.relays.clone() },
            deadline: self.deadline.into(),
            hedge_after: self.hedge_after.into(),
            cache_rounds: self.cache_rounds,
        }
    }
}

/// What keeps the buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// The folder of a local network.
    #[default]
    Folder,
    /// An S3 server, such as Cloudflare R2.
    S3,
}

/// Where a bucket's name stands in an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressStyle {
    /// Behind the host.
    #[default]
    Path,
    /// Before it.
    VirtualHost,
}

/// The buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// What keeps them.
    pub kind: StoreKind,
    /// Address of the S3 server, `{account}` standing for the account id; without it, R2's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: String,
    /// Name of our bucket; of a local network, what the names of its buckets begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Where a bucket's name stands in an address.
    pub addressing: AddressStyle,
    /// Whether an endpoint may be unencrypted.
    pub allow_http: bool,
    /// Folder with files that are named after the variables of the keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_dir: Option<PathBuf>,
    /// Most bytes a second in each direction; 0 is no limit.
    pub bandwidth_bytes_per_s: u64,
    /// Longest time of an operation without bytes.
    pub deadline: HumanDuration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        let settings = S3Settings::default();
        Self {
            kind: StoreKind::default(),
            endpoint: None,
            region: settings.region,
            bucket: None,
            addressing: AddressStyle::default(),
            allow_http: settings.allow_http,
            keys_dir: None,
            bandwidth_bytes_per_s: 0,
            deadline: settings.patience.operation.into(),
        }
    }
}

impl StoreConfig {
    /// Returns how the S3 server is reached.
    pub fn s3(&self) -> S3Settings {
        let bandwidth = Some(self.bandwidth_bytes_per_s).filter(|bandwidth| *bandwidth > 0);
        S3Settings {
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            addressing: match self.addressing {
                AddressStyle::Path => Addressing::Path,
                AddressStyle::VirtualHost => Addressing::VirtualHost,
            },
            allow_http: self.allow_http,
            bandwidth_bytes_per_s: bandwidth,
            patience: Patience { operation: Duration::from(self.deadline), ..Patience::default() },
            ..S3Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_reach_the_adapters() {
        let store = StoreConfig {
            bandwidth_bytes_per_s: 7,
            addressing: AddressStyle::VirtualHost,
            ..StoreConfig::default()
        };
        assert_eq!(store.s3().bandwidth_bytes_per_s, Some(7));
        assert_eq!(store.s3().addressing, Addressing::VirtualHost);
        assert_eq!(StoreConfig::default().s3(), S3Settings::default());
        assert_eq!(BeaconConfig::default().drand(), DrandConfig::public());
    }

    #[test]
    fn a_chain_of_drand_has_a_name_or_a_hash() {
        let hash = "11".repeat(32);
        for text in ["quicknet", "default", &hash] {
            assert_eq!(text.parse::<BeaconChain>().unwrap().to_string(), text);
        }
        assert!("fastnet".parse::<BeaconChain>().is_err());
    }
}
