//! 3-SAT: find an assignment that makes every clause true.
//!
//! Problems are drawn around a hidden assignment, so each has a solution; any solution is right.
//! The answer is read as `answer.rs` says: reward 1 if it assigns every variable and satisfies every
//! clause, plus 0.1 if it is exactly in the form `x1=0 x2=1 …` and nothing else. There is no reward
//! for a part of the clauses, which random answers would mostly earn.

mod answer;
mod formula;
mod solver;

use grail_ports::environment::{ChatMessage, ChatRole, Environment, EnvironmentError, Evaluation};
use serde::{Deserialize, Serialize};

use crate::{evaluation, split};
use formula::Formula;

/// Id of the environment.
pub const ID: &str = "sat";

/// Fewest and most variables.
const VARIABLES: std::ops::RangeInclusive<u32> = 3..=50;
/// Fewest and most clauses.
const CLAUSES: std::ops::RangeInclusive<u32> = 1..=250;

/// Which problems are drawn. Field order is that of the canonical JSON: sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Params {
    /// Number of clauses, 1 to 250. Problems are hardest at about 4.3 clauses a variable.
    pub clauses: u32,
    /// Number of variables, 3 to 50.
    pub variables: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self { clauses: 10, variables: 4 }
    }
}

/// Parameters that give no problems.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadParams {
    /// The JSON does not have the fields of the parameters.
    #[error("{0}; the fields are variables and clauses")]
    Json(String),
    /// Too few or too many variables.
    #[error("variables {0} must be {low} to {high}",
        low = VARIABLES.start(), high = VARIABLES.end())]
    Variables(u32),
    /// Too few or too many clauses.
    #[error("clauses {0} must be {low} to {high}",
        low = CLAUSES.start(), high = CLAUSES.end())]
    Clauses(u32),
}

impl Params {
    /// Reads parameters: an object with any of the fields, the rest at the default.
    ///
    /// # Errors
    /// When the text is not such an object or a value is out of range.
    pub fn from_json(text: &str) -> Result<Self, BadParams> {
        let params: Self =
            serde_json::from_str(text).map_err(|error| BadParams::Json(error.to_string()))?;
        params.checked()
    }

    fn checked(self) -> Result<Self, BadParams> {
        if !VARIABLES.contains(&self.variables) {
            return Err(BadParams::Variables(self.variables));
        }
        if !CLAUSES.contains(&self.clauses) {
            return Err(BadParams::Clauses(self.clauses));
        }
        Ok(self)
    }
}

/// The environment `sat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sat {
    params: Params,
}

impl Sat {
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

    fn formula(&self, seed: u64) -> Formula {
        let Params { clauses, variables } = self.params;
        split::draw(seed, |rng| Formula::draw(rng, variables, clauses), ToString::to_string)
    }
}

impl Environment for Sat {
    fn id(&self) -> &str {
        ID
    }

    fn params_json(&self) -> String {
        serde_json::to_string(&self.params).expect("two numbers are always JSON")
    }

    fn prompt(&self, seed: u64) -> Vec<ChatMessage> {
        let formula = self.formula(seed);
        let content = format!(
            "Give each of x1 to x{} the value 0 or 1 so that every line holds:\n{formula}\
             Answer only with all values, written as x1=0 x2=1 and so on.",
            self.params.variables,
        );
        vec![ChatMessage { role: ChatRole::User, content }]
    }

    fn evaluate(&self, seed: u64, completion: &str) -> Result<Evaluation, EnvironmentError> {
        let n_variables = usize::try_from(self.params.variables).expect("at most 50");
        let assignment = answer::parse(completion, n_variables);
        let is_exact =
            assignment.as_deref().is_some_and(|values| answer::is_exact(completion, values));
        let formula = self.formula(seed);
        let is_correct = assignment.is_some_and(|values| formula.is_satisfied_by(&values));
        Ok(evaluation(is_correct, is_exact))
    }

