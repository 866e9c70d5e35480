//! Prints lists of tokens for hashing, eight digits at a time.

/// Tokens that are printed before the sink gets them.
const TOKENS_AT_A_TIME: usize = 256;

/// Longest text of a token with its comma, and what a store of fixed length may write behind it.
const TOKEN_BYTES_MAX: usize = 16;

/// Hands `sink` the pieces of `[t0,t1,…]`, as Python prints a list of integers without spaces.
pub fn print_tokens(tokens: &[i32], mut sink: impl FnMut(&[u8])) {
    let mut text = [0; TOKEN_BYTES_MAX * (TOKENS_AT_A_TIME + 1)];
    text[0] = b'[';
    let mut end = 1;
    for (part, tokens) in tokens.chunks(TOKENS_AT_A_TIME).enumerate() {
        if part > 0 {
            sink(&text[..end]);
            end = 0;
        }
        for &token in tokens {
            let (digits, length) = digits_and_comma(token);
            // A store of fixed length costs less than a copy of just what is needed.
            text[end..end + TOKEN_BYTES_MAX].copy_from_slice(&digits);
            end += length;
        }
    }
    // Over the last comma, if there is one.
    end -= usize::from(!tokens.is_empty());
    text[end] = b']';
    sink(&text[..=end]);
}

/// Returns a number's digits with a comma behind them, and their length together.
fn digits_and_comma(number: i32) -> ([u8; TOKEN_BYTES_MAX], usize) {
    match u32::try_from(number) {
        Ok(number) if number < 100_000_000 => few_digits_and_comma(number),
        _ => {
            let mut digits = [0; TOKEN_BYTES_MAX];
            let mut buffer = itoa::Buffer::new();
            let text = buffer.format(number).as_bytes();
            digits[..text.len()].copy_from_slice(text);
            digits[text.len()] = b',';
            (digits, text.len() + 1)
        }
    }
}

/// The same for a number below 10^8.
fn few_digits_and_comma(number: u32) -> ([u8; TOKEN_BYTES_MAX], usize) {
    // Two lanes of four digits, four of two, eight of one; the first digit is in the lowest byte.
    let fours = u64::from(number / 10_000) | u64::from(number % 10_000) << 32;
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    let ones = tens | (twos - 10 * tens) << 8;
    // Zero itself keeps its last digit.
    let zeros = (ones | 1 << 56).trailing_zeros() / 8;
    let text = (ones | 0x3030_3030_3030_3030) >> (8 * zeros);
    let length = 8 - zeros as usize;
    // Put together in a register: bytes stored one by one would have to arrive before they are copied.
    let comma = u128::from(b',') << (8 * length);
    ((u128::from(text) | comma).to_le_bytes(), length + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(tokens: &[i32]) -> String {
        let texts: Vec<String> = tokens.iter().map(ToString::to_string).collect();
        format!("[{}]", texts.join(","))
    }

    fn written(tokens: &[i32]) -> String {
        let mut out = Vec::new();
        print_tokens(tokens, |piece| out.extend_from_slice(piece));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_at_every_length_print_plainly() {
        let powers = (0..10).map(|power| 10_i64.pow(power));
        let around = powers.flat_map(|power| [power - 1, power, power + 1, -power, 5 * power]);
        let tokens: Vec<i32> = around.filter_map(|number| number.try_into().ok()).collect();
        assert_eq!(written(&tokens), plain(&tokens));
        assert_eq!(written(&[i32::MAX, i32::MIN]), plain(&[i32::MAX, i32::MIN]));
        assert_eq!(written(&[]), "[]");
    }

    proptest! {
        #[test]
        fn any_tokens_print_plainly(
            tokens in prop::collection::vec(prop_oneof![any::<i32>(), 0..200_000], 0..600),
        ) {
            prop_assert_eq!(written(&tokens), plain(&tokens));
        }
    }
}
