//! The reference's `mbpp` and `humaneval`: Python functions, worth the share of tests that pass.
//!
//! Running the tests is a matter of [`RunTests`]; whether code compiles is decided here.

use super::assessment::{Assessment, one_if};
use super::backends::{Backends, RunTests};
use super::completion::Completion;
use super::problems::{Problems, Unevaluated};
use super::python_syntax::compiles;
use super::rows::{BadRows, Row, Rows, integer_of, text_of, texts_of};
use super::split;
use super::tasks::{Source, Spread};
use super::text::strip;
use super::thinking::ThinkingMode;

/// Ids of the environment over MBPP; the second is another name of the first.
pub const MBPP_IDS: [&str; 2] = ["mbpp", "python_code"];

/// Id of the environment over HumanEval.
pub const HUMANEVAL_ID: &str = "humaneval";

/// Share of MBPP's test rows that the reference trains on.
const TEST_TO_TRAIN: f64 = 0.8;

/// An answer followed by fewer code points than this is well-formed.
const TRAILING_LIMIT: usize = 50;

/// Weights of correctness, syntax, form, thinking.
const WEIGHTS: [f64; 4] = [0.7, 0.1, 0.1, 0.1];

/// A programming problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The data set's own name of it.
    pub name: String,
    /// The prompt.
    pub question: String,
    /// A right answer.
    pub reference: String,
    /// Programs that fail unless the answer is right.
    pub tests: Vec<String>,
}

/// An answer with what the reference sees in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The completion it is in.
    pub completion: Completion<'a>,
    /// The code, stripped.
    pub code: &'a str,
    /// Whether the code is there and compiles.
    pub compiles: bool,
}

impl<'a> Answer<'a> {
    /// Reads a completion.
    pub fn read(mode: ThinkingMode, text: &'a str) -> Self {
        let completion = Completion::parse(mode, text);
        let code = completion.answer();
        Self { completion, code, compiles: !code.is_empty() && compiles(code) }
    }

    /// Returns 1 for an answer with little after it.
    pub(super) fn form_reward(&self) -> f64 {
        one_if(self.completion.answers_within(TRAILING_LIMIT))
    }
}

/// Returns what an answer is worth whose tests passed or not; without code there are none.
pub fn assess(answer: &Answer<'_>, passed: &[bool]) -> Assessment {
    let n_passed = passed.iter().filter(|&&passed| passed).count();
    let correctness = if passed.is_empty() { 0.0 } else { n_passed as f64 / passed.len() as f64 };
    let components = [
        correctness,
        one_if(answer.compiles),
        answer.form_reward(),
        one_if(answer.completion.has_thinking),
    ];
    Assessment::summed(WEIGHTS, components, !passed.is_empty() && n_passed == passed.len())
}

/// Returns one program for each of MBPP's assertions, with its imports and set-up in front.
pub fn mbpp_tests(assertions: &[String], imports: &[String], setup: &str) -> Vec<String> {
    let mut front = imports.join("\n");
    if !setup.is_empty() {
        front = format!("{front}\n{setup}");
    }
    let test = |assertion: &String| {
        if front.is_empty() { assertion.clone() } else { format!("{front}\n{assertion}") }
    };
    assertions.iter().map(test).collect()
}

/// Returns HumanEval's one program, or none without a test or a function to check.
pub fn humaneval_tests(test: &str, entry_point: &str) -> Vec<String> {
    if test.is_empty() || entry_point.is_empty() {
        return Vec::new();
    }
    vec![format!("{test}\ncheck({entry_point})")]
}

/// Returns the first line of code that defines a function, stripped, or nothing.
pub fn signature(code: &str) -> &str {
    code.split('\n').map(strip).find(|line| line.starts_with("def ")).unwrap_or_default()
}

/// Loads a split of MBPP: `train` or `validation`; the rows of `test` go to both.
///
/// # Errors
/// When the split or its rows are not there.
pub fn load_mbpp(rows: &Rows, split: &str) -> Result<Source<Problem>, BadRows> {
    let is_train = match split {
        "train" => true,
        "validation" => false,
        _ => return Err(BadRows::unknown_split(split, "train, validation")),
    };
    let mut problems: Vec<Problem> = rows.needed(split)?.iter().map(mbpp_problem).collect();
    let test = rows.needed("test")?;
    // Unlike the other splits, these rows stay in shuffled order.
    let shuffled = split::shuffled(&mut split::generator(), test.len());
    let (train, validation) = shuffled.split_at((test.len() as f64 * TEST_TO_TRAIN) as usize);
    let added = if is_train { train } else { validation };
    problems.extend(added.iter().map(|&index| mbpp_problem(&test[index])));
    Source::new(split, problems, Spread::Modulo)
}