    fn solve(&self, seed: u64) -> Option<String> {
        solver::solve(&self.formula(seed)).map(|values| answer::write(&values))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use grail_testkit::contract;
    use proptest::prelude::*;

    use super::*;
    use crate::split::held_out_seed;

    fn environment(params: &str) -> Sat {
        Sat::from_json(params).unwrap()
    }

    #[test]
    fn small_and_large_problems_pass_the_contract() {
        for params in [
            "{}",
            r#"{"variables":3,"clauses":1}"#,
            r#"{"variables":8,"clauses":34}"#,
            r#"{"variables":20,"clauses":85}"#,
        ] {
            contract::environment(&environment(params), 0..20);
            let held_out = (0..5).map(|index| held_out_seed(1, index));
            contract::environment(&environment(params), held_out);
        }
        contract::environment(&environment(r#"{"variables":50,"clauses":213}"#), 0..2);
        contract::environment(&environment(r#"{"variables":50,"clauses":250}"#), 0..2);
    }

    #[test]
    fn problems_are_fixed_for_ever() {
        let environment = environment(r#"{"variables":5,"clauses":4}"#);
        for (seed, clauses) in GOLDEN {
            let content = format!(
                "Give each of x1 to x5 the value 0 or 1 so that every line holds:\n{clauses}\n\
                 Answer only with all values, written as x1=0 x2=1 and so on."
            );
            assert_eq!(environment.prompt(seed), [ChatMessage { role: ChatRole::User, content }]);
        }
    }

    /// Made by an independent implementation of `rng`, `split` and the order of draws.
    const GOLDEN: [(u64, &str); 2] = [
        (
            0,
            "not x2 or not x1 or not x5\nx3 or x1 or not x4\nnot x2 or x1 or not x3\n\
             x1 or not x5 or x2",
        ),
        (
            u64::MAX,
            "x1 or not x2 or not x3\nx3 or not x1 or x2\nnot x2 or not x4 or not x3\n\
             not x2 or x4 or not x3",
        ),
    ];

    #[test]
    fn parameters_have_one_canonical_form_and_bad_ones_are_refused() {
        for (given, want) in [
            ("{}", r#"{"clauses":10,"variables":4}"#),
            (r#"{ "variables" : 7 }"#, r#"{"clauses":10,"variables":7}"#),
            (r#"{"variables":50,"clauses":250}"#, r#"{"clauses":250,"variables":50}"#),
        ] {
            assert_eq!(environment(given).params_json(), want);
            assert_eq!(environment(want).params_json(), want);
        }
        for (given, part) in [
            ("", "EOF"),
            (r#""x""#, "fields are"),
            (r#"{"vars":5}"#, "unknown field `vars`"),
            (r#"{"variables":5.5}"#, "invalid type"),
            (r#"{"variables":2}"#, "variables 2 must be 3 to 50"),
            (r#"{"variables":51}"#, "variables 51 must be 3 to 50"),
            (r#"{"clauses":0}"#, "clauses 0 must be 1 to 250"),
            (r#"{"clauses":251}"#, "clauses 251 must be 1 to 250"),
            (r#"{"clauses":1,"clauses":1}"#, "duplicate field"),
        ] {
            let error = Params::from_json(given).unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
        }
    }

    #[test]
    fn any_solution_is_right_and_nothing_less_is() {
        let environment = environment("{}");
        let right: BTreeSet<String> = (0..16)
            .map(|bits| answer::write(&[0, 1, 2, 3].map(|index| bits >> index & 1 == 1)))
            .filter(|text| environment.evaluate(3, text).unwrap().success)
            .collect();
        assert!((1..16).contains(&right.len()), "{} solutions", right.len());
        let formula = environment.formula(3);
        for text in &right {
            let values = answer::parse(text, 4).unwrap();
            assert!(formula.is_satisfied_by(&values));
            let worth = |text: &str| environment.evaluate(3, text).unwrap();
            assert_eq!(worth(text), Evaluation { reward: 1.1, success: true });
            let verbose = format!("So the answer is {text}.");
            assert_eq!(worth(&verbose), Evaluation { reward: 1.0, success: true });
            let partial = text.rsplit_once(' ').unwrap().0;
            assert_eq!(worth(partial), Evaluation { reward: 0.0, success: false });
        }
        let wrong =
            (0..16).map(|bits| answer::write(&[0, 1, 2, 3].map(|index| bits >> index & 1 == 1)));
        let wrong = wrong.into_iter().find(|text| !right.contains(text)).unwrap();
        let worth = environment.evaluate(3, &wrong).unwrap();
        assert_eq!(worth, Evaluation { reward: 0.1, success: false });
    }

    #[test]
    fn training_never_shows_a_held_out_problem() {
        let environment = environment(r#"{"variables":3,"clauses":2}"#);
        let problem = |seed| environment.prompt(seed)[0].content.clone();
        let training: BTreeSet<String> = (0..2_000).map(problem).collect();
        let held_out: BTreeSet<String> =
            (0..200).map(|index| problem(held_out_seed(3, index))).collect();
        assert_eq!(training.intersection(&held_out).count(), 0);
        assert!(held_out.len() > 20);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_can_be_evaluated(
            seed: u64, text in any::<String>(), soup in "([xX][0-9]{0,3} ?= ?[01]{0,2}[ ,]){0,20}",
        ) {
            for text in [&text, &soup] {
                let evaluation = Sat::default().evaluate(seed, text).unwrap();
                prop_assert!((0.0..=1.1).contains(&evaluation.reward));
            }
        }
    }
}
