//! The reference's `sat`: 3-SAT formulas from a text seed, answered by bits.
//!
//! The end token is text to the reference, so an answer followed by one is not well-formed and never
//! right; peers agree on that. A formula need not be satisfiable.

use std::fmt::Write as _;

use grail_protocol::v5::python::random::Random;
use sha2::{Digest as _, Sha256};

use super::assessment::{Assessment, one_if};
use super::completion::{Completion, count};
use super::problems::{Problems, Unevaluated};
use super::text::is_space;
use super::thinking::{SOLUTION_CLOSE, SOLUTION_OPEN, ThinkingMode};

/// Id of the environment.
pub const ID: &str = "sat";

/// Seeds the formula when neither a seed nor a text is given.
const DEFAULT_SEED_TEXT: &str = "sat-default-seed";

/// Stands for the seed in the difficulty when only a text is given.
const DEFAULT_SEED: i128 = 12_345;

/// Fewest variables, and how many more the greatest difficulty allows.
const VARIABLES: (i64, f64) = (4, 11.0);

/// Fewest clauses, and how many more the greatest difficulty allows.
const CLAUSES: (i64, f64) = (5, 15.0);

/// Weights of correctness, strict form, soft form, shape, nothing trailing, characters.
const WEIGHTS: [f64; 6] = [1.0, 0.15, 0.10, 0.15, 0.10, 0.05];

/// A formula in conjunctive normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formula {
    /// What it was drawn from.
    pub seed_text: String,
    /// Number of variables; they are 1-based.
    pub n_variables: usize,
    /// Three variables a clause, negative where negated.
    pub clauses: Vec<[i64; 3]>,
}

/// An answer with what the reference sees in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The completion it is in.
    pub completion: Completion<'a>,
    /// Whether the content is nothing but white space, `0` and `1`.
    pub has_only_bits: bool,
    /// Whether the whole text has one pair of tags, nothing after it, and the right bits in it.
    pub is_strict: bool,
}

/// Returns how hard the problem of a seed is, 0.3 to 0.696.
pub fn difficulty(seed: i128) -> f64 {
    0.3 + seed.rem_euclid(100) as f64 / 250.0
}

impl Formula {
    /// Draws a formula of a difficulty from 0 to 1.
    pub fn draw(seed_text: &str, difficulty: f64) -> Self {
        let mut rng = Random::from_bytes(&Sha256::digest(seed_text));
        let mut between = |(low, span): (i64, f64)| {
            let hard = span * difficulty;
            rng.randint(low + (hard * 0.5) as i64, low + hard as i64)
        };
        let (n_variables, n_clauses) = (between(VARIABLES), between(CLAUSES));
        let n_variables = usize::try_from(n_variables).expect("4 and more are drawn");
        let clauses = (0..n_clauses)
            .map(|_| {
                // All three are chosen before the first sign is drawn.
                let variables = rng.sample(n_variables, 3);
                let mut literals = [0i64; 3];
                for (literal, index) in literals.iter_mut().zip(variables) {
                    let variable = i64::try_from(index).expect("at most 15 variables") + 1;
                    *literal = if rng.random() < 0.5 { -variable } else { variable };
                }
                literals
            })
            .collect();
        Self { seed_text: seed_text.to_owned(), n_variables, clauses }
    }

    /// Draws the problem of a seed, or of a text whose difficulty the seed sets.
    pub fn of_task(seed: Option<i128>, text: Option<&str>) -> Self {
        let seed_text = match (text, seed) {
            (Some(text), _) => text.to_owned(),
            (None, Some(seed)) => seed.to_string(),
            (None, None) => DEFAULT_SEED_TEXT.to_owned(),
        };
        Self::draw(&seed_text, difficulty(seed.unwrap_or(DEFAULT_SEED)))
    }

