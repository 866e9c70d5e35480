//! One call for groups of completions: its jobs, and each group's hand-over when it is complete.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use grail_kernels::RaceKey;
use grail_ports::model::{Completion, GenerateRequest, ModelError, StopFlag};
use grail_protocol::ids::TokenId;

use super::Engine;
use super::scheduler::{Ended, FinishReason, Job, Listener, Spec};

/// As [`Engine::generate`]; the requests have been checked.
pub(super) fn generate(
    engine: &Engine,
    requests: &[GenerateRequest],
    stop: &StopFlag,
    on_group: &mut dyn FnMut(usize, Vec<Completion>),
) -> Result<(), ModelError> {
    let call = Arc::new(Call::new(requests));
    let _hang_up = HangUp { engine, call: &call };
    engine.hub.enqueue(jobs(&call, requests));
    loop {
        if stop.is_stopped() {
            return Err(ModelError::Stopped);
        }
        match call.next() {
            Next::Group(group_idx, completions) => on_group(group_idx, completions),
            Next::Over(result) => return result,
            Next::Nothing => engine.hub.work(engine, stop, &|| call.has_news()),
        }
    }
}

/// What a call has got so far.
struct Call {
    is_cancelled: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// Completions by group and rollout.
    groups: Vec<Vec<Option<Completion>>>,
    /// Complete groups that were not handed over.
    complete: VecDeque<usize>,
    /// Groups that are not complete.
    n_incomplete: usize,
    error: Option<ModelError>,
}

/// What a call has to do next.
enum Next {
    Group(usize, Vec<Completion>),
    Over(Result<(), ModelError>),
    Nothing,
}

impl Call {
    fn new(requests: &[GenerateRequest]) -> Self {
        let groups = requests.iter().map(|request| vec![None; request.race_keys.len()]);
        let state = State {
            groups: groups.collect(),
            complete: VecDeque::new(),
            n_incomplete: requests.len(),
            error: None,
        };
        Self { is_cancelled: AtomicBool::new(false), state: Mutex::new(state) }
    }

    fn next(&self) -> Next {
        let mut state = self.state();
        if let Some(group_idx) = state.complete.pop_front() {
            let completions = std::mem::take(&mut state.groups[group_idx]);
            return Next::Group(group_idx, completions.into_iter().flatten().collect());
        }
        match state.error.take() {
            Some(error) => Next::Over(Err(error)),
            None if state.n_incomplete == 0 => Next::Over(Ok(())),
            None => Next::Nothing,
        }
    }

    fn has_news(&self) -> bool {
        let state = self.state();
        !state.complete.is_empty() || state.error.is_some() || state.n_incomplete == 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cancels what is left of a call, however it ends.
struct HangUp<'a> {
    engine: &'a Engine,
    call: &'a Call,
}

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if self.call.state().n_incomplete > 0 {
            self.call.is_cancelled.store(true, Ordering::SeqCst);
            self.engine.hub.cancelled();
            self.engine.hub.settle(self.engine);
        }
    }
}

fn jobs(call: &Arc<Call>, requests: &[GenerateRequest]) -> VecDeque<Job> {
    let mut jobs = VecDeque::with_capacity(requests.iter().map(|r| r.race_keys.len()).sum());
    for (group_idx, request) in requests.iter().enumerate() {
        let prompt: Arc<[TokenId]> = request.prompt.as_slice().into();
        for (rollout_idx, &key) in request.race_keys.iter().enumerate() {
            jobs.push_back(Job {
                prompt: Arc::clone(&prompt),
                spec: Spec {
                    sampling: request.sampling,
                    race_key: RaceKey(key),
                    max_new_tokens: request.max_new_tokens,
                    top_logprobs: 0,
                    capture_digest: true,
                    whitening: request.whitening.clone(),
                    ignore_eos: false,
                },
                listener: Box::new(Place { call: Some(Arc::clone(call)), group_idx, rollout_idx }),
            });
        }
    }
    jobs
}

/// The place of one completion in its call.
struct Place {
    /// `None` once it was filled.
    call: Option<Arc<Call>>,
    group_idx: usize,
    rollout_idx: usize,
}

impl Listener for Place {
    fn is_cancelled(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_cancelled.load(Ordering::SeqCst))
    }

    fn is_streaming(&self) -> bool {
        false
    }

    fn token(&mut self, _: TokenId, _: f32, _: Vec<(TokenId, f32)>) {}

    fn finished(&mut self, ended: Ended) {
        let Some(call) = self.call.take() else { return };
        let mut state = call.state();
        match (ended.reason, ended.hidden_digest) {
            (FinishReason::Failed(error), _) => state.error = Some(error),
            (FinishReason::EndToken | FinishReason::Length, Some(hidden_digest)) => {
                let Ended { tokens, logprobs, sketches, .. } = ended;
                let group = &mut state.groups[self.group_idx];
                group[self.rollout_idx] =
                    Some(Completion { tokens, logprobs, hidden_digest, sketches });
                if group.iter().all(Option::is_some) {
                    state.complete.push_back(self.group_idx);
                    state.n_incomplete -= 1;
                }
            }
            // Nobody asks for the results of a cancelled call.
            (FinishReason::Cancelled, _) | (_, None) => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.state().error = Some(ModelError::Crashed);
        }
    }
}
