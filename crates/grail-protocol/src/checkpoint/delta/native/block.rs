//! One block: its changes as symbols, and the symbols as bytes.

use super::bits::{BitReader, BitWriter, joined, split};
use super::rans::{Decoder, Encoder, Share};
use super::tables::{Context, Counts, LEVELS, Spread, read, shares, spread, write};
use super::words::{Bf16, Bits, Byte, F16, F32, Word};
use super::{Block, DeltaError, Piece};

/// Symbol of a distance that ends a class; a distance's token is one above.
const END: u8 = 0;

/// No word of the class changes any more.
const NEVER: u32 = u32::MAX;

/// Most classes of a type.
const CLASSES: usize = 256;

/// Codes what changed in a block; both slices have its [`Block::bytes`].
///
/// # Panics
/// When they do not.
pub fn encode_block(block: &Block, base: &[u8], current: &[u8]) -> Vec<u8> {
    let bytes = block.bytes();
    assert!(
        base.len() == bytes && current.len() == bytes,
        "a block of {bytes} bytes was given {} and {}",
        base.len(),
        current.len()
    );
    let mut symbols = Symbols::default();
    let mut at = 0;
    for piece in &block.pieces {
        let end = at + piece.words * piece.word.size();
        let (base, current) = (&base[at..end], &current[at..end]);
        match piece.word {
            Word::Bf16 => symbols.piece::<Bf16>(piece, base, current),
            Word::F16 => symbols.piece::<F16>(piece, base, current),
            Word::F32 => symbols.piece::<F32>(piece, base, current),
            Word::Byte => symbols.piece::<Byte>(piece, base, current),
        }
        at = end;
    }
    symbols.finish()
}

/// Symbols in the order of the reader: context in the high byte, symbol in the low one.
#[derive(Default)]
struct Symbols {
    coded: Vec<u16>,
    bits: BitWriter,
}

impl Symbols {
    fn push(&mut self, context: Context, symbol: u8) {
        let context = u16::try_from(context.place()).expect("fewer than 100 contexts");
        self.coded.push(context << 8 | u16::from(symbol));
    }

    fn number(&mut self, context: Context, number: u64, plus: u8) {
        let (token, low, count) = split(number);
        self.push(context, token + plus);
        self.bits.push(low, count);
    }

    fn piece<B: Bits>(&mut self, piece: &Piece, base: &[u8], current: &[u8]) {
        if base == current {
            for _ in 0..piece.word.classes() {
                self.push(Context::Level, 0);
            }
            return;
        }
        let changes = Changes::find::<B>(base, current);
        for level in &changes.levels[..piece.word.classes()] {
            self.push(Context::Level, *level);
        }
        // The reader asks for the first distances at once, and for the next one behind each change.
        for (class, first) in changes.first.iter().enumerate().take(piece.word.classes()) {
            if changes.levels[class] > 0 {
                self.distance(&changes, class, *first, 0);
            }
        }
        for change in &changes.list {
            let class = usize::from(change.class);
            let at = change.place as usize * B::SIZE;
            let (old, new) = (B::read(&base[at..]), B::read(&current[at..]));
            self.number(Context::Value(changes.levels[class]), old.difference(new), 0);
            self.distance(&changes, class, change.next, change.rank + 1);
        }
    }

    /// Codes how many words of the class come before its change number `next`, from `rank` on.
    fn distance(&mut self, changes: &Changes, class: usize, next: u32, rank: u32) {
        let context = Context::Distance(changes.levels[class]);
        match changes.list.get(next as usize) {
            Some(change) => self.number(context, u64::from(change.rank - rank), 1),
            None => self.push(context, END),
        }
    }

