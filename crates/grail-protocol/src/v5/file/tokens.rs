//! Prints lists of tokens for hashing, three digits at a time.

/// Tokens that are printed before the sink gets them.
const TOKENS_AT_A_TIME: usize = 256;

/// Longest text of a token with its comma: ten digits and a sign.
const TOKEN_BYTES_MAX: usize = 12;

/// Bytes that are stored for a token of a usual vocabulary, whatever its length.
const STORED_BYTES: usize = 8;

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
            end += put(token, &mut text[end..]);
        }
    }
    // Over the last comma, if there is one.
    end -= usize::from(!tokens.is_empty());
    text[end] = b']';
    sink(&text[..=end]);
}

/// Writes a number and a comma to the front of `out`, and returns their length.
#[inline]
fn put(number: i32, out: &mut [u8]) -> usize {
    match u32::try_from(number) {
        Ok(number) if number < 1_000_000 => {
            let (text, length) = digits_and_comma(number);
            // A store of fixed length costs less than a copy of just what is needed.
            out[..STORED_BYTES].copy_from_slice(&text.to_le_bytes());
            length
        }
        _ => {
            let mut buffer = itoa::Buffer::new();
            let digits = buffer.format(number).as_bytes();
            out[..digits.len()].copy_from_slice(digits);
            out[digits.len()] = b',';
            digits.len() + 1
        }
    }
}

/// Returns a number below 10^6 with a comma behind it, the first character in the lowest byte, and
/// the length of both.
fn digits_and_comma(number: u32) -> (u64, usize) {
    let threes = |number: u32| u64::from(THREE_DIGITS[number as usize]);
    let six = threes(number / 1_000) | threes(number % 1_000) << 24;
    // Zero itself keeps its last digit.
    let zeros = ((six & 0x0f0f_0f0f_0f0f) | 1 << 40).trailing_zeros() / 8;
    ((six | u64::from(b',') << 48) >> (8 * zeros), 7 - zeros as usize)
}

/// The numbers below 1,000 with their zeros in front, the first digit in the lowest byte.
static THREE_DIGITS: [u32; 1_000] = {
    let mut table = [0; 1_000];
    let mut number = 0;
    while number < 1_000 {
        let digits = (number / 100) | ((number / 10 % 10) << 8) | ((number % 10) << 16);
        table[number as usize] = digits | 0x30_3030;
        number += 1;
    }
    table
};

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
