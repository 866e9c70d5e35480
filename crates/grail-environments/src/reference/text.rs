//! What Python's text methods and regular expressions call white space, a digit, or the same letter.

/// Code points of the zeros of Unicode 15.0, CPython 3.12's: each begins ten digits in order.
///
/// A digit more or less would be read as another number by peers. Source: `unicodedata.decimal`.
const ZEROS: [u32; 68] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0, 0x11650,
    0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x11f50, 0x16a60, 0x16ac0,
    0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e950,
    0x1fbf0,
];

/// Returns whether `str.isspace`, `str.strip` and `\s` take the character for white space.
pub fn is_space(c: char) -> bool {
    // The four separators are white space to Python, though not to Unicode.
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Returns `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Returns the value of a decimal digit of any script, as `\d` and `int` take it.
pub fn digit(c: char) -> Option<u8> {
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|&zero| zero <= code)].last()?;
    u8::try_from(code - zero).ok().filter(|&value| value < 10)
}

/// Returns whether a literal small letter of a pattern matches the character when case is ignored.
///
/// Beyond ASCII there are four such characters; `re` documents them.
pub(super) fn matches_ignoring_case(letter: char, c: char) -> bool {
    c.to_ascii_lowercase() == letter
        || match letter {
            's' => c == '\u{17f}',
            'i' => c == '\u{130}' || c == '\u{131}',
            'k' => c == '\u{212a}',
            _ => false,
        }
}

/// Returns whether a small letter is what `str.lower` makes of the character.
///
/// The dotted capital I becomes two characters, of which no tag has the second.
pub(super) fn is_lower_of(letter: char, c: char) -> bool {
    c.to_ascii_lowercase() == letter || (letter == 'k' && c == '\u{212a}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> impl Iterator<Item = char> {
        '\0'..=char::MAX
    }

    #[test]
    fn there_are_as_many_spaces_and_digits_as_in_cpython() {
        assert_eq!(every().filter(|&c| is_space(c)).count(), 29);
        assert_eq!(every().filter(|&c| digit(c).is_some()).count(), 680);
        assert!(ZEROS.is_sorted());
        for (c, value) in [('7', Some(7)), ('٣', Some(3)), ('𝟘', Some(0)), ('²', None), ('x', None)]
        {
            assert_eq!(digit(c), value, "{c}");
        }
    }

    #[test]
    fn letters_match_as_in_cpython() {
        let like =
            |letter| every().filter(|&c| matches_ignoring_case(letter, c)).collect::<String>();
        assert_eq!(like('s'), "Ssſ");
        assert_eq!(like('i'), "Iiİı");
        assert_eq!(like('k'), "Kk\u{212a}");
        assert_eq!(like('n'), "Nn");
        assert_eq!(like('_'), "_");
        assert!(is_lower_of('k', '\u{212a}') && !is_lower_of('s', 'ſ') && !is_lower_of('i', 'ı'));
    }
}
