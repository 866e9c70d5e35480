//! A validator whose own machine errs holds it against nobody.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use grail_ports::environment::ChatMessage;
use grail_ports::model::{
    Completion, GenerateRequest, Model, ModelError, ModelInfo, Score, ScoreRequest, StopFlag,
};
use grail_ports::reference::{PromptForm, ReferenceModel, Trace, TraceRequest};
use grail_ports::signer::Signer as _;
use grail_protocol::ids::{Digest, TokenId, Window};
use grail_protocol::prover;
use grail_protocol::rollout::{Group, Proof};
use grail_protocol::verifier::{ExpectedSeal, Rejection};
use grail_services::checkpoint::LoadedCheckpoint;
use grail_services::context::Heartbeat;
use grail_services::mining::pipeline::mine;
use grail_services::validation::pipeline::{Bench, Judgement, judge};
use grail_testkit::{FakeEnvironment, FakeSigner};

use self::common::{NOWHERE, window};

/// A model on a machine that flips a bit in some of its passes.
struct Faulty {
    inner: Arc<dyn Model>,
    /// Passes so far.
    passes: AtomicU32,
    /// Whether a pass errs, by its number from 0.
    errs: fn(u32) -> bool,
}

impl ReferenceModel for Faulty {
    fn end_token(&self) -> Option<TokenId> {
        self.inner.end_token()
    }

    fn render_as(
        &self,
        messages: &[ChatMessage],
        form: PromptForm,
    ) -> Result<Vec<TokenId>, ModelError> {
        self.inner.render_as(messages, form)
    }

    fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.inner.decode_with_special(tokens)
    }

    fn trace(&self, requests: &[TraceRequest], stop: &StopFlag) -> Result<Vec<Trace>, ModelError> {
        self.inner.trace(requests, stop)
    }
}

impl Model for Faulty {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn render(&self, messages: &[ChatMessage]) -> Result<Vec<TokenId>, ModelError> {
        self.inner.render(messages)
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        self.inner.encode(text)
    }

    fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        self.inner.decode(tokens)
    }

    fn generate(
        &self,
        requests: &[GenerateRequest],
        stop: &StopFlag,
        on_group: &mut dyn FnMut(usize, Vec<Completion>),
    ) -> Result<(), ModelError> {
        self.inner.generate(requests, stop, on_group)
    }

    fn score(&self, requests: &[ScoreRequest], stop: &StopFlag) -> Result<Vec<Score>, ModelError> {
        let mut scores = self.inner.score(requests, stop)?;
        let pass = self.passes.fetch_add(1, Ordering::Relaxed);
        if (self.errs)(pass) {
            // Another digest each time, as of a random bit.
            scores[3].hidden_digest.0[0] ^= 1 + u8::try_from(pass % 255).unwrap();
        }
        Ok(scores)
    }
}

/// Judges three groups, of which all are checked, on a machine that errs; returns the passes too.
fn judged(errs: fn(u32) -> bool, change: impl FnOnce(&mut Vec<Group>)) -> (Judgement, u32) {
    let signer = FakeSigner::new(3);
    let seal = (ExpectedSeal::Open, NOWHERE);
    let (bench, job) = window(Arc::new(FakeEnvironment::default()), signer.hotkey(), seal, 3);
    let mut groups = mine(&job, 0, 3, &StopFlag::default()).unwrap();
    change(&mut groups);
    let sign = |message: &[u8]| signer.sign(message);
    let file = prover::sign_open(job.header.clone(), groups, &sign).unwrap();
    let inner = bench.checkpoint.model.clone();
    let model = Arc::new(Faulty { inner, passes: AtomicU32::new(0), errs });
    let checkpoint =
        Arc::new(LoadedCheckpoint { model: model.clone(), ..(*bench.checkpoint).clone() });
    let bench = Bench { checkpoint, ..bench };
    let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
    let judgement = judge(&bench, signer.hotkey(), &file, &stop, &heartbeat).unwrap();
    (judgement, model.passes.load(Ordering::Relaxed))
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
