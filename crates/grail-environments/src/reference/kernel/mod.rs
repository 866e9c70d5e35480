//! The reference's `triton_kernel`: a PyTorch model rewritten with Triton kernels.
//!
//! Form is judged by patterns over the code, which comments satisfy as well; peers agree on that.

mod patterns;
pub mod unified;

use super::assessment::{Assessment, one_if};
use super::backends::{Backends, KernelVerdict};
use super::code::Answer;
use super::problems::{Problems, Unevaluated};
use super::rows::{BadRows, Row, Rows, integer_of, text_of};
use super::split;
use super::tasks::{Source, Spread};
use super::thinking::ThinkingMode;
pub use patterns::{HackingSignals, Structure};

/// Id of the environment.
pub const ID: &str = "triton_kernel";

/// The prompt, with [`PLACE`] where the model's code goes.
const PROMPT: &str = include_str!("prompt.txt");

/// Where the model's code goes in the prompt.
const PLACE: &str = "{pytorch_code}";

/// The checker that follows the model's code.
const CHECKER: &str = include_str!("check_correctness.txt");

/// Share of each level's rows that are held out for validation, at least one.
const VALIDATION: f64 = 0.2;

/// Weights of syntax, structure, GPU compilation (never given), correctness, form, thinking.
const WEIGHTS: [f64; 6] = [0.05, 0.10, 0.00, 0.65, 0.10, 0.10];

/// A model to rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// KernelBench's level, 1 to 4.
    pub level: i64,
    /// Its number within the level.
    pub problem_id: i64,
    /// Its name.
    pub name: String,
    /// The model's code.
    pub code: String,
}

impl Problem {
    fn from_row(row: &Row, level: i64) -> Self {
        Self {
            level: row.get("level").map_or(level, |_| integer_of(row, "level")),
            problem_id: integer_of(row, "problem_id"),
            name: text_of(row, "name").to_owned(),
            code: text_of(row, "code").to_owned(),
        }
    }

    /// Returns what checks a candidate: the model, then the checker.
    pub fn test_code(&self) -> String {
        format!("{}\n\n{CHECKER}", self.code)
    }
}

/// Returns the user's message for a model's code.
pub fn prompt(code: &str) -> String {
    let (before, after) = PROMPT.split_once(PLACE).expect("the prompt has a place for the code");
    format!("{before}{code}{after}")
}

/// Returns what an answer is worth; the verdict is that of a GPU, where one was asked.
pub fn assess(answer: &Answer<'_>, verdict: Option<KernelVerdict>) -> Assessment {
    let structure = Structure::of(answer.code);
    let is_correct = verdict == Some(KernelVerdict::Correct);
    let components = [
        one_if(answer.compiles),
        structure.share(),
        0.0,
        one_if(is_correct),
        answer.form_reward(),
        one_if(answer.completion.has_thinking),
    ];
    let success = if verdict.is_some() { is_correct } else { is_valid(answer) };
    Assessment::summed(WEIGHTS, components, success)
}

/// Returns whether an answer compiles and has all that a kernel needs; only then a GPU is asked.
pub fn is_valid(answer: &Answer<'_>) -> bool {
    answer.compiles && Structure::of(answer.code).is_complete()
}

/// Loads a split: `train`, `val` or `all`, over the levels that are there.
///
/// # Errors
/// When the split is unknown or has no rows.
pub fn load(rows: &Rows, split: &str) -> Result<Source<Problem>, BadRows> {
    if !matches!(split, "train" | "val" | "all") {
        return Err(BadRows::unknown_split(split, "train, val, all"));
    }
    let problems = (1..=4).flat_map(|level| {
        let part = rows.part(&format!("level_{level}")).unwrap_or_default();
        part.iter().map(move |row| Problem::from_row(row, level))
    });
    // The rows say which level they are of; the sort keeps their order within it.
    let mut problems: Vec<Problem> = problems.collect();
    problems.sort_by_key(|problem| problem.level);
    let mut rng = split::generator();
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for level in problems.chunk_by(|a, b| a.level == b.level) {
        let n_held_out = ((level.len() as f64 * VALIDATION) as usize).max(1);
        let (kept, held_out) = split::hold_out(&mut rng, level.to_vec(), n_held_out);
        train.extend(kept);
        validation.extend(held_out);
    }
    let problems = match split {
        "train" => train,
        "val" => validation,
        _ => train.into_iter().chain(validation).collect(),
    };
    Source::new(split, problems, Spread::Scaled)
}

/// Returns the id that the reference gives a picked task.
pub fn task_id(source: &Source<Problem>, picked: super::tasks::Picked) -> String {
    let level = source.tasks()[picked.row].level;
    format!("kernelbench_{}_l{level}_{}", source.split(), picked.number)
}

/// Models with what runs kernels.
pub(super) struct Kernels {
    pub(super) source: Source<Problem>,
    pub(super) backends: Backends,
    pub(super) gpu_eval: bool,
}

impl Problems for Kernels {
    fn question(&self, seed: u64) -> String {
        prompt(&self.source.of_seed(seed).code)
    }

