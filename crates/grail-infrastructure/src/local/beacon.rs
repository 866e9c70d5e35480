//! The embedded beacon: signs rounds as drand's quicknet does, each only when its time has come.

use std::io;
use std::path::{Path, PathBuf};
use std::str;

use async_trait::async_trait;
use blst::min_sig::SecretKey;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::BeaconPublicKey;
use zeroize::Zeroizing;

use crate::beacon::verify::{
    BeaconInfo, BeaconInfoError, BeaconKey, BeaconMetadata, DST, RoundJson, SCHEME,
    embedded_group_hash, message,
};
use crate::clock::Clock;
use crate::files::{self, PRIVATE, ReadError};
use crate::local::chain::Pulses;
use crate::local::chain::call::Pulse;

/// Name of the embedded beacon in its description.
const BEACON_ID: &str = "grail-local";

/// Largest key file that is read: 64 digits and white space.
const KEY_FILE_BYTES_MAX: u64 = 128;

/// A beacon that holds its own secret key.
pub struct LocalBeacon {
    secret: SecretKey,
    key: BeaconKey,
    info: BeaconInfo,
    schedule: BeaconSchedule,
    clock: Clock,
}

/// Why the beacon's key could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum BeaconKeyError {
    /// No such file.
    #[error("no beacon key at {0}; restore the network's folder from a backup")]
    Missing(PathBuf),
    /// Not a key of ours.
    #[error(
        "the beacon key {path} is damaged ({reason}); restore the network's folder from a backup, \
         or make a new network"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never the secret.
        reason: &'static str,
    },
    /// A schedule that no beacon can have.
    #[error("the beacon's schedule is invalid: {0}")]
    Schedule(BeaconInfoError),
    /// The operating system refused.
    #[error("cannot access {path}: {source}; check permissions and free space")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's word.
        source: io::Error,
    },
}

impl LocalBeacon {
    /// Returns a beacon whose key follows from `seed` and lives in memory only.
    ///
    /// # Errors
    /// [`BeaconKeyError::Schedule`] when the period is 0.
    pub fn from_seed(
        seed: &[u8; 32],
        schedule: BeaconSchedule,
        clock: Clock,
    ) -> Result<Self, BeaconKeyError> {
        Self::with_secret(secret_of(seed), schedule, clock)
    }

    /// Makes the key of `seed` and keeps it in the new file at `path`, mode 0600.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create_key(path: &Path, seed: &[u8; 32]) -> Result<(), BeaconKeyError> {
        let bytes = Zeroizing::new(secret_of(seed).to_bytes());
        let digits = Zeroizing::new(hex::encode(bytes.as_slice()));
        files::write_new(path, digits.as_bytes(), PRIVATE)
            .map_err(|source| BeaconKeyError::Io { path: path.to_owned(), source })
    }

    /// Opens the beacon whose key is at `path`.
    ///
    /// # Errors
    /// When the file is absent or holds no key, or the period is 0.
    pub fn open(
        path: &Path,
        schedule: BeaconSchedule,
        clock: Clock,
    ) -> Result<Self, BeaconKeyError> {
        let damaged = |reason| BeaconKeyError::Damaged { path: path.to_owned(), reason };
        let digits = match files::read_bounded(path, KEY_FILE_BYTES_MAX) {
            Ok(digits) => digits,
            Err(ReadError::Missing) => return Err(BeaconKeyError::Missing(path.to_owned())),
            Err(ReadError::NotAFile) => return Err(damaged("not a regular file")),
            Err(ReadError::TooLarge { .. }) => return Err(damaged("too large for a key")),
            Err(ReadError::Io(source)) => {
                return Err(BeaconKeyError::Io { path: path.to_owned(), source });
            }
        };
        let mut bytes = Zeroizing::new([0; 32]);
        let text = str::from_utf8(&digits).map_err(|_| damaged("not text"))?.trim();
        hex::decode_to_slice(text, bytes.as_mut_slice())
            .map_err(|_| damaged("not 64 hexadecimal digits"))?;
        let secret = SecretKey::from_bytes(bytes.as_slice())
            .map_err(|_| damaged("not a BLS12-381 scalar"))?;
        Self::with_secret(secret, schedule, clock)
    }

    fn with_secret(
        secret: SecretKey,
        schedule: BeaconSchedule,
        clock: Clock,
    ) -> Result<Self, BeaconKeyError> {
        let key = BeaconKey::from_bytes(&secret.sk_to_pk().to_bytes())
            .expect("the key of a valid scalar is a valid point");
        let info = describe(key, schedule);
        info.check().map_err(BeaconKeyError::Schedule)?;
        Ok(Self { secret, key, info, schedule, clock })
    }

    /// Returns the beacon's description.
    pub fn info(&self) -> &BeaconInfo {
        &self.info
    }

    /// Returns the number of the newest round that is out, 0 before the first.
    pub fn latest(&self) -> u64 {
        self.schedule.first_round_after((self.clock)()) - 1
    }

    /// Returns `round` signed, or `None` if it is not out yet or is round 0.
    pub fn sign(&self, round: u64) -> Option<RoundJson> {
        if round == 0 || round > self.latest() {
            return None;
        }
        let signature = self.secret.sign(&message(round), DST, &[]).to_bytes();
        Some(RoundJson {
            round,
            randomness: Digest::of(&signature),
            signature: hex::encode(signature),
        })
    }
}

#[async_trait]
impl Beacon for LocalBeacon {
    fn schedule(&self) -> BeaconSchedule {
        self.schedule
    }

