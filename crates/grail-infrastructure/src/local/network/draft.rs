//! Makes a network beside its folder and moves it into place whole.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_ports::beacon::{Beacon, BeaconSchedule};
use grail_ports::signer::Signer;
use grail_protocol::ids::{Hotkey, Uid};
use zeroize::Zeroizing;

use super::config::NetworkConfig;
use super::file::{NETWORK_FILE_VERSION, NetworkFile};
use super::identity::{ensure_identity, subseed};
use super::{BEACON_FILE, CHAIN_FILE, LOCK_FILE, NetworkError, STORE_FOLDER, io_error};
use crate::files;
use crate::local::beacon::LocalBeacon;
use crate::local::chain::LocalChain;
use crate::local::store::{FolderStore, StoreLimits};
use crate::lock::FolderLock;

/// Makes the network of `config` in the folder `dir`, which must be absent or empty.
pub(super) fn make(dir: &Path, config: &NetworkConfig) -> Result<(), NetworkError> {
    config.validate().map_err(NetworkError::Config)?;
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(NetworkError::NotEmpty(dir.to_owned()));
    }
    let draft = draft_of(dir)?;
    // Held until the folder is in place.
    let _lock = claim_draft(&draft)?;
    fill(&draft, config)?;
    files::sync_dir(&draft).map_err(io_error(&draft))?;
    fs::rename(&draft, dir).map_err(|source| match source.kind() {
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
            NetworkError::NotEmpty(dir.to_owned())
        }
        _ => NetworkError::Io { path: dir.to_owned(), source },
    })
}

/// Returns the folder beside `dir` in which a network is made before it is moved into place.
fn draft_of(dir: &Path) -> Result<PathBuf, NetworkError> {
    let Some(name) = dir.file_name() else {
        let dir = dir.display();
        return Err(NetworkError::Config(format!("`{dir}` does not end with a folder's name")));
    };
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".grail-draft");
    Ok(dir.with_file_name(draft))
}

/// Makes the draft folder empty and ours.
fn claim_draft(draft: &Path) -> Result<FolderLock, NetworkError> {
    files::create_private_dir(draft).map_err(io_error(draft))?;
    let lock = FolderLock::acquire(draft, LOCK_FILE)?;
    // Nobody else holds it, so whatever is in it was left by a crash.
    for entry in fs::read_dir(draft).map_err(io_error(draft))? {
        let entry = entry.map_err(io_error(draft))?;
        let path = entry.path();
        if entry.file_name() == LOCK_FILE {
            continue;
        }
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_error(&path))?;
    }
    Ok(lock)
}

/// Writes every part of a new network; `network.json` comes last.
fn fill(dir: &Path, config: &NetworkConfig) -> Result<(), NetworkError> {
    let seed = match config.seed {
        Some(seed) => Zeroizing::new(seed),
        None => files::random_seed().map_err(io_error(dir))?,
    };
    let mut identities = Vec::new();
    for neuron in &config.neurons {
        let seed = subseed(&seed, &format!("neuron/{}", neuron.name));
        identities.push(ensure_identity(dir, &neuron.name, &seed)?);
    }
    let stakes: Vec<(Hotkey, u64)> = identities
        .iter()
        .zip(&config.neurons)
        .map(|((wallet, _), neuron)| (wallet.hotkey(), neuron.stake))
        .collect();
    let genesis_ms = config.rules.genesis_ms;
    let schedule = BeaconSchedule { genesis_ms, period_ms: config.beacon_period_ms };
    let beacon_seed = subseed(&seed, "beacon");
    // Only its key is asked for, and that needs no time.
    let beacon = LocalBeacon::from_seed(&beacon_seed, schedule, Arc::new(|| 0))?;
    let mut rules = config.rules.clone();
    rules.beacon_key.get_or_insert(Beacon::public_key(&beacon));
    rules.beacon_times.get_or_insert(schedule.into());
    let chain_seed = subseed(&seed, "chain");
    let chain = LocalChain::create(&dir.join(CHAIN_FILE), rules, &chain_seed, &stakes)?;
    let beacon_path = dir.join(BEACON_FILE);
    LocalBeacon::create_key(&beacon_path, &beacon_seed)?;
    let beacon = LocalBeacon::open(&beacon_path, schedule, chain.clock())?;
    let limits = StoreLimits::default();
    let store = FolderStore::create(&dir.join(STORE_FOLDER), limits, chain.clock())?;
    let mut neurons = Vec::new();
    for ((wallet, keys), (neuron, uid)) in identities.iter().zip(config.neurons.iter().zip(0..)) {
        store.create_bucket(&keys.grant())?;
        neurons.push(neuron.entry(wallet.hotkey(), Uid(uid)));
    }
    let file = NetworkFile {
        version: NETWORK_FILE_VERSION,
        name: config.rules.network.clone(),
        netuid: config.rules.netuid,
        endpoint: None,
        genesis: chain.genesis(),
        genesis_ms,
        block_time_ms: config.rules.block_time_ms,
        beacon: beacon.info().clone(),
        neurons,
    };
    Ok(file.save(dir)?)
}
