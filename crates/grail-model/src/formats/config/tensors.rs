//! The tensors that a weight file of each architecture holds.

use super::ModelConfig;

impl ModelConfig {
    /// Returns every tensor a weight file of this model holds, with its shape, row-major
    /// `[out, in]` for projections, in the order of the computation.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all =
            vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, self.hidden_size])];
        for layer in 0..self.num_hidden_layers {
            self.layer_tensors(&format!("model.layers.{layer}"), &mut all);
        }
        all.push(("model.norm.weight".into(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, self.hidden_size]));
        }
        all
    }

    /// Returns the number of parameters, a tied head counted once.
    pub fn n_parameters(&self) -> u64 {
        // The bounds of the dimensions keep the sum below 2^48.
        let n: usize =
            self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        u64::try_from(n).expect("usize has at most 64 bits")
    }

    fn layer_tensors(&self, layer: &str, all: &mut Vec<(String, Vec<usize>)>) {
        let (hidden, q, kv, ffn) =
            (self.hidden_size, self.q_size(), self.kv_size(), self.intermediate_size);
        let mut linear = |name: &str, rows: usize, columns: usize, bias: bool| {
            all.push((format!("{layer}.{name}.weight"), vec![rows, columns]));
            if bias {
                all.push((format!("{layer}.{name}.bias"), vec![rows]));
            }
        };
        linear("self_attn.q_proj", q, hidden, self.attention_bias);
        linear("self_attn.k_proj", kv, hidden, self.attention_bias);
        linear("self_attn.v_proj", kv, hidden, self.attention_bias);
        linear("self_attn.o_proj", hidden, q, self.has_o_bias());
        linear("mlp.gate_proj", ffn, hidden, self.mlp_bias);
        linear("mlp.up_proj", ffn, hidden, self.mlp_bias);
        linear("mlp.down_proj", hidden, ffn, self.mlp_bias);
        let mut norm = |name: &str, width: usize| {
            all.push((format!("{layer}.{name}.weight"), vec![width]));
        };
        norm("input_layernorm", hidden);
        norm("post_attention_layernorm", hidden);
        if self.has_branch_norms() {
            norm("pre_feedforward_layernorm", hidden);
            norm("post_feedforward_layernorm", hidden);
        }
        if self.has_qk_norm() {
            norm("self_attn.q_norm", self.head_dim);
            norm("self_attn.k_norm", self.head_dim);
        }
    }
}
