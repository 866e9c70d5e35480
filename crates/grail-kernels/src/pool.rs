//! Runs numbered tasks on a fixed set of worker threads.
//!
//! A job is a count of tasks and one function. Each thread starts with a run of task numbers of its
//! own, so that neighbouring tasks find each other's data in that core's cache, and helps with the
//! runs of others when it is done. Which thread runs which task is therefore open, and tasks must
//! write disjoint outputs. Nothing here can change a bit of a result.
//!
//! A worker *joins* an open job before it reads it, and the caller waits only for workers that
//! joined. A worker that is asleep or descheduled therefore delays nobody. A caller that finds the
//! pool busy (another caller, or itself further up the stack) runs its tasks inline, so calls can
//! neither deadlock nor queue.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

/// How often a worker looks for a new job before it parks: tens of microseconds, the gap between
/// two matrix products of a small model.
const SPINS_BEFORE_PARK: u32 = 3_000;
/// How often a caller looks for the last worker to finish before it parks.
const SPINS_BEFORE_WAIT: u32 = 10_000;

/// Bit of [`Shared::state`] that says that the job takes no more workers.
const CLOSED: u64 = 1 << 31;
/// One job more in [`Shared::state`]; the low 31 bits count the workers that joined.
const EPOCH: u64 = 1 << 32;
const JOINED: u64 = CLOSED - 1;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The tasks that one thread begins with. A cache line pair of its own: others look rarely.
#[repr(align(128))]
struct Run {
    next: AtomicUsize,
    end: AtomicUsize,
}

struct Shared {
    /// Epoch (high 32 bits), [`CLOSED`], number of joined workers.
    state: AtomicU64,
    /// Written by the caller while the job is closed and nobody has joined; read by joined workers.
    job: UnsafeCell<*const Task<'static>>,
    /// One for each thread; the caller's is the first.
    runs: Vec<Run>,
    /// Held by the one caller whose job is running.
    caller: Mutex<()>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    caller_waits: AtomicBool,
    stop: AtomicBool,
    park: Mutex<()>,
    wake: Condvar,
    done: Condvar,
}

// SAFETY: `job` is the only part that is not Sync by itself. The join protocol above (state is
// opened with Release after the write, joined with Acquire before the read, and the caller waits
// for `joined == 0` before it writes again) orders every access to it. The function it points to
// is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as for Sync; the pointer in `job` is only followed while the caller keeps it alive.
unsafe impl Send for Shared {}