    fn finish(self) -> Vec<u8> {
        let mut counts = Counts::new();
        let parts = |coded: u16| (usize::from(coded >> 8), (coded & 0xff) as u8);
        for coded in &self.coded {
            let (context, symbol) = parts(*coded);
            counts.add(context, symbol);
        }
        let tables = counts.frequencies();
        let mut out = Vec::new();
        write(&tables, &mut out);
        let shares: Vec<Vec<Share>> =
            tables.iter().map(|table| table.as_deref().map(shares).unwrap_or_default()).collect();
        let mut encoder = Encoder::new(self.coded.len());
        for coded in self.coded.iter().rev() {
            let (context, symbol) = parts(*coded);
            encoder.push(shares[context][usize::from(symbol)]);
        }
        let bits = self.bits.finish();
        let length = u32::try_from(bits.len()).expect("a block has at most 4 million words");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&bits);
        out.extend(encoder.finish().into_iter().flat_map(u16::to_le_bytes));
        out
    }
}

/// A word that changed.
struct Change {
    /// Its place in the piece.
    place: u32,
    /// How many words of its class come before it.
    rank: u32,
    /// The next change of its class in the list, or none behind the end.
    next: u32,
    class: u8,
}

/// What changed in a piece.
struct Changes {
    /// In the order of their places.
    list: Vec<Change>,
    /// The first change of each class in the list, or none behind the end.
    first: [u32; CLASSES],
    levels: [u8; CLASSES],
}

impl Changes {
    fn find<B: Bits>(base: &[u8], current: &[u8]) -> Self {
        let mut finder = Finder::new();
        // Most words stay, and those that do are only counted.
        let size = LANES * B::SIZE;
        let (old, new) = (base.chunks_exact(size), current.chunks_exact(size));
        let rest = (old.remainder(), new.remainder());
        let mut place = 0;
        for (old, new) in old.zip(new) {
            if old == new {
                for (lane, word) in old.chunks_exact(B::SIZE).enumerate() {
                    finder.seen[lane][B::read(word).class()] += 1;
                }
            } else {
                finder.words::<B>(place, old, new);
            }
            place += LANES;
        }
        finder.words::<B>(place, rest.0, rest.1);
        finder.finish()
    }
}

/// Words that are counted side by side: a sum may then follow another without waiting for it.
const LANES: usize = 4;

struct Finder {
    list: Vec<Change>,
    /// Words of each class so far, in as many sums as there are lanes.
    seen: [[u32; CLASSES]; LANES],
    changed: [u32; CLASSES],
    first: [u32; CLASSES],
    last: [u32; CLASSES],
}

impl Finder {
    fn new() -> Self {
        Self {
            list: Vec::new(),
            seen: [[0; CLASSES]; LANES],
            changed: [0; CLASSES],
            first: [NEVER; CLASSES],
            last: [NEVER; CLASSES],
        }
    }

    fn seen(&self, class: usize) -> u32 {
        self.seen.iter().map(|lane| lane[class]).sum()
    }

