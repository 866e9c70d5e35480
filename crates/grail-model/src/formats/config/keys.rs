//! Keys that select what is not computed here, keys that change nothing, and all others.

use serde_json::{Map, Value, json};

use super::reader::Reader;
use super::{Architecture, ConfigError};

/// Keys that the readers of this folder of modules understand.
const READ: [&str; 33] = [
    "_sliding_window_pattern",
    "architectures",
    "attention_bias",
    "attn_logit_softcapping",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "final_logit_softcapping",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "model_type",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "pad_token_id",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sliding_window_pattern",
    "tie_word_embeddings",
    "torch_dtype",
];

/// Keys of published files that change no logit and no gradient: where a model came from, how a
/// program runs it, how other kinds of heads are labelled, dropout (which this trainer has not), and
/// old settings of generation.
const HARMLESS: [&str; 73] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation_internal",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_max_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    // Splits matrix products into parts whose sum is the same.
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "transformers_weights",
    "trust_remote_code",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "use_return_dict",
    "vocab_size",
];

/// Keys that select a computation of other models, with the values that select none of it.
fn elsewhere() -> Vec<(&'static str, Vec<Value>)> {
    let off = || vec![json!(false)];
    let none = || vec![json!(0), json!([]), json!({})];
    let one = || vec![json!(1.0)];
    vec![
        ("add_cross_attention", off()),
        ("alibi", off()),
        ("attention_chunk_size", none()),
        ("attention_multiplier", Vec::new()),
        ("attn_temperature_tuning", off()),
        ("auto_map", none()),
        ("compression_config", none()),
        ("embedding_multiplier", one()),
        ("is_encoder_decoder", off()),
        ("lm_head_bias", off()),
        ("logit_scale", one()),
        ("logits_scaling", one()),
        ("mlp_layer_types", none()),
        ("n_routed_experts", none()),
        ("no_rope_layer_interval", none()),
        ("no_rope_layers", none()),
        ("num_experts", none()),
        ("num_local_experts", none()),
        ("partial_rotary_factor", one()),
        ("per_layer_config", none()),
        ("pruned_heads", none()),
        ("quantization", none()),
        ("quantization_config", none()),
        ("residual_multiplier", one()),
        ("rope_interleaved", off()),
        ("rotary_dim", Vec::new()),
        ("rotary_pct", one()),
        ("text_config", none()),
        ("use_bidirectional_attention", off()),
        ("use_mrope", off()),
        ("use_qk_norm", off()),
        ("use_sliding_window", vec![json!(false), json!(true)]),
        ("vision_config", none()),
    ]
}

/// Returns the keys that neither list has.
pub(super) fn unknown(keys: &Map<String, Value>) -> Vec<String> {
    let elsewhere = elsewhere();
    keys.keys()
        .filter(|key| !READ.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()))
        .filter(|key| !elsewhere.iter().any(|(name, _)| name == key))
        .cloned()
        .collect()
}

impl Reader<'_> {
    /// Refuses keys that select what no architecture here computes, and keys of one architecture in
    /// a file of another.
    pub(super) fn refuse_what_is_not_computed(
        &self,
        architecture: Architecture,
    ) -> Result<(), ConfigError> {
        for (key, neutral) in elsewhere() {
            self.only(key, &neutral)?;
        }
        let activation: &[Value] = match architecture {
            Architecture::Gemma3 => &[json!("gelu_pytorch_tanh")],
            _ => &[json!("silu"), json!("swish")],
        };
        self.only("hidden_act", activation)?;
        self.only("hidden_activation", activation)?;
        if architecture != Architecture::Llama {
            self.only("mlp_bias", &[json!(false)])?;
        }
        if architecture != Architecture::Gemma3 {
            self.only("query_pre_attn_scalar", &[])?;
            self.only("attn_logit_softcapping", &[])?;
            self.only("final_logit_softcapping", &[])?;
            self.only("sliding_window_pattern", &[])?;
            self.only("_sliding_window_pattern", &[])?;
        }
        Ok(())
    }

    /// Accepts an absent key or one of `accepted`; 1 and 1.0 are the same value.
    pub(super) fn only(&self, key: &str, accepted: &[Value]) -> Result<(), ConfigError> {
        let Some(found) = self.value(key) else { return Ok(()) };
        let equals =
            |value: &Value| value == found || found.is_number() && value.as_f64() == found.as_f64();
        if accepted.iter().any(equals) {
            return Ok(());
        }
        let expected = match accepted.first() {
            Some(value) if !accepted.contains(&json!([])) => format!("only {value} is"),
            _ => "a model without it is".to_owned(),
        };
        let found = found.to_string();
        let shown: String = found.chars().take(120).collect();
        Err(ConfigError::Unsupported(format!("{key} {shown} is not supported, {expected}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_in_two_lists() {
        let mut all: Vec<&str> = READ.into_iter().chain(HARMLESS).collect();
        all.extend(elsewhere().into_iter().map(|(key, _)| key));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
