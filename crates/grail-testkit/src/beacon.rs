//! A beacon whose rounds come out as a clock passes their times.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use blst::min_sig::SecretKey;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::{BeaconPublicKey, RoundSignature};
use sha2::{Digest as _, Sha256};

use crate::{Clock, draw, lock};

/// Domain separation tag of drand's quicknet.
const DST: &[u8] = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_";

/// Signs rounds as drand's quicknet does, with a key from a seed.
pub struct FakeBeacon {
    secret: SecretKey,
    schedule: BeaconSchedule,
    clock: Clock,
    withheld: Mutex<BTreeSet<u64>>,
}

impl FakeBeacon {
    /// Makes a beacon on `clock`.
    ///
    /// # Panics
    /// When the period is 0.
    pub fn new(schedule: BeaconSchedule, clock: Clock, seed: u64) -> Self {
        assert!(schedule.period_ms > 0, "a beacon's period is at least 1 ms");
        let key_material = draw::digest("grail/testkit/beacon", seed, &[]);
        let secret = SecretKey::key_gen(&key_material.0, &[]).expect("32 bytes make a key");
        Self { secret, schedule, clock, withheld: Mutex::default() }
    }

    /// Makes `round` unavailable until it is given back.
    pub fn withhold(&self, round: u64) {
        lock(&self.withheld).insert(round);
    }

    /// Makes a withheld round available again.
    pub fn give_back(&self, round: u64) {
        lock(&self.withheld).remove(&round);
    }
}

#[async_trait]
impl Beacon for FakeBeacon {
    fn schedule(&self) -> BeaconSchedule {
        self.schedule
    }

    fn public_key(&self) -> BeaconPublicKey {
        BeaconPublicKey(self.secret.sk_to_pk().to_bytes())
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        if lock(&self.withheld).contains(&round) {
            return Err(BeaconError::Unavailable(format!("round {round} is withheld")));
        }
        if round == 0 || self.schedule.time_of_ms(round) > (self.clock)() {
            return Ok(None);
        }
        let message = Sha256::digest(round.to_be_bytes());
        let signature = self.secret.sign(&message, DST, &[]).to_bytes();
        let randomness = Digest::of(&signature);
        Ok(Some(BeaconRound { round, randomness, signature: RoundSignature(signature) }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::contract;

    #[tokio::test]
    async fn rounds_come_out_at_their_times() {
        let now = Arc::new(AtomicU64::new(10_000));
        let clock: Clock = {
            let now = now.clone();
            Arc::new(move || now.load(Ordering::Relaxed))
        };
        let schedule = BeaconSchedule { genesis_ms: 10_000, period_ms: 3_000 };
        let beacon = FakeBeacon::new(schedule, clock, 7);
        assert!(beacon.round(1).await.unwrap().is_some());
        assert_eq!(beacon.round(2).await.unwrap(), None);
        now.store(12_999, Ordering::Relaxed);
        assert_eq!(beacon.round(2).await.unwrap(), None);
        now.store(13_000, Ordering::Relaxed);
        contract::beacon(&beacon, 2, 3).await;

        beacon.withhold(2);
        assert!(matches!(beacon.round(2).await, Err(BeaconError::Unavailable(_))));
        beacon.give_back(2);
        assert!(beacon.round(2).await.unwrap().is_some());
    }
}
