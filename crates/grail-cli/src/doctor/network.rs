//! Checks of what lies outside: chain, registration, beacon and bucket.

use bytes::Bytes;
use grail_ports::beacon::Beacon;
use grail_ports::chain::{Chain, Metagraph};
use grail_ports::object_store::Buckets;
use grail_protocol::ids::Hotkey;

use super::Finding;

/// Blocks after which a head counts as old.
const OLD_BLOCKS: u64 = 10;

/// Largest difference between our clock and the store's, milliseconds; S3 refuses 15 minutes.
const SKEW_MS_MAX: u64 = 60_000;

/// Prefix of the object that is written and removed.
const PROBE_PREFIX: &str = "grail/doctor/";

/// Most bytes of that object that are read back.
const PROBE_BYTES_MAX: u64 = 1024;

/// The chain answers, and its head is of now; without `now_ms` its time is its own.
pub async fn chain(chain: &dyn Chain, now_ms: Option<u64>) -> Finding {
    match chain.head().await {
        Ok(head) => {
            let told = format!("{} {}: block {}", chain.network(), chain.netuid(), head.number);
            let Some(now_ms) = now_ms else { return Finding::pass(told) };
            let old_ms = now_ms.saturating_sub(head.timestamp_ms);
            let told = format!("{told}, {:.1} s old", old_ms as f64 / 1000.0);
            if old_ms > OLD_BLOCKS.saturating_mul(chain.block_time_ms()) {
                return Finding::warn(
                    told,
                    "the node lags or this machine's clock is ahead; check the clock, or use \
                     another endpoint",
                );
            }
            Finding::pass(told)
        }
        Err(error) => Finding::fail(error.to_string(), "check the network's name and endpoints"),
    }
}

/// The hotkey is registered.
pub fn registration(metagraph: &Metagraph, hotkey: Hotkey) -> Finding {
    match metagraph.neuron(hotkey) {
        Some(neuron) => Finding::pass(format!("{hotkey} has uid {}", neuron.uid)),
        None => Finding::fail(
            format!("{hotkey} is not among the {} neurons", metagraph.neurons.len()),
            "register it, or check wallet.name and wallet.hotkey",
        ),
    }
}

/// A validator may set weights.
pub fn permit(metagraph: &Metagraph, hotkey: Hotkey, is_validator: bool) -> Finding {
    match metagraph.neuron(hotkey) {
        None => Finding::skipped("not registered"),
        Some(neuron) if neuron.validator_permit => Finding::pass("has a validator permit"),
        Some(_) if is_validator => {
            Finding::fail("has no validator permit", "add stake; permits change with the epoch")
        }
        Some(_) => Finding::skipped("only validators need a permit"),
    }
}

/// What is staked.
pub fn stake(metagraph: &Metagraph, hotkey: Hotkey, is_validator: bool) -> Finding {
    match metagraph.neuron(hotkey) {
        None => Finding::skipped("not registered"),
        Some(neuron) if neuron.stake == 0 && is_validator => {
            Finding::fail("no stake", "stake on the hotkey: without it weights are refused")
        }
        Some(neuron) => Finding::pass(format!("{} rao", neuron.stake)),
    }
}

/// The newest round that should be out is there, and signed.
pub async fn beacon(beacon: &dyn Beacon, now_ms: u64) -> Finding {
    let newest = beacon.schedule().first_round_after(now_ms).saturating_sub(1);
    if newest == 0 {
        return Finding::warn("no round is out yet", "check this machine's clock");
    }
    // The newest may still be on its way through the relays.
    let round = newest.saturating_sub(1).max(1);
    match beacon.round(round).await {
        Ok(Some(found)) => Finding::pass(format!("round {} is there and verifies", found.round)),
        Ok(None) => Finding::warn(
            format!("round {round} is not out"),
            "the relays lag or this machine's clock is ahead; check the clock",
        ),
        Err(error) => Finding::fail(error.to_string(), "check beacon.relays and the connection"),
    }
}

/// The bucket can be written, and read and listed with the keys that peers get.
pub async fn bucket(buckets: &dyn Buckets, nonce: u64, now_ms: u64) -> Finding {
    let key = format!("{PROBE_PREFIX}{nonce:016x}");
    let finding = match probe(buckets, &key, now_ms).await {
        Ok(finding) => finding,
        Err((what, told)) => Finding::fail(
            format!("cannot {what}: {told}"),
            "check the bucket's name, endpoint and credentials",
        ),
    };
    match buckets.own().delete(&key).await {
        Err(error) if finding.next_step.is_empty() => Finding::warn(
            format!("cannot remove {key}: {error}"),
            "let the write key delete objects, or remove it by hand",
        ),
        Ok(()) | Err(_) => finding,
    }
}

