//! The Mersenne Twister MT19937 with its two standard ways of seeding.

const STATE_WORDS: usize = 624;
const MIDDLE: usize = 397;

/// A generator of 32-bit words; CPython's and NumPy's legacy generators are built on it.
#[derive(Clone)]
pub struct MersenneTwister {
    state: [u32; STATE_WORDS],
    next: usize,
}

impl MersenneTwister {
    /// Seeds with one word (`init_genrand`).
    pub fn from_word(seed: u32) -> Self {
        let mut state = [seed; STATE_WORDS];
        let mut previous = seed;
        for (i, word) in (0u32..).zip(&mut state).skip(1) {
            previous = 1_812_433_253u32.wrapping_mul(previous ^ previous >> 30).wrapping_add(i);
            *word = previous;
        }
        Self { state, next: STATE_WORDS }
    }

    /// Seeds with a key of words (`init_by_array`).
    ///
    /// # Panics
    /// When the key is empty.
    pub fn from_key(key: &[u32]) -> Self {
        assert!(!key.is_empty(), "a key has at least one word");
        let mut generator = Self::from_word(19_650_218);
        let state = &mut generator.state;
        let mut i = 1;
        for j in 0..STATE_WORDS.max(key.len()) {
            let j = j % key.len();
            let offset = u32::try_from(j).expect("seeds are far shorter than 2^32 words");
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(offset);
            i = advance(state, i);
        }
        for _ in 1..STATE_WORDS {
            let mixed = (state[i - 1] ^ state[i - 1] >> 30).wrapping_mul(1_566_083_941);
            let place = u32::try_from(i).expect("the state has 624 words");
            state[i] = (state[i] ^ mixed).wrapping_sub(place);
            i = advance(state, i);
        }
        state[0] = 0x8000_0000;
        generator
    }

    /// Returns the next tempered word.
    pub fn next_word(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= word << 7 & 0x9d2c_5680;
        word ^= word << 15 & 0xefc6_0000;
        word ^ word >> 18
    }

    /// Returns the words that the next outputs are made of.
    pub fn state(&self) -> &[u32] {
        &self.state
    }

    fn twist(&mut self) {
        for i in 0..STATE_WORDS {
            let high = self.state[i] & 0x8000_0000;
            let low = self.state[(i + 1) % STATE_WORDS] & 0x7fff_ffff;
            let mixed = high | low;
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + MIDDLE) % STATE_WORDS] ^ mixed >> 1 ^ odd;
        }
        self.next = 0;
    }
}

/// Returns the place after `i`; at the end the last word is carried to the front.
fn advance(state: &mut [u32; STATE_WORDS], i: usize) -> usize {
    if i + 1 < STATE_WORDS {
        return i + 1;
    }
    state[0] = state[STATE_WORDS - 1];
    1
}

/// Draws as NumPy's `RandomState(seed).choice(n, size, replace=False)`: the head of a shuffle.
///
/// The reference uses it off the wire, to choose parameters to look at.
///
/// # Panics
/// When `size` is above `n`.
pub fn numpy_choice(seed: u32, n: u32, size: usize) -> Vec<u32> {
    let mut generator = MersenneTwister::from_word(seed);
    let mut order: Vec<u32> = (0..n).collect();
    assert!(size <= order.len(), "{size} of {n} without replacement");
    for i in (1..order.len()).rev() {
        let last = u32::try_from(i).expect("n is a u32");
        let mask = u32::MAX >> last.leading_zeros();
        let j = loop {
            let drawn = generator.next_word() & mask;
            if drawn <= last {
                break drawn;
            }
        };
        order.swap(i, j as usize);
    }
    order.truncate(size);
    order
}
