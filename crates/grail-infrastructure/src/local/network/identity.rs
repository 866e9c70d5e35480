//! The secrets of a neuron in the network's folder: its wallet and the keys of its bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grail_ports::signer::Signer;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::file::NeuronEntry;
use super::{NetworkError, WALLETS_FOLDER};
use crate::local::store::credentials::{BucketKeys, CredentialsError};
use crate::wallet::{NO_PASSWORDS, NewKey, Wallet, WalletError};

const BUCKET_FILE: &str = "bucket.json";
const HOTKEY_NAME: &str = "default";

/// Returns the wallet and the bucket keys of a neuron, making what is missing.
pub(super) fn ensure_identity(
    dir: &Path,
    name: &str,
    seed: &[u8; 32],
) -> Result<(Wallet, BucketKeys), NetworkError> {
    let wallets = dir.join(WALLETS_FOLDER);
    let hotkey_seed = subseed(seed, "hotkey");
    let wallet = match Wallet::create(&wallets, name, HOTKEY_NAME, NewKey::Seed(hotkey_seed)) {
        Err(WalletError::Exists(_)) => Wallet::load(&wallets, name, HOTKEY_NAME, NO_PASSWORDS)?,
        made => made?,
    };
    let path = bucket_file(dir, name);
    let keys = match BucketKeys::load(&path) {
        Err(CredentialsError::Missing(_)) => {
            let keys = BucketKeys::from_seed(wallet.hotkey(), &subseed(seed, "bucket"));
            keys.save(&path)?;
            keys
        }
        known => known?,
    };
    Ok((wallet, keys))
}

/// Returns the wallet and the bucket keys of a neuron, which must be those that `entry` names.
pub(super) fn load_identity(
    dir: &Path,
    entry: &NeuronEntry,
) -> Result<(Arc<Wallet>, BucketKeys), NetworkError> {
    let wallet = Wallet::load(&dir.join(WALLETS_FOLDER), &entry.name, HOTKEY_NAME, NO_PASSWORDS)?;
    let path = bucket_file(dir, &entry.name);
    let keys = BucketKeys::load(&path)?;
    if wallet.hotkey() != entry.hotkey {
        return Err(NetworkError::Mixed(dir.join(WALLETS_FOLDER).join(&entry.name)));
    }
    if keys.owner != entry.hotkey {
        return Err(NetworkError::Mixed(path));
    }
    Ok((Arc::new(wallet), keys))
}

fn bucket_file(dir: &Path, name: &str) -> PathBuf {
    dir.join(WALLETS_FOLDER).join(name).join(BUCKET_FILE)
}

/// Returns a secret that follows from `seed` and tells nothing about it or its siblings.
pub(super) fn subseed(seed: &[u8; 32], what: &str) -> Zeroizing<[u8; 32]> {
    let hasher = Sha256::new()
        .chain_update(b"grail/v6/local-seed\0")
        .chain_update(seed)
        .chain_update(what.as_bytes());
    Zeroizing::new(hasher.finalize().into())
}
