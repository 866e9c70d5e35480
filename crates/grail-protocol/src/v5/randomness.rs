//! Reads randomness that peers exchange as hexadecimal text, with the reference's leniency.

/// Text that is not the randomness of anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRandomness {
    /// A character that CPython's decoder refuses, or white space inside a pair of digits.
    #[error("randomness is not hexadecimal at byte {0} after its prefix; expected pairs of digits")]
    NotHex(usize),
    /// Nothing is left, where something is needed.
    #[error("randomness is empty; expected hexadecimal digits")]
    Empty,
}

/// Returns the bytes of `text`, which may be none.
///
/// Trims, deletes every `0x` and then every `0X` wherever it stands, puts a `0` before an odd number
/// of characters, and decodes as `bytes.fromhex` does: any case, ASCII white space between pairs.
/// Source: reference `crypto.py`.
///
/// # Errors
/// When a character is left that is no digit.
pub fn randomness_bytes(text: &str) -> Result<Vec<u8>, BadRandomness> {
    let mut digits = text.trim_matches(is_python_space).replace("0x", "").replace("0X", "");
    // The count includes white space inside, so `12 34` gets a zero and then fails, as it does there.
    if digits.chars().count() % 2 == 1 {
        digits.insert(0, '0');
    }
    from_hex(&digits)
}

/// Decodes as CPython's `bytes.fromhex` does.
///
/// # Errors
/// When a character is neither a digit of a pair nor ASCII white space between pairs.
pub fn from_hex(digits: &str) -> Result<Vec<u8>, BadRandomness> {
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let mut rest = digits.bytes().enumerate();
    while let Some((at, high)) = rest.next() {
        if matches!(high, b' ' | b'\t'..=b'\r') {
            continue;
        }
        let high = nibble(high).ok_or(BadRandomness::NotHex(at))?;
        let low =
            rest.next().and_then(|(_, low)| nibble(low)).ok_or(BadRandomness::NotHex(at + 1))?;
        bytes.push(high << 4 | low);
    }
    Ok(bytes)
}

/// Python's `str.strip` also removes four separators that Unicode does not call white space.
pub(super) fn is_python_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes_case_and_odd_lengths_are_read_as_the_reference_reads_them() {
        for (text, want) in [
            ("", Some(vec![])),
            (" 0xAb ", Some(vec![0xab])),
            ("a0xb", Some(vec![0xab])),
            ("00xx1", None),
            ("abc", Some(vec![0x0a, 0xbc])),
            ("12 34", None),
            ("12  34", Some(vec![0x12, 0x34])),
            ("\u{1c}12\u{a0}", Some(vec![0x12])),
            ("é1", None),
            ("zz", None),
        ] {
            assert_eq!(randomness_bytes(text).ok(), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = randomness_bytes(&text);
        }

        #[test]
        fn bytes_read_back(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(from_hex(&hex::encode(&bytes)), Ok(bytes));
        }
    }
}
