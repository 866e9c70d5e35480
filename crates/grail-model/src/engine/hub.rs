//! Lets all callers of an engine share one scheduler: whoever waits for results takes the steps.
//!
//! At any time at most one thread *leads*: it steps the scheduler, for its own sequences and for
//! everybody else's. The others sleep until there is news for them or the leader leaves; then one
//! of them leads on. So calls from several threads run in one batch and one memory bound, and an
//! engine that nobody calls has no thread.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grail_ports::model::StopFlag;

use super::Engine;
use super::scheduler::{Counters, Job, Scheduler};

/// How long a thread that does not lead sleeps before it looks at its stop flag.
const PATIENCE: Duration = Duration::from_millis(20);

/// Where callers of one engine meet.
#[derive(Default)]
pub(super) struct Hub {
    desk: Mutex<Desk>,
    /// Something arrived, a leader left, or there is news for somebody.
    changed: Condvar,
    /// Made by the first leader; locked by the leader only.
    scheduler: Mutex<Option<Scheduler>>,
    /// Raised by one for every cancellation.
    cancellations: AtomicU64,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Desk {
    /// Jobs that the scheduler has not seen, by asker.
    arrivals: Vec<VecDeque<Job>>,
    leading: bool,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Hub {
    /// Returns what was counted so far.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Hands in the checked jobs of one asker. Somebody must [work](Self::work) on them.
    pub(super) fn enqueue(&self, jobs: VecDeque<Job>) {
        self.counters.queued(jobs.len());
        let mut desk = lock(&self.desk);
        desk.arrivals.push(jobs);
        drop(desk);
        self.changed.notify_all();
    }

    /// Says that a listener became cancelled, so that what its sequence holds is freed before the
    /// next step, or by a caller that [settles](Self::settle).
    pub(super) fn cancelled(&self) {
        self.cancellations.fetch_add(1, Ordering::SeqCst);
        // With the lock held, so that nobody looks before and sleeps after.
        drop(lock(&self.desk));
        self.changed.notify_all();
    }

    /// Sleeps until `is_due` says so; it is asked whenever something changes and nobody leads.
    pub(super) fn wait_to_lead(&self, is_due: &dyn Fn() -> bool) {
        let mut desk = lock(&self.desk);
        while desk.leading || !is_due() {
            desk = self.changed.wait(desk).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes all that sleep here.
    pub(super) fn wake(&self) {
        drop(lock(&self.desk));
        self.changed.notify_all();
    }

    /// Leads until there is `news` or `stop` is raised, or sleeps a while if another thread leads.
    ///
    /// # Panics
    /// Goes on with the panic of a step. All sequences have then failed, and the next call starts
    /// afresh.
    pub(super) fn work(&self, engine: &Engine, stop: &StopFlag, news: &dyn Fn() -> bool) {
        let Some(mut leader) = self.try_lead(news) else { return };
        let mut scheduler = lock(&self.scheduler);
        let scheduler =
            scheduler.get_or_insert_with(|| Scheduler::new(engine, Arc::clone(&self.counters)));
        let mut swept = 0;
        leader.is_stepping = true;
        loop {
            swept = self.tidy(scheduler, swept);
            if stop.is_stopped() || news() || scheduler.is_idle() {
                if leader.leave(swept) {
                    return;
                }
                continue;
            }
            let ended = self.counters.ended();
            // A step that was stopped changed nothing: it is taken again, or never.
            let _stopped = scheduler.step(engine, stop);
            if self.counters.ended() != ended {
                self.wake();
            }
        }
    }

    /// Frees what cancelled sequences hold, unless a thread leads that will do so.
    pub(super) fn settle(&self, engine: &Engine) {
        self.work(engine, &StopFlag::default(), &|| true);
    }

    /// Becomes the leader, or sleeps a while and returns `None`.
    fn try_lead(&self, news: &dyn Fn() -> bool) -> Option<Leader<'_>> {
        let mut desk = lock(&self.desk);
        if desk.leading {
            if !news() {
                drop(self.changed.wait_timeout(desk, PATIENCE));
            }
            return None;
        }
        desk.leading = true;
        Some(Leader { hub: self, has_left: false, is_stepping: false })
    }

    /// Takes in arrivals and sweeps out what was cancelled since `swept`; returns the new state.
    fn tidy(&self, scheduler: &mut Scheduler, swept: u64) -> u64 {
        let arrivals = std::mem::take(&mut lock(&self.desk).arrivals);
        for jobs in arrivals {
            scheduler.enqueue(jobs);
        }
        let cancellations = self.cancellations.load(Ordering::SeqCst);
        if cancellations != swept {
            scheduler.sweep();
        }
        cancellations
    }
}

/// The right to step. Given back in any case.
struct Leader<'a> {
    hub: &'a Hub,
    has_left: bool,
    /// Whether the scheduler is in use, so that a panic may have left it half-done.
    is_stepping: bool,
}

impl Leader<'_> {
    /// Lets another thread lead, unless something was cancelled after the `swept` cancellations.
    fn leave(&mut self, swept: u64) -> bool {
        let mut desk = lock(&self.hub.desk);
        if self.hub.cancellations.load(Ordering::SeqCst) == swept {
            desk.leading = false;
            self.has_left = true;
        }
        self.has_left
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        if !self.has_left {
            if self.is_stepping
                && let Some(broken) = lock(&self.hub.scheduler).take()
            {
                broken.abandon();
            }
            lock(&self.hub.desk).leading = false;
        }
        self.hub.changed.notify_all();
    }
}

/// Locks; what a panic may have left half-done is thrown away by the leader that panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use grail_kernels::{Kernels, RaceKey};
    use grail_ports::model::{GenerateRequest, ModelError, Sampling};
    use grail_protocol::ids::TokenId;

