//! A sealed file on its way to a judgement: what is the miner's doing, and what may be the transfer's.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use grail_ports::beacon::{Beacon as _, BeaconSchedule};
use grail_ports::model::StopFlag;
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Digest, Hotkey};
use grail_protocol::rollout::{RolloutFile, commitment};
use grail_protocol::timelock::{RoundOpener, SealTo};
use grail_protocol::verifier::ExpectedSeal;
use grail_services::context::Heartbeat;
use grail_services::mining::pipeline::{MiningJob, mine, seal};
use grail_services::validation::pipeline::{Bench, Judgement, judge};
use grail_testkit::{FakeBeacon, FakeEnvironment, FakeSigner};

use self::common::window;

const ROUND: u64 = 5;

struct Scene {
    bench: Bench,
    job: MiningJob,
    signer: FakeSigner,
}

impl Scene {
    async fn new() -> Self {
        let schedule = BeaconSchedule { genesis_ms: 0, period_ms: 1_000 };
        let beacon = FakeBeacon::new(schedule, Arc::new(|| 60_000), 7);
        let key = beacon.public_key();
        let signature = beacon.round(ROUND).await.unwrap().unwrap().signature;
        let signer = FakeSigner::new(3);
        let expected = ExpectedSeal::Round(RoundOpener::new(key, ROUND, signature).unwrap());
        let seal = (expected, SealTo { key, round: ROUND });
        let (bench, job) = window(Arc::new(FakeEnvironment::default()), signer.hotkey(), seal, 2);
        Self { bench, job, signer }
    }

    fn file(&self) -> Vec<u8> {
        let groups = mine(&self.job, 0, 3, &StopFlag::default()).unwrap();
        seal(self.job.header.clone(), groups, self.job.seal, &self.signer).unwrap()
    }

    fn judge(&self, hotkey: Hotkey, bytes: &[u8]) -> Judgement {
        judge(&self.bench, hotkey, bytes, &StopFlag::default(), &Heartbeat::default()).unwrap()
    }

    /// Returns code, whether it rests on the transfer, and the counts of a refused file.
    fn refused(&self, bytes: &[u8]) -> (&'static str, bool, [u32; 3]) {
        let judged = self.judge(self.signer.hotkey(), bytes);
        let code = judged.rejection.as_ref().expect("the file is refused").code();
        (code, judged.rests_on_transfer, [judged.groups, judged.rollouts, judged.checked])
    }
}

#[tokio::test]
async fn a_sealed_file_is_opened_and_judged() {
    let scene = Scene::new().await;
    let judged = scene.judge(scene.signer.hotkey(), &scene.file());
    assert_eq!(judged.rejection, None);
    assert_eq!((judged.groups, judged.rollouts, judged.accepted), (3, 48, 32));
}

#[tokio::test]
async fn a_seal_that_a_transfer_could_have_broken_is_read_again_before_anybody_is_blamed() {
    let scene = Scene::new().await;
    let honest = scene.file();
    let last = honest.len() - 1;
    for position in [last, last - 20] {
        let mut bytes = honest.clone();
        bytes[position] ^= 1;
        assert_eq!(scene.refused(&bytes), ("seal_broken", true, [0; 3]));
    }
    let content = RolloutFile::decode(&honest).unwrap();
    let mut round = content.clone();
    let grail_protocol::rollout::Body::Sealed(body) = &mut round.body else { panic!("sealed") };
    body.round += 1;
    assert_eq!(scene.refused(&round.encode().unwrap()), ("wrong_seal", true, [0; 3]));

    // Somebody else's seal opens, so its groups can be counted.
    let mut thief = content;
    thief.signature = scene.signer.sign(&commitment::signed_message(&Digest([1; 32])));
    thief.root = Digest([1; 32]);
    assert_eq!(scene.refused(&thief.encode().unwrap()), ("root_mismatch", true, [3, 48, 32]));

    // Past root and signature nothing rests on the way.
    let mut groups = mine(&scene.job, 0, 3, &StopFlag::default()).unwrap();
    groups[1].index = 7;
    let skipped = seal(scene.job.header.clone(), groups, scene.job.seal, &scene.signer).unwrap();
    assert_eq!(scene.refused(&skipped), ("groups_not_contiguous", false, [3, 48, 32]));
}
