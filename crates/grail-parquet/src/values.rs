//! Looks over the levels and values of a page before the Parquet crate decodes them.
//!
//! Its decoders believe some of what a page says and panic where it is not so; here it is found out
//! first.

use parquet::basic::Encoding;

use crate::thrift::Cursor;

/// What the column says about its pages.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Largest levels of repetition and of definition; levels stand in front of the values where
    /// they are not 0.
    pub levels_max: [u8; 2],
    /// Bytes of a value, if all have the same.
    pub value_bytes: Option<usize>,
    /// Whether values are texts, each behind its length.
    pub is_text: bool,
}

/// Splits levels with their length in front from what follows.
pub fn split_levels(page: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = page.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

/// Returns how many of a page's values are there: those with the largest definition level.
///
/// - `runs`: levels as runs of one value, or of packed ones. `None` when they are too few.
pub fn count_present(runs: &[u8], level_max: u8, n_values: u32) -> Option<u32> {
    if level_max == 0 {
        return Some(n_values);
    }
    let width = usize::try_from(u8::BITS - level_max.leading_zeros()).ok()?;
    let mut cursor = Cursor::new(runs, 0);
    let (mut left, mut n_present) = (u64::from(n_values), 0);
    while left > 0 {
        let head = cursor.varint().ok()?;
        let is_packed = head & 1 == 1;
        let length = if is_packed { (head >> 1).checked_mul(8)? } else { head >> 1 };
        let own = length.min(left);
        if is_packed {
            let n_bytes = usize::try_from(head >> 1).ok()?.checked_mul(width)?;
            let packed = cursor.take_at_most(n_bytes);
            let level = |at: u64| bits(packed, usize::try_from(at).ok()? * width, width);
            for at in 0..own {
                n_present += u64::from(level(at)? == level_max);
            }
        } else {
            let level = *cursor.take_at_most(1).first()?;
            n_present += if level == level_max { own } else { 0 };
        }
        if length == 0 {
            return None;
        }
        left -= own;
    }
    u32::try_from(n_present).ok()
}

/// Returns up to eight bits from a place in little-endian order.
fn bits(bytes: &[u8], at: usize, width: usize) -> Option<u8> {
    let low = u16::from(*bytes.get(at / 8)?);
    let high = u16::from(bytes.get(at / 8 + 1).copied().unwrap_or(0));
    let shifted = (high << 8 | low) >> (at % 8);
    let mask = (1_u16 << width) - 1;
    u8::try_from(shifted & mask).ok()
}

/// Checks what the crate's decoders believe without asking: they make room for as many deltas as the
/// values say, and read texts and split values wherever these should be.
pub fn check_values(values: &[u8], n_present: u32, encoding: Encoding, shape: Shape) -> Option<()> {
    match encoding {
        Encoding::PLAIN if shape.is_text => skip_texts(values, n_present),
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => {
            check_delta(values, n_present)
        }
        Encoding::BYTE_STREAM_SPLIT => {
            let length = usize::try_from(n_present).ok()?.checked_mul(shape.value_bytes?)?;
            (values.len() == length).then_some(())
        }
        _ => Some(()),
    }
}

/// Goes over plain texts, each behind its length.
pub fn skip_texts(mut values: &[u8], n_values: u32) -> Option<()> {
    for _ in 0..n_values {
        let (length, rest) = values.split_first_chunk::<4>()?;
        values = rest.get(usize::try_from(u32::from_le_bytes(*length)).ok()?..)?;
    }
    Some(())
}

/// Most values of a block of deltas, and parts that it may have. Writers use 128 and 4.
const DELTA_BLOCK_MAX: u64 = 1 << 16;

/// Holds the head of delta-encoded values to the page's: a decoder makes room for as many as it says.
fn check_delta(values: &[u8], n_values: u32) -> Option<()> {
    if values.is_empty() && n_values == 0 {
        return Some(());
    }
    let mut cursor = Cursor::new(values, 0);
    let [block, parts, n_deltas] = [(); 3].map(|()| cursor.varint().ok());
    let is_small =
        block? <= DELTA_BLOCK_MAX && parts? <= block? && n_deltas? <= u64::from(n_values);
    is_small.then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_that_claim_more_values_than_their_page_are_refused() {
        // Blocks of 128 in 4 parts.
        let head = |n_deltas: &[u8]| [&[0x80, 0x01, 0x04][..], n_deltas].concat();
        assert_eq!(check_delta(&head(&[7]), 7), Some(()));
        assert_eq!(check_delta(&head(&[7]), 6), None);
        assert_eq!(check_delta(&head(&[0xff, 0xff, 0xff, 0xff, 0x07]), 7), None);
        assert_eq!(check_delta(&[0x80, 0x01], 7), None);
        assert_eq!(check_delta(&[0x80, 0x80, 0x80, 0x80, 0x01, 0x04, 0x07], 7), None);
    }

    #[test]
    fn levels_are_passed_over_by_their_lengths() {
        assert_eq!(split_levels(&[2, 0, 0, 0, 9, 8, 5]), Some((&[9, 8][..], &[5][..])));
        assert_eq!(split_levels(&[2, 0, 0, 0, 9]), None);
        assert_eq!(split_levels(&[2, 0, 0]), None);
    }

    #[test]
    fn values_that_are_there_are_counted() {
        for (runs, level_max, n_values, want) in [
            (&[][..], 0, 7, Some(7)),
            (&[], 1, 0, Some(0)),
            // Seven times 1, then three times 0.
            (&[14, 1, 6, 0], 1, 10, Some(7)),
            (&[14, 1, 6, 0], 1, 8, Some(7)),
            (&[14, 1, 6, 0], 1, 11, None),
            // Eight packed bits: 1, 0, 1, 1, 0, 0, 0, 1.
            (&[3, 0b1000_1101], 1, 8, Some(4)),
            (&[3, 0b1000_1101], 1, 3, Some(2)),
            // Eight packed levels of three bits: 0 to 7.
            (&[3, 0x88, 0xc6, 0xfa], 5, 8, Some(1)),
            (&[3, 0x88], 5, 8, None),
            (&[0, 1], 1, 1, None),
            (&[0xff], 1, 1, None),
        ] {
            assert_eq!(count_present(runs, level_max, n_values), want, "{runs:?}");
        }
    }

    #[test]
    fn texts_end_where_their_page_does() {
        let texts = [1, 0, 0, 0, b'a', 0, 0, 0, 0];
        assert_eq!(skip_texts(&texts, 2), Some(()));
        assert_eq!(skip_texts(&texts, 3), None);
        assert_eq!(skip_texts(&texts[..8], 2), None);
    }
}
