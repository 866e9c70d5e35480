//! Writes a `config.json` from a model's shape.

use serde_json::{Map, Value, json};

use super::{Architecture, LayerType, ModelConfig, one_or_many};

impl ModelConfig {
    /// Writes a `config.json` that `transformers` loads, in the layout older releases know too.
    pub fn to_json(&self) -> String {
        let mut keys = json!({
            "architectures": [self.architecture.class_name()],
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": one_or_many(&self.eos_token_id),
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "mlp_bias": self.mlp_bias,
            "model_type": self.architecture.model_type(),
            "num_attention_heads": self.num_attention_heads,
            "num_hidden_layers": self.num_hidden_layers,
            "num_key_value_heads": self.num_key_value_heads,
            "pad_token_id": self.pad_token_id,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_scaling": self.rope_scaling.to_json(),
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": self.torch_dtype.torch_name(),
            "use_cache": true,
            "vocab_size": self.vocab_size,
        });
        if let Value::Object(keys) = &mut keys {
            // A key is written only where the architecture's class has it.
            let foreign: &[&str] = match self.architecture {
                Architecture::Llama => &[],
                Architecture::Qwen2 => &["attention_bias", "mlp_bias"],
                Architecture::Qwen3 => &["mlp_bias"],
                Architecture::Gemma3 => &["hidden_act", "mlp_bias"],
            };
            keys.retain(|key, _| !foreign.contains(&key.as_str()));
            match self.architecture {
                Architecture::Llama => {}
                Architecture::Qwen2 | Architecture::Qwen3 => self.write_optional_window(keys),
                Architecture::Gemma3 => self.write_gemma(keys),
            }
        }
        format!("{keys:#}\n")
    }

    /// The Qwen classes slide only where a flag says so.
    fn write_optional_window(&self, keys: &mut Map<String, Value>) {
        keys.insert("use_sliding_window".into(), json!(self.sliding_window.is_some()));
        if self.sliding_window.is_some() {
            keys.insert("sliding_window".into(), json!(self.sliding_window));
            keys.insert("layer_types".into(), self.layer_type_names());
            // The key older releases read: windows from this layer on.
            let sliding = |kind: &LayerType| *kind == LayerType::Sliding;
            let n_full = self.layer_types.iter().take_while(|kind| !sliding(kind)).count();
            if self.layer_types[n_full..].iter().all(sliding) {
                keys.insert("max_window_layers".into(), json!(n_full));
            }
        }
    }

    fn write_gemma(&self, keys: &mut Map<String, Value>) {
        for (key, value) in [
            ("attn_logit_softcapping", json!(self.attn_logit_softcapping)),
            ("final_logit_softcapping", json!(self.final_logit_softcapping)),
            ("hidden_activation", json!("gelu_pytorch_tanh")),
            ("layer_types", self.layer_type_names()),
            ("query_pre_attn_scalar", json!(self.query_pre_attn_scalar.map(whole_or_not))),
            ("rope_local_base_freq", json!(self.rope_local_base_freq)),
            ("sliding_window", json!(self.sliding_window)),
        ] {
            keys.insert(key.into(), value);
        }
    }

    fn layer_type_names(&self) -> Value {
        self.layer_types.iter().map(|kind| json!(kind.name())).collect()
    }
}

/// Writes a whole number without a point: `transformers` takes nothing else for an integer.
fn whole_or_not(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}