    /// Looks at words of which the first is number `place` of the piece.
    fn words<B: Bits>(&mut self, place: usize, old: &[u8], new: &[u8]) {
        let pairs = old.chunks_exact(B::SIZE).zip(new.chunks_exact(B::SIZE));
        for (nth, (old, new)) in pairs.enumerate() {
            let (old, new) = (B::read(old), B::read(new));
            let class = old.class();
            if old != new {
                self.push(place + nth, class);
            }
            self.seen[0][class] += 1;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a piece has at most 2^18 words")]
    fn push(&mut self, place: usize, class: usize) {
        let number = self.list.len() as u32;
        match self.last[class] {
            NEVER => self.first[class] = number,
            before => self.list[before as usize].next = number,
        }
        self.last[class] = number;
        self.changed[class] += 1;
        let (place, rank) = (place as u32, self.seen(class));
        self.list.push(Change { place, rank, next: NEVER, class: class as u8 });
    }

    fn finish(self) -> Changes {
        let levels = std::array::from_fn(|class| level(self.seen(class), self.changed[class]));
        Changes { list: self.list, first: self.first, levels }
    }
}

/// Returns the level of a class: one more than twice the binary logarithm of words a change.
fn level(words: u32, changes: u32) -> u8 {
    if changes == 0 {
        return 0;
    }
    let square = |number: u32| u64::from(number) * u64::from(number);
    let rate = (square(words) / square(changes)).max(1).ilog2() + 1;
    u8::try_from(rate).expect("below 64").min(LEVELS as u8 - 1)
}

/// Writes the block's words as they are after the changes to `out`; both slices have its
/// [`Block::bytes`]. Damaged input gives an error or other words, which a digest has to find.
///
/// # Errors
/// When the bytes are not what [`encode_block`] writes. What `out` holds then means nothing.
///
/// # Panics
/// When a slice has another length.
pub fn decode_block(
    block: &Block,
    base: &[u8],
    coded: &[u8],
    out: &mut [u8],
) -> Result<(), DeltaError> {
    let bytes = block.bytes();
    assert!(
        base.len() == bytes && out.len() == bytes,
        "a block of {bytes} bytes was given {} and {}",
        base.len(),
        out.len()
    );
    let mut reader = Reader::new(coded)?;
    out.copy_from_slice(base);
    let mut at = 0;
    for piece in &block.pieces {
        let end = at + piece.words * piece.word.size();
        let (base, out) = (&base[at..end], &mut out[at..end]);
        match piece.word {
            Word::Bf16 => reader.piece::<Bf16>(piece, base, out)?,
            Word::F16 => reader.piece::<F16>(piece, base, out)?,
            Word::F32 => reader.piece::<F32>(piece, base, out)?,
            Word::Byte => reader.piece::<Byte>(piece, base, out)?,
        }
        at = end;
    }
    match reader.symbols.is_done() && reader.bits.is_done() {
        true => Ok(()),
        false => Err(damaged("its symbols do not end where they should")),
    }
}

fn damaged(reason: &str) -> DeltaError {
    DeltaError::BadBlock(reason.to_owned())
}

struct Reader<'a> {
    tables: Vec<Option<Spread>>,
    symbols: Decoder<'a>,
    bits: BitReader<'a>,
}

impl<'a> Reader<'a> {
    fn new(mut coded: &'a [u8]) -> Result<Self, DeltaError> {
        let tables = read(&mut coded).ok_or_else(|| damaged("its tables are unusable"))?;
        let short = || damaged("it is cut short");
        let (length, rest) = coded.split_first_chunk().ok_or_else(short)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
        let (bits, words) = rest.split_at_checked(length).ok_or_else(short)?;
        let (words, odd) = words.as_chunks();
        if !odd.is_empty() {
            return Err(damaged("it has half a word"));
        }
        let tables = tables.iter().map(|table| table.as_deref().map(spread)).collect();
        Ok(Self { tables, symbols: Decoder::new(words), bits: BitReader::new(bits) })
    }

    #[inline(always)]
    fn symbol(&mut self, context: Context) -> Result<u8, DeltaError> {
        match &self.tables[context.place()] {
            Some(table) => Ok(self.symbols.next(table)),
            None => Err(damaged("it has a symbol without a table")),
        }
    }

    #[inline(always)]
    fn number(&mut self, token: u8) -> u64 {
        let (high, count) = joined(token);
        if count == 0 { high } else { high | self.bits.take(count) }
    }

    /// Returns the words of a class before its next change.
    #[inline]
    fn distance(&mut self, level: u8) -> Result<u32, DeltaError> {
        match self.symbol(Context::Distance(level))? {
            END => Ok(NEVER),
            token => Ok(u32::try_from(self.number(token - 1)).unwrap_or(NEVER)),
        }
    }

