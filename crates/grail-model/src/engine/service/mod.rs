//! Takes requests one at a time from any thread and streams their tokens: what a server needs.
//!
//! A service has one thread, which leads the engine's scheduler while there are requests; calls of
//! [`Engine::generate`] on the same engine run in the same batch. A request waits in a bounded queue
//! until there is a place and memory for it, shares the blocks of its prompt's beginning with
//! whoever had the same tokens there, and is never held up for long by other prompts. Its tokens
//! depend on the request alone.

mod gate;
mod stream;
mod types;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use grail_kernels::RaceKey;
use grail_ports::model::{ModelError, StopFlag};

use self::gate::Gate;
use self::stream::{Life, Stream};
use super::Engine;
use super::requests::{check_completion, check_whitening};
use super::scheduler::{Job, Spec};

pub use self::stream::Ticket;
pub use self::types::{
    FinishReason, SequenceEvent, SequenceRequest, ServiceConfig, ServiceStats, SubmitError,
    TOP_LOGPROBS_MAX,
};

/// A running service; cheap to clone. When the last clone is dropped, what runs is cancelled and
/// the thread ends; [`EngineService::drain`] waits for it.
#[derive(Clone, Debug)]
pub struct EngineService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Arc<Engine>,
    gate: Arc<Gate>,
    /// Breaks off the step that is being taken when all requests are cancelled.
    stop: StopFlag,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineService {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ModelError::Crashed`] if the system gives no thread.
    pub fn start(engine: Arc<Engine>, config: ServiceConfig) -> Result<Self, ModelError> {
        let live_max = engine.config.max_running_sequences.saturating_add(config.queue_max);
        let gate = Arc::new(Gate::new(live_max));
        let stop = StopFlag::default();
        let thread = {
            let (engine, gate, stop) = (Arc::clone(&engine), Arc::clone(&gate), stop.clone());
            std::thread::Builder::new()
                .name("engine-service".into())
                .spawn(move || run(&engine, &gate, &stop))
        };
        let thread = thread.map_err(|error| {
            tracing::error!(%error, "the system gave no thread for the engine service");
            ModelError::Crashed
        })?;
        let inner = Inner { engine, gate, stop, thread: Mutex::new(Some(thread)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Queues one sequence. `events` is called for each of its tokens and then once for its end, on
    /// the thread that steps the engine: it must not block, nor [drain](Self::drain). If it panics,
    /// the sequence is cancelled and it is not called again.
    ///
    /// # Errors
    /// As [`SubmitError`] says; `events` is then never called.
    pub fn submit(
        &self,
        request: SequenceRequest,
        events: Box<dyn FnMut(SequenceEvent) + Send>,
    ) -> Result<Ticket, SubmitError> {
        let Inner { engine, gate, .. } = &*self.inner;
        check(&request, engine)?;
        gate.enter()?;
        let life = Arc::new(Life::default());
        let spec = Spec {
            sampling: request.sampling,
            race_key: RaceKey(request.race_key),
            max_new_tokens: request.max_new_tokens,
            top_logprobs: request.top_logprobs,
            capture_digest: request.capture_digest,
            whitening: request.whitening,
            ignore_eos: request.ignore_eos,
        };
        let listener = Box::new(Stream::new(events, Arc::clone(&life), Arc::clone(gate)));
        let job = Job { prompt: request.prompt.into(), spec, listener };
        engine.hub.enqueue(VecDeque::from([job]));
        Ok(Ticket::new(life, Arc::clone(engine)))
    }

    /// Returns what the engine is doing, calls of [`Engine::generate`] included.
    pub fn stats(&self) -> ServiceStats {
        let Inner { engine, gate, .. } = &*self.inner;
        let counters = engine.hub.counters();
        ServiceStats {
            running: counters.running.load(Relaxed),
            waiting: counters.waiting.load(Relaxed),
            kv_blocks_used: counters.kv_blocks_used.load(Relaxed),
            kv_blocks_cached: counters.kv_blocks_idle.load(Relaxed),
            kv_blocks_total: engine.kv_blocks_max(),
            kv_block_bytes: engine.kv_block_bytes(),
            prompt_tokens_computed: counters.prompt_tokens_computed.load(Relaxed),
            prompt_tokens_cached: counters.prompt_tokens_cached.load(Relaxed),
            tokens_generated: counters.tokens_generated.load(Relaxed),
            finished: counters.finished.load(Relaxed),
            cancelled: counters.cancelled.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            refused: gate.refused(),
        }
    }

    /// Takes no more requests, waits for those that run or wait, at most `patience`, cancels the
    /// rest, and ends the thread.
    pub fn drain(&self, patience: Duration) {
        let Inner { engine, gate, thread, .. } = &*self.inner;
        gate.close();
        if !gate.wait_until_empty(patience) {
            self.inner.cancel_all();
            // Nothing is left to wait for but the step that is being taken.
            while !gate.wait_until_empty(Duration::from_secs(60)) {}
        }
        engine.hub.wake();
        let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It catches every panic, so there is no payload to pass on.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn cancel_all(&self) {
        self.gate.cancel_all();
        self.stop.stop();
        self.engine.hub.cancelled();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Waits for nothing: the last clone may be dropped on the very thread that steps.
        self.gate.close();
        self.cancel_all();
    }
}

fn check(request: &SequenceRequest, engine: &Engine) -> Result<(), SubmitError> {
    let SequenceRequest { prompt, sampling, max_new_tokens, top_logprobs, .. } = request;
    let refuse = |text: String| Err(SubmitError::BadRequest(text));
    if *top_logprobs > TOP_LOGPROBS_MAX {
        return refuse(format!("top_logprobs {top_logprobs} is above {TOP_LOGPROBS_MAX}"));
    }
    let checked = check_completion(prompt, *max_new_tokens, *sampling, engine)
        .and_then(|()| check_whitening(request.whitening.as_ref(), &engine.decoder));
    match checked {
        Err(ModelError::BadRequest(text)) => refuse(text),
        other => other.map_err(|error| SubmitError::BadRequest(error.to_string())),
    }
}

/// The life of the thread.
fn run(engine: &Engine, gate: &Gate, stop: &StopFlag) {
    loop {
        engine.hub.wait_to_lead(&|| gate.is_over() || !gate.is_empty());
        if gate.is_over() {
            return;
        }
        let step = || engine.hub.work(engine, stop, &|| gate.is_empty());
        if catch_unwind(AssertUnwindSafe(step)).is_err() {
            tracing::error!("a step of the engine panicked; what it ran has failed");
        }
    }
}
