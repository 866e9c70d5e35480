//! Which positions each layer attends to.

use serde_json::{Value, json};

use super::reader::{POSITIONS_MAX, Reader};
use super::{Architecture, ConfigError, ModelConfig};

/// What a row of a layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerType {
    /// All positions up to its own.
    Full,
    /// The last `sliding_window` positions up to its own.
    Sliding,
}

impl LayerType {
    /// Returns the name in `layer_types`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full_attention",
            Self::Sliding => "sliding_attention",
        }
    }
}

/// Gemma 3 has five layers with a window and then one without, unless a file says otherwise.
const GEMMA_PATTERN: usize = 6;
/// Defaults of the `transformers` classes.
const WINDOW: usize = 4096;
const MAX_WINDOW_LAYERS: usize = 28;

impl Reader<'_> {
    /// Reads the type of each of `n_layers` layers, and the window if one of them has it.
    pub(super) fn windows(
        &self,
        architecture: Architecture,
        n_layers: usize,
    ) -> Result<(Vec<LayerType>, Option<usize>), ConfigError> {
        let (types, window) = match architecture {
            Architecture::Llama => {
                self.only("sliding_window", &[])?;
                self.only("use_sliding_window", &[json!(false)])?;
                (self.listed_types(n_layers)?, None)
            }
            Architecture::Qwen2 | Architecture::Qwen3 => {
                // A window without the flag is what every Qwen2.5 states and none uses.
                let slides = self.flag("use_sliding_window")?.unwrap_or(false);
                let window = if slides { self.window()? } else { None };
                let first = self.count("max_window_layers")?.unwrap_or(MAX_WINDOW_LAYERS);
                let by_rule = |idx: usize| window.is_some() && idx >= first;
                (self.listed_or(n_layers, by_rule)?, window)
            }
            Architecture::Gemma3 => {
                self.only("use_sliding_window", &[json!(true)])?;
                let pattern =
                    self.optional_dimension("sliding_window_pattern", n_layers.max(64))?;
                let pattern = pattern.unwrap_or(GEMMA_PATTERN);
                if self.value("layer_types").is_none() {
                    // Releases that write this key write layer_types too, and read only that.
                    self.only("_sliding_window_pattern", &[json!(pattern)])?;
                }
                let by_rule = |idx: usize| !(idx + 1).is_multiple_of(pattern);
                (self.listed_or(n_layers, by_rule)?, self.window()?)
            }
        };
        let types = types.unwrap_or_else(|| vec![LayerType::Full; n_layers]);
        match (types.contains(&LayerType::Sliding), window) {
            (false, _) => Ok((types, None)),
            (true, Some(window)) => Ok((types, Some(window))),
            (true, None) => Err(ConfigError::Unsupported(format!(
                "layer_types has \"{}\", but {} has no window; set sliding_window or use a model \
                 without such layers",
                LayerType::Sliding.name(),
                architecture.class_name()
            ))),
        }
    }

    /// An absent window is the default of the class, a `null` one is none.
    fn window(&self) -> Result<Option<usize>, ConfigError> {
        match self.keys.get("sliding_window") {
            None => Ok(Some(WINDOW)),
            Some(_) => self.optional_dimension("sliding_window", POSITIONS_MAX),
        }
    }

    /// Reads `layer_types`, or applies the rule of the class that came before that key.
    fn listed_or(
        &self,
        n_layers: usize,
        slides: impl Fn(usize) -> bool,
    ) -> Result<Option<Vec<LayerType>>, ConfigError> {
        let by_rule = (0..n_layers)
            .map(|idx| if slides(idx) { LayerType::Sliding } else { LayerType::Full })
            .collect();
        Ok(Some(self.listed_types(n_layers)?.unwrap_or(by_rule)))
    }

    fn listed_types(&self, n_layers: usize) -> Result<Option<Vec<LayerType>>, ConfigError> {
        let names = match self.value("layer_types") {
            None => return Ok(None),
            Some(Value::Array(names)) if names.len() == n_layers => names,
            Some(_) => {
                return Err(ConfigError::Invalid(format!(
                    "layer_types is no list of num_hidden_layers {n_layers} names"
                )));
            }
        };
        let known = [LayerType::Full, LayerType::Sliding];
        let read = |name: &Value| {
            known.into_iter().find(|kind| *name == json!(kind.name())).ok_or_else(|| {
                let [full, sliding] = known.map(LayerType::name);
                ConfigError::Unsupported(format!(
                    "layer_types has {name}; only \"{full}\" and \"{sliding}\" are supported"
                ))
            })
        };
        names.iter().map(read).collect::<Result<_, _>>().map(Some)
    }
}

impl ModelConfig {
    /// Checks that each layer has a type and that sliding layers have a window.
    pub(super) fn validate_layers(&self) -> Result<(), ConfigError> {
        if self.layer_types.len() != self.num_hidden_layers {
            return Err(ConfigError::Invalid(format!(
                "layer_types has {} entries for num_hidden_layers {}",
                self.layer_types.len(),
                self.num_hidden_layers
            )));
        }
        if self.layer_types.contains(&LayerType::Sliding) != self.sliding_window.is_some() {
            return Err(ConfigError::Invalid(format!(
                "sliding_window is {:?}, which does not fit layer_types",
                self.sliding_window
            )));
        }
        Ok(())
    }
}
