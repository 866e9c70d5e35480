//! Rotary embedding and its scalings to more positions than a model was first trained for.
//!
//! Two layouts exist. Up to release 4 of `transformers`: `rope_theta` and `rope_scaling`, for Gemma 3
//! also `rope_local_base_freq`. From release 5 on: `rope_parameters`, for Gemma 3 one object for each
//! type of layer. A file may have both if they agree.

use grail_kernels::math::ln_f64;
use serde_json::{Map, Value, json};

use super::reader::{POSITIONS_MAX, Reader};
use super::{Architecture, ConfigError, LayerType};

/// How the angles per position are changed; names and defaults are those of `transformers`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RopeScaling {
    /// `"default"`: not at all.
    #[default]
    None,
    /// `"linear"`: all angles divided by this factor, at least 1 (Chen et al. 2023,
    /// arXiv:2306.15595).
    Linear(f64),
    /// `"llama3"`: slow angles divided, fast ones kept, a ramp between (Llama 3.1).
    Llama3(Llama3Scaling),
    /// `"yarn"`: likewise by dimension, and scores scaled (Peng et al. 2023, arXiv:2309.00071).
    Yarn(YarnScaling),
}

/// The parameters of `"llama3"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Divides the slow angles, at least 1.
    pub factor: f64,
    /// Angles that turn at most this often within the original context are divided.
    pub low_freq_factor: f64,
    /// Angles that turn at least this often are kept. Above `low_freq_factor`.
    pub high_freq_factor: f64,
    /// Positions of the first training.
    pub original_max_position_embeddings: usize,
}

/// The parameters of `"yarn"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnScaling {
    /// Divides the slow angles, at least 1.
    pub factor: f64,
    /// Positions of the first training.
    pub original_max_position_embeddings: usize,
    /// Angles that turn at least this often within the original context are kept.
    pub beta_fast: f64,
    /// Angles that turn at most this often are divided. At most `beta_fast`.
    pub beta_slow: f64,
    /// Whether the dimensions where the ramp begins and ends are rounded outwards.
    pub truncate: bool,
    /// Multiplies cosines and sines; see [`YarnScaling::attention_scale`] for `None`.
    pub attention_factor: Option<f64>,
    /// Weight of `ln(factor)` in the numerator of that default, with `mscale_all_dim` alone.
    pub mscale: Option<f64>,
    /// The same in the denominator.
    pub mscale_all_dim: Option<f64>,
}

impl YarnScaling {
    /// Returns what multiplies cosines and sines.
    pub fn attention_scale(&self) -> f64 {
        // With a factor of 1 the logarithm is 0 and the result 1, as it must be.
        let of = |weight: f64| 0.1 * weight * ln_f64(self.factor) + 1.0;
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), _, _) => factor,
            // Zero counts as absent.
            (None, Some(numerator), Some(denominator)) if numerator * denominator != 0.0 => {
                of(numerator) / of(denominator)
            }
            _ => of(1.0),
        }
    }
}

impl RopeScaling {
    /// Returns the value of the key `rope_scaling`.
    pub(super) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear(factor) => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3(scaling) => json!({
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_position_embeddings,
            }),
            Self::Yarn(scaling) => {
                let mut keys = Map::new();
                for (name, value) in [
                    ("rope_type", json!("yarn")),
                    ("factor", json!(scaling.factor)),
                    (ORIGINAL_POSITIONS, json!(scaling.original_max_position_embeddings)),
                    ("beta_fast", json!(scaling.beta_fast)),
                    ("beta_slow", json!(scaling.beta_slow)),
                    ("truncate", json!(scaling.truncate)),
                    ("attention_factor", json!(scaling.attention_factor)),
                    ("mscale", json!(scaling.mscale)),
                    ("mscale_all_dim", json!(scaling.mscale_all_dim)),
                ] {
                    if !value.is_null() {
                        keys.insert(name.into(), value);
                    }
                }
                Value::Object(keys)
            }
        }
    }
}

/// Everything a configuration says about rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: RopeScaling,
    pub(super) local_theta: Option<f64>,
}

const ORIGINAL_POSITIONS: &str = "original_max_position_embeddings";
const THETA_MAX: f64 = 1e12;
const FACTOR_MAX: f64 = 1e6;

