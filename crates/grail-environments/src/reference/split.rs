//! Which rows the reference holds out: shuffled by a fixed seed, kept in their order.

use grail_protocol::v5::python::random::Random;

/// Seed of every split.
const SEED: i128 = 42;

/// Returns the generator that all parts of a data set share.
pub(super) fn generator() -> Random {
    Random::from_integer(SEED)
}

/// Returns the indices below `n` in the generator's next shuffle.
pub(super) fn shuffled(rng: &mut Random, n: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..n).collect();
    rng.shuffle(&mut indices);
    indices
}

/// Divides items into those kept and `n_held_out` held out, both in their order.
pub(super) fn hold_out<T>(rng: &mut Random, items: Vec<T>, n_held_out: usize) -> (Vec<T>, Vec<T>) {
    let mut is_held_out = vec![false; items.len()];
    for index in shuffled(rng, items.len()).into_iter().take(n_held_out) {
        is_held_out[index] = true;
    }
    let (held_out, kept): (Vec<_>, Vec<_>) =
        items.into_iter().zip(is_held_out).partition(|(_, is_held_out)| *is_held_out);
    let items_of = |part: Vec<(T, bool)>| part.into_iter().map(|(item, _)| item).collect();
    (items_of(kept), items_of(held_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_and_the_order_is_kept() {
        let (kept, held_out) = hold_out(&mut generator(), (0..100).collect(), 30);
        assert_eq!((kept.len(), held_out.len()), (70, 30));
        assert!(kept.is_sorted() && held_out.is_sorted());
        assert!(kept.iter().all(|item: &i32| !held_out.contains(item)));
        assert!(!held_out.starts_with(&[0, 1, 2, 3]), "they are chosen at random");
    }
}
