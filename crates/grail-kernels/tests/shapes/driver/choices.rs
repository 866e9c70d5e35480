//! Bytes as choices: sizes, options, values.

/// Reads choices from bytes; when there are no more, every choice is the first.
pub(super) struct Choices<'a> {
    data: &'a [u8],
}

/// Which numbers buffers hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// In [-1, 1), with some zeros of both signs and tiny values.
    Moderate,
    /// Any bits but those of NaN and infinity: sums may overflow.
    Finite,
    /// Any bits.
    Any,
}

impl<'a> Choices<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data }
    }

    fn byte(&mut self) -> u8 {
        match self.data.split_first() {
            Some((&first, rest)) => {
                self.data = rest;
                first
            }
            None => 0,
        }
    }

    /// A number below `count`, which is at least 1.
    pub(super) fn below(&mut self, count: usize) -> usize {
        let wide = usize::from(count > 256);
        (usize::from(self.byte()) + 256 * wide * usize::from(self.byte_if(wide))) % count
    }

    fn byte_if(&mut self, wanted: usize) -> u8 {
        if wanted > 0 { self.byte() } else { 0 }
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    pub(super) fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// A size from 1 to `most`, often at the edge of a vector, a panel or a tile.
    pub(super) fn size(&mut self, most: usize) -> usize {
        const EDGES: [usize; 14] = [1, 2, 5, 6, 7, 15, 16, 17, 31, 33, 63, 64, 65, 129];
        let size = if self.flag() { self.of(&EDGES) } else { 1 + self.below(most) };
        size.min(most)
    }

    pub(super) fn seed(&mut self) -> u64 {
        (0..8).fold(0, |seed, _| seed << 8 | u64::from(self.byte()))
    }

    /// `count` values of a kind from a seed.
    pub(super) fn values(&mut self, count: usize, kind: Kind) -> Vec<f32> {
        let mut state = self.seed();
        let mut next = || {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut value = || {
            let bits = next();
            let any = f32::from_bits((bits >> 32) as u32);
            match kind {
                Kind::Any => any,
                Kind::Finite if any.is_finite() => any,
                _ => match bits % 32 {
                    0 => 0.0,
                    1 => -0.0,
                    2 => 1e-30,
                    3 => -1e-40,
                    _ => (bits >> 40) as f32 / (1 << 23) as f32 - 1.0,
                },
            }
        };
        (0..count).map(|_| value()).collect()
    }

    /// One of the kinds for kernels that define every value.
    pub(super) fn kind(&mut self) -> Kind {
        self.of(&[Kind::Moderate, Kind::Finite, Kind::Any])
    }
}