impl Reader<'_> {
    /// Reads both layouts; `positions` is `max_position_embeddings`.
    pub(super) fn rope(
        &self,
        architecture: Architecture,
        positions: usize,
    ) -> Result<Rope, ConfigError> {
        let mut global = Settings::default();
        global.merge("rope_theta", self.theta("rope_theta", self.keys)?, None)?;
        let mut local = Settings::default();
        if let Some(keys) = self.object("rope_scaling")? {
            self.settings("rope_scaling", keys, architecture, positions, &mut global)?;
        }
        let nested = self.object("rope_parameters")?;
        if architecture == Architecture::Gemma3 {
            let theta = self.theta("rope_local_base_freq", self.keys)?;
            local.merge("rope_local_base_freq", theta, None)?;
            for (kind, parameters) in nested.into_iter().flatten() {
                let name = format!("rope_parameters.{kind}");
                let into = match kind.as_str() {
                    kind if kind == LayerType::Full.name() => &mut global,
                    kind if kind == LayerType::Sliding.name() => &mut local,
                    _ => return Err(unsupported(&name, "expected one object a type of layer")),
                };
                match parameters {
                    Value::Null => {}
                    Value::Object(keys) => {
                        self.settings(&name, keys, architecture, positions, into)?;
                    }
                    _ => return Err(ConfigError::Invalid(format!("{name} is no object"))),
                }
            }
            self.only(ORIGINAL_POSITIONS, &[])?;
        } else {
            self.only("rope_local_base_freq", &[])?;
            if let Some(keys) = nested {
                self.settings("rope_parameters", keys, architecture, positions, &mut global)?;
            }
        }
        if local.scaling.is_some_and(|scaling| scaling != RopeScaling::None) {
            let name = format!("rope_parameters.{}", LayerType::Sliding.name());
            return Err(unsupported(&name, "layers with a window are not scaled"));
        }
        let (theta, local_theta) = match architecture {
            Architecture::Gemma3 => (1e6, Some(local.theta.unwrap_or(1e4))),
            _ => (1e4, None),
        };
        let theta = global.theta.unwrap_or(theta);
        let scaling = global.scaling.unwrap_or_default();
        if matches!(scaling, RopeScaling::Yarn(_)) && theta <= 1.0 {
            return Err(ConfigError::Invalid(format!(
                "rope_theta is {theta}, expected a number above 1 for \"yarn\""
            )));
        }
        Ok(Rope { theta, scaling, local_theta })
    }

    /// Merges what the object `keys`, called `name`, says into `settings`.
    fn settings(
        &self,
        name: &str,
        keys: &Map<String, Value>,
        architecture: Architecture,
        positions: usize,
        settings: &mut Settings,
    ) -> Result<(), ConfigError> {
        let object = Object { reader: self, name, keys };
        let kind = object.kind()?;
        let (scaling, accepted): (_, &[&str]) = match kind {
            "default" => (RopeScaling::None, &[]),
            "linear" => (RopeScaling::Linear(object.factor()?), &["factor"]),
            "llama3" => (
                RopeScaling::Llama3(object.llama3(positions)?),
                &["factor", "low_freq_factor", "high_freq_factor", ORIGINAL_POSITIONS],
            ),
            "yarn" => {
                let yarn = object.yarn(positions)?;
                // `transformers` looks for the flag where Gemma's nested layout cannot have it.
                if architecture == Architecture::Gemma3 && !yarn.truncate {
                    return Err(unsupported(&format!("{name}.truncate"), "only true is"));
                }
                (
                    RopeScaling::Yarn(yarn),
                    &[
                        "factor",
                        ORIGINAL_POSITIONS,
                        "beta_fast",
                        "beta_slow",
                        "truncate",
                        "attention_factor",
                        "mscale",
                        "mscale_all_dim",
                    ],
                )
            }
            other => {
                return Err(ConfigError::Unsupported(format!(
                    "{name} of type {other:?} is not supported; use a model with \"default\", \
                     \"linear\", \"llama3\" or \"yarn\""
                )));
            }
        };
        for (key, value) in keys {
            let neutral = match key.as_str() {
                "rope_type" | "type" | "rope_theta" => true,
                "partial_rotary_factor" => value.as_f64() == Some(1.0),
                key => value.is_null() || accepted.contains(&key),
            };
            if !neutral {
                let with = format!("not with type {kind:?}");
                return Err(unsupported(&format!("{name}.{key}"), &with));
            }
        }
        settings.merge(name, self.theta("rope_theta", keys)?, Some(scaling))
    }

    fn theta(&self, key: &str, keys: &Map<String, Value>) -> Result<Option<f64>, ConfigError> {
        self.number(key, keys, 1.0, THETA_MAX)
    }

    fn object(&self, key: &str) -> Result<Option<&Map<String, Value>>, ConfigError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(keys)) => Ok(Some(keys)),
            Some(other) => {
                Err(ConfigError::Invalid(format!("{key} is {other}, expected an object")))
            }
        }
    }
}

fn unsupported(name: &str, why: &str) -> ConfigError {
    ConfigError::Unsupported(format!("{name} is not supported, {why}"))
}

/// What has been read so far for a type of layer.
#[derive(Debug, Default)]
struct Settings {
    theta: Option<f64>,
    scaling: Option<RopeScaling>,
}

impl Settings {
    /// Takes the values of `name`, which must not contradict earlier ones.
    fn merge(
        &mut self,
        name: &str,
        theta: Option<f64>,
        scaling: Option<RopeScaling>,
    ) -> Result<(), ConfigError> {
        let contradiction = |what: &str| {
            Err(ConfigError::Invalid(format!("{what} of {name} contradicts another key")))
        };
        if self.theta.is_some() && theta.is_some() && self.theta != theta {
            return contradiction("rope_theta");
        }
        if self.scaling.is_some() && scaling.is_some() && self.scaling != scaling {
            return contradiction("the RoPE scaling");
        }
        self.theta = self.theta.or(theta);
        self.scaling = self.scaling.or(scaling);
        Ok(())
    }
}

