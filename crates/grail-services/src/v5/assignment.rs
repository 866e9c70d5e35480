//! What a checkpoint of the reference asks of miners and validators.

use std::path::PathBuf;
use std::sync::Arc;

use grail_ports::environment::Environment;
use grail_ports::model::{Model, ModelError, Sampling};
use grail_ports::reference::{PromptForm, Warp};
use grail_protocol::ids::{TokenId, Window};
use grail_protocol::v5::python::json::Value;
use grail_protocol::v5::python::print::to_int;
use grail_protocol::v5::verify;

/// A loaded checkpoint with its environment and sampling.
#[derive(Clone)]
pub struct Assignment {
    /// Window that names the checkpoint; rows must carry it.
    pub checkpoint: Window,
    /// The model.
    pub model: Arc<dyn Model>,
    /// The environment.
    pub environment: Arc<dyn Environment>,
    /// How prompts are written, from the checkpoint's `thinking_mode`.
    pub form: PromptForm,
    /// `generation_params` as published: values of any type.
    pub generation: Value,
    /// The model's `config.json`.
    pub config: Value,
    /// What a miner's commits call the model; nobody compares it.
    pub model_name: String,
    /// Folder with the checkpoint's files.
    pub dir: PathBuf,
}

impl Assignment {
    /// Returns the prompt of the problem of `seed`.
    ///
    /// # Errors
    /// When the model cannot write it: our failure.
    pub fn prompt(&self, seed: u32) -> Result<Vec<TokenId>, ModelError> {
        self.model.render_as(&self.environment.prompt(seed.into()), self.form)
    }

    /// Returns the most tokens of a completion.
    pub fn token_limit(&self) -> u32 {
        let published = self.generation.get("max_tokens").and_then(to_int);
        verify::token_limit(published.map(|tokens| i64::try_from(tokens).unwrap_or(i64::MAX)))
    }

    /// Returns how probabilities are changed before they are judged, or nothing when what was
    /// published is missing, no number, or cannot divide.
    pub fn warp(&self) -> Option<Warp> {
        let temperature = self.positive("temperature")?;
        Some(Warp { temperature, repetition_penalty: self.positive("repetition_penalty")? })
    }

    /// Returns how a miner draws tokens.
    ///
    /// # Errors
    /// Why this engine cannot, for a person: with a repetition penalty validators expect other
    /// probabilities than it draws by.
    pub fn sampling(&self) -> Result<Sampling, String> {
        let number = |key: &str| {
            let value = self.generation.get(key).and_then(number);
            value.ok_or_else(|| format!("generation_params.{key} is no number"))
        };
        let (temperature, top_p) = (number("temperature")?, number("top_p")?);
        let penalty = number("repetition_penalty")?;
        if penalty != 1.0 {
            return Err(format!("this engine has no repetition_penalty, {penalty} is published"));
        }
        if !(0.01..=2.0).contains(&temperature) || !(0.0..=1.0).contains(&top_p) {
            return Err(format!("temperature {temperature} or top_p {top_p} is out of range"));
        }
        let temperature = temperature as f32;
        // Nothing is left of a mass of 0 but the likeliest token.
        Ok(match top_p {
            1.0 => Sampling::Race { temperature },
            0.0 => Sampling::Greedy,
            _ => Sampling::TopP { temperature, top_p: top_p as f32 },
        })
    }

    fn positive(&self, key: &str) -> Option<f32> {
        let value = self.generation.get(key).and_then(number)? as f32;
        (value.is_finite() && value > 0.0).then_some(value)
    }
}

/// Returns how prompts are written in a checkpoint's `thinking_mode`.
pub fn form_of_mode(thinking_mode: &str) -> PromptForm {
    match thinking_mode {
        "native" => PromptForm::Thinking,
        _ => PromptForm::ChatMl,
    }
}

/// Returns a JSON number; text is none.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(integer) => Some(*integer as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}
