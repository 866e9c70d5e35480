//! Every parameter of a model in one flat buffer, so that optimiser and norms are plain passes.

use std::ops::Range;

use grail_kernels::math::f32_to_bf16;
use grail_ports::model::ModelError;

use crate::arch::{Values, WeightSource};
use crate::formats::config::ModelConfig;

/// Where each tensor lies in the buffers of masters, gradients and moments.
#[derive(Debug)]
pub(super) struct Layout {
    tensors: Vec<Tensor>,
    len: usize,
    /// Ranges the backward pass adds to.
    pub(super) slots: Slots,
}

/// One tensor of the layout.
#[derive(Debug)]
pub(super) struct Tensor {
    /// Name in a checkpoint.
    pub(super) name: String,
    /// `[out, in]` or `[width]`.
    pub(super) shape: Vec<usize>,
    /// Values in the buffers.
    pub(super) range: Range<usize>,
}

/// The tensors by role.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) embedding: Range<usize>,
    pub(super) layers: Vec<LayerSlots>,
    pub(super) norm: Range<usize>,
    /// The same as `embedding` where the head is tied.
    pub(super) head: Range<usize>,
}

/// The tensors of one layer.
#[derive(Debug)]
pub(super) struct LayerSlots {
    pub(super) input_layernorm: Range<usize>,
    pub(super) q_proj: LinearSlots,
    pub(super) k_proj: LinearSlots,
    pub(super) v_proj: LinearSlots,
    pub(super) o_proj: LinearSlots,
    /// Weights of the q and the k head norm.
    pub(super) head_norms: Option<(Range<usize>, Range<usize>)>,
    /// Of the norm before the MLP.
    pub(super) mlp_layernorm: Range<usize>,
    pub(super) gate_proj: LinearSlots,
    pub(super) up_proj: LinearSlots,
    pub(super) down_proj: LinearSlots,
    pub(super) branch_norms: Option<BranchNormSlots>,
}

/// Weights of the norms of what attention and MLP add to the stream.
#[derive(Debug)]
pub(super) struct BranchNormSlots {
    pub(super) attention: Range<usize>,
    pub(super) mlp: Range<usize>,
}

/// The tensors of one projection.
#[derive(Debug)]
pub(super) struct LinearSlots {
    pub(super) weight: Range<usize>,
    pub(super) bias: Option<Range<usize>>,
}

impl Layout {
    /// Lays out the tensors of `config` in the order of the computation.
    pub(super) fn new(config: &ModelConfig) -> Self {
        let mut len = 0;
        let tensors: Vec<Tensor> = config
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let start = len;
                len += shape.iter().product::<usize>();
                Tensor { name, shape, range: start..len }
            })
            .collect();
        let slots = Slots::new(config, &tensors);
        Self { tensors, len, slots }
    }

    /// Returns the number of parameters.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the tensors, in the order of their ranges.
    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Returns the tensor called `name`.
    pub(super) fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

impl Slots {
    fn new(config: &ModelConfig, tensors: &[Tensor]) -> Self {
        let optional = |name: &str| -> Option<Range<usize>> {
            tensors.iter().find(|tensor| tensor.name == name).map(|tensor| tensor.range.clone())
        };
        let range =
            |name: &str| optional(name).expect("every architecture has this tensor in its list");
        let embedding = range("model.embed_tokens.weight");
        let layers = (0..config.num_hidden_layers).map(|layer_idx| {
            let full = |name: &str| format!("model.layers.{layer_idx}.{name}");
            let linear = |name: &str| LinearSlots {
                weight: range(&full(&format!("{name}.weight"))),
                bias: optional(&full(&format!("{name}.bias"))),
            };
            LayerSlots {
                input_layernorm: range(&full("input_layernorm.weight")),
                q_proj: linear("self_attn.q_proj"),
                k_proj: linear("self_attn.k_proj"),
                v_proj: linear("self_attn.v_proj"),
                o_proj: linear("self_attn.o_proj"),
                head_norms: optional(&full("self_attn.q_norm.weight"))
                    .zip(optional(&full("self_attn.k_norm.weight"))),
                mlp_layernorm: optional(&full("pre_feedforward_layernorm.weight"))
                    .unwrap_or_else(|| range(&full("post_attention_layernorm.weight"))),
                gate_proj: linear("mlp.gate_proj"),
                up_proj: linear("mlp.up_proj"),
                down_proj: linear("mlp.down_proj"),
                branch_norms: optional(&full("post_feedforward_layernorm.weight")).map(|mlp| {
                    let attention = range(&full("post_attention_layernorm.weight"));
                    BranchNormSlots { attention, mlp }
                }),
            }
        });
        Self {
            layers: layers.collect(),
            norm: range("model.norm.weight"),
            head: optional("lm_head.weight").unwrap_or_else(|| embedding.clone()),
            embedding,
        }
    }
}

/// What the forward pass of training computes with, and what an export writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// The masters rounded to bf16: what miners and validators get, so log-probabilities are
    /// theirs, bit for bit. The gradient passes the rounding unchanged (straight through).
    #[default]
    Bf16,
    /// The masters as they are, to compare with a reference.
    F32,
}

/// The masters as a source of weights.
pub(super) struct Masters<'a> {
    pub(super) layout: &'a Layout,
    pub(super) values: &'a [f32],
    pub(super) precision: Precision,
}

impl WeightSource for Masters<'_> {
    fn values(&self, name: &str) -> Result<Values, ModelError> {
        let tensor = self
            .layout
            .tensor(name)
            .ok_or_else(|| ModelError::Unloadable(format!("the trainer has no tensor {name:?}")))?;
        let values = &self.values[tensor.range.clone()];
        Ok(match self.precision {
            Precision::Bf16 => Values::Bf16(values.iter().map(|&x| f32_to_bf16(x)).collect()),
            Precision::F32 => Values::F32(values.to_vec()),
        })
    }
}