/// A pool of `threads - 1` workers beside the calling thread.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the workers; one thread starts none.
    pub(crate) fn new(threads: usize) -> std::io::Result<Self> {
        let nothing: &'static Task<'static> = &|_| {};
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(nothing),
            runs: (0..threads)
                .map(|_| Run { next: AtomicUsize::new(0), end: AtomicUsize::new(0) })
                .collect(),
            caller: Mutex::new(()),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            caller_waits: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            park: Mutex::new(()),
            wake: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let builder = std::thread::Builder::new().name(format!("kernel-{index}"));
            // On failure the half-built pool is dropped, which stops the workers already there.
            pool.workers.push(builder.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// The caller and its workers.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The tasks that thread `index` of `threads` begins with.
    pub(crate) fn run_of(index: usize, threads: usize, tasks: usize) -> Range<usize> {
        index * tasks / threads..(index + 1) * tasks / threads
    }

    /// Calls `run(0)` to `run(tasks - 1)`, each once, and returns when all have returned.
    ///
    /// # Panics
    /// Continues the first panic of a task. The tasks not yet claimed are then skipped.
    pub(crate) fn run(&self, tasks: usize, run: &Task<'_>) {
        let busy = || (0..tasks).for_each(run);
        if tasks <= 1 || self.workers.is_empty() {
            return busy();
        }
        let _only_caller = match self.shared.caller.try_lock() {
            Ok(guard) => guard,
            // An earlier job of this pool panicked; it has ended all the same.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return busy(),
        };
        self.shared.lead(tasks, run);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.park));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a task, so there is no payload to pass on.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// The caller's side of one job. Requires `self.caller` to be held.
    fn lead(&self, tasks: usize, run: &Task<'_>) {
        // SAFETY: only the lifetime is changed. The pointer is followed by joined workers only,
        // and this function returns (or unwinds) after the last of them has left.
        let run_static: *const Task<'static> =
            unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(run) };
        // SAFETY: the job is closed and nobody has joined, and `self.caller` excludes other callers.
        unsafe { *self.job.get() = run_static };
        let threads = self.runs.len();
        for (index, run) in self.runs.iter().enumerate() {
            let tasks = Pool::run_of(index, threads, tasks);
            run.next.store(tasks.start, Ordering::Relaxed);
            run.end.store(tasks.end, Ordering::Relaxed);
        }
        let epoch = self.state.load(Ordering::Relaxed) & !(EPOCH - 1);
        self.state.store(epoch.wrapping_add(EPOCH), Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // Taking the lock orders this after a worker's last look before it sleeps.
            drop(lock(&self.park));
            self.wake.notify_all();
        }
        self.claim(0, run_static);
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.wait_for_workers();
        let payload = lock(&self.panic).take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    fn wait_for_workers(&self) {
        for _ in 0..SPINS_BEFORE_WAIT {
            if self.state.load(Ordering::Acquire) & JOINED == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.park);
        self.caller_waits.store(true, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & JOINED != 0 {
            guard = self.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    /// The life of worker `index`, from 1.
    fn work(&self, index: usize) {
        let mut seen = 0;
        while let Some(state) = self.next_job(seen) {
            seen = state & !(EPOCH - 1);
            if self.join(state) {
                // SAFETY: joined with Acquire, so the caller's write is visible, and the caller
                // does not write again before this worker leaves.
                let job = unsafe { *self.job.get() };
                self.claim(index, job);
                let left = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
                if left & JOINED == 0 && self.caller_waits.load(Ordering::SeqCst) {
                    drop(lock(&self.park));
                    self.done.notify_all();
                }
            }
        }
    }

    /// Waits for an open job other than `seen`; `None` when the pool stops.
    fn next_job(&self, seen: u64) -> Option<u64> {
        let fresh = |state: u64| state & CLOSED == 0 && state & !(EPOCH - 1) != seen;
        for _ in 0..SPINS_BEFORE_PARK {
            let state = self.state.load(Ordering::Acquire);
            if fresh(state) {
                return Some(state);
            }
            std::hint::spin_loop();
        }
        let mut guard = lock(&self.park);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            let state = self.state.load(Ordering::SeqCst);
            if fresh(state) {
                break Some(state);
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        drop(guard);
        found
    }

    /// Joins the job seen in `state`, unless it has closed since.
    fn join(&self, mut state: u64) -> bool {
        let epoch = state & !(EPOCH - 1);
        loop {
            if state & CLOSED != 0 || state & !(EPOCH - 1) != epoch {
                return false;
            }
            match self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
    }

    /// Claims and runs tasks, those of thread `index` first, until none is left. Keeps the first
    /// panic for the caller.
    fn claim(&self, index: usize, job: *const Task<'static>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            for run in self.runs[index..].iter().chain(&self.runs[..index]) {
                let end = run.end.load(Ordering::Relaxed);
                loop {
                    let task = run.next.fetch_add(1, Ordering::Relaxed);
                    if task >= end {
                        break;
                    }
                    // SAFETY: `lead` keeps the function alive until every joined worker has left.
                    unsafe { (*job)(task) };
                }
            }
        }));
        if let Err(payload) = outcome {
            for run in &self.runs {
                run.next.store(run.end.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

/// Locks; a poisoned lock guards no data that a panic could have left half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `tasks` and returns how often each ran.
    fn counts(pool: &Pool, tasks: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in 1..=4 {
            let pool = Pool::new(threads).unwrap();
            for round in 0..300 {
                let tasks = round % 23;
                assert_eq!(counts(&pool, tasks), vec![1; tasks], "{threads} threads");
            }
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = Pool::new(3).unwrap();
        while pool.shared.sleepers.load(Ordering::SeqCst) < 2 {
            std::thread::yield_now();
        }
        // The caller waits inside its task until a worker has taken the other one.
        let barrier = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            barrier.wait();
        });
    }

    #[test]
    fn callers_share_and_nest_without_deadlock() {
        let pool = Pool::new(3).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let sum = AtomicUsize::new(0);
                        pool.run(5, &|_| {
                            pool.run(3, &|inner| {
                                sum.fetch_add(inner + 1, Ordering::Relaxed);
                            });
                        });
                        assert_eq!(sum.into_inner(), 30);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3).unwrap();
        for panicking in 0..6 {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(6, &|task| assert_ne!(task, panicking, "task {task} failed"));
            }));
            let payload = outcome.unwrap_err();
            let message = payload.downcast_ref::<String>().unwrap();
            assert!(message.contains(&format!("task {panicking} failed")), "{message}");
            assert_eq!(counts(&pool, 9), vec![1; 9]);
        }
    }
}
