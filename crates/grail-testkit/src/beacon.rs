//! A beacon whose rounds come out as a clock passes their times.

use std::collections::BTreeSet;
use std::sync::Mutex;

use async_trait::async_trait;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};

use crate::{Clock, draw, lock};

/// Makes the randomness of a round from a seed; no signature is involved.
pub struct FakeBeacon {
    schedule: BeaconSchedule,
    clock: Clock,
    seed: u64,
    withheld: Mutex<BTreeSet<u64>>,
}

impl FakeBeacon {
    /// Makes a beacon on `clock`.
    ///
    /// # Panics
    /// When the period is 0.
    pub fn new(schedule: BeaconSchedule, clock: Clock, seed: u64) -> Self {
        assert!(schedule.period_ms > 0, "a beacon's period is at least 1 ms");
        Self { schedule, clock, seed, withheld: Mutex::default() }
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

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        if lock(&self.withheld).contains(&round) {
            return Err(BeaconError::Unavailable(format!("round {round} is withheld")));
        }
        if round == 0 || self.schedule.time_of_ms(round) > (self.clock)() {
            return Ok(None);
        }
        let randomness = draw::digest("grail/testkit/beacon", self.seed, &[&round.to_le_bytes()]);
        Ok(Some(BeaconRound { round, randomness }))
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
