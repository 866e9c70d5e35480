//! Damages files as hostile peers would: bits, cuts, splices, and numbers where lengths may stand.

/// A small generator whose choices a seed repeats. Source: SplitMix64, Steele et al. 2014.
pub struct Choices(u64);

impl Choices {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `n`, or 0 if there is none.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).expect("at most 64 bits");
        usize::try_from(self.next() % n.max(1)).expect("below a usize")
    }
}

/// Numbers at which counts, lengths and offsets go wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x10_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Texts at which readers of JSON go wrong.
const TEXTS: [&str; 14] = [
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "0.1",
    "-0.0",
    "[]",
    "{}",
    "\"\"",
    "\\u0000",
    "\\ud800",
    "[[[[[[[[",
    "\u{feff}",
    "true",
];

/// Returns `seed` after one to four changes; `others` gives parts to splice in.
pub fn mutate(seed: &[u8], others: &[Vec<u8>], choices: &mut Choices) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=choices.below(4) {
        change(&mut bytes, others, choices);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], choices: &mut Choices) {
    let at = place(bytes.len(), choices);
    match choices.below(10) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << choices.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = choices.next().to_le_bytes()[0];
            }
        }
        3 | 4 => number(bytes, at, choices),
        5 => bytes.truncate(at),
        6 => {
            let end = at + choices.below(bytes.len() - at + 1).min(64);
            bytes.drain(at..end);
        }
        7 => {
            let end = at + choices.below(bytes.len() - at + 1).min(64);
            let copy = bytes[at..end].to_vec();
            let to = choices.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        8 => {
            let text = TEXTS[choices.below(TEXTS.len())].as_bytes();
            let end = token_end(bytes, at);
            bytes.splice(at..end, text.iter().copied());
        }
        _ => {
            let other = &others[choices.below(others.len())];
            let from = choices.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

/// Half of all changes hit the first part of a file, where the counts are.
fn place(len: usize, choices: &mut Choices) -> usize {
    let within = if choices.below(2) == 0 { len.min(256) } else { len };
    choices.below(within + 1)
}

/// Replaces the integer of 1, 2, 4 or 8 bytes at `at`: by an edge, or by a neighbour of itself.
fn number(bytes: &mut [u8], at: usize, choices: &mut Choices) {
    let width = 1 << choices.below(4);
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    let mut old = [0; 8];
    old[..width].copy_from_slice(place);
    let old = u64::from_le_bytes(old);
    let new = match choices.below(4) {
        0 => old.wrapping_add(1),
        1 => old.wrapping_sub(1),
        2 => old.wrapping_mul(2),
        _ => EDGES[choices.below(EDGES.len())],
    };
    place.copy_from_slice(&new.to_le_bytes()[..width]);
}

/// Returns where the number, word or quoted text that begins at `at` ends.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let is_inside = |byte: &u8| !b",:]}\n".contains(byte);
    at + bytes[at..].iter().take(32).take_while(|byte| is_inside(byte)).count()
}
