//! What Python's text methods and regular expressions call white space, a digit, or the same letter.

pub use grail_protocol::v5::python::digits::digit;

/// Returns whether `str.isspace`, `str.strip` and `\s` take the character for white space.
pub fn is_space(c: char) -> bool {
    // The four separators are white space to Python, though not to Unicode.
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Returns `text.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
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
