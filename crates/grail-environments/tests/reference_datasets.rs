//! What the reference makes of its data sets: splits, and the task of a seed or a task id.

use std::fmt::Debug;

use grail_environments::reference::code::{self, load_humaneval, load_mbpp};
use grail_environments::reference::rows::{Row, Rows};
use grail_environments::reference::tasks::{Pick, Picked, Source, Spread};
use grail_environments::reference::{gsm8k, kernel, math};
use grail_testkit::vectors;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn part(value: &Value) -> Vec<Row> {
    serde_json::from_value(value.clone()).expect("rows are objects")
}

fn parts(value: &Value, name: impl Fn(&str) -> Vec<String>) -> Rows {
    let parts = value.as_object().expect("parts have names");
    parts.iter().fold(Rows::none(), |rows, (key, value)| {
        name(key).iter().fold(rows, |rows, name| rows.with(name, part(value)))
    })
}

struct All {
    gsm8k: Rows,
    math: Rows,
    mbpp: Rows,
    humaneval: Rows,
    kernels: Rows,
}

fn all() -> All {
    let rows = vectors::load("datasets", "rows.json");
    All {
        gsm8k: Rows::none()
            .with("train", part(&rows["gsm8k_train"]))
            .with("test", part(&rows["gsm8k_test"])),
        math: math_rows(&rows["math_train"]),
        mbpp: parts(&rows["mbpp"], |name| vec![name.to_owned()]),
        humaneval: Rows::none().with("test", part(&rows["humaneval"])),
        kernels: parts(&rows["kernelbench"], |level| vec![format!("level_{level}")]),
    }
}

/// For MATH's test split the reference was given as many rows of each subset as the cases say.
fn math_rows(subsets: &Value) -> Rows {
    let cases = vectors::load("datasets", "seed_to_task.json")["cases"].clone();
    let indices: Vec<(Pick<'_>, i128)> = vectors::list(&cases)
        .iter()
        .filter(|case| case["source"] == "math/test" && case.get("metadata").is_some())
        .map(|case| {
            let seed = vectors::integer(&case["args"]["seed"]);
            (Pick::Seed(seed), vectors::integer(&case["metadata"]["index"]))
        })
        .collect();
    let fits = |n: &usize| {
        let source = loaded(Source::new("test", vec![(); n * math::SUBSETS.len()], Spread::Scaled));
        indices.iter().all(|&(pick, index)| source.pick(pick).number == index)
    };
    let n = (1..1000).find(fits).expect("the cases are of one data set");
    let rows = parts(subsets, |subset| vec![format!("{subset}/train")]);
    math::SUBSETS.iter().fold(rows, |rows, subset| {
        let test = part(&subsets[subset]).into_iter().take(n).collect();
        rows.with(&format!("{subset}/test"), test)
    })
}

fn loaded<T, E: Debug>(source: Result<Source<T>, E>) -> Source<T> {
    source.expect("the rows are enough")
}

/// A task as a case tells it: its id, what is known of it, and its prompt.
struct Task {
    id: String,
    metadata: Value,
    question: String,
}

fn task(all: &All, source: &str, args: &Value) -> Task {
    let pick = match (args.get("task_id"), args.get("seed")) {
        (Some(id), _) => Pick::Task(vectors::text(id)),
        (None, Some(seed)) => Pick::Seed(vectors::integer(seed)),
        (None, None) => Pick::First,
    };
    let mut names = source.split('/');
    let (family, split) = (names.next().unwrap_or_default(), names.next().unwrap_or("test"));
    match family {
        "gsm8k" => {
            let source = loaded(gsm8k::load(&all.gsm8k, split));
            let picked = source.pick(pick);
            Task {
                id: format!("{split}_{}", picked.number),
                metadata: json!({"split": split, "index": number(picked)}),
                question: source.tasks()[picked.row].question.clone(),
            }
        }
        "math" => {
            let source = loaded(math::load(&all.math, split));
            let level = args.get("level").and_then(Value::as_u64);
            let subject = args.get("subject").and_then(Value::as_str);
            let picked = math::pick(&source, pick, level, subject).expect("there are such rows");
            let problem = &source.tasks()[picked.row];
            let metadata = json!({
                "split": split, "index": number(picked),
                "level": problem.level, "subject": problem.subject,
            });
            Task {
                id: format!("{split}_{}", picked.number),
                metadata,
                question: problem.question.clone(),
            }
        }
        "mbpp" => {
            let source = loaded(load_mbpp(&all.mbpp, split));
            let picked = source.pick(pick);
            let problem = &source.tasks()[picked.row];
            let metadata = json!({
                "split": split, "index": number(picked),
                "task_id": problem.name.parse::<i64>().expect("MBPP numbers its tasks"),
                "num_tests": problem.tests.len(),
            });
            code_task(format!("{split}_{}", picked.number), metadata, problem)
        }
        "humaneval" => {
            let source = loaded(load_humaneval(&all.humaneval));
            let picked = source.pick(pick);
            let problem = &source.tasks()[picked.row];
            let metadata = json!({
                "split": "test", "index": number(picked), "original_task_id": problem.name,
            });
            code_task(format!("humaneval_{}", picked.number), metadata, problem)
        }
        "kernelbench" => {
            let mut source = loaded(kernel::load(&all.kernels, split));
            // Such a filter exists in the reference and is never used by peers.
            if let Some(level) = names.next().and_then(|name| name.strip_prefix("level")) {
                let level: i64 = level.parse().expect("levels are numbers");
                let tasks = source.tasks().iter().filter(|problem| problem.level == level).cloned();
                source = loaded(Source::new(split, tasks.collect(), Spread::Scaled));
            }
            let picked = source.pick(pick);
            let problem = &source.tasks()[picked.row];
            let metadata = json!({
                "split": split, "index": number(picked), "level": problem.level,
                "problem_id": problem.problem_id, "problem_name": problem.name,
            });
            Task { id: kernel::task_id(&source, picked), metadata, question: problem.code.clone() }
        }
        other => panic!("source {other}"),
    }
}

fn code_task(id: String, metadata: Value, problem: &code::Problem) -> Task {
    Task { id, metadata, question: problem.question.clone() }
}

fn number(picked: Picked) -> i64 {
    i64::try_from(picked.number).expect("rows are few")
}

#[test]
fn seeds_and_task_ids_pick_the_references_tasks() {
    let all = all();
    vectors::every_case("datasets", "seed_to_task.json", |case| {
        let task = task(&all, vectors::text(&case["source"]), &case["args"]);
        assert_eq!(task.id, vectors::text(&case["id"]), "{case}");
        if let Some(metadata) = case.get("metadata") {
            assert_eq!(&task.metadata, metadata, "{case}");
        }
        if let Some(sha) = case.get("question_sha") {
            let digest = Sha256::digest(task.question);
            let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, vectors::text(sha), "{case}");
        }
    });
}

