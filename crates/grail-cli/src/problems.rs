//! The environment that the settings ask for.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::registry;
use grail_ports::environment::Environment;
use serde_json::{Map, Value};

use crate::cli::EnvironmentArgs;
use crate::config::EnvironmentConfig;

impl EnvironmentConfig {
    /// Takes over what the flags say.
    pub fn overlay(&mut self, args: &EnvironmentArgs) {
        if let Some(id) = &args.environment {
            // Parameters of another environment make no sense for this one.
            if *id != self.id {
                *self = Self { id: id.clone(), ..Self::default() };
            }
        }
        if let Some(params) = &args.environment_params {
            self.params.clone_from(params);
        }
        if args.difficulty.is_some() {
            self.difficulty = args.difficulty;
        }
    }

    /// Makes the environment.
    ///
    /// # Errors
    /// When there is none of this name, or it refuses its parameters.
    pub fn create(&self) -> Result<Arc<dyn Environment>> {
        let environment = registry::create(&self.id, &self.params_json()?);
        environment.context("while making the environment")
    }

    /// Returns the parameters with the difficulty among them.
    fn params_json(&self) -> Result<String> {
        let text = if self.params.trim().is_empty() { "{}" } else { &self.params };
        let mut params: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(params)) => params,
            Ok(_) => bail!("the environment's parameters must be a JSON object, such as {{}}"),
            Err(error) => bail!("the environment's parameters are not JSON: {error}"),
        };
        if let Some(difficulty) = self.difficulty {
            params.insert("difficulty".to_owned(), difficulty.into());
        }
        Ok(Value::Object(params).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(id: &str, params: &str) -> EnvironmentConfig {
        EnvironmentConfig { id: id.to_owned(), params: params.to_owned(), difficulty: None }
    }

    #[test]
    fn the_environment_is_made_as_asked() {
        assert_eq!(config("arithmetic", "").create().unwrap().id(), "arithmetic");
        assert_eq!(config("sat", "{}").create().unwrap().id(), "sat");
    }

    #[test]
    fn nonsense_is_refused_with_what_is_allowed() {
        for (id, params, part) in [
            ("gsm8k", "", "arithmetic, sat"),
            ("sat", "[]", "JSON object"),
            ("sat", "{", "not JSON"),
            ("sat", r#"{"colour":1}"#, "colour"),
        ] {
            let error = format!("{:#}", config(id, params).create().err().unwrap());
            assert!(error.contains(part), "{id} {params}: {error}");
        }
    }

    #[test]
    fn another_environment_forgets_the_parameters_of_the_old_one() {
        let mut settings = config("arithmetic", r#"{"terms_max":3}"#);
        settings.overlay(&EnvironmentArgs {
            environment: Some("sat".to_owned()),
            ..EnvironmentArgs::default()
        });
        assert_eq!(settings.id, "sat");
        assert!(settings.create().is_ok());
    }
}
