//! How many sequences go through the model together: hidden states of every position are large.

/// Bytes of hidden states that one pass may return.
const BATCH_BYTES_MAX: usize = 256 << 20;

/// Returns how many sequences of these lengths, from the first on, are traced in one pass: at least
/// one, if there is one.
pub fn batch_len(lengths: impl Iterator<Item = usize>, hidden_size: usize) -> usize {
    let mut bytes = 0usize;
    let fits = |(place, length): &(usize, usize)| {
        let row_bytes = hidden_size.saturating_mul(size_of::<f32>());
        bytes = bytes.saturating_add(length.saturating_mul(row_bytes));
        *place == 0 || bytes <= BATCH_BYTES_MAX
    };
    lengths.enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_what_fits_and_at_least_one() {
        let whole = BATCH_BYTES_MAX / 4 / 64;
        let len = |lengths: &[usize]| batch_len(lengths.iter().copied(), 64);
        assert_eq!(len(&[]), 0);
        assert_eq!(len(&[2 * whole, 1]), 1);
        assert_eq!(len(&[whole, 1]), 1);
        assert_eq!(len(&[whole - 2, 1, 1, 1]), 3);
        assert_eq!(len(&[usize::MAX, usize::MAX]), 1);
    }
}
