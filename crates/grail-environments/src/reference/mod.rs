//! The environments of the Python reference (profile v5): same prompts, same rewards, bit for bit.
//!
//! A completion is judged as decoded text with its special tokens kept, so an end token counts as
//! text after the answer. [`environment`] fits them to the port. Its `sat` is another environment than
//! [`crate::sat`], which the native profile uses under the same id: the profile tells them apart.
//! Source: the specification of the reference, environments.

pub mod assessment;
pub mod backends;
pub mod code;
pub mod completion;
pub mod gsm8k;
pub mod kernel;
pub mod math;
mod problems;
mod python_syntax;
pub mod rows;
pub mod sat;
mod split;
pub mod tasks;
pub mod text;
pub mod thinking;
pub mod trace;

use std::sync::Arc;

use grail_ports::environment::Environment;
use serde_json::Value;

use self::backends::Backends;
pub use self::problems::Unevaluated;
use self::problems::{Problems, ReferenceEnvironment};
pub use self::python_syntax::compiles;
use self::rows::{BadRows, Rows};
use self::thinking::ThinkingMode;

/// Most bytes of parameters; they come from a checkpoint, which others write.
const PARAMS_BYTES_MAX: usize = 4096;

/// Ids of the environments that validators accept, sorted.
pub const IDS: [&str; 6] =
    [gsm8k::ID, code::HUMANEVAL_ID, code::MBPP_IDS[0], code::MBPP_IDS[1], sat::ID, kernel::ID];

/// Why there is no such environment. A checkpoint that names one makes every row fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// No environment has this id.
    #[error("the reference has no environment `{0}`; it knows {known}", known = IDS.join(", "))]
    Unknown(String),
    /// The parameters cannot be used.
    #[error("environment {id} cannot use its parameters: {reason}")]
    BadParams {
        /// Id of the environment.
        id: String,
        /// What is wrong with them.
        reason: String,
    },
    /// The rows cannot be used.
    #[error("environment {id} cannot use its rows: {source}")]
    Rows {
        /// Id of the environment.
        id: String,
        /// Why.
        source: BadRows,
    },
}

/// Makes the environment that a checkpoint names by id, parameters (a JSON object) and mode, over the
/// rows of its data set; `sat` has none. Nothing runs code, so answers in code that compile cannot be
/// judged; see [`environment_with`].
///
/// # Errors
/// When the id is unknown, or the parameters or rows cannot be used.
pub fn environment(
    id: &str,
    params: &str,
    mode: ThinkingMode,
    rows: &Rows,
) -> Result<Arc<dyn Environment>, CreateError> {
    environment_with(id, params, mode, rows, Backends::none())
}

/// Makes an environment as [`environment`] does, with what runs code.
///
/// # Errors
/// When the id is unknown, or the parameters or rows cannot be used.
pub fn environment_with(
    id: &str,
    params: &str,
    mode: ThinkingMode,
    rows: &Rows,
    backends: Backends,
) -> Result<Arc<dyn Environment>, CreateError> {
    let params = parse_params(id, params)?;
    let bad_rows = |source| CreateError::Rows { id: id.to_owned(), source };
    match id {
        sat::ID => Ok(fit(id, &params, mode, sat::Sat)),
        gsm8k::ID => {
            let source = gsm8k::load(rows, split(id, &params)?).map_err(bad_rows)?;
            Ok(fit(id, &params, mode, source))
        }
        math::ID => {
            let source = math::load(rows, split(id, &params)?).map_err(bad_rows)?;
            Ok(fit(id, &params, mode, source))
        }
        code::HUMANEVAL_ID => {
            let source = code::load_humaneval(rows).map_err(bad_rows)?;
            Ok(fit(id, &params, mode, code::Code { source, backends }))
        }
        _ if code::MBPP_IDS.contains(&id) => {
            // The one split that goes by two names.
            let split = match split(id, &params)? {
                "val" => "validation",
                split => split,
            };
            let source = code::load_mbpp(rows, split).map_err(bad_rows)?;
            Ok(fit(id, &params, mode, code::Code { source, backends }))
        }
        kernel::ID => {
            let gpu_eval = gpu_eval(id, &params, backends.gpu_eval)?;
            let source = kernel::load(rows, split(id, &params)?).map_err(bad_rows)?;
            Ok(fit(id, &params, mode, kernel::Kernels { source, backends, gpu_eval }))
        }
        // An id from a checkpoint may be anything; only its start is worth showing.
        _ => Err(CreateError::Unknown(id.chars().take(64).collect())),
    }
}

fn fit(
    id: &str,
    params: &Value,
    mode: ThinkingMode,
    problems: impl Problems + 'static,
) -> Arc<dyn Environment> {
    Arc::new(ReferenceEnvironment { id: id.to_owned(), params: params.to_string(), mode, problems })
}

/// Returns the parameters with sorted keys.
fn parse_params(id: &str, params: &str) -> Result<Value, CreateError> {
    if params.len() > PARAMS_BYTES_MAX {
        let reason = format!("{} bytes, more than {PARAMS_BYTES_MAX}", params.len());
        return Err(bad_params(id, reason));
    }
    let mut params: Value =
        serde_json::from_str(params).map_err(|error| bad_params(id, error.to_string()))?;
    if !params.is_object() {
        return Err(bad_params(id, "they are no JSON object".to_owned()));
    }
    params.sort_all_objects();
    Ok(params)
}

