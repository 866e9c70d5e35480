//! Maps a slice on the kernels' threads.

use std::sync::OnceLock;

use grail_kernels::Kernels;

/// Returns `f` of each item, in order; several items are worked on at a time.
pub(crate) fn parallel_map<T: Sync, R: Send + Sync>(
    kernels: &Kernels,
    items: &[T],
    f: &(dyn Fn(&T) -> R + Sync),
) -> Vec<R> {
    let results: Vec<OnceLock<R>> = items.iter().map(|_| OnceLock::new()).collect();
    kernels.parallel(items.len(), &|idx| {
        results[idx].get_or_init(|| f(&items[idx]));
    });
    results.into_iter().map(|slot| slot.into_inner().expect("every task has run")).collect()
}