    /// Returns the formula as text.
    pub fn text(&self) -> String {
        let shown: String = self.seed_text.chars().take(8).collect();
        let n_variables = self.n_variables;
        let mut text =
            format!("SAT Problem (seed: {shown}...):\nVariables: {n_variables}\nClauses:\n");
        for clause in &self.clauses {
            let literals = clause.map(|literal| {
                let not = if literal < 0 { "NOT " } else { "" };
                format!("{not}x{}", literal.abs())
            });
            writeln!(text, "  ({})", literals.join(" OR "))
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Returns the user's message.
    pub fn prompt(&self) -> String {
        format!(
            "SAT Problem:\n{}\nProvide your final assignment between <SOLUTION></SOLUTION> as \
             space-separated 0/1 values for x1..xN (e.g., <SOLUTION>0 1 0 1</SOLUTION>).\n",
            self.text()
        )
    }

    /// Returns how many clauses an assignment satisfies; a variable that it lacks is false.
    pub fn n_satisfied(&self, assignment: &[bool]) -> usize {
        let is_true = |&literal: &i64| {
            let index = usize::try_from(literal.abs() - 1).expect("variables are 1-based");
            assignment.get(index).copied().unwrap_or(false) == (literal > 0)
        };
        self.clauses.iter().filter(|clause| clause.iter().any(is_true)).count()
    }

    /// Reads a completion as an answer to this formula.
    pub fn read<'a>(&self, mode: ThinkingMode, text: &'a str) -> Answer<'a> {
        let completion = Completion::parse(mode, text);
        let has_only_bits =
            completion.content().chars().all(|c| is_space(c) || c == '0' || c == '1');
        let mut answer = Answer { completion, has_only_bits, is_strict: false };
        answer.is_strict = self.is_well_formed(&answer)
            && count(text, SOLUTION_OPEN) == 1
            && count(text, SOLUTION_CLOSE) == 1;
        answer
    }

    fn is_well_formed(&self, answer: &Answer<'_>) -> bool {
        answer.completion.answers_within(1)
            && answer.has_only_bits
            && answer.bits().count() == self.n_variables
    }

    /// Returns the assignment in an answer: as many bits as there are, then false. Without content
    /// there is none.
    pub fn assignment(&self, answer: &Answer<'_>) -> Vec<bool> {
        if answer.completion.content().is_empty() {
            return Vec::new();
        }
        answer.bits().chain(std::iter::repeat(false)).take(self.n_variables).collect()
    }

    /// Returns what an answer is worth.
    pub fn assess(&self, answer: &Answer<'_>) -> Assessment {
        let is_well_formed = self.is_well_formed(answer);
        let is_satisfied = self.n_satisfied(&self.assignment(answer)) == self.clauses.len();
        let correctness = if is_well_formed { one_if(is_satisfied) } else { -0.2 };
        let has_answer = answer.completion.solution.is_some();
        let components = [
            correctness,
            if answer.is_strict { 0.3 } else { 0.0 },
            if has_answer { 0.2 } else { 0.0 },
            if answer.bits().count() == self.n_variables { 0.3 } else { 0.0 },
            answer.completion.no_trailing_reward(),
            if has_answer && answer.has_only_bits { 0.1 } else { 0.0 },
        ];
        Assessment::added(WEIGHTS, components, is_well_formed && is_satisfied)
    }

    /// Returns the first satisfying assignment, counting up from all false.
    fn solve(&self) -> Option<Vec<bool>> {
        (0u32..1 << self.n_variables)
            .map(|bits| (0..self.n_variables).map(|i| bits >> i & 1 == 1).collect::<Vec<_>>())
            .find(|assignment| self.n_satisfied(assignment) == self.clauses.len())
    }
}

impl<'a> Answer<'a> {
    fn bits(&self) -> impl Iterator<Item = bool> + use<'a> {
        self.completion.content().chars().filter_map(|c| match c {
            '0' => Some(false),
            '1' => Some(true),
            _ => None,
        })
    }
}

/// All formulas.
pub(super) struct Sat;

impl Problems for Sat {
    fn question(&self, seed: u64) -> String {
        Formula::of_task(Some(seed.into()), None).prompt()
    }

    fn assess(
        &self,
        mode: ThinkingMode,
        seed: u64,
        completion: &str,
    ) -> Result<Assessment, Unevaluated> {
        let formula = Formula::of_task(Some(seed.into()), None);
        Ok(formula.assess(&formula.read(mode, completion)))
    }

