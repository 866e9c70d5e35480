//! The reference's `math`: competition problems whose answer is an expression.
//!
//! Answers are equal as normalised text, as expressions, or as floats. The reference lets a computer
//! algebra system evaluate the text, which runs whatever a stranger writes; here a bounded subset of
//! algebra is computed instead ([`algebra`]) and nothing is run.

pub mod algebra;
mod float;
mod normal;

use super::assessment::{Assessment, one_if};
use super::completion::Completion;
use super::problems::{Problems, Unevaluated};
use super::rows::{BadRows, Row, Rows, text_of};
use super::split;
use super::tasks::{Pick, Picked, Source, Spread};
use super::text::digit;
use super::thinking::ThinkingMode;
pub use normal::normalized;

/// Id of the environment.
pub const ID: &str = "math";

/// Parts of the data set, in the order that the split depends on.
pub const SUBSETS: [&str; 7] = [
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
];

/// Number of training rows held out for validation, over all subsets.
const N_VALIDATION: usize = 500;

/// An answer followed by fewer code points than this is well-formed.
const TRAILING_LIMIT: usize = 50;

/// Floats nearer than this are equal.
const FLOAT_TOLERANCE: f64 = 1e-6;

/// Weights of correctness, form, thinking, nothing trailing.
const WEIGHTS: [f64; 4] = [0.7, 0.15, 0.1, 0.05];

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The prompt.
    pub question: String,
    /// The gold answer, or nothing.
    pub answer: String,
    /// The subset's name as its rows spell it.
    pub subject: String,
    /// How hard it is, 1 to 5; 0 where the row does not say.
    pub level: u64,
}

impl Problem {
    fn from_row(row: &Row) -> Self {
        Self {
            question: text_of(row, "problem").to_owned(),
            answer: first_boxed(text_of(row, "solution")).to_owned(),
            subject: text_of(row, "type").to_owned(),
            level: first_number(text_of(row, "level")),
        }
    }
}

/// Returns what a completion is worth where `gold` is the answer.
pub fn assess(mode: ThinkingMode, text: &str, gold: &str) -> Assessment {
    let completion = Completion::parse(mode, text);
    let is_right = are_equal(completion.answer(), gold);
    let components = [
        one_if(is_right),
        if completion.answers_within(TRAILING_LIMIT) { 0.3 } else { 0.0 },
        completion.thinking_reward(),
        completion.no_trailing_reward(),
    ];
    Assessment::added(WEIGHTS, components, is_right)
}

/// Returns whether two answers are equal: as text, as expressions or as floats. Nothing equals an
/// empty answer.
pub fn are_equal(predicted: &str, gold: &str) -> bool {
    if predicted.is_empty() || gold.is_empty() {
        return false;
    }
    let (predicted, gold) = (normalized(predicted), normalized(gold));
    predicted == gold
        || algebra::are_equal(&predicted, &gold)
        || match (float::parse(&predicted), float::parse(&gold)) {
            (Some(predicted), Some(gold)) => (predicted - gold).abs() < FLOAT_TOLERANCE,
            _ => false,
        }
}

/// Returns the content of the first `\boxed{...}`, or nothing if there is none or it does not close.
pub fn first_boxed(solution: &str) -> &str {
    solution.find(BOX).and_then(|at| boxed_at(solution, at)).unwrap_or_default()
}

/// Returns the content of the last `\boxed{...}`, if it closes. The reference falls back on it for data
/// sets whose rows carry no answer; MATH's do.
pub fn last_boxed(solution: &str) -> Option<&str> {
    boxed_at(solution, solution.rfind(BOX)?)
}

const BOX: &str = "\\boxed{";

fn boxed_at(text: &str, at: usize) -> Option<&str> {
    let content = &text[at + BOX.len()..];
    let mut depth = 1usize;
    let end = content.find(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    })?;
    Some(&content[..end])
}

/// Returns the first number in a text, or 0.
fn first_number(text: &str) -> u64 {
    let digits = text.chars().map(digit).skip_while(Option::is_none).map_while(|digit| digit);
    digits.fold(0, |high: u64, digit| high.saturating_mul(10).saturating_add(digit.into()))
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
    let mut subsets: Vec<Vec<Problem>> = Vec::with_capacity(SUBSETS.len());
    for subset in SUBSETS {
        let rows = rows.needed(&format!("{subset}/{part}"))?;
        subsets.push(rows.iter().map(Problem::from_row).collect());
    }
    if split == "test" {
        return Source::new(split, subsets.concat(), Spread::Scaled);
    }
    let (train, validation) = hold_out(subsets);
    if validation.len() < N_VALIDATION {
        return Err(BadRows::TooFew { part: part.to_owned(), needed: N_VALIDATION });
    }
    Source::new(split, if split == "train" { train } else { validation }, Spread::Scaled)
}