/// Returns the split that the parameters name.
fn split<'a>(id: &str, params: &'a Value) -> Result<&'a str, CreateError> {
    match params.get("split") {
        None => Ok("train"),
        Some(Value::String(split)) => Ok(split),
        Some(other) => Err(bad_params(id, format!("split {other} is no text"))),
    }
}

/// Returns whether kernels are run.
fn gpu_eval(id: &str, params: &Value, default: bool) -> Result<bool, CreateError> {
    if params.get("dataset_path").is_some() {
        let reason = "dataset_path names a file of one host, which peers do not have; leave it out";
        return Err(bad_params(id, reason.to_owned()));
    }
    match params.get("gpu_eval") {
        None => Ok(default),
        Some(Value::Bool(gpu_eval)) => Ok(*gpu_eval),
        Some(other) => Err(bad_params(id, format!("gpu_eval {other} is neither true nor false"))),
    }
}

fn bad_params(id: &str, reason: String) -> CreateError {
    CreateError::BadParams { id: id.chars().take(64).collect(), reason }
}

#[cfg(test)]
mod tests {
    use grail_ports::environment::ChatRole;
    use grail_testkit::vectors;

    use super::assessment::Assessment;
    use super::*;

    /// Returns the rows that the reference was given for an environment.
    pub fn rows(id: &str) -> Rows {
        let all = vectors::load("datasets", "rows.json");
        let part =
            |value: &Value| -> Vec<rows::Row> { serde_json::from_value(value.clone()).unwrap() };
        match id {
            "gsm8k" => Rows::none()
                .with("train", part(&all["gsm8k_train"]))
                .with("test", part(&all["gsm8k_test"])),
            "math" => {
                let subsets = all["math_train"].as_object().unwrap();
                subsets.iter().fold(Rows::none(), |rows, (subset, value)| {
                    rows.with(&format!("{subset}/train"), part(value))
                })
            }
            "humaneval" => Rows::none().with("test", part(&all["humaneval"])),
            "mbpp" => {
                let parts = all["mbpp"].as_object().unwrap();
                parts.iter().fold(Rows::none(), |rows, (name, value)| rows.with(name, part(value)))
            }
            "triton_kernel" => {
                let levels = all["kernelbench"].as_object().unwrap();
                levels.iter().fold(Rows::none(), |rows, (level, value)| {
                    rows.with(&format!("level_{level}"), part(value))
                })
            }
            other => panic!("rows of {other}"),
        }
    }

    /// Returns the mode of a case.
    pub fn mode(case: &Value) -> ThinkingMode {
        ThinkingMode::from_name(vectors::text(&case["mode"])).unwrap()
    }

    /// Compares reward, components and success by their bits.
    pub fn assert_assessed(got: &Assessment, case: &Value) {
        assert_eq!(got.reward.to_bits(), vectors::bits(&case["reward_bits"]), "{got:?}: {case}");
        assert_eq!(got.success, case["success"], "{case}");
        let components = case["components"].as_object().unwrap();
        let want: Vec<f64> = components.values().map(vectors::float).collect();
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got.components), bits(&want), "{got:?}: {case}");
    }

    #[test]
    fn the_port_speaks_for_the_reference() {
        let made =
            environment("sat", r#"{"b":{"z":1,"a":2},"a":1}"#, ThinkingMode::Native, &Rows::none())
                .unwrap();
        assert_eq!(
            (made.id(), made.params_json().as_str()),
            ("sat", r#"{"a":1,"b":{"a":2,"z":1}}"#)
        );
        let prompt = made.prompt(7);
        assert_eq!(
            prompt.iter().map(|m| m.role).collect::<Vec<_>>(),
            [ChatRole::System, ChatRole::User]
        );
        assert_eq!(prompt[1].content, sat::Formula::of_task(Some(7), None).prompt());
        let solved = (0..20).find_map(|seed| Some((seed, made.solve(seed)?))).unwrap();
        let worth = made.evaluate_exactly(solved.0, &solved.1).unwrap();
        assert!(worth.success);
        assert_eq!(worth.reward.to_bits(), 0x3ff2_28f5_c28f_5c28);
        assert_eq!(made.evaluate(solved.0, &solved.1).unwrap().reward, worth.reward as f32);
    }

    #[test]
    fn what_the_reference_does_not_know_is_refused() {
        let error = |id: &str, params: &str| {
            environment(id, params, ThinkingMode::Native, &Rows::none()).err().unwrap().to_string()
        };
        let endless = "x".repeat(100_000);
        assert!(error("arithmetic", "{}").contains("no environment `arithmetic`"));
        assert!(error(&endless, "{}").len() < 200);
        assert!(error("sat", "[]").contains("no JSON object"));
        assert!(error("sat", "{").contains("cannot use its parameters"));
        assert!(error("sat", &" ".repeat(4097)).contains("4097 bytes"));
    }
}