async fn probe(
    buckets: &dyn Buckets,
    key: &str,
    now_ms: u64,
) -> Result<Finding, (&'static str, String)> {
    let content = Bytes::copy_from_slice(key.as_bytes());
    let failed =
        |what: &'static str| move |error: &dyn std::fmt::Display| (what, error.to_string());
    let own = buckets.own();
    own.put(key, content.clone()).await.map_err(|e| failed("write with the write key")(&e))?;
    let reader = buckets
        .open(&buckets.read_credentials())
        .map_err(|e| failed("open the bucket as peers do")(&e))?;
    let found =
        reader.get(key, PROBE_BYTES_MAX).await.map_err(|e| failed("read with the read key")(&e))?;
    if found != Some(content) {
        return Err(("read with the read key", "what was written is not there".to_owned()));
    }
    let listed =
        reader.list(PROBE_PREFIX).await.map_err(|e| failed("list with the read key")(&e))?;
    let Some(info) = listed.iter().find(|info| info.key == key) else {
        return Err(("list with the read key", "what was written is not listed".to_owned()));
    };
    let skew_ms = info.last_modified_ms.abs_diff(now_ms);
    let told = format!("written, read and listed; clocks differ by {:.1} s", skew_ms as f64 / 1e3);
    if skew_ms > SKEW_MS_MAX {
        return Ok(Finding::warn(told, "set this machine's clock: deadlines go by the store's"));
    }
    Ok(Finding::pass(told))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grail_ports::beacon::BeaconSchedule;
    use grail_ports::signer::Signer as _;
    use grail_testkit::{FakeBeacon, FakeChain, FakeChainConfig, FakeSigner, MemoryStorage};

    use super::super::Status;
    use super::*;

    fn status(finding: &Finding) -> Status {
        // Whatever is not well says what to do.
        let is_bad = matches!(finding.status, Status::Warn | Status::Fail);
        assert_eq!(is_bad, !finding.next_step.is_empty(), "{finding:?}");
        finding.status
    }

    #[tokio::test]
    async fn the_chain_is_there_old_or_away() {
        let fake = FakeChain::new(FakeChainConfig::default());
        let handle = fake.handle(FakeSigner::new(1).hotkey());
        let now_ms = fake.head().timestamp_ms;
        assert_eq!(status(&chain(&*handle, Some(now_ms + 1000)).await), Status::Pass);
        assert_eq!(status(&chain(&*handle, Some(now_ms + 1_000_000)).await), Status::Warn);
        assert_eq!(status(&chain(&*handle, None).await), Status::Pass);
        fake.set_down(true);
        assert_eq!(status(&chain(&*handle, None).await), Status::Fail);
    }

    #[tokio::test]
    async fn registration_permit_and_stake_follow_the_metagraph() {
        let fake = FakeChain::new(FakeChainConfig::default());
        let [rich, poor, nobody] = [1, 2, 3].map(|seed| FakeSigner::new(seed).hotkey());
        fake.register(rich, 1000, true);
        fake.register(poor, 0, false);
        fake.advance(1);
        let metagraph = fake.handle(rich).metagraph().await.unwrap();
        assert_eq!(status(&registration(&metagraph, rich)), Status::Pass);
        assert_eq!(status(&registration(&metagraph, nobody)), Status::Fail);
        for (hotkey, is_validator, expected) in [
            (rich, true, Status::Pass),
            (poor, true, Status::Fail),
            (nobody, true, Status::Skipped),
        ] {
            assert_eq!(status(&permit(&metagraph, hotkey, is_validator)), expected);
            assert_eq!(status(&stake(&metagraph, hotkey, is_validator)), expected);
        }
        assert_eq!(status(&permit(&metagraph, poor, false)), Status::Skipped);
        assert_eq!(status(&stake(&metagraph, poor, false)), Status::Pass);
    }

    #[tokio::test]
    async fn the_beacon_is_there_or_withheld() {
        let schedule = BeaconSchedule { genesis_ms: 10_000, period_ms: 3_000 };
        let fake = FakeBeacon::new(schedule, Arc::new(|| 20_000), 7);
        assert_eq!(status(&beacon(&fake, 20_000).await), Status::Pass);
        assert_eq!(status(&beacon(&fake, 0).await), Status::Warn);
        assert_eq!(status(&beacon(&fake, 90_000).await), Status::Warn);
        fake.withhold(3);
        assert_eq!(status(&beacon(&fake, 20_000).await), Status::Fail);
    }

    #[tokio::test]
    async fn the_bucket_is_written_read_listed_and_left_as_it_was() {
        let storage = MemoryStorage::new(Arc::new(|| 5_000_000));
        let hotkey = FakeSigner::new(1).hotkey();
        let buckets = storage.buckets(hotkey);
        assert_eq!(status(&bucket(&*buckets, 7, 5_000_000).await), Status::Pass);
        assert_eq!(status(&bucket(&*buckets, 7, 9_000_000).await), Status::Warn);
        assert!(storage.keys(hotkey).is_empty(), "the probe is removed");
    }
}
