//! Shares work out to all threads of the machine.

use std::iter;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Returns `work(0)` to `work(n - 1)`; each thread takes the next when it is done with one.
///
/// # Panics
/// When `work` does.
pub fn on_all_threads<T: Send>(n: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take = || {
        let places = iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        places.take_while(|&place| place < n).map(|place| (place, work(place))).collect::<Vec<_>>()
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(n));
    let mut done = thread::scope(|scope| {
        let running: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for thread in running {
            done.extend(thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|&(place, _)| place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_the_order_of_the_work() {
        for n in [0, 1, 2, 3, 100] {
            assert_eq!(
                on_all_threads(n, |place| 3 * place),
                (0..n).map(|at| 3 * at).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    #[should_panic(expected = "of the work")]
    fn a_panic_reaches_the_caller() {
        on_all_threads(20, |place| assert!(place < 19, "of the work"));
    }
}
