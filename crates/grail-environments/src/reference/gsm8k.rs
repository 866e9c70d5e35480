//! The reference's `gsm8k`: word problems whose answer is one number, compared as text.
//!
//! The gold answer keeps its commas and the prediction loses them, so a gold of `1,000` is never met;
//! peers agree on that.

use super::assessment::{Assessment, one_if};
use super::completion::Completion;
use super::problems::{Problems, Unevaluated};
use super::rows::{BadRows, Row, Rows, text_of};
use super::split;
use super::tasks::{Source, Spread};
use super::text::{digit, is_space, strip};
use super::thinking::ThinkingMode;

/// Id of the environment.
pub const ID: &str = "gsm8k";

/// Number of training rows held out for validation.
const N_VALIDATION: usize = 250;

/// Weights of correctness, strict form, thinking, answer, nothing trailing.
const WEIGHTS: [f64; 5] = [0.6, 0.15, 0.1, 0.1, 0.05];

/// A word problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The prompt.
    pub question: String,
    /// The worked solution, which ends with `#### ` and the number.
    pub solution: String,
}

/// An answer with what the reference sees in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The completion it is in.
    pub completion: Completion<'a>,
    /// The first number of the content without commas, or nothing.
    pub number: String,
    /// Whether the content is nothing but digits, dots, commas and a sign, spaces aside.
    pub is_numeric_only: bool,
}

impl Problem {
    fn from_row(row: &Row) -> Self {
        let (question, solution) = (text_of(row, "question"), text_of(row, "answer"));
        Self { question: question.to_owned(), solution: solution.to_owned() }
    }

    /// Returns what an answer is worth.
    pub fn assess(&self, answer: &Answer<'_>) -> Assessment {
        let is_right = !answer.number.is_empty()
            && normalized(&answer.number) == normalized(&gold(&self.solution));
        let is_strict = answer.is_numeric_only && answer.completion.answers_within(1);
        let components = [
            one_if(is_right),
            if is_strict { 0.3 } else { 0.0 },
            answer.completion.thinking_reward(),
            if answer.completion.solution.is_some() { 0.3 } else { 0.0 },
            answer.completion.no_trailing_reward(),
        ];
        Assessment::added(WEIGHTS, components, is_right)
    }
}

impl<'a> Answer<'a> {
    /// Reads a completion.
    pub fn read(mode: ThinkingMode, text: &'a str) -> Self {
        let completion = Completion::parse(mode, text);
        let content = completion.answer();
        let number = numbers(content).next();
        let is_numeric_only = number.is_some() && is_numeric(content);
        let number = number.unwrap_or_default().replace(',', "");
        Self { completion, number, is_numeric_only }
    }
}

/// Loads the problems of a split: `train`, `val` or `test`.
///
/// # Errors
/// When the split or its rows are not there.
pub fn load(rows: &Rows, split: &str) -> Result<Source<Problem>, BadRows> {
    let part = match split {
        "train" | "val" => "train",
        "test" => "test",
        _ => return Err(BadRows::unknown_split(split, "train, val, test")),
    };
    let problems: Vec<Problem> = rows.needed(part)?.iter().map(Problem::from_row).collect();
    if split == "test" {
        return Source::new(split, problems, Spread::Scaled);
    }
    let (train, validation) = split::hold_out(&mut split::generator(), problems, N_VALIDATION);
    if validation.len() < N_VALIDATION {
        return Err(BadRows::TooFew { part: part.to_owned(), needed: N_VALIDATION });
    }
    Source::new(split, if split == "train" { train } else { validation }, Spread::Scaled)
}

/// Returns the gold answer of a worked solution: after the last `####`, else the last number, else
/// the last line.
pub fn gold(solution: &str) -> String {
    if let Some(marked) = last_marked(solution) {
        return strip(marked).to_owned();
    }
    if let Some(number) = numbers(solution).last() {
        return number.replace(',', "");
    }
    let lines = strip(solution).rsplit(is_line_break);
    strip(lines.into_iter().next().unwrap_or_default()).to_owned()
}

/// Returns the last match of `####\s*(.+)`, of its group: to the end of the line that begins after
/// white space, which may hold line breaks.
fn last_marked(text: &str) -> Option<&str> {
    let mut last = None;
    let mut from = 0;
    while let Some(at) = text[from..].find("####") {
        let after = from + at + 4;
        let rest = text[after..].trim_start_matches(is_space);
        if rest.is_empty() {
            // White space to the end: the group takes some of it, unless there are only line feeds.
            let has_other = text[after..].chars().any(|c| c != '\n');
            return if has_other { Some("") } else { last };
        }
        let line = rest.split('\n').next().unwrap_or_default();
        last = Some(line);
        from = text.len() - rest.len() + line.len();
    }
    last
}