/// Loads HumanEval, which has the split `test` only.
///
/// # Errors
/// When its rows are not there.
pub fn load_humaneval(rows: &Rows) -> Result<Source<Problem>, BadRows> {
    let problems = rows.needed("test")?.iter().map(humaneval_problem).collect();
    Source::new("test", problems, Spread::Modulo)
}

fn mbpp_problem(row: &Row) -> Problem {
    let (text, code) = (text_of(row, "text"), text_of(row, "code"));
    let question = match signature(code) {
        "" => text.to_owned(),
        signature => format!("{text}\n\n{signature}\n    pass"),
    };
    let (assertions, imports) = (texts_of(row, "test_list"), texts_of(row, "test_imports"));
    Problem {
        name: integer_of(row, "task_id").to_string(),
        question,
        reference: code.to_owned(),
        tests: mbpp_tests(&assertions, &imports, text_of(row, "test_setup_code")),
    }
}

fn humaneval_problem(row: &Row) -> Problem {
    let prompt = text_of(row, "prompt");
    Problem {
        name: text_of(row, "task_id").to_owned(),
        question: prompt.to_owned(),
        reference: format!("{prompt}{}", text_of(row, "canonical_solution")),
        tests: humaneval_tests(text_of(row, "test"), text_of(row, "entry_point")),
    }
}

/// Problems with what runs their tests.
pub(super) struct Code {
    pub(super) source: Source<Problem>,
    pub(super) backends: Backends,
}

impl Problems for Code {
    fn question(&self, seed: u64) -> String {
        self.source.of_seed(seed).question.clone()
    }

    fn assess(
        &self,
        mode: ThinkingMode,
        seed: u64,
        completion: &str,
    ) -> Result<Assessment, Unevaluated> {
        let answer = Answer::read(mode, completion);
        let tests = &self.source.of_seed(seed).tests;
        if answer.code.is_empty() {
            return Ok(assess(&answer, &[]));
        }
        if !answer.compiles || tests.is_empty() {
            return Ok(assess(&answer, &vec![false; tests.len()]));
        }
        let passed = run(self.backends.tests.as_deref(), answer.code, tests)?;
        Ok(assess(&answer, &passed))
    }

    fn solution(&self, seed: u64) -> Option<String> {
        Some(self.source.of_seed(seed).reference.clone())
    }
}

