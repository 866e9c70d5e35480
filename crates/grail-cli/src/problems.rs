//! The environment that the settings ask for.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use grail_environments::reference::rows::Rows;
use grail_environments::reference::thinking::ThinkingMode;
use grail_environments::{reference, registry};
use grail_ports::environment::Environment;
use grail_protocol::checkpoint::Protocol;
use grail_services::v5::checkpoints::ReferenceEnvironments;
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
            // A difficulty stands for the parameters that the profile's defaults may name.
            if args.environment_params.is_none() {
                self.params.clear();
            }
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

    /// Makes the environment as a network of `protocol` poses it.
    ///
    /// # Errors
    /// As [`EnvironmentConfig::create`].
    pub fn create_for(&self, protocol: Protocol) -> Result<Arc<dyn Environment>> {
        match protocol {
            Protocol::V6 => self.create(),
            Protocol::V5 => reference_environment(&self.id, &self.params_json()?, INSTRUCTED)
                .map_err(anyhow::Error::msg)
                .context("while making the environment"),
        }
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

/// The thinking mode of a local network in the reference's profile.
pub const INSTRUCTED: &str = "instructed";

/// Returns the environments of the reference's profile, by id, parameters and thinking mode.
pub fn reference_environments() -> ReferenceEnvironments {
    Arc::new(reference_environment)
}

/// Makes an environment of the reference. Those of our own that it does not know are posed as they are:
/// a network with them has no Python peers.
fn reference_environment(
    id: &str,
    params: &str,
    mode: &str,
) -> Result<Arc<dyn Environment>, String> {
    let mode = ThinkingMode::from_name(mode).map_err(|error| error.to_string())?;
    match reference::environment(id, params, mode, &Rows::none()) {
        Err(reference::CreateError::Unknown(_)) => {
            registry::create(id, params).map_err(|error| error.to_string())
        }
        made => made.map_err(|error| error.to_string()),
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
    fn the_reference_poses_its_problems_under_its_prompt_and_ours_as_they_are() {
        let theirs = config("sat", "{}").create_for(Protocol::V5).unwrap();
        let prompt = theirs.prompt(3);
        assert_eq!((theirs.id(), prompt.len()), ("sat", 2));
        assert!(prompt[0].content.contains("</end_working_out>"));
        let ours = config("arithmetic", r#"{"worked":true}"#);
        let (native, posed) = (ours.create().unwrap(), ours.create_for(Protocol::V5).unwrap());
        assert_eq!(posed.prompt(3), native.prompt(3));
        assert!(reference_environment("nothing", "{}", INSTRUCTED).is_err());
        assert!(reference_environment("sat", "{}", "loudly").is_err());
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
