//! Finds the thinking and the final answer in a completion, as the reference's patterns do.
//!
//! The text is the decoded completion with its special tokens, so an end token after the answer is
//! trailing text. All searches are linear in the text, which may be hostile.

use super::text;
use super::thinking::{SOLUTION_CLOSE, SOLUTION_OPEN, ThinkingMode};

/// What a completion consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<'a> {
    /// Whether the tag that closes the thinking occurs.
    pub has_thinking: bool,
    /// The final answer, if there is one between tags.
    pub solution: Option<Solution<'a>>,
}

/// A final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solution<'a> {
    /// What stands between the tags.
    pub content: &'a str,
    /// Number of code points after the closing tag.
    pub trailing: usize,
}

impl<'a> Completion<'a> {
    /// Takes a completion apart.
    pub fn parse(mode: ThinkingMode, text: &'a str) -> Self {
        let close = mode.thinking_close();
        let has_thinking = contains_lower(text, close);
        let after_thinking = if has_thinking { find(text, 0, close) } else { None };
        // The first solution after the thinking, else the first of all.
        let solution = after_thinking
            .and_then(|(_, end)| Solution::find(text, end))
            .or_else(|| Solution::first(text));
        Self { has_thinking, solution }
    }

    /// Returns what stands between the answer's tags, or nothing.
    pub fn content(&self) -> &'a str {
        self.solution.map_or("", |solution| solution.content)
    }

    /// Returns [`Completion::content`] without the white space around it.
    pub fn answer(&self) -> &'a str {
        text::strip(self.content())
    }

    /// Returns whether there is an answer with fewer than `limit` code points after it.
    pub fn answers_within(&self, limit: usize) -> bool {
        self.solution.is_some_and(|solution| solution.trailing < limit)
    }

    /// Returns a component: 0.5 for thinking.
    pub(super) fn thinking_reward(&self) -> f64 {
        if self.has_thinking { 0.5 } else { 0.0 }
    }

    /// Returns a component: 0.2 less a thousandth for each code point after the answer.
    pub(super) fn no_trailing_reward(&self) -> f64 {
        self.solution.map_or(0.0, |solution| (0.2 - 0.001 * solution.trailing as f64).max(0.0))
    }
}

impl<'a> Solution<'a> {
    /// Finds the first answer of a text, before or after its thinking.
    pub fn first(text: &'a str) -> Option<Self> {
        Self::find(text, 0)
    }

    /// Finds the first answer that opens at byte `from` or later.
    fn find(text: &'a str, from: usize) -> Option<Self> {
        let (_, start) = find(text, from, SOLUTION_OPEN)?;
        let (end, rest) = find(text, start, SOLUTION_CLOSE)?;
        Some(Self { content: &text[start..end], trailing: text[rest..].chars().count() })
    }
}

/// Returns how often a tag occurs.
pub(super) fn count(text: &str, tag: &str) -> usize {
    let mut from = 0;
    let next = || {
        let (_, end) = find(text, from, tag)?;
        from = end;
        Some(())
    };
    std::iter::from_fn(next).count()
}

/// Returns where the first `tag` at byte `from` or later begins and ends.
fn find(text: &str, from: usize, tag: &str) -> Option<(usize, usize)> {
    find_by(text, from, tag, text::matches_ignoring_case)
}

/// Returns whether the lower-cased text contains the lower-case `tag`.
fn contains_lower(text: &str, tag: &str) -> bool {
    find_by(text, 0, tag, text::is_lower_of).is_some()
}

fn find_by(
    text: &str,
    from: usize,
    tag: &str,
    matches: impl Fn(char, char) -> bool,
) -> Option<(usize, usize)> {
    text[from..].match_indices('<').find_map(|(at, _)| {
        let start = from + at;
        let mut rest = text[start..].chars();
        let is_match = tag
            .chars()
            .all(|expected| rest.next().is_some_and(|c| matches(expected.to_ascii_lowercase(), c)));
        is_match.then(|| (start, text.len() - rest.as_str().len()))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> (bool, Option<(&str, usize)>) {
        let parsed = Completion::parse(ThinkingMode::Native, text);
        (parsed.has_thinking, parsed.solution.map(|found| (found.content, found.trailing)))
    }

    #[test]
    fn the_answer_after_the_thinking_is_the_answer() {
        for (text, want) in [
            ("", (false, None)),
            ("<SOLUTION>1</SOLUTION>", (false, Some(("1", 0)))),
            ("<solution>1</Solution>é<|end|>", (false, Some(("1", 8)))),
            ("<ſOLUTİON>1</ſolutıon>", (false, Some(("1", 0)))),
            ("<SOLUTION>1", (false, None)),
            ("</SOLUTION>1<SOLUTION>", (false, None)),
            ("<SOLUTION>1<SOLUTION>2</SOLUTION>", (false, Some(("1<SOLUTION>2", 0)))),
            ("<SOLUTION>1</SOLUTION></think><SOLUTION>2</SOLUTION>", (true, Some(("2", 0)))),
            ("<SOLUTION>1</SOLUTION></think><SOLUTION>2", (true, Some(("1", 19)))),
            ("</THIN\u{212a}><SOLUTION>2</SOLUTION>", (true, Some(("2", 0)))),
            ("</thınk><SOLUTION>2</SOLUTION>", (false, Some(("2", 0)))),
            ("<think>never closed<SOLUTION>2</SOLUTION>", (false, Some(("2", 0)))),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn the_modes_have_their_own_tags() {
        let text = "</end_working_out>";
        assert!(Completion::parse(ThinkingMode::Instructed, text).has_thinking);
        assert!(!Completion::parse(ThinkingMode::Native, text).has_thinking);
    }

    #[test]
    fn a_text_of_open_tags_takes_linear_time() {
        let text = "<SOLUTION></think>".repeat(100_000);
        assert_eq!(parse(&text), (true, None));
        assert_eq!(count(&text, SOLUTION_OPEN), 100_000);
    }

    proptest! {
        #[test]
        fn what_is_between_the_tags_is_the_content(
            before in "[a-z</ ]{0,20}", content in "[^<]{0,20}", after in "\\PC{0,20}",
        ) {
            let text = format!("{before}<SOLUTION>{content}</SOLUTION>{after}");
            let parsed = Completion::parse(ThinkingMode::Instructed, &text);
            let want = Solution { content: &content, trailing: after.chars().count() };
            prop_assert_eq!(parsed.solution, Some(want));
        }

        #[test]
        fn no_text_panics(text in "(<|/|SOLUTION|think|>|ſ|İ|é|.){0,40}") {
            let parsed = Completion::parse(ThinkingMode::Native, &text);
            prop_assert!(parsed.no_trailing_reward() <= 0.2);
        }
    }
}