/// One object of RoPE parameters.
struct Object<'a> {
    reader: &'a Reader<'a>,
    name: &'a str,
    keys: &'a Map<String, Value>,
}

impl Object<'_> {
    /// Reads `rope_type`, or `type` in older files.
    fn kind(&self) -> Result<&str, ConfigError> {
        let text = |key: &str| match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(kind)) => Ok(Some(kind.as_str())),
            Some(other) => {
                let name = self.name;
                Err(ConfigError::Invalid(format!("{name}.{key} is {other}, expected a name")))
            }
        };
        match (text("rope_type")?, text("type")?) {
            (Some(new), Some(old)) if new != old => Err(ConfigError::Invalid(format!(
                "{}.rope_type is {new:?}, but {}.type is {old:?}",
                self.name, self.name
            ))),
            (new, old) => Ok(new.or(old).unwrap_or("default")),
        }
    }

    fn llama3(&self, positions: usize) -> Result<Llama3Scaling, ConfigError> {
        let scaling = Llama3Scaling {
            factor: self.factor()?,
            low_freq_factor: self.required("low_freq_factor", 1e-6, FACTOR_MAX)?,
            high_freq_factor: self.required("high_freq_factor", 1e-6, FACTOR_MAX)?,
            original_max_position_embeddings: self.original_positions(positions)?,
        };
        if scaling.high_freq_factor > scaling.low_freq_factor {
            return Ok(scaling);
        }
        Err(ConfigError::Invalid(format!(
            "{}.high_freq_factor {} is not above low_freq_factor {}",
            self.name, scaling.high_freq_factor, scaling.low_freq_factor
        )))
    }

    fn yarn(&self, positions: usize) -> Result<YarnScaling, ConfigError> {
        // Zero counts as absent.
        let turns = |key: &str, default: f64| {
            let turns = self.optional(key, 0.0, FACTOR_MAX)?;
            Ok(turns.filter(|turns| *turns != 0.0).unwrap_or(default))
        };
        let scaling = YarnScaling {
            factor: self.factor()?,
            original_max_position_embeddings: self.original_positions(positions)?,
            beta_fast: turns("beta_fast", 32.0)?,
            beta_slow: turns("beta_slow", 1.0)?,
            truncate: match self.keys.get("truncate") {
                None => true,
                Some(Value::Bool(truncate)) => *truncate,
                Some(other) => {
                    return Err(ConfigError::Invalid(format!(
                        "{}.truncate is {other}, expected true or false",
                        self.name
                    )));
                }
            },
            attention_factor: self.optional("attention_factor", 1e-3, 1e3)?,
            mscale: self.optional("mscale", 0.0, 1e3)?,
            mscale_all_dim: self.optional("mscale_all_dim", 0.0, 1e3)?,
        };
        if scaling.beta_fast >= scaling.beta_slow {
            return Ok(scaling);
        }
        Err(ConfigError::Invalid(format!(
            "{}.beta_fast {} is below beta_slow {}",
            self.name, scaling.beta_fast, scaling.beta_slow
        )))
    }

    fn factor(&self) -> Result<f64, ConfigError> {
        self.required("factor", 1.0, FACTOR_MAX)
    }

    /// Some files state it beside the object, most not at all.
    fn original_positions(&self, positions: usize) -> Result<usize, ConfigError> {
        let inner = Reader { keys: self.keys }
            .optional_dimension(ORIGINAL_POSITIONS, POSITIONS_MAX)
            .map_err(|error| ConfigError::Invalid(format!("{}.{error}", self.name)))?;
        let outer = self.reader.optional_dimension(ORIGINAL_POSITIONS, POSITIONS_MAX)?;
        match (inner, outer) {
            (Some(inner), Some(outer)) if inner != outer => Err(ConfigError::Invalid(format!(
                "{ORIGINAL_POSITIONS} is {outer}, but {}.{ORIGINAL_POSITIONS} is {inner}",
                self.name
            ))),
            (inner, outer) => Ok(inner.or(outer).unwrap_or(positions)),
        }
    }

    fn required(&self, key: &str, min: f64, max: f64) -> Result<f64, ConfigError> {
        self.optional(key, min, max)?.ok_or_else(|| {
            ConfigError::Invalid(format!(
                "{}.{key} is missing, expected a number from {min} to {max}",
                self.name
            ))
        })
    }

    fn optional(&self, key: &str, min: f64, max: f64) -> Result<Option<f64>, ConfigError> {
        let read = self.reader.number(key, self.keys, min, max);
        read.map_err(|error| ConfigError::Invalid(format!("{}.{error}", self.name)))
    }
}
