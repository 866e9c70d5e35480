//! Gives the decoder its weights by name, whether they come from a file or from a trainer.

use grail_kernels::{AttentionOptions, PackedMatrix};
use grail_ports::model::ModelError;

use super::layer::{BranchNorms, HeadNorms, Layer, Linear};
use crate::folder::unloadable;
use crate::formats::Dtype;
use crate::formats::config::ModelConfig;
use crate::formats::safetensors::TensorSource;

/// The values of one tensor, row-major, all finite.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// Bits of bf16, computed with as they are (widening is exact).
    Bf16(Vec<u16>),
    /// f32, from f32 or (exactly) from f16.
    F32(Vec<f32>),
}

impl Values {
    /// Returns the values as f32; exact.
    pub(crate) fn into_f32(self) -> Vec<f32> {
        match self {
            Self::Bf16(bits) => {
                bits.into_iter().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()
            }
            Self::F32(values) => values,
        }
    }

    /// Packs the values as a matrix `[n, k]` for the kernels, in their own width.
    pub(crate) fn pack(&self, n: usize, k: usize) -> PackedMatrix {
        match self {
            Self::Bf16(bits) => PackedMatrix::pack_bf16(n, k, bits),
            Self::F32(values) => PackedMatrix::pack_f32(n, k, values),
        }
    }
}

/// Where weights come from. The shapes are those of [`ModelConfig::tensors`]: whoever makes a
/// source has checked them.
pub(crate) trait WeightSource: Sync {
    /// Returns the tensor called `name`.
    fn values(&self, name: &str) -> Result<Values, ModelError>;

    /// Returns the matrix called `name`, `[n, k]`, packed for the kernels.
    fn matrix(&self, name: &str, n: usize, k: usize) -> Result<PackedMatrix, ModelError> {
        Ok(self.values(name)?.pack(n, k))
    }
}

/// A source without its matrices: what is left to read where the matrices are written in place.
pub(super) struct WithoutMatrices<'a>(pub(super) &'a dyn WeightSource);

impl WeightSource for WithoutMatrices<'_> {
    fn values(&self, name: &str) -> Result<Values, ModelError> {
        self.0.values(name)
    }

    fn matrix(&self, _: &str, _: usize, _: usize) -> Result<PackedMatrix, ModelError> {
        Ok(PackedMatrix::default())
    }
}

impl WeightSource for TensorSource {
    fn values(&self, name: &str) -> Result<Values, ModelError> {
        let view = self.tensor(name).map_err(|error| unloadable(&error))?;
        if view.dtype != Dtype::BF16 {
            return self.to_f32(name).map(Values::F32).map_err(|error| unloadable(&error));
        }
        let bits: Vec<u16> =
            view.bytes.as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
        if let Some(idx) = bits.iter().position(|bits| bits & BF16_EXPONENT == BF16_EXPONENT) {
            return Err(ModelError::Unloadable(format!(
                "value {idx} of tensor {name:?} is not finite; fetch or export the weights again"
            )));
        }
        Ok(Values::Bf16(bits))
    }
}

/// All ones for infinities and NaN alone.
const BF16_EXPONENT: u16 = 0x7f80;

/// Which projections of a layer have a bias.
#[derive(Clone, Copy, Debug)]
pub(super) struct Biases {
    pub(super) qkv: bool,
    pub(super) o: bool,
    pub(super) mlp: bool,
}

/// Which norms a layer has beside the one before its attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norms {
    /// On each query and key head.
    pub(super) heads: bool,
    /// On what attention and MLP add to the stream.
    pub(super) branches: bool,
}

/// The weights of one layer: names are relative to `model.layers.N.`.
pub(super) struct LayerWeights<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) source: &'a dyn WeightSource,
    pub(super) layer_idx: usize,
}

impl LayerWeights<'_> {
    /// Loads what all architectures have.
    pub(super) fn layer(&self, biases: Biases, norms: Norms) -> Result<Layer, ModelError> {
        let config = self.config;
        let (hidden, q, kv, ffn) =
            (config.hidden_size, config.q_size(), config.kv_size(), config.intermediate_size);
        Ok(Layer {
            attention: self.attention_options(),
            local_rope: config.rope_local_base_freq.is_some() && self.window().is_some(),
            input_layernorm: self.norm("input_layernorm")?,
            q_proj: self.linear("self_attn.q_proj", q, hidden, biases.qkv)?,
            k_proj: self.linear("self_attn.k_proj", kv, hidden, biases.qkv)?,
            v_proj: self.linear("self_attn.v_proj", kv, hidden, biases.qkv)?,
            head_norms: if norms.heads { Some(self.head_norms()?) } else { None },
            o_proj: self.linear("self_attn.o_proj", hidden, q, biases.o)?,
            mlp_layernorm: self.norm(if norms.branches {
                "pre_feedforward_layernorm"
            } else {
                "post_attention_layernorm"
            })?,
            gate_proj: self.linear("mlp.gate_proj", ffn, hidden, biases.mlp)?,
            up_proj: self.linear("mlp.up_proj", ffn, hidden, biases.mlp)?,
            down_proj: self.linear("mlp.down_proj", hidden, ffn, biases.mlp)?,
            branch_norms: if norms.branches { Some(self.branch_norms()?) } else { None },
        })
    }

    fn head_norms(&self) -> Result<HeadNorms, ModelError> {
        Ok(HeadNorms { q: self.norm("self_attn.q_norm")?, k: self.norm("self_attn.k_norm")? })
    }

    fn branch_norms(&self) -> Result<BranchNorms, ModelError> {
        Ok(BranchNorms {
            attention: self.norm("post_attention_layernorm")?,
            mlp: self.norm("post_feedforward_layernorm")?,
        })
    }

    /// Loads what the norm `name` multiplies by.
    fn norm(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        norm_weight(self.config, self.source, &self.full_name(&format!("{name}.weight")))
    }

    fn window(&self) -> Option<usize> {
        self.config.window(self.layer_idx)
    }

    fn attention_options(&self) -> AttentionOptions {
        AttentionOptions {
            scale: self.config.query_pre_attn_scalar.map(|_| self.config.attention_scale()),
            // A window beyond 2^32 positions is none.
            window: self.window().and_then(|window| u32::try_from(window).ok()),
            soft_cap: self.config.attn_logit_softcapping.map(|cap| cap as f32),
        }
    }

    /// Loads a vector, widened to f32.
    fn vector(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.source.values(&self.full_name(name))?.into_f32())
    }

    fn linear(&self, name: &str, n: usize, k: usize, bias: bool) -> Result<Linear, ModelError> {
        let weight = self.source.matrix(&self.full_name(&format!("{name}.weight")), n, k)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"))?) } else { None };
        Ok(Linear { weight, bias })
    }

    fn full_name(&self, name: &str) -> String {
        format!("model.layers.{}.{name}", self.layer_idx)
    }
}

/// Loads what an RMSNorm multiplies by: the tensor `name` plus the architecture's offset, each sum
/// rounded to f32.
pub(super) fn norm_weight(
    config: &ModelConfig,
    source: &dyn WeightSource,
    name: &str,
) -> Result<Vec<f32>, ModelError> {
    let mut values = source.values(name)?.into_f32();
    // Adding a zero would turn a negative zero into a positive one.
    if config.norm_offset() != 0.0 {
        values.iter_mut().for_each(|value| *value += config.norm_offset());
    }
    Ok(values)
}