fn run(
    runner: Option<&dyn RunTests>,
    code: &str,
    tests: &[String],
) -> Result<Vec<bool>, Unevaluated> {
    let runner = runner.ok_or_else(|| {
        Unevaluated("nothing here runs Python code; configure a runner of tests".to_owned())
    })?;
    let passed = runner.run(code, tests).map_err(Unevaluated)?;
    if passed.len() == tests.len() {
        return Ok(passed);
    }
    let (found, expected) = (passed.len(), tests.len());
    Err(Unevaluated(format!("the runner answered {found} tests of {expected}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grail_testkit::vectors;
    use serde_json::Value;

    use super::super::tests::{assert_assessed, mode};
    use super::*;

    fn texts(value: &Value) -> Vec<String> {
        value.as_array().into_iter().flatten().map(|text| vectors::text(text).to_owned()).collect()
    }

    fn tests_of(payload: &Value) -> Vec<String> {
        let text = |key: &str| payload[key].as_str().unwrap_or_default();
        if payload.get("test_list").is_some() {
            let (list, imports) = (texts(&payload["test_list"]), texts(&payload["test_imports"]));
            return mbpp_tests(&list, &imports, text("test_setup_code"));
        }
        humaneval_tests(text("test"), text("entry_point"))
    }

    /// Which tests passed, as the case tells: by the errors, else by their number alone.
    fn passed(case: &Value) -> Vec<bool> {
        let (n_passed, total) =
            (vectors::size(&case["tests_passed"]), vectors::size(&case["tests_total"]));
        let errors = case.get("test_errors").and_then(Value::as_array);
        match errors {
            Some(errors) if errors.len() == total => errors.iter().map(Value::is_null).collect(),
            _ => (0..total).map(|index| index < n_passed).collect(),
        }
    }

    #[test]
    fn rewards_are_the_references() {
        let payloads = vectors::load("code", "rewards.json")["payloads"].clone();
        vectors::every_case("code", "rewards.json", |case| {
            let answer = Answer::read(mode(case), vectors::text(&case["completion"]));
            let passed = passed(case);
            assert_eq!(
                passed.iter().filter(|&&passed| passed).count(),
                vectors::size(&case["tests_passed"])
            );
            assert_assessed(&assess(&answer, &passed), case);
            assert_eq!(!answer.code.is_empty(), case["has_code"], "{case}");
            assert_eq!(answer.compiles, case["syntax_valid"], "{case}");
            let n_tests = tests_of(&payloads[vectors::text(&case["payload_ref"])]).len();
            let n_run = if answer.code.is_empty() { 0 } else { n_tests };
            assert_eq!(n_run, vectors::size(&case["tests_total"]), "{case}");
        });
    }

    /// Another path of the reference, with other builtins; what is decided here is whether it compiles.
    #[test]
    fn the_slow_path_agrees_on_syntax() {
        vectors::every_case("code", "slow_path.json", |case| {
            let is_syntax_error = case["pool_free_result"]["status"] == "syntax_error";
            assert_eq!(compiles(vectors::text(&case["code"])), !is_syntax_error, "{case}");
        });
    }

    #[test]
    fn prompts_and_tests_are_the_references() {
        let rows = super::super::tests::rows("mbpp");
        let (train, humaneval) = (
            load_mbpp(&rows, "train").unwrap(),
            load_humaneval(&super::super::tests::rows("humaneval")).unwrap(),
        );
        vectors::every_case("datasets", "code_prompts.json", |case| {
            if let Some(code) = case.get("code") {
                assert_eq!(signature(vectors::text(code)), vectors::text(&case["signature"]));
                return;
            }
            let want = texts(&case["test_cases"]);
            if let Some(payload) = case.get("payload") {
                assert_eq!(tests_of(payload), want, "{case}");
                return;
            }
            let id = vectors::text(&case["id"]);
            let source = if id.starts_with("humaneval") { &humaneval } else { &train };
            let problem = &source.tasks()[source.pick(super::super::tasks::Pick::Task(id)).row];
            assert_eq!(problem.question, vectors::text(&case["question"]), "{id}");
            assert_eq!(problem.tests, want, "{id}");
        });
    }

    struct Fixed(Result<Vec<bool>, String>);

    impl RunTests for Fixed {
        fn run(&self, _code: &str, _tests: &[String]) -> Result<Vec<bool>, String> {
            self.0.clone()
        }
    }

    fn code(answer: Option<Result<Vec<bool>, String>>) -> Code {
        let mut backends = Backends::none();
        backends.tests = answer.map(|answer| Arc::new(Fixed(answer)) as Arc<dyn RunTests>);
        let problem = Problem {
            name: "1".to_owned(),
            question: "q".to_owned(),
            reference: "x = 1".to_owned(),
            tests: vec!["assert x".to_owned(), "assert not x".to_owned()],
        };
        Code { source: Source::new("train", vec![problem], Spread::Modulo).unwrap(), backends }
    }

    #[test]
    fn a_runner_that_cannot_say_is_our_failure() {
        let mode = ThinkingMode::Native;
        let text = "<SOLUTION>x = 1</SOLUTION>";
        let worth = |answer| code(answer).assess(mode, 0, text);
        assert!(worth(None).is_err());
        assert!(worth(Some(Err("no sandbox".to_owned()))).is_err());
        assert!(worth(Some(Ok(vec![true]))).unwrap_err().0.contains("1 tests of 2"));
        let half = worth(Some(Ok(vec![true, false]))).unwrap();
        assert_eq!((half.components[0], half.success), (0.5, false));
        assert!(worth(Some(Ok(vec![true, true]))).unwrap().success);
        // What does not compile or is not there needs no runner.
        for text in ["<SOLUTION>x =</SOLUTION>", "<SOLUTION> </SOLUTION>", ""] {
            assert!(!code(None).assess(mode, 0, text).unwrap().success);
        }
    }
}