    fn public_key(&self) -> BeaconPublicKey {
        BeaconPublicKey(self.key.to_bytes())
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        self.sign(round).map(|answer| answer.verify(self.key, round)).transpose()
    }
}

impl Pulses for LocalBeacon {
    fn pulse(&self, round: u64) -> Option<Pulse> {
        let signed = self.sign(round)?;
        let signature = hex::decode(&signed.signature).ok()?;
        Some(Pulse { randomness: signed.randomness.0.to_vec(), signature })
    }

    fn newest(&self) -> u64 {
        self.latest()
    }
}

fn secret_of(seed: &[u8; 32]) -> SecretKey {
    SecretKey::key_gen(seed, b"grail/v6/local-beacon").expect("32 bytes are enough to make a key")
}

fn describe(key: BeaconKey, schedule: BeaconSchedule) -> BeaconInfo {
    let mut info = BeaconInfo {
        public_key: hex::encode(key.to_bytes()),
        period: u32::try_from(schedule.period_ms.div_ceil(1000)).unwrap_or(u32::MAX).max(1),
        genesis_time: i64::try_from(schedule.genesis_ms / 1000)
            .expect("a thousandth of a u64 fits an i64"),
        hash: Digest([0; 32]),
        group_hash: embedded_group_hash(key, schedule),
        scheme_id: SCHEME.to_owned(),
        metadata: BeaconMetadata { beacon_id: BEACON_ID.to_owned() },
        period_ms: Some(schedule.period_ms),
        genesis_ms: Some(schedule.genesis_ms),
    };
    info.hash = info.compute_hash(key);
    info
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SCHEDULE: BeaconSchedule = BeaconSchedule { genesis_ms: 10_500, period_ms: 250 };

    fn clock_at(now_ms: u64) -> (Clock, Arc<AtomicU64>) {
        let now = Arc::new(AtomicU64::new(now_ms));
        let shown = Arc::clone(&now);
        (Arc::new(move || shown.load(Ordering::Relaxed)), now)
    }

    #[tokio::test]
    async fn a_round_comes_out_when_its_time_has_come() {
        let (clock, now) = clock_at(0);
        let beacon = LocalBeacon::from_seed(&[1; 32], SCHEDULE, clock).unwrap();
        assert_eq!(beacon.latest(), 0);
        assert_eq!(beacon.round(1).await.unwrap(), None);
        now.store(10_500, Ordering::Relaxed);
        assert_eq!(beacon.latest(), 1);
        let first = beacon.round(1).await.unwrap().unwrap();
        assert_eq!(beacon.round(2).await.unwrap(), None);
        now.store(10_750, Ordering::Relaxed);
        let second = beacon.round(2).await.unwrap().unwrap();
        assert_ne!(first.randomness, second.randomness);
        assert_eq!(beacon.round(1).await.unwrap(), Some(first), "rounds never change");
        assert_eq!(beacon.round(0).await.unwrap(), None);
    }

    #[test]
    fn the_description_checks_and_binds_the_schedule() {
        let (clock, _) = clock_at(0);
        let beacon = LocalBeacon::from_seed(&[1; 32], SCHEDULE, clock.clone()).unwrap();
        let json = serde_json::to_string(beacon.info()).unwrap();
        let read: BeaconInfo = serde_json::from_str(&json).unwrap();
        assert_eq!(read.check().unwrap().1, SCHEDULE);
        assert_eq!(read.period, 1, "drand counts whole seconds");
        let faster = BeaconSchedule { period_ms: 251, ..SCHEDULE };
        let other = LocalBeacon::from_seed(&[1; 32], faster, clock).unwrap();
        assert_ne!(other.info().hash, beacon.info().hash);
        let lying = BeaconInfo { period_ms: Some(251), ..read };
        assert!(lying.check().is_err());
    }

    #[test]
    fn a_round_of_another_key_is_refused() {
        let (clock, _) = clock_at(20_000);
        let ours = LocalBeacon::from_seed(&[1; 32], SCHEDULE, clock.clone()).unwrap();
        let theirs = LocalBeacon::from_seed(&[2; 32], SCHEDULE, clock).unwrap();
        let forged = theirs.sign(3).unwrap();
        assert!(matches!(forged.verify(ours.key, 3), Err(BeaconError::Invalid { round: 3, .. })));
    }

    #[test]
    fn the_key_survives_in_its_file_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("beacon.key");
        let (clock, _) = clock_at(20_000);
        let open = || LocalBeacon::open(&path, SCHEDULE, clock.clone());
        assert!(matches!(open(), Err(BeaconKeyError::Missing(_))));
        LocalBeacon::create_key(&path, &[3; 32]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let made = LocalBeacon::from_seed(&[3; 32], SCHEDULE, clock.clone()).unwrap();
        assert_eq!(open().unwrap().sign(2), made.sign(2));
        assert!(LocalBeacon::create_key(&path, &[4; 32]).is_err(), "never overwritten");
        let digits = fs::read(&path).unwrap();
        for damage in
            [&digits[..63], b"", b"zz", &[0xff; 64], &[b'0'; 64], &[b'f'; 64], &[b'0'; 200]]
        {
            fs::write(&path, damage).unwrap();
            let error = open().err().unwrap();
            assert!(matches!(error, BeaconKeyError::Damaged { .. }), "{error}");
        }
    }

    #[test]
    fn a_period_of_zero_is_refused() {
        let (clock, _) = clock_at(0);
        let schedule = BeaconSchedule { genesis_ms: 0, period_ms: 0 };
        assert!(LocalBeacon::from_seed(&[1; 32], schedule, clock).is_err());
    }
}
