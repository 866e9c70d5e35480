//! Finds the values that differ between two states of a tensor.

/// Bytes that are compared at first: most values of a step stay, and equal blocks are passed over as
/// fast as memory is read.
const BLOCK: usize = 64;

/// Bytes whose differences are looked for in one register.
const LANE: usize = 8;

/// Returns the places of the values of `SIZE` bytes (2 or 4) that have other bits in `current` than
/// in `base`, ascending, and those values one after the other. Both slices hold whole values and as
/// many.
pub(super) fn find<const SIZE: usize>(base: &[u8], current: &[u8]) -> (Vec<u64>, Vec<u8>) {
    let mut found = Found::<SIZE> { positions: Vec::new(), values: Vec::new() };
    let (old, old_rest) = base.as_chunks::<BLOCK>();
    let (new, new_rest) = current.as_chunks::<BLOCK>();
    for (block, (old, new)) in old.iter().zip(new).enumerate() {
        if old != new {
            found.lanes(block * BLOCK, old, new);
        }
    }
    let behind = old.len() * BLOCK;
    found.lanes(behind, old_rest, new_rest);
    (found.positions, found.values.into_flattened())
}

struct Found<const SIZE: usize> {
    positions: Vec<u64>,
    values: Vec<[u8; SIZE]>,
}

impl<const SIZE: usize> Found<SIZE> {
    /// Looks at bytes that start `first` bytes into the tensor.
    fn lanes(&mut self, first: usize, old: &[u8], new: &[u8]) {
        let (old, old_rest) = old.as_chunks::<LANE>();
        let (new, new_rest) = new.as_chunks::<LANE>();
        for (lane, (old, new)) in old.iter().zip(new).enumerate() {
            let mut differs = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
            while differs != 0 {
                let place = differs.trailing_zeros() as usize / (8 * SIZE);
                self.push(first + lane * LANE + place * SIZE, &new[place * SIZE..]);
                // All bits up to the end of this value.
                differs &= u64::MAX.checked_shl((8 * SIZE * (place + 1)) as u32).unwrap_or(0);
            }
        }
        let first = first + old.len() * LANE;
        let (old, new) = (old_rest.chunks_exact(SIZE), new_rest.chunks_exact(SIZE));
        for (place, (old, new)) in old.zip(new).enumerate() {
            if old != new {
                self.push(first + place * SIZE, new);
            }
        }
    }

    #[inline]
    fn push(&mut self, at: usize, value: &[u8]) {
        self.positions.push((at / SIZE) as u64);
        self.values.push(*value.first_chunk().expect("values are whole"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one_by_one<const SIZE: usize>(base: &[u8], current: &[u8]) -> (Vec<u64>, Vec<u8>) {
        let pairs = base.chunks_exact(SIZE).zip(current.chunks_exact(SIZE));
        let changed = pairs.enumerate().filter(|(_, (old, new))| old != new);
        let changed: Vec<_> = changed.map(|(at, (_, new))| (at as u64, new)).collect();
        let values = changed.iter().flat_map(|(_, new)| new.to_vec()).collect();
        (changed.into_iter().map(|(at, _)| at).collect(), values)
    }

    proptest! {
        #[test]
        fn every_change_is_found_once(
            base in prop::collection::vec(any::<u8>(), 0..400),
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..40),
        ) {
            let base = &base[..base.len() / 4 * 4];
            let mut current = base.to_vec();
            for (at, flip) in flips.iter().filter(|_| !base.is_empty()) {
                current[at.index(base.len())] ^= flip;
            }
            prop_assert_eq!(find::<2>(base, &current), one_by_one::<2>(base, &current));
            prop_assert_eq!(find::<4>(base, &current), one_by_one::<4>(base, &current));
            let odd = base.len().saturating_sub(2);
            let (base, current) = (&base[..odd], &current[..odd]);
            prop_assert_eq!(find::<2>(base, current), one_by_one::<2>(base, current));
        }
    }
}