/// Returns the numbers of a text: a sign, digits, and digits after one dot or comma.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(|c| digit(c).is_some())?;
        let sign = rest[..start].ends_with(['+', '-']);
        let from_digits = &rest[start..];
        let mut end = digits_end(from_digits);
        if let Some(fraction) = from_digits[end..].strip_prefix(['.', ',']) {
            let n_digits = digits_end(fraction);
            end += if n_digits > 0 { 1 + n_digits } else { 0 };
        }
        let number = &rest[start - usize::from(sign)..start + end];
        rest = &from_digits[end..];
        Some(number)
    })
}

fn digits_end(text: &str) -> usize {
    text.find(|c| digit(c).is_none()).unwrap_or(text.len())
}

/// Matches `^[-+]?[\d.,]+$` after removing spaces. The content is stripped, so it ends with no line
/// feed.
fn is_numeric(content: &str) -> bool {
    let mut rest = content.chars().filter(|&c| c != ' ').peekable();
    rest.next_if(|&c| c == '-' || c == '+');
    rest.peek().is_some() && rest.all(|c| digit(c).is_some() || c == '.' || c == ',')
}

/// Returns the text that is compared.
fn normalized(text: &str) -> String {
    strip(text).to_lowercase().trim_end_matches(|c| is_space(c) || c == '.').to_owned()
}

/// Returns whether `str.splitlines` breaks lines at the character.
fn is_line_break(c: char) -> bool {
    matches!(
        c,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

impl Problems for Source<Problem> {
    fn question(&self, seed: u64) -> String {
        self.of_seed(seed).question.clone()
    }

    fn assess(
        &self,
        mode: ThinkingMode,
        seed: u64,
        completion: &str,
    ) -> Result<Assessment, Unevaluated> {
        Ok(self.of_seed(seed).assess(&Answer::read(mode, completion)))
    }

    fn solution(&self, seed: u64) -> Option<String> {
        let gold = gold(&self.of_seed(seed).solution);
        // A gold with a comma, or none that is a number, cannot be met.
        let is_met = is_numeric(&gold) && numbers(&gold).next() == Some(gold.as_str());
        (is_met && !gold.contains(',')).then_some(gold)
    }
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;
    use proptest::prelude::*;

    use super::super::tests::{assert_assessed, mode};
    use super::*;

    #[test]
    fn gold_answers_are_the_references() {
        vectors::every_entry("gsm8k", "rewards.json", "gold", 11, |entry| {
            let text = vectors::text(&entry["golden_text"]);
            assert_eq!(gold(text), vectors::text(&entry["parsed_gold"]), "{text}");
        });
        for (text, want) in [
            ("####\n 5\n6", "5"),
            ("#####7", "#7"),
            ("#### 1\n####\n\n", "1"),
            ("#### 1\n#### \n", ""),
            ("one\u{2028}two\u{85} ", "two"),
            ("of 1,234,567 and -2.5.", "-2.5"),
            ("1,234", "1234"),
        ] {
            assert_eq!(gold(text), want, "{text:?}");
        }
    }

    #[test]
    fn rewards_are_the_references() {
        vectors::every_case("gsm8k", "rewards.json", |case| {
            let solution = vectors::text(&case["answer"]).to_owned();
            assert_eq!(gold(&solution), vectors::text(&case["gold_answer"]));
            let problem = Problem { question: String::new(), solution };
            let answer = Answer::read(mode(case), vectors::text(&case["completion"]));
            assert_assessed(&problem.assess(&answer), case);

            let parsed = &case["parsed"];
            assert_eq!(answer.number, parsed["answer_text"]);
            assert_eq!(case["pred_answer"], parsed["answer_text"]);
            assert_eq!(answer.is_numeric_only, parsed["is_numeric_only"]);
            assert_eq!(answer.completion.has_thinking, parsed["has_thinking"]);
            assert_eq!(answer.completion.solution.is_some(), parsed["has_answer"]);
            let trailing = answer.completion.solution.map_or(0, |solution| solution.trailing);
            assert_eq!(trailing, vectors::size(&parsed["trailing_after_answer"]));
        });
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(#|\\d|[.,+ -]|\n|٣|é|\u{2028}){0,40}") {
            let _ = gold(&text);
            let text = format!("<SOLUTION>{text}</SOLUTION>");
            let answer = Answer::read(ThinkingMode::Native, &text);
            prop_assert!(!answer.number.contains(','));
        }

        #[test]
        fn a_gold_number_is_met(number in "-?[0-9]{1,9}") {
            let problem =
                Problem { question: String::new(), solution: format!("so\n#### {number}") };
            let text = format!("</think><SOLUTION> {number} </SOLUTION>");
            let assessed = problem.assess(&Answer::read(ThinkingMode::Native, &text));
            prop_assert!(assessed.success);
            prop_assert!((assessed.reward - 0.735).abs() < 1e-12);
        }
    }
}
