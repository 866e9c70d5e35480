//! Range asymmetric numeral systems: symbols in nearly as many bits as they carry information.
//!
//! Two states take turns, so that a processor works on both at once. Symbols are coded from the
//! last to the first and come out in order.

/// Frequencies of a table add up to 2^this.
pub(super) const SCALE_BITS: u32 = 12;

/// States stay at or above this, and below it times 2^16.
const LOWER: u32 = 1 << 16;

/// A symbol's share of the range: its frequency, and those before it added up.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) start: u32,
    pub(super) frequency: u32,
}

/// Codes symbols given from the last to the first, with alternating states.
pub(super) struct Encoder {
    states: [u32; 2],
    /// From the last to the first.
    words: Vec<u16>,
    /// Symbols that are still to come.
    left: usize,
}

impl Encoder {
    /// Starts with the number of symbols, so that the first one falls to the first state.
    pub(super) fn new(n_symbols: usize) -> Self {
        Self { states: [LOWER; 2], words: Vec::new(), left: n_symbols }
    }

    /// Codes the symbol before all that were coded.
    #[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
    pub(super) fn push(&mut self, share: Share) {
        self.left -= 1;
        let state = &mut self.states[self.left % 2];
        let Share { start, frequency } = share;
        let limit = u64::from(frequency) << (32 - SCALE_BITS);
        if u64::from(*state) >= limit {
            self.words.push(*state as u16);
            *state >>= 16;
        }
        *state = ((*state / frequency) << SCALE_BITS) + *state % frequency + start;
    }

    /// Returns the words in the order of the reader.
    #[expect(clippy::cast_possible_truncation, reason = "states are split in halves")]
    pub(super) fn finish(mut self) -> Vec<u16> {
        for state in self.states.into_iter().rev() {
            self.words.extend([state as u16, (state >> 16) as u16]);
        }
        self.words.reverse();
        self.words
    }
}

/// Reads what [`Encoder`] wrote.
pub(super) struct Decoder<'a> {
    states: [u32; 2],
    words: std::slice::Iter<'a, [u8; 2]>,
    is_short: bool,
    turn: usize,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(words: &'a [[u8; 2]]) -> Self {
        let (words, is_short) = (words.iter(), false);
        let mut decoder = Self { states: [0; 2], words, is_short, turn: 0 };
        for state in 0..2 {
            let (high, low) = (decoder.word(), decoder.word());
            decoder.states[state] = high << 16 | low;
        }
        decoder
    }

    #[inline(always)]
    fn word(&mut self) -> u32 {
        match self.words.next() {
            Some(word) => u32::from(u16::from_le_bytes(*word)),
            None => {
                self.is_short = true;
                0
            }
        }
    }

    /// Returns the next symbol of a table with an entry for every place in the range, packed by
    /// [`pack`].
    #[inline(always)]
    pub(super) fn next(&mut self, table: &[u32; 1 << SCALE_BITS]) -> u8 {
        let state = self.states[self.turn];
        let entry = table[(state & ((1 << SCALE_BITS) - 1)) as usize];
        let (symbol, frequency, offset) = unpack(entry);
        let mut state = frequency * (state >> SCALE_BITS) + offset;
        if state < LOWER {
            state = state << 16 | self.word();
        }
        self.states[self.turn] = state;
        self.turn ^= 1;
        symbol
    }

    /// Returns whether exactly what was written was read: then the states are back where the
    /// encoder began.
    pub(super) fn is_done(&self) -> bool {
        !self.is_short && self.words.len() == 0 && self.states == [LOWER; 2]
    }
}

/// Packs a symbol, its frequency (at least 1) and the place's distance from its start.
pub(super) fn pack(symbol: u8, frequency: u32, offset: u32) -> u32 {
    u32::from(symbol) | (frequency - 1) << 8 | offset << 20
}

#[inline(always)]
fn unpack(entry: u32) -> (u8, u32, u32) {
    ((entry & 0xff) as u8, (entry >> 8 & 0xfff) + 1, entry >> 20)
}