    fn solution(&self, seed: u64) -> Option<String> {
        let assignment = Formula::of_task(Some(seed.into()), None).solve()?;
        let bits: Vec<&str> = assignment.iter().map(|&bit| if bit { "1" } else { "0" }).collect();
        Some(bits.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use grail_testkit::vectors;
    use serde_json::Value;

    use super::super::tests::{assert_assessed, mode};
    use super::*;

    fn clauses(value: &Value) -> Vec<[i64; 3]> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn formulas_are_the_references() {
        vectors::every_case("sat", "generator.json", |case| {
            let want_difficulty = vectors::float(&case["difficulty"]);
            let formula = if let Some(args) = case.get("next_args") {
                let seed = args.get("seed").map(vectors::integer);
                let formula = Formula::of_task(seed, args["task_id"].as_str());
                assert_eq!(formula.seed_text, case["task_id"]);
                assert_eq!(difficulty(seed.unwrap_or(DEFAULT_SEED)), want_difficulty);
                formula
            } else {
                Formula::draw(vectors::text(&case["seed_material"]), want_difficulty)
            };
            assert_eq!(formula.n_variables, vectors::size(&case["num_vars"]));
            assert_eq!(formula.clauses, clauses(&case["clauses"]));
            if let Some(text) = case.get("text") {
                assert_eq!(formula.text(), vectors::text(text));
            }
        });
    }

    #[test]
    fn prompts_are_the_references() {
        vectors::every_case("sat", "problems.json", |case| {
            let seed = vectors::integer(&case["seed"]);
            let formula = Formula::of_task(Some(seed), None);
            assert_eq!(difficulty(seed), vectors::float(&case["difficulty"]));
            assert_eq!(formula.n_variables, vectors::size(&case["num_vars"]));
            assert_eq!(formula.clauses, clauses(&case["clauses"]));
            assert_eq!(formula.prompt(), vectors::text(&case["prompt"]));
            assert_eq!(formula.seed_text, vectors::text(&case["task_id"]));
        });
        vectors::every_case("sat", "problem_hashes.json", |case| {
            let formula = Formula::of_task(Some(vectors::integer(&case["seed"])), None);
            assert_eq!(formula.n_variables, vectors::size(&case["num_vars"]));
            assert_eq!(formula.clauses.len(), vectors::size(&case["num_clauses"]));
            let digest = Sha256::digest(formula.prompt());
            assert_eq!(digest[..], vectors::bytes(&case["prompt_sha256"]));
        });
    }

    #[test]
    fn rewards_are_the_references() {
        vectors::every_case("sat", "rewards.json", |case| {
            let formula = Formula::of_task(Some(vectors::integer(&case["seed"])), None);
            let answer = formula.read(mode(case), vectors::text(&case["completion"]));
            assert_assessed(&formula.assess(&answer), case);

            let parsed = &case["parsed"];
            let assignment = formula.assignment(&answer);
            assert_eq!(serde_json::to_value(&assignment).unwrap(), parsed["assignment"]);
            assert_eq!(case["assignment"], parsed["assignment"]);
            assert_eq!(answer.completion.content(), parsed["answer_text"]);
            assert_eq!(answer.completion.has_thinking, parsed["has_thinking"]);
            assert_eq!(answer.completion.solution.is_some(), parsed["has_answer"]);
            assert_eq!(answer.is_strict, parsed["strict_format_ok"]);
            assert_eq!(answer.has_only_bits, parsed["answer_has_only_bits_spaces"]);
            let trailing = answer.completion.solution.map_or(0, |solution| solution.trailing);
            assert_eq!(trailing, vectors::size(&parsed["trailing_after_answer"]));
            // The reference counts clauses only where there is an assignment.
            let n_satisfied =
                if assignment.is_empty() { 0 } else { formula.n_satisfied(&assignment) };
            assert_eq!(n_satisfied, vectors::size(&case["satisfied_clauses"]));
            assert_eq!(formula.clauses.len(), vectors::size(&case["total_clauses"]));
        });
    }

    #[test]
    fn the_bounds_are_the_references() {
        let bounds = vectors::load("sat", "bounds.json");
        assert_eq!(vectors::floats(&bounds["weights"]), WEIGHTS);
        let total = |parts| Assessment::added(WEIGHTS, parts, true).reward;
        let low = total([-0.2, 0.0, 0.0, 0.0, 0.0, 0.0]);
        let high = total([1.0, 0.3, 0.2, 0.3, 0.2, 0.1]);
        assert_eq!(vectors::floats(&bounds["bounds"]), [low, high]);
    }

    #[test]
    fn a_solved_formula_earns_the_most_and_an_end_token_ruins_it() {
        let mode = ThinkingMode::Instructed;
        let mut n_solved = 0;
        for seed in 0..100 {
            let Some(bits) = Sat.solution(seed) else { continue };
            let text = format!("</end_working_out><SOLUTION>{bits}</SOLUTION>");
            let assessed = Sat.assess(mode, seed, &text).unwrap();
            assert!(assessed.success && assessed.reward > 1.13, "seed {seed}: {assessed:?}");
            let ended = Sat.assess(mode, seed, &format!("{text}<|im_end|>")).unwrap();
            assert!(!ended.success && ended.reward < 0.0, "seed {seed}: {ended:?}");
            n_solved += 1;
        }
        assert!(n_solved > 50, "{n_solved} of 100 formulas are satisfiable");
    }
}
