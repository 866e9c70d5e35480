//! All layers, the embedding before them and the head after them.

use grail_kernels::{AttentionShape, Kernels, PackedMatrix, RopeTable};
use grail_ports::model::{ModelError, StopFlag};
use grail_protocol::constants::{COMPLETION_TOKENS_MAX, PROMPT_TOKENS_MAX};
use grail_protocol::ids::TokenId;

use super::activations::Activations;
use super::layer::{Layer, Shape};
use super::load_layer;
use super::rope::rope_table;
use super::weights::{LayerWeights, Values, WeightSource, WithoutMatrices, norm_weight};
use crate::engine::batch::Batch;
use crate::engine::cache::KvCache;
use crate::formats::config::{ModelConfig, RopeScaling};
use crate::parallel::parallel_map;

/// No sequence of the protocol is longer, so no table need be, whatever a configuration claims.
const POSITIONS_MAX: usize = (PROMPT_TOKENS_MAX + COMPLETION_TOKENS_MAX) as usize;

/// A loaded model: read-only, shared by threads.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) shape: Shape,
    pub(crate) layers: Vec<Layer>,
    /// Weight of the final RMSNorm, `[hidden]`.
    pub(crate) norm: Vec<f32>,
    /// LM head, `[vocab, hidden]`.
    pub(crate) head: PackedMatrix,
    /// `embed_tokens`, `[vocab, hidden]`; `None` where the head is tied to it.
    embedding: Option<Values>,
    /// Most tokens of a sequence.
    pub(crate) positions_max: usize,
    rope: RopeTable,
    /// Angles of the layers with a window, where they have their own (Gemma 3).
    local_rope: Option<RopeTable>,
}

/// Buffers of [`Decoder::forward`], kept between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Residual stream, `[rows, hidden]`; after a forward pass, the input of the final norm.
    pub(crate) x: Vec<f32>,
    activations: Activations,
}

impl Decoder {
    /// Takes the weights from `source`, whose tensors have the shapes of `config`.
    pub(crate) fn load(
        config: &ModelConfig,
        source: &dyn WeightSource,
        kernels: &Kernels,
    ) -> Result<Self, ModelError> {
        let positions_max = config.max_position_embeddings.min(POSITIONS_MAX);
        let table = |theta, scaling| rope_table(config.head_dim, theta, scaling, positions_max);
        let Stem { head, embedding, norm } = load_stem(config, source)?;
        Ok(Self {
            config: config.clone(),
            shape: Shape::new(config),
            layers: load_layers(config, source, kernels)?,
            norm,
            head,
            embedding,
            positions_max,
            rope: table(config.rope_theta, &config.rope_scaling),
            local_rope: config.rope_local_base_freq.map(|theta| table(theta, &RopeScaling::None)),
        })
    }

    /// Takes everything but the matrices anew from `source`: norms, biases, an untied embedding.
    pub(crate) fn reload_vectors(
        &mut self,
        source: &dyn WeightSource,
        kernels: &Kernels,
    ) -> Result<(), ModelError> {
        let source = &WithoutMatrices(source);
        let stem = load_stem(&self.config, source)?;
        (self.embedding, self.norm) = (stem.embedding, stem.norm);
        let layers = load_layers(&self.config, source, kernels)?;
        for (layer, mut new) in self.layers.iter_mut().zip(layers) {
            for ((_, old), (_, new)) in layer.matrices_mut().into_iter().zip(new.matrices_mut()) {
                std::mem::swap(old, new);
            }
            *layer = new;
        }
        Ok(())
    }

    /// Returns the names in a checkpoint of every matrix, and the matrix: those of the layers, then
    /// the head.
    pub(crate) fn matrices_mut(&mut self) -> Vec<(String, &mut PackedMatrix)> {
        let head = if self.config.tie_word_embeddings { EMBEDDING } else { HEAD };
        let layers = self.layers.iter_mut().enumerate().flat_map(|(layer_idx, layer)| {
            let named = layer.matrices_mut().into_iter();
            named.map(move |(name, matrix)| (format!("model.layers.{layer_idx}.{name}"), matrix))
        });
        layers.chain([(head.to_owned(), &mut self.head)]).collect()
    }

    /// The sizes the attention kernels need.
    pub(crate) fn attention_shape(&self) -> AttentionShape {
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        AttentionShape { heads, kv_heads, head_dim }
    }

    /// The rotary angles of `layer`.
    pub(crate) fn rope_of(&self, layer: &Layer) -> &RopeTable {
        match &self.local_rope {
            Some(local) if layer.local_rope => local,
            _ => &self.rope,
        }
    }