    fn piece<B: Bits>(
        &mut self,
        piece: &Piece,
        base: &[u8],
        out: &mut [u8],
    ) -> Result<(), DeltaError> {
        let mut levels = [0u8; CLASSES];
        for level in &mut levels[..piece.word.classes()] {
            *level = self.symbol(Context::Level)?;
            if usize::from(*level) >= LEVELS {
                return Err(damaged("it has a rate that there is not"));
            }
        }
        let mut left = [NEVER; CLASSES];
        for (left, level) in left.iter_mut().zip(levels).filter(|(_, level)| *level > 0) {
            *left = self.distance(level)?;
        }
        if left.iter().all(|left| *left == NEVER) {
            return Ok(());
        }
        for (place, old) in base.chunks_exact(B::SIZE).enumerate() {
            let old = B::read(old);
            let class = old.class();
            // A class without changes counts down from 2^32 and never gets there.
            let (rest, is_change) = left[class].overflowing_sub(1);
            left[class] = rest;
            if is_change {
                let token = self.symbol(Context::Value(levels[class]))?;
                let difference = self.number(token);
                old.moved(difference).write(&mut out[place * B::SIZE..]);
                left[class] = self.distance(levels[class])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(pieces: &[(Word, usize)]) -> Block {
        let piece = |&(word, words): &(Word, usize)| Piece { word, words };
        Block { pieces: pieces.iter().map(piece).collect() }
    }

    fn round_trip(block: &Block, base: &[u8], current: &[u8]) -> usize {
        let coded = encode_block(block, base, current);
        let mut out = vec![0; base.len()];
        decode_block(block, base, &coded, &mut out).unwrap();
        assert!(out == current);
        // One byte less is noticed, whichever it is.
        let short = decode_block(block, base, &coded[..coded.len() - 1], &mut out);
        assert!(short.is_err());
        coded.len()
    }

    #[test]
    fn nothing_costs_next_to_nothing_and_a_bit_costs_little() {
        let block = block(&[(Word::Bf16, 1 << 18), (Word::F32, 4096)]);
        let base: Vec<u8> = (0..block.bytes()).map(|i| (i * 31 % 251) as u8).collect();
        let nothing = round_trip(&block, &base, &base);
        assert!(nothing < 220, "{nothing}");
        let mut current = base.clone();
        current[777] ^= 1;
        let one = round_trip(&block, &base, &current);
        assert!(one < 280, "{one}");
    }

    #[test]
    fn rates_are_told_by_their_order_of_size() {
        for (words, changes, want) in
            [(0, 0, 0), (9, 0, 0), (9, 9, 1), (4, 2, 3), (u32::MAX, 1, 47), (1 << 18, 1, 37)]
        {
            assert_eq!(level(words, changes), want, "{words} {changes}");
        }
    }

    proptest! {
        #[test]
        fn what_is_coded_comes_out(
            pieces in prop::collection::vec((0usize..4, 0usize..300), 0..5),
            seed in any::<u64>(), rate in 1u64..400,
        ) {
            let words = [Word::Bf16, Word::F16, Word::F32, Word::Byte];
            let pieces: Vec<_> = pieces.iter().map(|(word, n)| (words[*word], *n)).collect();
            let block = block(&pieces);
            let mut state = seed | 1;
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state
            };
            let base: Vec<u8> = (0..block.bytes()).map(|_| (draw() >> 8) as u8).collect();
            let current: Vec<u8> = base
                .iter()
                .map(|byte| if draw() % rate == 0 { (draw() >> 8) as u8 } else { *byte })
                .collect();
            round_trip(&block, &base, &current);
        }

        #[test]
        fn damaged_blocks_are_refused_or_read_but_never_worse(
            seed in any::<u64>(), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let block = block(&[(Word::Bf16, 500), (Word::F32, 100)]);
            let byte = |i: usize, salt: u64| (seed.wrapping_mul(i as u64 + salt) >> 32) as u8;
            let base: Vec<u8> = (0..block.bytes()).map(|i| byte(i, 1)).collect();
            let current: Vec<u8> = (0..block.bytes()).map(|i| byte(i, 1 + (i as u64 % 7) / 6)).collect();
            let mut coded = encode_block(&block, &base, &current);
            let place = at.index(coded.len());
            coded[place] ^= flip;
            let mut out = vec![0; base.len()];
            let _ = decode_block(&block, &base, &coded, &mut out);
        }

        #[test]
        fn any_bytes_are_refused_or_read(coded in any::<Vec<u8>>()) {
            let block = block(&[(Word::Bf16, 50)]);
            let _ = decode_block(&block, &[7; 100], &coded, &mut [0; 100]);
        }
    }
}
