//! Tables of symbols: measured over a block by the writer, carried in front of it.

use super::bits::TOKENS;
use super::rans::{SCALE_BITS, Share, pack};

/// Most symbols of a table: every token, one more that ends a class, and every level.
pub(super) const SYMBOLS_MAX: usize = TOKENS + 1;

/// Levels of a rate: 0 for none, else one more than twice the binary logarithm of words a change.
pub(super) const LEVELS: usize = 48;

/// Which table a symbol is coded with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// Levels of the classes of a piece.
    Level,
    /// Distances between changes of a class of this level.
    Distance(u8),
    /// Differences of values in a class of this level.
    Value(u8),
}

/// Number of contexts.
pub(super) const CONTEXTS: usize = 1 + 2 * LEVELS;

impl Context {
    pub(super) fn place(self) -> usize {
        match self {
            Self::Level => 0,
            Self::Distance(level) => 1 + usize::from(level),
            Self::Value(level) => 1 + LEVELS + usize::from(level),
        }
    }
}

/// How often each symbol comes in each context.
pub(super) struct Counts(Vec<[u32; SYMBOLS_MAX]>);

impl Counts {
    pub(super) fn new() -> Self {
        Self(vec![[0; SYMBOLS_MAX]; CONTEXTS])
    }

    pub(super) fn add(&mut self, context: usize, symbol: u8) {
        self.0[context][usize::from(symbol)] += 1;
    }

    /// Returns the frequencies that the block is coded with; nothing for contexts without symbols.
    pub(super) fn frequencies(&self) -> Vec<Option<Vec<u32>>> {
        self.0.iter().map(scaled).collect()
    }
}

/// Scales counts so that they add up to the range, each that is not 0 to at least 1.
fn scaled(counts: &[u32; SYMBOLS_MAX]) -> Option<Vec<u32>> {
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    if total == 0 {
        return None;
    }
    let range = 1u64 << SCALE_BITS;
    let share = |count: &u32| match *count {
        0 => 0,
        count => (u64::from(count) * range / total).max(1),
    };
    let mut scaled: Vec<u64> = counts.iter().map(share).collect();
    let sum: u64 = scaled.iter().sum();
    // The largest takes what rounding left over or took too much: it notices least. With fewer
    // than 100 symbols it has more than the at most 100 to be taken.
    let largest = scaled.iter().copied().max().unwrap_or(0);
    let place = scaled.iter().position(|share| *share == largest).unwrap_or(0);
    scaled[place] = largest + range - sum;
    let used = scaled.iter().rposition(|share| *share > 0).map_or(0, |last| last + 1);
    scaled.truncate(used);
    Some(scaled.into_iter().map(|share| u32::try_from(share).expect("at most 2^12")).collect())
}

/// Writes the tables: for each context the number of its symbols, then their frequencies.
pub(super) fn write(frequencies: &[Option<Vec<u32>>], out: &mut Vec<u8>) {
    let mut empty = 0u8;
    for table in frequencies {
        // A run of empty tables: 0 and its length.
        let Some(table) = table else {
            empty += 1;
            continue;
        };
        flush(&mut empty, out);
        out.push(u8::try_from(table.len()).expect("fewer than 100 symbols"));
        for frequency in table {
            // Two bytes where one cannot hold it: 0x80 and above are the high part.
            if *frequency >= 0x80 {
                out.push(u8::try_from(0x80 | frequency >> 6).expect("at most 2^12 >> 6"));
                out.push(u8::try_from(frequency & 0x3f).expect("6 bits"));
            } else {
                out.push(u8::try_from(*frequency).expect("below 0x80"));
            }
        }
    }
    flush(&mut empty, out);
}

fn flush(empty: &mut u8, out: &mut Vec<u8>) {
    if *empty > 0 {
        out.extend([0, std::mem::take(empty)]);
    }
}

/// Reads what [`write`] wrote; `None` for anything else.
pub(super) fn read(bytes: &mut &[u8]) -> Option<Vec<Option<Vec<u32>>>> {
    let mut tables = Vec::new();
    while tables.len() < CONTEXTS {
        let n_symbols = usize::from(*bytes.split_off_first()?);
        if n_symbols == 0 {
            let empty = usize::from(*bytes.split_off_first()?);
            if empty == 0 || tables.len() + empty > CONTEXTS {
                return None;
            }
            tables.extend(std::iter::repeat_n(None, empty));
            continue;
        }
        if n_symbols > SYMBOLS_MAX {
            return None;
        }
        let mut table = Vec::with_capacity(n_symbols);
        for _ in 0..n_symbols {
            let first = u32::from(*bytes.split_off_first()?);
            table.push(match first {
                0x80.. => (first & 0x7f) << 6 | u32::from(*bytes.split_off_first()?) & 0x3f,
                _ => first,
            });
        }
        if table.iter().sum::<u32>() != 1 << SCALE_BITS {
            return None;
        }
        tables.push(Some(table));
    }
    Some(tables)
}

/// Returns the share of each symbol.
pub(super) fn shares(table: &[u32]) -> Vec<Share> {
    let mut start = 0;
    let share = |frequency: &u32| {
        let share = Share { start, frequency: *frequency };
        start += frequency;
        share
    };
    table.iter().map(share).collect()
}

/// A table spread out for reading: an entry for every place in the range.
pub(super) type Spread = Box<[u32; 1 << SCALE_BITS]>;

/// Spreads a table whose frequencies add up to the range.
pub(super) fn spread(table: &[u32]) -> Spread {
    let mut entries = Box::new([0; 1 << SCALE_BITS]);
    let mut place = 0;
    for (symbol, frequency) in (0u8..).zip(table) {
        for offset in 0..*frequency {
            entries[place] = pack(symbol, *frequency, offset);
            place += 1;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tables_come_back(seen in prop::collection::vec((0..CONTEXTS, 0..SYMBOLS_MAX, 1u32..1_000_000), 0..300)) {
            let mut counts = Counts::new();
            for (context, symbol, times) in seen {
                counts.0[context][symbol] += times;
            }
            let tables = counts.frequencies();
            for (table, counts) in tables.iter().zip(&counts.0) {
                let Some(table) = table else { continue };
                prop_assert_eq!(table.iter().sum::<u32>(), 1 << SCALE_BITS);
                for (place, count) in counts.iter().enumerate() {
                    prop_assert_eq!(*count > 0, table.get(place).is_some_and(|share| *share > 0));
                }
            }
            let mut bytes = Vec::new();
            write(&tables, &mut bytes);
            prop_assert_eq!(read(&mut &bytes[..]), Some(tables));
            prop_assert_eq!(read(&mut &bytes[..bytes.len() - 1]), None);
        }
    }
}