    /// Copies the embedding of each token, scaled if the architecture says so, into `x`,
    /// `[tokens, hidden]`. Ids are below `vocab_size`.
    pub(crate) fn embed(&self, tokens: &[TokenId], x: &mut [f32]) {
        let hidden = self.shape.hidden;
        let scale = self.config.embedding_scale();
        for (&token, row) in tokens.iter().zip(x.chunks_exact_mut(hidden)) {
            let token = token as usize;
            match &self.embedding {
                None => self.head.unpack_row(token, row),
                Some(Values::F32(values)) => {
                    row.copy_from_slice(&values[token * hidden..][..hidden]);
                }
                Some(Values::Bf16(bits)) => {
                    for (value, bits) in row.iter_mut().zip(&bits[token * hidden..][..hidden]) {
                        *value = f32::from_bits(u32::from(*bits) << 16);
                    }
                }
            }
            if let Some(scale) = scale {
                row.iter_mut().for_each(|value| *value *= scale);
            }
        }
        self.shape.runtime.pass(x);
    }

    /// Runs the rows of `batch` through all layers, storing their keys and values in `cache`, and
    /// leaves the residual stream in `scratch.x`.
    ///
    /// Rows go through each layer `rows_max` at a time, which bounds the buffers. A row may attend
    /// to earlier rows of the same batch, so prefill, decoding and scoring are all this function.
    ///
    /// # Errors
    /// [`ModelError::Stopped`], looked at before each layer.
    pub(crate) fn forward(
        &self,
        kernels: &Kernels,
        batch: &Batch<'_>,
        cache: &mut KvCache,
        scratch: &mut Scratch,
        rows_max: usize,
        stop: &StopFlag,
    ) -> Result<(), ModelError> {
        let (shape, rows) = (&self.shape, batch.len());
        let Scratch { x, activations: a } = scratch;
        x.resize(rows * shape.hidden, 0.0);
        self.embed(&batch.tokens, x);
        for (layer_idx, layer) in self.layers.iter().enumerate() {
            if stop.is_stopped() {
                return Err(ModelError::Stopped);
            }
            for start in (0..rows).step_by(rows_max) {
                let range = start..rows.min(start + rows_max);
                let x = &mut x[range.start * shape.hidden..range.end * shape.hidden];
                a.resize(shape, range.len());
                let positions = &batch.positions[range.clone()];
                layer.attention_inputs(kernels, shape, x, positions, self.rope_of(layer), a);
                if cache.is_kept() {
                    shape.runtime.pass(&mut a.k);
                }
                cache.store(layer_idx, batch.stores_of(range.clone()), range.start, &a.k, &a.v);
                let (k_pool, v_pool) = cache.layer(layer_idx);
                kernels.attention(
                    &a.q,
                    &mut a.attended,
                    &batch.rows[range],
                    k_pool,
                    v_pool,
                    self.attention_shape(),
                    layer.attention,
                );
                layer.add_attention(kernels, shape, x, a);
                layer.add_mlp(kernels, shape, x, a);
            }
        }
        Ok(())
    }

    /// Computes the input of the LM head from rows of the residual stream, both `[rows, hidden]`.
    pub(crate) fn head_input(&self, kernels: &Kernels, x: &[f32], input: &mut [f32]) {
        kernels.rms_norm(x, &self.norm, self.shape.eps, input, None);
        self.shape.runtime.pass(input);
    }

    /// The soft-cap of logits, if there is one.
    pub(crate) fn logit_cap(&self) -> Option<f32> {
        self.config.final_logit_softcapping.map(|cap| cap as f32)
    }

    /// Computes logits, `[rows, vocab]`, from the input of the LM head.
    pub(crate) fn logits(&self, kernels: &Kernels, input: &[f32], logits: &mut [f32]) {
        kernels.linear(input, &self.head, None, logits);
        if let Some(cap) = self.logit_cap() {
            kernels.soft_cap(logits, cap);
        }
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// What is outside the layers.
struct Stem {
    head: PackedMatrix,
    embedding: Option<Values>,
    norm: Vec<f32>,
}

fn load_stem(config: &ModelConfig, source: &dyn WeightSource) -> Result<Stem, ModelError> {
    let (vocab, hidden) = (config.vocab_size, config.hidden_size);
    let (head, embedding) = if config.tie_word_embeddings {
        (source.matrix(EMBEDDING, vocab, hidden)?, None)
    } else {
        (source.matrix(HEAD, vocab, hidden)?, Some(source.values(EMBEDDING)?))
    };
    let norm = norm_weight(config, source, "model.norm.weight")?;
    Ok(Stem { head, embedding, norm })
}

/// Loads the layers, several at a time: reading and packing keep a core busy.
fn load_layers(
    config: &ModelConfig,
    source: &dyn WeightSource,
    kernels: &Kernels,
) -> Result<Vec<Layer>, ModelError> {
    let layer_indices: Vec<usize> = (0..config.num_hidden_layers).collect();
    let load = |&layer_idx: &usize| load_layer(&LayerWeights { config, source, layer_idx });
    parallel_map(kernels, &layer_indices, &load).into_iter().collect()
}