    fn assess(
        &self,
        mode: ThinkingMode,
        seed: u64,
        completion: &str,
    ) -> Result<Assessment, Unevaluated> {
        let answer = Answer::read(mode, completion);
        if !self.gpu_eval || !is_valid(&answer) {
            return Ok(assess(&answer, None));
        }
        let Some(kernels) = &self.backends.kernels else {
            let reason = "gpu_eval is on and nothing here runs kernels; configure a GPU backend";
            return Err(Unevaluated(reason.to_owned()));
        };
        let verdict = kernels.check(&self.source.of_seed(seed).test_code(), answer.code);
        if verdict == KernelVerdict::HarnessFailed {
            return Err(Unevaluated("the harness of the kernel check failed".to_owned()));
        }
        Ok(assess(&answer, Some(verdict)))
    }

    fn solution(&self, _seed: u64) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use grail_testkit::vectors;

    use super::super::backends::CheckKernel;
    use super::super::tasks::Pick;
    use super::super::tests::{assert_assessed, mode, rows};
    use super::*;

    #[test]
    fn prompts_are_the_references() {
        let source = load(&rows("triton_kernel"), "train").unwrap();
        vectors::every_case("triton_kernel", "prompts.json", |case| {
            let picked = source.pick(Pick::Seed(vectors::integer(&case["seed"])));
            assert_eq!(task_id(&source, picked), vectors::text(&case["task_id"]));
            assert_eq!(prompt(&source.tasks()[picked.row].code), vectors::text(&case["prompt"]));
        });
        let vectors = vectors::load("triton_kernel", "prompts.json");
        assert_eq!(PROMPT, vectors["template"]);
        assert_eq!(CHECKER, vectors["check_correctness_suffix"]);
        let example = vectors::text(&vectors["test_code_example"]);
        let all = load(&rows("triton_kernel"), "all").unwrap();
        assert!(all.tasks().iter().any(|problem| problem.test_code() == example));
        // The checker carries these numbers; nothing else here does.
        for (name, value) in [
            ("_SEED", &vectors["eval_seed"]),
            ("_TOLERANCE", &vectors["eval_tolerance"]),
            ("_N_TRIALS", &vectors["eval_trials"]),
        ] {
            assert!(CHECKER.contains(&format!("{name} = {value}\n")), "{name}");
        }
    }

    #[test]
    fn rewards_are_the_references() {
        vectors::every_case("triton_kernel", "rewards.json", |case| {
            let answer = Answer::read(mode(case), vectors::text(&case["completion"]));
            let asked = match vectors::text(&case["backend"]) {
                "no gpu" => None,
                "correct" => Some(KernelVerdict::Correct),
                backend if backend.contains("infra") => Some(KernelVerdict::HarnessFailed),
                _ => Some(KernelVerdict::Incorrect),
            };
            let verdict = asked.filter(|_| is_valid(&answer));
            assert_assessed(&assess(&answer, verdict), case);
            if let Some(valid) = case.get("structure_valid") {
                assert_eq!(is_valid(&answer), *valid, "{case}");
            }
            if let Some(flag) = case.get("eval_infra_error") {
                assert_eq!(verdict == Some(KernelVerdict::HarnessFailed), *flag, "{case}");
            }
            if let Some(want) = case.get("hacking_signals").and_then(|want| want.as_object()) {
                let signals = HackingSignals::of(answer.code);
                let got = [
                    ("forward_calls_triton", signals.forward_calls_kernel),
                    ("has_try_except", signals.has_try_except),
                    ("model_is_pass_only", signals.is_pass_only),
                    ("uses_nn_functional_in_forward", signals.forward_uses_functional),
                ];
                for (name, got) in got {
                    // Without code there are no signals.
                    assert_eq!(got, *want.get(name).unwrap_or(&false.into()), "{name}: {case}");
                }
            }
        });
    }

    struct Fixed(KernelVerdict);

    impl CheckKernel for Fixed {
        fn check(&self, test_code: &str, code: &str) -> KernelVerdict {
            assert!(test_code.ends_with(CHECKER) && code.contains("ModelNew"));
            self.0
        }
    }

    #[test]
    fn a_gpu_is_asked_only_about_valid_code() {
        let worth = |verdict: Option<KernelVerdict>, code: &str| {
            let mut backends = Backends::none();
            backends.kernels = verdict.map(|verdict| Arc::new(Fixed(verdict)) as Arc<_>);
            let source = load(&rows("triton_kernel"), "all").unwrap();
            let kernels = Kernels { source, backends, gpu_eval: true };
            kernels.assess(ThinkingMode::Native, 3, &format!("<SOLUTION>{code}</SOLUTION>"))
        };
        let valid =
            "import torch\nimport triton\n@triton.jit\ndef k(): pass\nclass ModelNew(M): pass";
        assert!(worth(Some(KernelVerdict::Correct), valid).unwrap().success);
        assert!(!worth(Some(KernelVerdict::Incorrect), valid).unwrap().success);
        assert!(worth(Some(KernelVerdict::HarnessFailed), valid).is_err());
        assert!(worth(None, valid).is_err());
        assert!(!worth(None, "import torch").unwrap().success);
    }
}