/// Holds out rows of each subset in proportion to its size; the last takes what remains.
fn hold_out(subsets: Vec<Vec<Problem>>) -> (Vec<Problem>, Vec<Problem>) {
    let total: usize = subsets.iter().map(Vec::len).sum();
    let last = subsets.len() - 1;
    let mut remaining = N_VALIDATION;
    let mut rng = split::generator();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (position, subset) in subsets.into_iter().enumerate() {
        let share = N_VALIDATION as f64 * (subset.len() as f64 / total as f64);
        // Python rounds halves to even.
        let proportional = (share.round_ties_even() as usize).min(subset.len()).min(remaining);
        let n_held_out = if position == last { remaining } else { proportional };
        let (kept, held_out) = split::hold_out(&mut rng, subset, n_held_out);
        remaining -= n_held_out;
        train.extend(kept);
        validation.extend(held_out);
    }
    (train, validation)
}

/// Picks a problem among those of a level and a subject, where they are given. Training only.
///
/// Returns nothing when there are none.
pub fn pick(
    source: &Source<Problem>,
    pick: Pick<'_>,
    level: Option<u64>,
    subject: Option<&str>,
) -> Option<Picked> {
    let is_wanted = |problem: &Problem| {
        level.is_none_or(|level| problem.level == level)
            && subject.is_none_or(|subject| problem.subject == subject)
    };
    let problems = source.tasks().iter().enumerate();
    let rows: Vec<usize> =
        problems.filter(|(_, problem)| is_wanted(problem)).map(|(row, _)| row).collect();
    source.pick_among(pick, &rows)
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
        Ok(assess(mode, completion, &self.of_seed(seed).answer))
    }

    fn solution(&self, seed: u64) -> Option<String> {
        let answer = &self.of_seed(seed).answer;
        (!answer.is_empty()).then(|| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;
    use proptest::prelude::*;

    use super::super::tests::{assert_assessed, mode};
    use super::*;

    #[test]
    fn boxed_answers_are_the_references() {
        vectors::every_entry("math", "rewards.json", "boxed", 9, |entry| {
            let text = vectors::text(&entry["text"]);
            assert_eq!(first_boxed(text), vectors::text(&entry["first_boxed_provider"]), "{text}");
            assert_eq!(last_boxed(text), entry["last_boxed"].as_str(), "{text}");
        });
        assert_eq!(first_boxed("\\boxed{a \\boxed{b}"), "");
        assert_eq!(
            (first_number("Level 3"), first_number("Level ?"), first_number("1٢")),
            (3, 0, 12)
        );
    }

    /// How many judgements there were, and those where the reference finds answers equal that are not
    /// equal here. The other way round there must be none.
    #[derive(Default)]
    struct Agreement {
        n_judged: usize,
        stricter: Vec<String>,
    }

    impl Agreement {
        /// Share of another set's pairs that must be judged alike. What lies outside the subset of
        /// algebra is not equal here; `docs/compatibility-environments.md` lists the classes.
        const LEAST: f64 = 0.97;

        /// Counts a judgement; returns whether it is the reference's.
        fn count(&mut self, predicted: &str, gold: &str, want: bool) -> bool {
            let got = are_equal(predicted, gold);
            assert!(want || !got, "equal here only: {predicted:?} and {gold:?}");
            self.n_judged += 1;
            if got != want {
                self.stricter.push(format!("{predicted:?} and {gold:?}"));
            }
            got == want
        }

        /// This project's own set has no pair outside the subset.
        fn check(&self) {
            println!("{} of {} judged stricter:", self.stricter.len(), self.n_judged);
            self.stricter.iter().for_each(|pair| println!("  {pair}"));
            let least = if vectors::is_own() { 1.0 } else { Self::LEAST };
            let n_alike = self.n_judged - self.stricter.len();
            assert!(n_alike as f64 >= least * self.n_judged as f64, "{:#?}", self.stricter);
        }
    }

    #[test]
    fn equality_is_the_references() {
        let mut agreement = Agreement::default();
        vectors::every_entry("math", "rewards.json", "equality", 55, |entry| {
            let (predicted, gold) =
                (vectors::text(&entry["predicted"]), vectors::text(&entry["gold"]));
            assert_eq!(normalized(predicted), vectors::text(&entry["norm_predicted"]), "{entry}");
            assert_eq!(normalized(gold), vectors::text(&entry["norm_gold"]), "{entry}");
            agreement.count(predicted, gold, entry["equal"] == true);
        });
        agreement.check();
    }

    #[test]
    fn rewards_are_the_references() {
        let mut agreement = Agreement::default();
        vectors::every_case("math", "rewards.json", |case| {
            let (text, gold) = (vectors::text(&case["completion"]), vectors::text(&case["gold"]));
            let answer = Completion::parse(mode(case), text).answer();
            assert_eq!(answer, vectors::text(&case["pred_answer"]), "{case}");
            if agreement.count(answer, gold, case["success"] == true) {
                assert_assessed(&assess(mode(case), text, gold), case);
            }
        });
        agreement.check();
    }

    proptest! {
        #[test]
        fn an_answer_equals_itself_and_nothing_panics(
            a in "(\\d|x|[-+*/^!().,_e{}\\\\]|sqrt|pi|frac|\\PC){1,24}",
            b in "(\\d|x|[-+*/^!().,_e{}\\\\]|sqrt|pi|frac|\\PC){1,24}",
        ) {
            prop_assert!(are_equal(&a, &a));
            prop_assert_eq!(are_equal(&a, &b), are_equal(&b, &a));
        }
    }
}