#[test]
fn splits_are_the_references() {
    let (all, splits) = (all(), vectors::load("datasets", "splits.json"));
    let train = all.gsm8k.part("train").expect("it was added");
    let validation = loaded(gsm8k::load(&all.gsm8k, "val"));
    let want = vectors::sizes(&splits["gsm8k_val_original_indices"]);
    let want: Vec<&str> = want.iter().map(|&i| vectors::text(&train[i]["question"])).collect();
    let got: Vec<&str> = validation.tasks().iter().map(|task| task.question.as_str()).collect();
    assert_eq!(got, want);

    let validation = loaded(math::load(&all.math, "val"));
    let got: Vec<&str> = validation.tasks().iter().map(|task| task.question.as_str()).collect();
    assert_eq!(json!(got), splits["math_val_problems"]);

    for (split, key) in
        [("train", "mbpp_train_task_ids"), ("validation", "mbpp_validation_task_ids")]
    {
        let source = loaded(load_mbpp(&all.mbpp, split));
        let got: Vec<i64> =
            source.tasks().iter().map(|task| task.name.parse().expect("numbers")).collect();
        assert_eq!(json!(got), splits[key], "{key}");
    }

    let validation = loaded(kernel::load(&all.kernels, "val"));
    let got: Vec<(i64, i64)> =
        validation.tasks().iter().map(|task| (task.level, task.problem_id)).collect();
    assert_eq!(json!(got), splits["kernelbench_val"]);
}

#[test]
fn a_wrong_split_is_an_error_as_in_the_reference() {
    let all = all();
    let errors = [
        load_mbpp(&all.mbpp, "test").is_err(),
        gsm8k::load(&all.gsm8k, "validation").is_err(),
        math::load(&all.math, "validation").is_err(),
        kernel::load(&all.kernels, "test").is_err(),
    ];
    vectors::every_entry("datasets", "splits.json", "errors", errors.len(), |error| {
        assert!(vectors::text(error).ends_with("Error"), "the reference raised {error}");
    });
    assert_eq!(errors, [true; 4]);
    // MBPP alone takes the short name too, where an environment is made.
    assert!(load_mbpp(&all.mbpp, "val").is_err());
}
