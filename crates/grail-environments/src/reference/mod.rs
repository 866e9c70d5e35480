//! The environments of the Python reference (profile v5): same prompts, same rewards, bit for bit.
//!
//! A completion is judged as decoded text with its special tokens kept, so an end token counts as
//! text after the answer. [`environment`] fits them to the port. Its `sat` is another environment than
//! [`crate::sat`], which the native profile uses under the same id: the profile tells them apart.
//! Source: the specification of the reference, environments.

pub mod assessment;
pub mod completion;
mod problems;
pub mod rows;
pub mod sat;
pub mod text;
pub mod thinking;

use std::sync::Arc;

use grail_ports::environment::Environment;
use serde_json::Value;

pub use self::problems::Unevaluated;
use self::problems::{Problems, ReferenceEnvironment};
use self::rows::Rows;
use self::thinking::ThinkingMode;

/// Most bytes of parameters; they come from a checkpoint, which others write.
const PARAMS_BYTES_MAX: usize = 4096;

/// Why there is no such environment. A checkpoint that names one makes every row fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// No environment has this id.
    #[error("the reference has no environment `{0}`; it knows sat")]
    Unknown(String),
    /// The parameters cannot be used.
    #[error("environment {id} cannot use its parameters: {reason}")]
    BadParams {
        /// Id of the environment.
        id: String,
        /// What is wrong with them.
        reason: String,
    },
}

/// Makes the environment that a checkpoint names by id, parameters (a JSON object) and mode, over the
/// rows of its data set; `sat` has none.
///
/// # Errors
/// When the id is unknown or the parameters cannot be used.
pub fn environment(
    id: &str,
    params: &str,
    mode: ThinkingMode,
    _rows: &Rows,
) -> Result<Arc<dyn Environment>, CreateError> {
    let params = parse_params(id, params)?;
    match id {
        sat::ID => Ok(fit(id, &params, mode, sat::Sat)),
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
    let bad = |reason| CreateError::BadParams { id: id.chars().take(64).collect(), reason };
    if params.len() > PARAMS_BYTES_MAX {
        return Err(bad(format!("{} bytes, more than {PARAMS_BYTES_MAX}", params.len())));
    }
    let mut params: Value = serde_json::from_str(params).map_err(|error| bad(error.to_string()))?;
    if !params.is_object() {
        return Err(bad("they are no JSON object".to_owned()));
    }
    params.sort_all_objects();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use grail_ports::environment::ChatRole;
    use grail_testkit::vectors;

    use super::assessment::Assessment;
    use super::*;

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
