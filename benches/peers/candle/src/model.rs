//! A Llama of candle tensors, in f32: forward for scoring, training and cached decoding.

use crate::ops::{CausalSoftmax, RmsNorm, Rope, SiluMul};
use candle_core::{DType, Device, Result, Tensor, Var, safetensors};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub struct Llama {
    weights: HashMap<String, Tensor>,
    pub vars: Vec<Var>,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f32,
    rope: Arc<Vec<f32>>,
}

/// Keys and values of every layer, `[batch, kv_heads, context, head_dim]` each.
pub struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    pub len: usize,
}

type Error = Box<dyn std::error::Error>;

impl Llama {
    /// Loads a folder; with `train`, every weight is a variable.
    pub fn load(folder: &Path, train: bool, positions: usize) -> std::result::Result<Self, Error> {
        let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let number = |key: &str| config[key].as_u64().ok_or(format!("config.json lacks {key}"));
        let heads = number("num_attention_heads")? as usize;
        let head_dim = number("hidden_size")? as usize / heads;
        let base = config["rope_theta"].as_f64().unwrap_or(10_000.0);
        let mut rope = Vec::with_capacity(positions * head_dim);
        for position in 0..positions {
            let angle = |i| position as f64 / base.powf((2 * i) as f64 / head_dim as f64);
            rope.extend((0..head_dim / 2).map(|i| angle(i).cos() as f32));
            rope.extend((0..head_dim / 2).map(|i| angle(i).sin() as f32));
        }
        let (mut weights, mut vars) = (HashMap::new(), Vec::new());
        for (name, tensor) in safetensors::load(folder.join("model.safetensors"), &Device::Cpu)? {
            let mut tensor = tensor.to_dtype(DType::F32)?;
            if train {
                let var = Var::from_tensor(&tensor)?;
                tensor = var.as_tensor().clone();
                vars.push(var);
            }
            weights.insert(name, tensor);
        }
        Ok(Self {
            weights,
            vars,
            layers: number("num_hidden_layers")? as usize,
            heads,
            kv_heads: number("num_key_value_heads")? as usize,
            head_dim,
            eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-5) as f32,
            rope: Arc::new(rope),
        })
    }

    pub fn cache(&self, batch: usize, context: usize) -> Result<Cache> {
        let shape = (batch, self.kv_heads, context, self.head_dim);
        let zeros = || Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let layers = (0..self.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Cache { layers, len: 0 })
    }

    fn weight(&self, name: &str) -> Result<&Tensor> {
        let found = self.weights.get(name);
        found.ok_or_else(|| candle_core::Error::Msg(format!("no weight {name}")))
    }

    /// `x [rows, in]` times the transposed weight `[out, in]`.
    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.matmul(&self.weight(name)?.t()?)
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        x.apply_op2(self.weight(name)?, RmsNorm { eps: self.eps })
    }

    /// The head's input `[batch * len, hidden]` of `tokens [batch, len]`.
    pub fn hidden(&self, tokens: &Tensor, cache: Option<&mut Cache>) -> Result<Tensor> {
        let (batch, len) = tokens.dims2()?;
        let mut cache = cache;
        let start = cache.as_ref().map_or(0, |cache| cache.len);
        let embedding = self.weight("model.embed_tokens.weight")?;
        let mut x = embedding.index_select(&tokens.flatten_all()?, 0)?; // [rows, hidden]
        for layer in 0..self.layers {
            let at = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let h = self.norm(&x, &at("input_layernorm"))?;
            let split = |name: &str, heads: usize| {
                let y = self.linear(&h, &at(name))?.reshape((batch, len, heads, self.head_dim))?;
                y.transpose(1, 2)?.contiguous() // [batch, heads, len, head_dim]
            };
            let rope = Rope { table: Arc::clone(&self.rope), start, sign: 1.0 };
            let q = split("self_attn.q_proj", self.heads)?.apply_op1(rope.clone())?;
            let k = split("self_attn.k_proj", self.kv_heads)?.apply_op1(rope)?;
            let v = split("self_attn.v_proj", self.kv_heads)?;
            let (k, v) = match cache.as_mut() {
                None => (k, v),
                Some(cache) => {
                    let (keys, values) = &cache.layers[layer];
                    keys.slice_set(&k, 2, start)?;
                    values.slice_set(&v, 2, start)?;
                    (keys.narrow(2, 0, start + len)?, values.narrow(2, 0, start + len)?)
                }
            };
            let out = self.attention(&q, &k, &v, start)?;
            x = (x + self.linear(&out, &at("self_attn.o_proj"))?)?;
            let h = self.norm(&x, &at("post_attention_layernorm"))?;
            let gate = self.linear(&h, &at("mlp.gate_proj"))?;
            let up = self.linear(&h, &at("mlp.up_proj"))?;
            x = (x + self.linear(&gate.apply_op2(&up, SiluMul)?, &at("mlp.down_proj"))?)?;
        }
        if let Some(cache) = cache {
            cache.len += len;
        }
        self.norm(&x, "model.norm.weight")
    }

    /// Query heads of one key-value head lie together, so no key or value is copied per head.
    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, start: usize) -> Result<Tensor> {
        let (batch, heads, len, dim) = q.dims4()?;
        let q = q.reshape((batch, self.kv_heads, heads / self.kv_heads * len, dim))?;
        let softmax = CausalSoftmax { scale: 1.0 / (dim as f32).sqrt(), start, len };
        let weights = q.matmul(&k.t()?)?.apply_op1(softmax)?; // [batch, kv_heads, group * len, keys]
        let out = weights.matmul(v)?.reshape((batch, heads, len, dim))?;
        out.transpose(1, 2)?.reshape((batch * len, heads * dim))
    }

    /// Logits `[rows, vocab]` of the head's input `[rows, hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let tied = !self.weights.contains_key("lm_head.weight");
        self.linear(hidden, if tied { "model.embed_tokens.weight" } else { "lm_head.weight" })
    }
}
