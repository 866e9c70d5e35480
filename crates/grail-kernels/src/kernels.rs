//! The handle that every kernel hangs on: an instruction set and a thread pool.

use crate::KernelError;
use crate::isa::{Isa, Verified};
use crate::pool::Pool;
use crate::simd::Operation;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// Most threads a pool may have; more than that is a mistyped setting.
const THREADS_MAX: usize = 1_024;

/// Values below which an element-wise pass stays on the calling thread: a few microseconds of work.
pub(crate) const MIN_PARALLEL_VALUES: usize = 32_768;

/// Runs kernels. Cheap to clone; clones share the pool.
///
/// The number of threads and the instruction set change speed and nothing else: work is split
/// only over independent outputs. Several threads may use one `Kernels` at once; while one of them
/// has the pool, the others compute on their own thread.
#[derive(Clone)]
pub struct Kernels {
    inner: Arc<Inner>,
}

struct Inner {
    verified: Verified,
    pool: Pool,
}

impl Kernels {
    /// Starts a pool of `threads` (the calling thread is one of them) on the fastest instruction
    /// set of this CPU.
    ///
    /// # Errors
    /// If `threads` is 0 or above 1024, or the system refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        Self::with_isa(Isa::detect(), threads)
    }

    /// As [`Kernels::new`] on a given instruction set.
    ///
    /// # Errors
    /// As `new`, and if this CPU lacks the instruction set.
    pub fn with_isa(isa: Isa, threads: usize) -> Result<Self, KernelError> {
        let verified = Verified::new(isa)?;
        if !(1..=THREADS_MAX).contains(&threads) {
            return Err(KernelError::ThreadCount { threads, max: THREADS_MAX });
        }
        let pool = Pool::new(threads).map_err(|source| KernelError::SpawnThread { source })?;
        Ok(Self { inner: Arc::new(Inner { verified, pool }) })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.inner.verified.isa()
    }

    /// The number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.inner.pool.threads()
    }

    /// Calls `f(0)` to `f(tasks - 1)`, each once, on the pool, and returns when all are done.
    ///
    /// Calls from inside a task, and calls while another thread has the pool, run inline.
    ///
    /// # Panics
    /// Continues the first panic of a task; tasks not yet started are then skipped.
    pub fn parallel(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        self.inner.pool.run(tasks, f);
    }

    /// The thread, counted from the caller as 0, whose run of `tasks` ends with `task`.
    pub(crate) fn run_ending_with(&self, task: usize, tasks: usize) -> Option<usize> {
        (0..self.threads())
            .find(|&thread| Pool::run_of(thread, self.threads(), tasks).end == task + 1)
    }

    #[inline]
    pub(crate) fn run<O: Operation>(&self, operation: O) -> O::Output {
        self.inner.verified.run(operation)
    }

    /// Cuts `0..count` items of `values_each` values into ranges, and calls `f` once for each.
    ///
    /// Ranges start at multiples of `align`. Small inputs stay on the calling thread.
    pub(crate) fn for_ranges(
        &self,
        count: usize,
        values_each: usize,
        align: usize,
        f: &(dyn Fn(Range<usize>) + Sync),
    ) {
        let threads = self.threads();
        if threads == 1 || count * values_each < MIN_PARALLEL_VALUES {
            return f(0..count);
        }
        let each = count.div_ceil(2 * threads).next_multiple_of(align);
        self.parallel(count.div_ceil(each), &|task| f(task * each..count.min((task + 1) * each)));
    }
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kernels({}, {} threads)", self.isa(), self.threads())
    }
}

/// An output buffer that tasks write in disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: the exclusive borrow is held for 'a, and `slice` makes its caller promise that parts in
// use at the same time are disjoint, which is what sharing a `&mut [T]` by parts needs.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as for Sync.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// Borrows `len` values from `start`.
    ///
    /// # Panics
    /// If they are not inside the buffer.
    ///
    /// # Safety
    /// No other part in use at the same time may overlap this one.
    #[inline(always)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "a part outside the buffer");
        // SAFETY: inside the buffer, and disjoint from other parts by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }

    /// Writes one value.
    ///
    /// # Safety
    /// As [`SharedMut::slice`].
    #[inline(always)]
    pub(crate) unsafe fn put(&self, index: usize, value: T) {
        // SAFETY: as the caller promises.
        let place = unsafe { self.slice(index, 1) };
        place[0] = value;
    }

    /// Borrows the values of `range`.
    ///
    /// # Safety
    /// As [`SharedMut::slice`].
    #[inline(always)]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        // SAFETY: as the caller promises.
        unsafe { self.slice(range.start, range.len()) }
    }
}
