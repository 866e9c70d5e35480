//! Every trained parameter in one flat buffer, so that optimiser and norms are plain passes.

use std::borrow::Cow;
use std::ops::Range;

use grail_kernels::Kernels;
use grail_kernels::math::f32_to_bf16;
use grail_ports::model::ModelError;

use super::lora::{Lora, LoraConfig, PairSlots, pair_tensors};
use crate::arch::{Values, WeightSource};
use crate::formats::config::ModelConfig;

/// Where each tensor lies in the buffers of masters, gradients and moments.
#[derive(Debug)]
pub(super) struct Layout {
    tensors: Vec<Tensor>,
    len: usize,
    /// Where the passes may leave gradients of frozen vectors: behind those of the parameters.
    discarded: Vec<Tensor>,
    pairs: Vec<PairSlots>,
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
    /// `None` where it is frozen.
    pub(super) embedding: Option<Range<usize>>,
    pub(super) layers: Vec<LayerSlots>,
    pub(super) norm: Range<usize>,
    /// The same as `embedding` where the head is tied; `None` where it is frozen.
    pub(super) head: Option<Range<usize>>,
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
    pub(super) weight: WeightSlot,
    pub(super) bias: Option<Range<usize>>,
}

/// How the matrix of a projection is trained.
#[derive(Clone, Debug)]
pub(super) enum WeightSlot {
    /// Itself.
    Full(Range<usize>),
    /// By the pair with this number in [`Layout::pairs`].
    Pair(usize),
    /// Not at all.
    Frozen,
}

impl Layout {
    /// Lays out what is trained, in the order of the computation: with `lora` the pairs, else every
    /// tensor of `config`.
    pub(super) fn new(config: &ModelConfig, lora: Option<&LoraConfig>) -> Self {
        let mut len = 0;
        let mut take = |shape: &[usize]| {
            let start = len;
            len += shape.iter().product::<usize>();
            start..len
        };
        let (mut tensors, mut pairs, mut vectors) = (Vec::new(), Vec::new(), Vec::new());
        for (weight, shape) in config.tensors() {
            let Some(lora) = lora else {
                let range = take(&shape);
                tensors.push(Tensor { name: weight, shape, range });
                continue;
            };
            match pair_tensors(lora, &weight, &shape) {
                Some([a, b]) => {
                    let ranges = [a, b].map(|(name, shape)| {
                        let range = take(&shape);
                        tensors.push(Tensor { name, shape, range: range.clone() });
                        range
                    });
                    let ([a, b], n, k) = (ranges, shape[0], shape[1]);
                    pairs.push(PairSlots { weight, n, k, a, b });
                }
                None if shape.len() == 1 => vectors.push((weight, shape)),
                None => {}
            }
        }
        let mut end = len;
        let discarded = vectors.into_iter().map(|(name, shape)| {
            let start = end;
            end += shape.iter().product::<usize>();
            Tensor { name, shape, range: start..end }
        });
        let discarded: Vec<Tensor> = discarded.collect();
        let slots = Slots::new(config, &tensors, &discarded, &pairs);
        Self { tensors, len, discarded, pairs, slots }
    }

    /// Returns the pairs of a LoRA training; none in a full one.
    pub(super) fn pairs(&self) -> &[PairSlots] {
        &self.pairs
    }

    /// Returns the number of values that gradients need room for, those to be discarded included.
    pub(super) fn gradient_len(&self) -> usize {
        self.discarded.last().map_or(self.len, |tensor| tensor.range.end)
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
    fn new(
        config: &ModelConfig,
        tensors: &[Tensor],
        discarded: &[Tensor],
        pairs: &[PairSlots],
    ) -> Self {
        let optional = |name: &str| -> Option<Range<usize>> {
            let mut all = tensors.iter().chain(discarded);
            all.find(|tensor| tensor.name == name).map(|tensor| tensor.range.clone())
        };
        let weight = |name: &str| match pairs.iter().position(|pair| pair.weight == name) {
            Some(idx) => WeightSlot::Pair(idx),
            None => optional(name).map_or(WeightSlot::Frozen, WeightSlot::Full),
        };
        let range =
            |name: &str| optional(name).expect("every architecture has this vector in its list");
        let embedding = optional("model.embed_tokens.weight");
        let head =
            if config.tie_word_embeddings { embedding.clone() } else { optional("lm_head.weight") };
        let layers = (0..config.num_hidden_layers).map(|layer_idx| {
            let full = |name: &str| format!("model.layers.{layer_idx}.{name}");
            let linear = |name: &str| LinearSlots {
                weight: weight(&full(&format!("{name}.weight"))),
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
        Self { layers: layers.collect(), norm: range("model.norm.weight"), head, embedding }
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

/// The weights that the passes compute with and an export holds, by the names of a checkpoint.
pub(super) struct Weights<'a> {
    pub(super) kernels: &'a Kernels,
    pub(super) layout: &'a Layout,
    pub(super) masters: &'a [f32],
    /// In a LoRA training, what the pairs stand beside.
    pub(super) lora: Option<&'a Lora>,
    pub(super) precision: Precision,
}

impl WeightSource for Weights<'_> {
    fn values(&self, name: &str) -> Result<Values, ModelError> {
        let values = if let Some(lora) = self.lora {
            match self.layout.pairs.iter().find(|pair| pair.weight == name) {
                Some(pair) => Cow::Owned(lora.merged(self.kernels, pair, self.masters)?),
                None if self.precision == Precision::Bf16 => match lora.base_values(name)? {
                    Values::Bf16(bits) => return Ok(Values::Bf16(bits.clone())),
                    Values::F32(values) => Cow::Borrowed(values.as_slice()),
                },
                None => Cow::Owned(lora.base_values(name)?.clone().into_f32()),
            }
        } else {
            let missing = || format!("the trainer has no tensor {name:?}");
            let tensor = self.layout.tensor(name);
            let tensor = tensor.ok_or_else(|| ModelError::Unloadable(missing()))?;
            Cow::Borrowed(&self.masters[tensor.range.clone()])
        };
        Ok(match self.precision {
            Precision::Bf16 => Values::Bf16(values.iter().map(|&x| f32_to_bf16(x)).collect()),
            Precision::F32 => Values::F32(values.into_owned()),
        })
    }
}
