//! `network.json`: what a process must know to take part in an embedded network.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use grail_protocol::ids::{BlockHash, Hotkey, Netuid, Uid};
use serde::{Deserialize, Serialize};

use crate::beacon::verify::BeaconInfo;
use crate::files::{self, PUBLIC, ReadError};
use crate::wallet::is_plain_name;

/// Name of the file in the network's folder.
pub const NETWORK_FILE: &str = "network.json";

/// Version of the file.
pub const NETWORK_FILE_VERSION: u32 = 1;

/// Largest file that is read; 256 neurons take about 60 kB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Longest name of a cheat, bytes.
const CHEAT_BYTES_MAX: usize = 64;

/// A network in a folder. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// Version of this file.
    pub version: u32,
    /// Name of the network.
    pub name: String,
    /// The only subnet.
    pub netuid: Netuid,
    /// Base address of the server, such as `http://127.0.0.1:9944`; absent before the first start,
    /// and out of date while no server runs.
    pub endpoint: Option<String>,
    /// Hash of block 0.
    pub genesis: BlockHash,
    /// Time of block 0, milliseconds since the Unix epoch.
    pub genesis_ms: u64,
    /// Time between blocks, milliseconds.
    pub block_time_ms: u64,
    /// The beacon.
    pub beacon: BeaconInfo,
    /// Neurons whose wallets are in the folder, in the order of their uids.
    pub neurons: Vec<NeuronEntry>,
}

/// A neuron whose wallet is in the network's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeuronEntry {
    /// Name of the neuron, of its wallet and of its folder.
    pub name: String,
    /// What it does.
    pub role: NetworkRole,
    /// How it cheats, for miners that are made to; the name is whoever starts the neuron's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cheat: Option<String>,
    /// Its hotkey.
    pub hotkey: Hotkey,
    /// Its uid.
    pub uid: Uid,
}

/// What a neuron does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkRole {
    /// Trains and publishes checkpoints.
    Trainer,
    /// Verifies and sets weights.
    Validator,
    /// Generates rollouts.
    Miner,
}

/// Why `network.json` was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum NetworkFileError {
    /// No such file.
    #[error("no network in {0}; start one there with `grail localnet`, or check the folder")]
    Missing(PathBuf),
    /// Not what it should be.
    #[error("{path} is damaged ({reason}); restore it from a backup, or make a new network")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// From another version of this program.
    #[error(
        "{path} has version {found}, this program knows {NETWORK_FILE_VERSION}; use the program \
         that made it, or make a new network"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The operating system refused.
    #[error("cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

impl NetworkFile {
    /// Reads and checks the file in the network's folder `dir`.
    ///
    /// # Errors
    /// When there is none, or it is damaged or of another version.
    pub fn load(dir: &Path) -> Result<Self, NetworkFileError> {
        let path = dir.join(NETWORK_FILE);
        let damaged = |reason: String| NetworkFileError::Damaged { path: path.clone(), reason };
        let bytes = match files::read_bounded(&path, FILE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(ReadError::Missing) => return Err(NetworkFileError::Missing(dir.to_owned())),
            Err(ReadError::NotAFile) => return Err(damaged("not a regular file".into())),
            Err(ReadError::TooLarge { size }) => {
                return Err(damaged(format!("{size} bytes, at most {FILE_BYTES_MAX} make sense")));
            }
            Err(ReadError::Io(source)) => return Err(NetworkFileError::Io { path, source }),
        };
        // The version first: another version may have other fields.
        let Version { version } =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if version != NETWORK_FILE_VERSION {
            return Err(NetworkFileError::Version { path, found: version });
        }
        let file: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        file.validate().map_err(damaged)?;
        Ok(file)
    }

    /// Replaces the file in the network's folder `dir`; readers see the old or the new one whole.
    ///
    /// # Errors
    /// [`NetworkFileError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), NetworkFileError> {
        let path = dir.join(NETWORK_FILE);
        let mut json =
            serde_json::to_vec_pretty(self).expect("strings and integers are valid JSON");
        json.push(b'\n');
        files::write_atomic(&path, &json, PUBLIC)
            .map_err(|source| NetworkFileError::Io { path, source })
    }

    /// Returns the neuron called `name`.
    pub fn neuron(&self, name: &str) -> Option<&NeuronEntry> {
        self.neurons.iter().find(|neuron| neuron.name == name)
    }

    fn validate(&self) -> Result<(), String> {
        if !is_plain_name(&self.name) {
            return Err("`name` is not a plain name".into());
        }
        if self.block_time_ms == 0 {
            return Err("`block_time_ms` is 0".into());
        }
        if let Some(endpoint) = &self.endpoint {
            let address = endpoint.strip_prefix("http://");
            if address.is_none_or(|address| address.parse::<SocketAddr>().is_err()) {
                return Err("`endpoint` is not like http://127.0.0.1:9944".into());
            }
        }
        self.beacon.check().map_err(|error| format!("`beacon`: {error}"))?;
        let mut names = BTreeSet::new();
        let mut hotkeys = BTreeSet::new();
        let mut uids = BTreeSet::new();
        for neuron in &self.neurons {
            neuron.validate()?;
            if !names.insert(neuron.name.as_str()) {
                return Err(format!("two neurons are called `{}`", neuron.name));
            }
            if !hotkeys.insert(neuron.hotkey) || !uids.insert(neuron.uid) {
                return Err(format!("neuron `{}` has the hotkey or uid of another", neuron.name));
            }
        }
        Ok(())
    }
}

impl NeuronEntry {
    fn validate(&self) -> Result<(), String> {
        if !is_plain_name(&self.name) {
            return Err("a neuron's name is not a plain name".into());
        }
        match &self.cheat {
            Some(_) if self.role != NetworkRole::Miner => {
                Err(format!("neuron `{}` cheats without being a miner", self.name))
            }
            Some(cheat) if cheat.is_empty() || cheat.len() > CHEAT_BYTES_MAX => {
                Err(format!("the cheat of neuron `{}` has no plausible name", self.name))
            }
            _ => Ok(()),
        }
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}
