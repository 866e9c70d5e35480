//! Makes environments by the id and parameters that a checkpoint carries.

use std::sync::Arc;

use grail_ports::environment::Environment;

use crate::arithmetic::{self, Arithmetic};
use crate::sat::{self, Sat};

/// Most bytes of parameters; they come from a checkpoint, which others write.
const PARAMS_BYTES_MAX: usize = 4096;

/// Ids of the environments, sorted.
pub const IDS: [&str; 2] = [arithmetic::ID, sat::ID];

/// Why there is no such environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// No environment has this id.
    #[error("there is no environment `{0}`; this version knows {known}", known = IDS.join(", "))]
    Unknown(String),
    /// The parameters cannot be used.
    #[error("environment {id} cannot use its parameters: {reason}")]
    BadParams {
        /// Id of the environment.
        id: &'static str,
        /// What is wrong with them.
        reason: String,
    },
}

/// Makes the environment `id` with `params`, a JSON object; fields left out have their defaults.
///
/// # Errors
/// When the id is unknown or the parameters are malformed or out of range.
pub fn create(id: &str, params: &str) -> Result<Arc<dyn Environment>, CreateError> {
    match id {
        arithmetic::ID => make(arithmetic::ID, params, Arithmetic::from_json),
        sat::ID => make(sat::ID, params, Sat::from_json),
        // An id from a checkpoint may be anything; only its start is worth showing.
        _ => Err(CreateError::Unknown(id.chars().take(64).collect())),
    }
}

fn make<E: Environment + 'static, R: ToString>(
    id: &'static str,
    params: &str,
    from_json: impl FnOnce(&str) -> Result<E, R>,
) -> Result<Arc<dyn Environment>, CreateError> {
    let bad = |reason| CreateError::BadParams { id, reason };
    if params.len() > PARAMS_BYTES_MAX {
        return Err(bad(format!("{} bytes, more than {PARAMS_BYTES_MAX}", params.len())));
    }
    let environment = from_json(params).map_err(|error| bad(error.to_string()))?;
    Ok(Arc::new(environment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(id: &str, params: &str) -> String {
        create(id, params).err().expect("it is refused").to_string()
    }

    #[test]
    fn every_listed_environment_exists_and_knows_its_id() {
        for id in IDS {
            let environment = create(id, "{}").unwrap();
            assert_eq!(environment.id(), id);
            let canonical = environment.params_json();
            assert_eq!(create(id, &canonical).unwrap().params_json(), canonical);
        }
        assert!(IDS.is_sorted());
    }

    #[test]
    fn an_unknown_id_lists_the_known_ones() {
        let message = "there is no environment `gsm8k`; this version knows arithmetic, sat";
        assert_eq!(error("gsm8k", "{}"), message);
        assert!(error(&"x".repeat(1_000_000), "{}").len() < 200);
    }

    #[test]
    fn bad_parameters_name_the_environment_and_the_field() {
        let message = error("sat", r#"{"variables":1000}"#);
        assert!(message.contains("environment sat") && message.contains("3 to 50"), "{message}");
        let message = error("arithmetic", r#"{"operand_max":0}"#);
        assert!(message.contains("operand_max 0 must be 5 to 9999"), "{message}");
        assert!(error("sat", &" ".repeat(4097)).contains("4097 bytes, more than 4096"));
    }
}
