//! Strangers' text on a terminal: bounded, and with nothing in it that a terminal would obey.
//!
//! Tokens are chosen by miners, so a completion may hold escape sequences that recolour, overwrite or
//! reorder what stands around them.

use std::fmt::Write as _;

use serde::Serialize;

use crate::output;

/// What a cut text ends with.
const CUT: &str = "…";

/// Returns whether a terminal may do something else than draw `c`: controls of both ranges, and the
/// invisible characters that reorder, join or hide their neighbours.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Returns the first `chars_max` characters of `text` on one line, the obeyed ones escaped as in Rust.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == chars_max {
            line.push_str(CUT);
            break;
        }
        match is_obeyed(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// Returns the last `chars_max` characters of `text` as [`one_line`] does.
pub fn end_of_line(text: &str, chars_max: usize) -> String {
    let n_chars = text.chars().count();
    let cut = n_chars.saturating_sub(chars_max);
    let tail: String = text.chars().skip(cut).collect();
    match cut {
        0 => one_line(&tail, chars_max),
        _ => format!("{CUT}{}", one_line(&tail, chars_max)),
    }
}

/// Returns `text` line by line, at most `chars_max` characters of it, the obeyed ones escaped.
///
/// Each line needs a margin of its own: otherwise a text could pass for what we say of it.
pub fn lines(text: &str, chars_max: usize) -> Vec<String> {
    let cut: String = text.chars().take(chars_max).collect();
    let mut lines: Vec<String> = cut.split('\n').map(|line| one_line(line, usize::MAX)).collect();
    if cut.len() < text.len() {
        let hidden = text.chars().count().saturating_sub(chars_max);
        lines.push(format!("{CUT} {hidden} characters more"));
    }
    lines
}

/// Returns at most `bytes_max` bytes of `text`, whole characters, and whether that is less than all.
pub fn cut(text: String, bytes_max: usize) -> (String, bool) {
    if text.len() <= bytes_max {
        return (text, false);
    }
    let end = (0..=bytes_max).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    (text[..end].to_owned(), true)
}

/// Prints an answer: as JSON, or as `screen` words it.
pub fn print(
    value: &impl Serialize,
    as_json: bool,
    screen: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    Ok(output::line(&if as_json { json(value)? } else { screen() })?)
}

/// Returns `value` as indented JSON that is safe to look at; a reader gets the very same texts.
fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let plain = serde_json::to_string_pretty(value)?;
    let mut safe = String::with_capacity(plain.len());
    for c in plain.chars() {
        // A line end stands between fields; inside of texts it is escaped already, and every other
        // obeyed character can only stand inside of one.
        if c == '\n' || !is_obeyed(c) {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(safe, "\\u{unit:04x}");
        }
    }
    Ok(safe)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for (text, want) in [
            ("plain é 漢", "plain é 漢"),
            ("\u{1b}[31mred\u{1b}[0m", "\\u{1b}[31mred\\u{1b}[0m"),
            ("a\nb\r\tc\0", "a\\nb\\r\\tc\\u{0}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("\u{202e}txt\u{2066}\u{200b}", "\\u{202e}txt\\u{2066}\\u{200b}"),
            ("\u{e0041}", "\\u{e0041}"),
        ] {
            assert_eq!(one_line(text, 100), want, "{text:?}");
        }
        assert_eq!(one_line("abcdef", 3), "abc…");
        assert_eq!(one_line("abc", 3), "abc");
        assert_eq!(end_of_line("abcdef", 3), "…def");
        assert_eq!(end_of_line("abc", 3), "abc");
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        assert_eq!(lines("one\ntwo\u{7}", 100), ["one", "two\\u{7}"]);
        assert_eq!(lines("one\ntwo", 5), ["one", "t", "… 2 characters more"]);
        assert_eq!(cut("aé".to_owned(), 2), ("a".to_owned(), true));
        assert_eq!(cut("aé".to_owned(), 3), ("aé".to_owned(), false));
    }

    proptest! {
        #[test]
        fn whatever_it_holds_a_text_is_safe_and_json_keeps_it(text in any::<String>()) {
            let drawn = lines(&text, 64);
            prop_assert!(drawn.iter().all(|line| !line.chars().any(is_obeyed)));
            prop_assert!(!one_line(&text, 64).chars().any(is_obeyed));
            let json = json(&[&text]).unwrap();
            prop_assert!(json.chars().all(|c| c == '\n' || !is_obeyed(c)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), vec![text]);
        }
    }
}
