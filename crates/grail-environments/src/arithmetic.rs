//! Sums and differences of small numbers: the smallest problem that a model can visibly learn.
//!
//! The prompt asks for the number only. The last number of the answer counts (see `number.rs` for
//! what a number is): reward 1 if it is the result, plus 0.1 if the answer is that or any other
//! integer in plain decimal form and nothing else, not even white space.
//!
//! With `worked` it asks for every step: `That is 4 + 1 - 5 = 5 - 5 = 0`. Such answers are long enough
//! for profiles that challenge a number of tokens. The last number counts again, and the 0.1 are for
//! an answer that begins with these very steps.

use std::fmt;

use grail_ports::environment::{ChatMessage, ChatRole, Environment, EnvironmentError, Evaluation};
use serde::{Deserialize, Serialize};

use crate::rng::SplitMix64;
use crate::{evaluation, number, split};

/// Id of the environment.
pub const ID: &str = "arithmetic";

/// Fewest and most terms.
const TERMS: std::ops::RangeInclusive<u32> = 2..=4;
/// Least and greatest bound of the operands. A smaller one leaves too few problems to hold some out.
const OPERAND_MAX: std::ops::RangeInclusive<u32> = 5..=9_999;

/// Which problems are drawn. Field order is that of the canonical JSON: sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Params {
    /// Largest operand, 5 to 9,999; the smallest is 1.
    pub operand_max: u32,
    /// Most terms, 2 to 4.
    pub terms_max: u32,
    /// Fewest terms, 2 to `terms_max`.
    pub terms_min: u32,
    /// Whether the answer is to show its steps. Left out of the JSON where it is not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub worked: bool,
}

/// Parameters that give no problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// The JSON does not have the fields of the parameters.
    #[error("{0}; the fields are difficulty, or operand_max, terms_min and terms_max, and worked")]
    Json(String),
    /// A difficulty together with what it stands for.
    #[error("give either difficulty or operand_max, terms_min and terms_max, not both")]
    Both,
    /// No such difficulty.
    #[error("difficulty {0} must be 1 to {max}", max = DIFFICULTIES.len())]
    Difficulty(u32),
    /// A bound that is too low or too high.
    #[error("operand_max {0} must be {low} to {high}",
        low = OPERAND_MAX.start(), high = OPERAND_MAX.end())]
    Operands(u32),
    /// A number of terms that is too low, too high or the wrong way round.
    #[error("terms_min {min} and terms_max {max} must be {low} to {high}, in this order",
        low = TERMS.start(), high = TERMS.end())]
    Terms {
        /// Fewest terms.
        min: u32,
        /// Most terms.
        max: u32,
    },
}

/// Parameters of difficulty 1, 2, ….
const DIFFICULTIES: [Params; 5] = [
    Params { operand_max: 9, terms_max: 2, terms_min: 2, worked: false },
    Params { operand_max: 20, terms_max: 2, terms_min: 2, worked: false },
    Params { operand_max: 20, terms_max: 3, terms_min: 2, worked: false },
    Params { operand_max: 50, terms_max: 4, terms_min: 2, worked: false },
    Params { operand_max: 999, terms_max: 4, terms_min: 3, worked: false },
];

impl Default for Params {
    /// Difficulty 3, the first with more than 200 problems to hold out.
    fn default() -> Self {
        DIFFICULTIES[2]
    }
}

impl Params {
    /// Reads parameters: `{"difficulty": 1 to 5}`, or any of its fields, the rest at the default; and
    /// `worked` with either.
    ///
    /// # Errors
    /// When the text is not such an object or a value is out of range.
    pub fn from_json(text: &str) -> Result<Self, BadParams> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            difficulty: Option<u32>,
            operand_max: Option<u32>,
            terms_max: Option<u32>,
            terms_min: Option<u32>,
            #[serde(default)]
            worked: bool,
        }
        let fields: Fields =
            serde_json::from_str(text).map_err(|error| BadParams::Json(error.to_string()))?;
        let Fields { difficulty, operand_max, terms_max, terms_min, worked } = fields;
        let defaults = match difficulty {
            None => Self::default(),
            Some(_) if [operand_max, terms_max, terms_min].iter().any(Option::is_some) => {
                return Err(BadParams::Both);
            }
            Some(level) => *usize::try_from(level)
                .ok()
                .and_then(|level| DIFFICULTIES.get(level.checked_sub(1)?))
                .ok_or(BadParams::Difficulty(level))?,
        };
        Self {
            operand_max: operand_max.unwrap_or(defaults.operand_max),
            terms_max: terms_max.unwrap_or(defaults.terms_max),
            terms_min: terms_min.unwrap_or(defaults.terms_min),
            worked,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, BadParams> {
        let Self { operand_max, terms_max: max, terms_min: min, .. } = self;
        if !OPERAND_MAX.contains(&operand_max) {
            return Err(BadParams::Operands(operand_max));
        }
        if !(TERMS.contains(&min) && TERMS.contains(&max) && min <= max) {
            return Err(BadParams::Terms { min, max });
        }
        Ok(self)
    }
}

