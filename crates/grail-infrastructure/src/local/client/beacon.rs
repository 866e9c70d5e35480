//! The beacon port over HTTP; every round is verified here, whatever the server says.

use async_trait::async_trait;
use grail_ports::beacon::{Beacon, BeaconError, BeaconRound, BeaconSchedule};
use grail_protocol::ids::Digest;
use grail_protocol::timelock::BeaconPublicKey;

use super::http::{ClientError, Http};
use crate::beacon::verify::{BeaconInfo, BeaconInfoError, BeaconKey, RoundJson};

/// A beacon in another process.
pub struct HttpBeacon {
    http: Http,
    hash: Digest,
    key: BeaconKey,
    schedule: BeaconSchedule,
}

impl HttpBeacon {
    /// Returns the port for the beacon that `info` describes; `info` must come from a source that
    /// is trusted, such as the network's own file.
    ///
    /// # Errors
    /// When the description contradicts itself.
    pub fn new(http: Http, info: &BeaconInfo) -> Result<Self, BeaconInfoError> {
        let (key, schedule) = info.check()?;
        Ok(Self { http, hash: info.hash, key, schedule })
    }
}

#[async_trait]
impl Beacon for HttpBeacon {
    fn schedule(&self) -> BeaconSchedule {
        self.schedule
    }

    fn public_key(&self) -> BeaconPublicKey {
        BeaconPublicKey(self.key.to_bytes())
    }

    async fn round(&self, round: u64) -> Result<Option<BeaconRound>, BeaconError> {
        // drand means the latest round by 0; here no such round exists.
        if round == 0 {
            return Ok(None);
        }
        let path = format!("/{}/public/{round}", self.hash);
        match self.http.get_json::<RoundJson>(&path).await {
            Ok(Some(answer)) => answer.verify(self.key, round).map(Some),
            Ok(None) => Ok(None),
            Err(ClientError::Unavailable(reason)) => Err(BeaconError::Unavailable(reason)),
            Err(other) => Err(BeaconError::Invalid { round, reason: other.to_string() }),
        }
    }
}
