//! A validator whose own machine errs holds it against nobody.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use grail_ports::model::{Score, StopFlag};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Digest, Window};
use grail_protocol::prover;
use grail_protocol::rollout::{Group, Proof};
use grail_protocol::verifier::{ExpectedSeal, Rejection};
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::context::Heartbeat;
use grail_services::mining::pipeline::mine;
use grail_services::validation::pipeline::{Bench, Judgement, judge};
use grail_testkit::{AlteredModel, FakeEnvironment, FakeSigner};

use self::common::{NOWHERE, window};

/// Judges three groups, of which all are checked, on a machine that flips a bit in the passes, counted
/// from 0, of which `errs` says so; returns the passes too.
fn judged(errs: fn(u32) -> bool, change: impl FnOnce(&mut Vec<Group>)) -> (Judgement, u32) {
    let signer = FakeSigner::new(3);
    let seal = (ExpectedSeal::Open, NOWHERE);
    let (bench, job) = window(Arc::new(FakeEnvironment::default()), signer.hotkey(), seal, 3);
    let mut groups = mine(&job, 0, 3, &StopFlag::default()).unwrap();
    change(&mut groups);
    let sign = |message: &[u8]| signer.sign(message);
    let file = prover::sign_open(job.header.clone(), groups, &sign).unwrap();
    let passes = Arc::new(AtomicU32::new(0));
    let count = passes.clone();
    let flip = move |scores: &mut Vec<Score>| {
        let pass = count.fetch_add(1, Ordering::Relaxed);
        if errs(pass) {
            // Another digest each time, as of a random bit.
            scores[3].hidden_digest.0[0] ^= 1 + u8::try_from(pass % 255).unwrap();
        }
    };
    let model = Arc::new(AlteredModel::new(bench.checkpoint.model.clone()).with_scores(flip));
    let checkpoint = Arc::new(LoadedCheckpoint { model, ..(*bench.checkpoint).clone() });
    let bench = Bench { checkpoint, ..bench };
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    let judgement = judge(&bench, signer.hotkey(), &file, &stop, &heartbeat).unwrap();
    (judgement, passes.load(Ordering::Relaxed))
}

#[test]
fn a_fault_of_the_validators_own_machine_rejects_nobody() {
    // Once in the first group, and once in the pass that looks at it again.
    for errs in [|pass| pass == 0, |pass| pass == 2, |pass| pass <= 1] as [fn(u32) -> bool; 3] {
        let (judgement, _) = judged(errs, |_| {});
        assert_eq!(judgement.rejection, None);
        assert_eq!((judgement.accepted, judgement.unverified), (32, 16));
        assert_eq!(judgement.validated.len(), 2);
        assert_eq!(judgement.evidence(Window::from_start(90).unwrap()).unwrap().violations, 0);
    }
}

#[test]
fn a_forgery_is_computed_twice_before_it_is_rejected_and_honest_work_once() {
    let (honest, passes) = judged(|_| false, |_| {});
    assert_eq!((honest.accepted, honest.unverified, passes), (48, 0, 3));
    let forge = |groups: &mut Vec<Group>| {
        groups.iter_mut().for_each(|it| it.rollouts[4].proof = Proof::Exact(Digest([9; 32])));
    };
    let (forged, passes) = judged(|_| false, forge);
    assert!(matches!(forged.rejection, Some(Rejection::HiddenStateMismatch { .. })));
    assert_eq!((forged.accepted, passes), (0, 2));
    // The fault of one pass does not hide a forgery in the next groups.
    let (forged, passes) = judged(|pass| pass == 0, forge);
    assert!(matches!(forged.rejection, Some(Rejection::HiddenStateMismatch { .. })));
    assert_eq!((forged.accepted, passes), (0, 4));
}