/// A sum of signed terms, of which the first is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    terms: Vec<i64>,
}

impl Problem {
    /// Draws the problem of `seed`: the number of terms, then each operand and, but for the first,
    /// its sign.
    fn of(params: &Params, seed: u64) -> Self {
        let draw = |rng: &mut SplitMix64| {
            let n_terms = rng.between(params.terms_min, params.terms_max);
            let term = |index| {
                let operand = i64::from(rng.between(1, params.operand_max));
                if index > 0 && rng.coin() { -operand } else { operand }
            };
            Self { terms: (0..n_terms).map(term).collect() }
        };
        split::draw(seed, draw, ToString::to_string)
    }

    fn answer(&self) -> i64 {
        self.terms.iter().sum()
    }

    /// Returns the statement with its first two terms added until one number is left.
    fn worked(&self) -> String {
        let mut text = format!("That is {self}");
        let mut rest = self.terms.clone();
        while let [first, second, ..] = rest[..] {
            rest.splice(..2, [first + second]);
            text.push_str(&format!(" = {}", Self { terms: rest.clone() }));
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            match (index, *term < 0) {
                // Negative only where terms were added already.
                (0, _) => write!(f, "{term}")?,
                (_, true) => write!(f, " - {}", -term)?,
                (_, false) => write!(f, " + {term}")?,
            }
        }
        Ok(())
    }
}

/// The environment `arithmetic`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arithmetic {
    params: Params,
}

impl Arithmetic {
    /// Makes the environment.
    ///
    /// # Errors
    /// When a parameter is out of range.
    pub fn new(params: Params) -> Result<Self, BadParams> {
        Ok(Self { params: params.checked()? })
    }

    /// Makes the environment with the parameters of [`Params::from_json`].
    ///
    /// # Errors
    /// As [`Params::from_json`].
    pub fn from_json(params: &str) -> Result<Self, BadParams> {
        Self::new(Params::from_json(params)?)
    }
}

impl Environment for Arithmetic {
    fn id(&self) -> &str {
        ID
    }

    fn params_json(&self) -> String {
        serde_json::to_string(&self.params).expect("numbers and a flag are always JSON")
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        let problem = Problem::of(&self.params, seed);
        let what = if self.params.worked { "every step" } else { "the number only" };
        let content = format!("What is {problem}? Answer with {what}.");
        vec![ChatMessage { role: ChatRole::User, content }]
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        let problem = Problem::of(&self.params, seed);
        let is_correct = number::last_integer(completion) == Some(problem.answer());
        let is_in_form = match self.params.worked {
            true => completion.starts_with(&problem.worked()),
            false => number::is_canonical_integer(completion),
        };
        Ok(evaluation(is_correct, is_in_form))
    }

