//! The form in which answers are compared: LaTeX's variants of one thing made the same text.

use super::super::text::{is_space, strip};

/// Returns an answer as the reference normalises it. Never fails on bad LaTeX.
pub fn normalized(answer: &str) -> String {
    let mut text = strip(answer).to_owned();
    for fraction in ["\\dfrac", "\\tfrac", "\\cfrac"] {
        text = text.replace(fraction, "\\frac");
    }
    for delimiter in ["\\left", "\\right"] {
        text = without_word(&text, delimiter);
    }
    for space in ["\\,", "\\!", "\\;", "\\:"] {
        text = text.replace(space, "");
    }
    text.retain(|c| !is_space(c));
    text.to_lowercase()
}

/// Removes `word` where a word ends behind it, so that `\leftarrow` stays.
fn without_word(text: &str, word: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, from_word) = rest.split_at(at);
        let after = &from_word[word.len()..];
        out.push_str(before);
        if after.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
            out.push_str(word);
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_become_one_text() {
        for (answer, want) in [
            (" \\dfrac{1}{2} ", "\\frac{1}{2}"),
            ("\\left(1,\\;2\\right)", "(1,2)"),
            ("\\leftarrow\\left", "\\leftarrow"),
            ("\\left\\left.", "."),
            ("\\left_", "\\left_"),
            ("A\u{1f}\u{a0}B", "ab"),
            ("ΑΣ", "ας"),
        ] {
            assert_eq!(normalized(answer), want, "{answer:?}");
        }
    }
}