    use super::super::EngineConfig;
    use super::super::scheduler::{Ended, Listener, Spec};
    use super::*;

    /// A fault of the engine itself, as far as the scheduler can tell.
    struct Bomb;

    impl Listener for Bomb {
        fn is_cancelled(&self) -> bool {
            false
        }

        fn is_streaming(&self) -> bool {
            true
        }

        fn token(&mut self, _: TokenId, _: f32, _: Vec<(TokenId, f32)>) {
            panic!("this panic is part of a test");
        }

        fn finished(&mut self, _: Ended) {}
    }

    fn bomb() -> Job {
        let spec = Spec {
            sampling: Sampling::Greedy,
            race_key: RaceKey([0; 4]),
            max_new_tokens: 9,
            top_logprobs: 0,
            capture_digest: false,
            whitening: None,
            ignore_eos: true,
        };
        Job { prompt: Arc::from([5, 6, 7]), spec, listener: Box::new(Bomb) }
    }

    fn request() -> GenerateRequest {
        GenerateRequest {
            prompt: (4..40).collect(),
            race_keys: (0..3).map(|key| [key; 4]).collect(),
            sampling: Sampling::Race { temperature: 1.0 },
            max_new_tokens: 20,
            whitening: None,
        }
    }

    #[test]
    fn after_a_panic_all_have_failed_and_the_engine_starts_afresh() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden/llama");
        let kernels = Kernels::new(1).unwrap();
        let engine = Engine::load(&dir, Vec::new(), kernels, EngineConfig::default()).unwrap();
        let generate = |stop: &StopFlag| {
            let mut found = None;
            let result = engine.generate(&[request()], stop, &mut |_, group| found = Some(group));
            (result, found)
        };
        let (result, expected) = generate(&StopFlag::default());
        assert_eq!(result, Ok(()));

        // Another thread's call waits in the same batch; whichever of the two leads, the step
        // panics, and the other one hears of it.
        engine.hub.enqueue(VecDeque::from([bomb()]));
        let outcomes = std::thread::scope(|scope| {
            let call = || catch_unwind(AssertUnwindSafe(|| generate(&StopFlag::default())));
            let threads = [scope.spawn(call), scope.spawn(call)];
            threads.map(|thread| thread.join().unwrap())
        });
        let n_panics = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        assert_eq!(n_panics, 1);
        for (result, found) in outcomes.into_iter().flatten() {
            // It failed with the panic, or came after it.
            match result {
                Err(error) => assert_eq!(error, ModelError::Crashed),
                Ok(()) => assert_eq!(found, expected),
            }
        }
        assert_eq!(generate(&StopFlag::default()), (Ok(()), expected));
        let counters = engine.hub.counters();
        let now = [&counters.running, &counters.waiting, &counters.kv_blocks_used];
        assert_eq!(now.map(|count| count.load(Ordering::SeqCst)), [0, 0, 0]);
    }

    #[test]
    fn a_panic_while_groups_are_handed_over_costs_nobody_else() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden/llama");
        let kernels = Kernels::new(1).unwrap();
        let engine = Engine::load(&dir, Vec::new(), kernels, EngineConfig::default()).unwrap();
        let requests = [request(), GenerateRequest { max_new_tokens: 60, ..request() }];
        let stop = StopFlag::default();
        let panicking = catch_unwind(AssertUnwindSafe(|| {
            engine.generate(&requests, &stop, &mut |_, _| panic!("this panic is part of a test"))
        }));
        assert!(panicking.is_err());
        let counters = engine.hub.counters();
        let now = [&counters.running, &counters.waiting, &counters.kv_blocks_used];
        assert_eq!(now.map(|count| count.load(Ordering::SeqCst)), [0, 0, 0]);
        assert_eq!(counters.failed.load(Ordering::SeqCst), 0);
        assert!(counters.kv_blocks_idle.load(Ordering::SeqCst) > 0, "the cache is still there");
    }
}