    fn solve(&self, seed: u64) -> Option<String> {
        let problem = Problem::of(&self.params, seed);
        Some(if self.params.worked { problem.worked() } else { problem.answer().to_string() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use grail_testkit::contract;
    use proptest::prelude::*;

    use super::*;
    use crate::split::held_out_seed;

    fn environment(params: &str) -> Arithmetic {
        Arithmetic::from_json(params).unwrap()
    }

    #[test]
    fn every_difficulty_passes_the_contract() {
        for level in 1..=DIFFICULTIES.len() {
            for worked in [false, true] {
                let params = format!(r#"{{"difficulty":{level},"worked":{worked}}}"#);
                let environment = environment(&params);
                contract::environment(&environment, 0..20);
                contract::environment(&environment, (0..20).map(|index| held_out_seed(1, index)));
            }
        }
    }

    #[test]
    fn problems_are_fixed_for_ever() {
        let hard = environment(r#"{"difficulty":4}"#);
        for (seed, want) in GOLDEN {
            let messages = hard.prompt(seed);
            let asked = format!("What is {want}? Answer with the number only.");
            assert_eq!(messages, [ChatMessage { role: ChatRole::User, content: asked }]);
        }
    }

    /// Made by an independent implementation of `rng`, `split` and the order of draws.
    const GOLDEN: [(u64, &str); 5] = [
        (0, "1 - 30 + 48"),
        (1, "20 + 41 - 12 - 46"),
        (u64::MAX, "20 + 2 - 7 + 16"),
        (0x0123_4567_89ab_cdef, "44 - 17"),
        (0xe7a1_5eed_a5f2_8424, "12 - 13 - 26 + 8"),
    ];

    #[test]
    fn parameters_have_one_canonical_form() {
        for (given, want) in [
            ("{}", r#"{"operand_max":20,"terms_max":3,"terms_min":2}"#),
            (r#"{"difficulty":2}"#, r#"{"operand_max":20,"terms_max":2,"terms_min":2}"#),
            (r#" {"terms_max": 4} "#, r#"{"operand_max":20,"terms_max":4,"terms_min":2}"#),
            (
                r#"{"worked":true,"difficulty":1}"#,
                r#"{"operand_max":9,"terms_max":2,"terms_min":2,"worked":true}"#,
            ),
            (r#"{"worked":false}"#, r#"{"operand_max":20,"terms_max":3,"terms_min":2}"#),
            (
                r#"{"terms_min":4,"operand_max":9999,"terms_max":4}"#,
                r#"{"operand_max":9999,"terms_max":4,"terms_min":4}"#,
            ),
        ] {
            let canonical = environment(given).params_json();
            assert_eq!(canonical, want);
            assert_eq!(environment(&canonical).params_json(), canonical);
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        for (given, part) in [
            ("", "EOF"),
            ("[]", "fields"),
            ("7", "fields"),
            ("null", "fields"),
            (r#"{"operands":5}"#, "unknown field `operands`"),
            (r#"{"operand_max":-1}"#, "invalid value"),
            (r#"{"operand_max":4}"#, "operand_max 4 must be 5 to 9999"),
            (r#"{"operand_max":10000}"#, "operand_max 10000 must be"),
            (r#"{"operand_max":5,"operand_max":6}"#, "duplicate field"),
            (r#"{"terms_min":4}"#, "terms_min 4 and terms_max 3 must be 2 to 4"),
            (r#"{"terms_max":5}"#, "must be 2 to 4"),
            (r#"{"terms_min":1}"#, "must be 2 to 4"),
            (r#"{"difficulty":0}"#, "difficulty 0 must be 1 to 5"),
            (r#"{"difficulty":6}"#, "difficulty 6 must be 1 to 5"),
            (r#"{"difficulty":1,"terms_max":3}"#, "not both"),
            (r#"{"worked":1}"#, "expected a boolean"),
        ] {
            let error = Params::from_json(given).unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
    }

    #[test]
    fn being_right_and_being_brief_both_pay() {
        let environment = environment("{}");
        let answer: i64 = environment.solve(9).unwrap().parse().unwrap();
        let wrong = answer + 1;
        for (completion, reward, success) in [
            (format!("{answer}"), 1.1, true),
            (format!("{answer}\n"), 1.0, true),
            (format!(" {answer}."), 1.0, true),
            (format!("It is {answer}."), 1.0, true),
            (format!("{wrong}, no: {answer}"), 1.0, true),
            (format!("{wrong}"), 0.1, false),
            (format!("{wrong} "), 0.0, false),
            (format!("{answer} {wrong}"), 0.0, false),
            (format!("{answer}0"), 0.1, false),
            (format!("{answer}.5"), 0.0, false),
            ((-500..500).map(|n| format!("{n} ")).collect(), 0.0, false),
            ((-500..500).map(|n| format!("{n},")).collect(), 0.0, false),
            (String::new(), 0.0, false),
            ("forty-two".to_owned(), 0.0, false),
        ] {
            let got = environment.evaluate(9, &completion).unwrap();
            assert_eq!(got, Evaluation { reward, success }, "{completion} for {answer}");
        }
    }

    #[test]
    fn the_steps_are_those_of_the_problem_and_pay_when_they_are_right() {
        let worked = |terms: &[i64]| Problem { terms: terms.to_vec() }.worked();
        assert_eq!(worked(&[4, -9, 5]), "That is 4 - 9 + 5 = -5 + 5 = 0");
        assert_eq!(worked(&[20, 12]), "That is 20 + 12 = 32");
        let environment = environment(r#"{"difficulty":4,"worked":true}"#);
        let hard = self::environment(r#"{"difficulty":4}"#);
        assert!(environment.prompt(1)[0].content.ends_with("46? Answer with every step."));
        let (steps, answer) = (environment.solve(1).unwrap(), hard.solve(1).unwrap());
        assert_eq!(steps, "That is 20 + 41 - 12 - 46 = 61 - 12 - 46 = 49 - 46 = 3");
        for (completion, reward, success) in [
            (steps.clone(), 1.1, true),
            (format!("{steps}<|im_end|>"), 1.1, true),
            (answer.clone(), 1.0, true),
            (format!("That is 20 + 41 = 62 = {answer}"), 1.0, true),
            (format!("{steps} or 4"), 0.1, false),
            (format!("{steps}0"), 0.1, false),
            (steps.replace(" = 3", " = 4"), 0.0, false),
            (String::new(), 0.0, false),
        ] {
            let got = environment.evaluate(1, &completion).unwrap();
            assert_eq!(got, Evaluation { reward, success }, "{completion}");
        }
    }

    #[test]
    fn operands_signs_and_lengths_are_not_biased() {
        let params = Params { operand_max: 20, terms_max: 4, terms_min: 2, worked: false };
        let (mut lengths, mut operands, mut negative, mut signed) = ([0u32; 5], [0u32; 21], 0, 0);
        for seed in 0..20_000 {
            let Problem { terms } = Problem::of(&params, seed);
            lengths[terms.len()] += 1;
            assert!(terms[0] > 0);
            for term in &terms {
                operands[usize::try_from(term.abs()).unwrap()] += 1;
            }
            signed += terms.len() - 1;
            negative += terms[1..].iter().filter(|term| **term < 0).count();
        }
        let chi_square = |counts: &[u32]| -> f64 {
            let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
            counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
        };
        // The held-out eighth is missing, which shifts short problems a little: hence generous
        // bounds, still far below what a lost sign or operand would give.
        assert!(chi_square(&lengths[2..]) < 40.0, "{lengths:?}");
        assert_eq!(operands[0], 0);
        assert!(chi_square(&operands[1..]) < 80.0, "{operands:?}");
        let share = negative as f64 / signed as f64;
        assert!((share - 0.5).abs() < 0.01, "{share}");
    }

    #[test]
    fn training_never_shows_a_held_out_problem() {
        for params in ["{}", r#"{"operand_max":5}"#, r#"{"difficulty":1}"#] {
            let environment = environment(params);
            let problem = |seed| environment.prompt(seed)[0].content.clone();
            let training: BTreeSet<String> = (0..5_000).map(problem).collect();
            let held_out: BTreeSet<String> =
                (0..500).map(|index| problem(held_out_seed(3, index))).collect();
            assert_eq!(training.intersection(&held_out).count(), 0, "{params}");
            assert!(held_out.len() >= 3, "{params}: {} held-out problems", held_out.len());
        }
    }

    #[test]
    fn negative_results_happen() {
        let mut signs = BTreeMap::new();
        for seed in 0..1_000 {
            let answer = Problem::of(&Params::default(), seed).answer();
            assert!((-39..=60).contains(&answer), "{answer}");
            *signs.entry(answer.signum()).or_insert(0) += 1;
        }
        assert!(signs[&-1] > 150 && signs[&1] > 500, "{signs:?}");
    }

    proptest! {
        #[test]
        fn any_seed_gives_a_problem_within_the_bounds(
            seed: u64, operand_max in OPERAND_MAX, terms_min in TERMS, more in 0u32..3,
        ) {
            let terms_max = (terms_min + more).min(4);
            let params = Params { operand_max, terms_max, terms_min, worked: false };
            let problem = Problem::of(&params.checked().unwrap(), seed);
            prop_assert!((params.terms_min..=params.terms_max)
                .contains(&u32::try_from(problem.terms.len()).unwrap()));
            prop_assert!(problem.terms.iter()
                .all(|term| (1..=i64::from(operand_max)).contains(&term.abs())));
            // The statement, read by other code, has the answer.
            let statement = problem.to_string().replace(" - ", " + -");
            let sum: i64 = statement.split(" + ").map(|term| term.parse::<i64>().unwrap()).sum();
            prop_assert_eq!(sum, problem.answer());
        }

        #[test]
        fn any_text_can_be_evaluated(seed: u64, text in any::<String>()) {
            let evaluation = Arithmetic::default().evaluate(seed, &text).unwrap();
            prop_assert!((0.0..=1.1).contains(&evaluation.reward));
        }
    }
}
