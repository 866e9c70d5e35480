//! Checks of our place in a real subnet: what we publish, and what the trainer publishes.

use grail_ports::chain::{Chain, ChainError};
use grail_ports::object_store::{Buckets, ObjectInfo, ReadCredentials};
use grail_protocol::constants::TRAINER_UID;
use grail_protocol::credentials::CredentialCommitment;
use grail_protocol::ids::Hotkey;
use grail_protocol::keys::CHECKPOINTS_PREFIX;
use grail_services::peers::PeerDirectory;

use super::Finding;

/// Folder of a whole model within a checkpoint, and the ending of files with weights.
const WHOLE_MODEL: &str = "/FULL/";
const WEIGHTS: &str = ".safetensors";

/// The read key on chain is the one that we have.
pub async fn published(chain: &dyn Chain, hotkey: Hotkey, buckets: &dyn Buckets) -> Finding {
    let ReadCredentials { account_id, bucket_name, access_key_id, secret_access_key } =
        buckets.read_credentials();
    let ours = CredentialCommitment { account_id, bucket_name, access_key_id, secret_access_key };
    let ours = match ours.encode() {
        Ok(ours) => ours,
        Err(error) => return Finding::fail(error.to_string(), "choose another bucket or key"),
    };
    let commitments = match chain.commitments().await {
        Ok(commitments) => commitments,
        Err(error) => return away(&error),
    };
    let at_start = "nothing to do: a role commits it when it starts";
    match commitments.get(&hotkey) {
        Some(theirs) if *theirs == ours => Finding::pass("the read key on chain is ours"),
        Some(_) => Finding::warn("the chain has another read key of this hotkey", at_start),
        None => Finding::warn("the chain has no read key of this hotkey yet", at_start),
    }
}

/// The trainer's bucket can be read and holds a checkpoint; with the bytes of its weights.
pub async fn trainer(chain: &dyn Chain, buckets: &dyn Buckets) -> (Finding, Option<u64>) {
    let metagraph = match chain.metagraph().await {
        Ok(metagraph) => metagraph,
        Err(error) => return (away(&error), None),
    };
    let Some(neuron) = metagraph.uid(TRAINER_UID) else {
        let told = format!("nobody has uid {TRAINER_UID}");
        return (Finding::fail(told, "check network.netuid: a subnet has a trainer"), None);
    };
    let mut directory = PeerDirectory::default();
    if let Err(error) = directory.refresh(chain).await {
        return (away(&error), None);
    }
    let wait = "nothing can be mined or validated before it publishes; wait, or ask its owner";
    let hotkey = neuron.hotkey;
    let Some(bucket) = directory.bucket(buckets, hotkey) else {
        return (Finding::warn(format!("{hotkey} has committed no bucket"), wait), None);
    };
    match bucket.list(CHECKPOINTS_PREFIX).await {
        Err(error) => {
            let next_step = "check store.endpoint, store.region and store.addressing: peers' buckets \
                             are looked for there";
            (Finding::fail(format!("the bucket of {hotkey}: {error}"), next_step), None)
        }
        Ok(objects) => match newest_model(&objects) {
            Some((folder, bytes)) => {
                (Finding::pass(format!("{folder}: {bytes} bytes")), Some(bytes))
            }
            None => (Finding::warn(format!("{hotkey} has no checkpoint yet"), wait), None),
        },
    }
}

fn away(error: &ChainError) -> Finding {
    Finding::fail(error.to_string(), "check network.endpoints")
}

/// Returns the folder of the whole model that was written last, and the bytes of its weights.
fn newest_model(objects: &[ObjectInfo]) -> Option<(&str, u64)> {
    let weights =
        |object: &&ObjectInfo| object.key.contains(WHOLE_MODEL) && object.key.ends_with(WEIGHTS);
    let newest = objects.iter().filter(weights).max_by_key(|object| object.last_modified_ms)?;
    let (folder, _) = newest.key.rsplit_once('/')?;
    let of_folder = objects
        .iter()
        .filter(weights)
        .filter(|object| object.key.rsplit_once('/').is_some_and(|(parent, _)| parent == folder));
    Some((folder, of_folder.map(|object| object.size).fold(0, u64::saturating_add)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use grail_ports::signer::Signer as _;
    use grail_testkit::{FakeChain, FakeChainConfig, FakeSigner, MemoryStorage};

    use super::super::Status;
    use super::*;

    async fn announce(chain: &dyn Chain, buckets: &dyn Buckets) {
        let ReadCredentials { account_id, bucket_name, access_key_id, secret_access_key } =
            buckets.read_credentials();
        let ours =
            CredentialCommitment { account_id, bucket_name, access_key_id, secret_access_key };
        chain.set_commitment(&ours.encode().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_on_chain_is_ours_anothers_or_absent() {
        let fake = FakeChain::new(FakeChainConfig::default());
        let hotkey = FakeSigner::new(1).hotkey();
        fake.register(hotkey, 1, false);
        fake.advance(1);
        let storage = MemoryStorage::new(Arc::new(|| 5_000));
        let (buckets, chain) = (storage.buckets(hotkey), fake.handle(hotkey));
        let status = async || published(&*chain, hotkey, &*buckets).await.status;
        assert_eq!(status().await, Status::Warn);
        announce(&*chain, &*storage.buckets(FakeSigner::new(2).hotkey())).await;
        fake.advance(1);
        assert_eq!(status().await, Status::Warn);
        announce(&*chain, &*buckets).await;
        fake.advance(1);
        assert_eq!(status().await, Status::Pass);
        fake.set_down(true);
        assert_eq!(status().await, Status::Fail);
    }

    #[tokio::test]
    async fn the_trainers_model_is_found_by_its_bucket() {
        let fake = FakeChain::new(FakeChainConfig::default());
        let [trainer_key, miner] = [1, 2].map(|seed| FakeSigner::new(seed).hotkey());
        let storage = MemoryStorage::new(Arc::new(|| 5_000));
        let (theirs, ours) = (storage.buckets(trainer_key), storage.buckets(miner));
        let chain = fake.handle(miner);
        let look = async || {
            let (finding, bytes) = trainer(&*chain, &*ours).await;
            (finding.status, bytes)
        };
        assert_eq!(look().await, (Status::Fail, None), "nobody has uid 0");
        fake.register(trainer_key, 1, false);
        fake.register(miner, 1, false);
        fake.advance(1);
        assert_eq!(look().await, (Status::Warn, None), "no bucket");
        announce(&*fake.handle(trainer_key), &*theirs).await;
        fake.advance(1);
        assert_eq!(look().await, (Status::Warn, None), "no checkpoint");
        for (name, bytes) in
            [("FULL/a.safetensors", 30), ("FULL/b.safetensors", 12), ("FULL/config.json", 7)]
        {
            let key = format!("{CHECKPOINTS_PREFIX}checkpoint-30/{name}");
            theirs.own().put(&key, Bytes::from(vec![0; bytes])).await.unwrap();
        }
        assert_eq!(look().await, (Status::Pass, Some(42)));
        fake.set_down(true);
        assert_eq!(look().await.0, Status::Fail);
    }
}
