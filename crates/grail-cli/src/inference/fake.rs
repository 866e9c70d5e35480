//! An engine that does what a test says, and the embedded model, loaded once for all tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use grail_model::{LocalModel, Provider, ProviderConfig};
use grail_protocol::checkpoint::Protocol;
use grail_protocol::ids::{Digest, TokenId};
use tempfile::TempDir;
use tokio::sync::watch;

use super::engine::{
    EventHandler, FinishReason, Held, SequenceEngine, SequenceEvent, SequenceRequest, ServiceStats,
    SubmitError,
};

/// Returns the embedded model.
pub fn model() -> Arc<LocalModel> {
    static LOADED: OnceLock<(TempDir, Arc<LocalModel>)> = OnceLock::new();
    let (_, model) = LOADED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        crate::default_model::unpack(dir.path(), Protocol::V6).unwrap();
        let config = ProviderConfig { threads: 1, ..ProviderConfig::default() };
        let model = Provider::new(config).unwrap().load_model(dir.path()).unwrap();
        (dir, model)
    });
    model.clone()
}

/// Tokens that a request is answered with.
pub type Script = Box<dyn Fn(&SequenceRequest) -> Vec<TokenId> + Send + Sync>;

/// An engine with a script. Sequences are answered at once, or token by token when told to.
pub struct FakeEngine {
    script: Script,
    running_max: usize,
    queue_max: usize,
    at_once: bool,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    live: BTreeMap<u64, Live>,
    next_id: u64,
    draining: bool,
    stats: ServiceStats,
}

struct Live {
    request: SequenceRequest,
    tokens: VecDeque<TokenId>,
    n_told: usize,
    events: EventHandler,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FakeEngine {
    /// Answers every sequence at once.
    pub fn at_once(
        script: impl Fn(&SequenceRequest) -> Vec<TokenId> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::new(Box::new(script), 64, 64, true))
    }

    /// Answers token by token, whenever [`FakeEngine::step`] is called.
    pub fn in_steps(
        running_max: usize,
        queue_max: usize,
        script: impl Fn(&SequenceRequest) -> Vec<TokenId> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self::new(Box::new(script), running_max, queue_max, false))
    }

    fn new(script: Script, running_max: usize, queue_max: usize, at_once: bool) -> Self {
        let shared = Shared { state: Mutex::default(), changes: watch::Sender::new(()) };
        Self { script, running_max, queue_max, at_once, shared: Arc::new(shared) }
    }

    /// Tells one token of each running sequence, and the end of those that have no more.
    pub fn step(&self) {
        let running: Vec<u64> =
            self.shared.state().live.keys().copied().take(self.running_max).collect();
        for id in running {
            self.advance(id, 1);
        }
    }

    /// Returns the numbers of this moment.
    pub fn stats_now(&self) -> ServiceStats {
        SequenceEngine::stats(self)
    }

    /// Steps until nothing is left.
    pub fn run_out(&self) {
        while !self.shared.state().live.is_empty() {
            self.step();
        }
    }

    /// Waits until the numbers are as `wanted` says.
    pub async fn until(&self, wanted: impl Fn(&ServiceStats) -> bool) {
        let mut changes = self.shared.changes.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !wanted(&self.stats()) {
                changes.changed().await.unwrap();
            }
        });
        waited.await.unwrap_or_else(|_| panic!("still {:?}", self.stats()));
    }

    /// Waits until the engine drains.
    pub async fn until_draining(&self) {
        let mut changes = self.shared.changes.subscribe();
        while !self.shared.state().draining {
            changes.changed().await.unwrap();
        }
    }

    /// Tells up to `n` tokens of a sequence. Its handler runs outside the lock, as it may end it.
    fn advance(&self, id: u64, n: usize) {
        let Some(mut live) = self.shared.state().live.remove(&id) else { return };
        for _ in 0..n {
            let Some(token) = live.tokens.pop_front() else { break };
            let logprob = -0.25 * f32::from(u8::try_from(live.n_told % 8).unwrap());
            let top = (0..u32::from(live.request.top_logprobs))
                .map(|k| ((token + k) % 384, logprob - 0.5 * k as f32))
                .collect();
            live.n_told += 1;
            (live.events)(SequenceEvent::Token { token, logprob, top });
            self.shared.state().stats.tokens_generated += 1;
        }
        if live.tokens.is_empty() {
            let told = live.n_told as u32 >= live.request.max_new_tokens;
            let reason = if told { FinishReason::Length } else { FinishReason::EndToken };
            let hidden_digest = live.request.capture_digest.then(|| Digest::of(b"fake"));
            (live.events)(SequenceEvent::Finished {
                reason,
                hidden_digest,
                sketches: Vec::new(),
                prompt_tokens_cached: 1,
            });
        } else {
            self.shared.state().live.insert(id, live);
        }
        self.shared.changes.send_replace(());
    }
}

impl SequenceEngine for FakeEngine {
    fn submit(&self, request: SequenceRequest, events: EventHandler) -> Result<Held, SubmitError> {
        let mut tokens: VecDeque<TokenId> = (self.script)(&request).into();
        tokens.truncate(request.max_new_tokens as usize);
        let id = {
            let mut state = self.shared.state();
            if state.draining {
                return Err(SubmitError::Draining);
            }
            if state.live.len() >= self.running_max + self.queue_max {
                state.stats.refused += 1;
                self.shared.changes.send_replace(());
                return Err(SubmitError::QueueFull { live: state.live.len() });
            }
            state.next_id += 1;
            let id = state.next_id;
            state.live.insert(id, Live { request, tokens, n_told: 0, events });
            id
        };
        self.shared.changes.send_replace(());
        if self.at_once {
            self.advance(id, usize::MAX);
        }
        Ok(Box::new(Ticket { id, shared: Arc::downgrade(&self.shared) }))
    }

    fn stats(&self) -> ServiceStats {
        let state = self.shared.state();
        let running = state.live.len().min(self.running_max);
        ServiceStats { running, waiting: state.live.len() - running, ..state.stats }
    }

    fn drain(&self, deadline: Duration) {
        self.shared.state().draining = true;
        self.shared.changes.send_replace(());
        let mut changes = self.shared.changes.subscribe();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let done = runtime.block_on(tokio::time::timeout(deadline, async {
            while !self.shared.state().live.is_empty() {
                changes.changed().await.unwrap();
            }
        }));
        if done.is_err() {
            let left: Vec<u64> = self.shared.state().live.keys().copied().collect();
            left.into_iter().for_each(|id| cancel(&self.shared, id));
        }
    }
}

struct Ticket {
    id: u64,
    shared: Weak<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            cancel(&shared, self.id);
        }
    }
}

fn cancel(shared: &Shared, id: u64) {
    let live = shared.state().live.remove(&id);
    if let Some(mut live) = live {
        shared.state().stats.cancelled += 1;
        let reason = FinishReason::Cancelled;
        (live.events)(SequenceEvent::Finished {
            reason,
            hidden_digest: None,
            sketches: Vec::new(),
            prompt_tokens_cached: 0,
        });
        shared.changes.send_replace(());
    }
}
