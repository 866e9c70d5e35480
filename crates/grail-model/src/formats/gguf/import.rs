//! Turns a GGUF file into a Hugging Face folder with bf16 weights.
//!
//! The result equals what `transformers` makes of the same file: unpack to f32, undo llama.cpp's
//! reordering of q and k, round to bf16.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use grail_kernels::mapped::map_file;
use serde_json::json;

use super::settings::read_config;
use super::vocabulary::Vocabulary;
use super::{FORMAT, Gguf, GgufTensor};
use crate::formats::config::{Architecture, CONFIG_FILE, ModelConfig, one_or_many};
use crate::formats::import::{ImportProgress, ImportReport, check_folder, report};
use crate::formats::safetensors::{SafetensorsWriter, TensorSpec, WEIGHTS_FILE};
use crate::formats::storing::{write_bytes, write_file, write_folder};
use crate::formats::{Dtype, FormatError};
use crate::tokenizer::{GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};

/// Imports the GGUF file at `path` as the new model folder `out`, with the weights in bf16.
///
/// `progress` is called after each tensor. The folder appears when everything in it is written
/// and has been read back.
///
/// # Errors
///
/// [`FormatError`]: a broken file, an architecture, tensor type, setting or pre-tokenizer that is
/// not supported, [`FormatError::Exists`], or the disk.
pub fn import_gguf(
    path: &Path,
    out: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<ImportReport, FormatError> {
    let file = File::open(path).map_err(FormatError::io("open", path))?;
    let bytes = map_file(&file).map_err(FormatError::io("read", path))?;
    let gguf = Gguf::parse(path, &bytes)?;
    let mut config = read_config(&gguf)?;
    let vocabulary = Vocabulary::read(&gguf, &config)?;
    config.eos_token_id = vocabulary.eos_token_ids.clone();
    config.bos_token_id = vocabulary.bos_token_id;
    config.pad_token_id = vocabulary.pad_token_id;
    let weights = plan(&gguf, &config)?;

    write_folder(out, |folder| {
        write_weights(&folder.join(WEIGHTS_FILE), &weights, path, progress)?;
        let write = |name: &str, text: String| write_bytes(&folder.join(name), text.as_bytes());
        write(CONFIG_FILE, config.to_json())?;
        write(TOKENIZER_FILE, vocabulary.tokenizer_json())?;
        write(TOKENIZER_CONFIG_FILE, vocabulary.tokenizer_config_json(&config))?;
        let generation = json!({
            "bos_token_id": config.bos_token_id,
            "eos_token_id": one_or_many(&config.eos_token_id),
            "pad_token_id": config.pad_token_id,
        });
        write(GENERATION_CONFIG_FILE, format!("{generation:#}\n"))?;
        check_folder(folder, &mut |_| {})
    })?;
    let mut source_types = BTreeMap::new();
    for weight in weights.values() {
        *source_types.entry(weight.tensor.ggml_type.name()).or_default() += 1;
    }
    report(out, config, source_types)
}

/// Where one tensor of the model comes from.
struct Weight<'a> {
    tensor: &'a GgufTensor<'a>,
    /// Head size of a tensor whose rows llama.cpp reordered.
    interleaved_head_dim: Option<usize>,
    /// What llama.cpp added to each value.
    added: f32,
}

/// Finds a source for every tensor of the model, and a use for every tensor of the file.
fn plan<'a>(
    gguf: &'a Gguf<'a>,
    config: &ModelConfig,
) -> Result<BTreeMap<String, Weight<'a>>, FormatError> {
    let broken = |reason: String| FormatError::broken(gguf.path(), FORMAT, reason);
    let mut weights = BTreeMap::new();
    let mut unused: BTreeMap<_, _> = gguf.tensors().collect();
    for (name, shape) in config.tensors() {
        let source = gguf_name(config.architecture, &name);
        let tensor = unused
            .remove(source.as_str())
            .ok_or_else(|| broken(format!("it has no tensor {source:?}")))?;
        if tensor.shape != shape {
            return Err(broken(format!(
                "tensor {source:?} has shape {:?}, but its settings ask for {shape:?}",
                tensor.shape
            )));
        }
        let reordered = config.architecture == Architecture::Llama
            && (name.contains(".q_proj.") || name.contains(".k_proj."));
        let interleaved_head_dim = reordered.then_some(config.head_dim);
        // Gemma's norms multiply by 1 + weight; llama.cpp stores the sum.
        let added = if name.ends_with("norm.weight") { config.norm_offset() } else { 0.0 };
        weights.insert(name, Weight { tensor, interleaved_head_dim, added });
    }
    match unused.keys().next() {
        None => Ok(weights),
        Some(name) => {
            let class = config.architecture.class_name();
            Err(broken(format!("{class} has no place for its tensor {name:?}")))
        }
    }
}

/// Returns llama.cpp's name of a Hugging Face tensor.
fn gguf_name(architecture: Architecture, name: &str) -> String {
    let outside = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(known) = outside {
        return known.to_owned();
    }
    // The norm before the MLP has llama.cpp's name for it whatever Hugging Face calls it.
    let norms: &[_] = match architecture {
        Architecture::Gemma3 => &[
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
            ("post_attention_layernorm", "post_attention_norm"),
        ],
        _ => &[("post_attention_layernorm", "ffn_norm")],
    };
    let shared = [
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let renamed = norms.iter().chain(&shared);
    renamed.fold(name.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

fn write_weights(
    path: &Path,
    weights: &BTreeMap<String, Weight<'_>>,
    source: &Path,
    progress: &mut dyn FnMut(ImportProgress<'_>),
) -> Result<(), FormatError> {
    let spec = |(name, weight): (&String, &Weight<'_>)| TensorSpec {
        name: name.clone(),
        dtype: Dtype::BF16,
        shape: weight.tensor.shape.clone(),
    };
    let specs = weights.iter().map(spec).collect();
    write_file(path, |sink| {
        let mut writer =
            SafetensorsWriter::new(sink, specs, &[]).map_err(FormatError::io("write", path))?;
        for (idx, (name, weight)) in weights.iter().enumerate() {
            let bytes = weight.to_bf16().ok_or_else(|| {
                let reason = format!("tensor {name:?} has a value that is not finite");
                FormatError::broken(source, FORMAT, reason)
            })?;
            writer.push(&bytes).map_err(FormatError::io("write", path))?;
            progress(ImportProgress { n_done: idx + 1, n_total: weights.len(), item: name });
        }
        writer.finish().map_err(FormatError::io("write", path)).map(drop)
    })
}

impl Weight<'_> {
    /// Unpacks row by row and rounds to bf16; `None` if a value is not finite.
    fn to_bf16(&self) -> Option<Vec<u8>> {
        let tensor = self.tensor;
        // A bias or norm is one column: its "rows" are single values.
        let (n_rows, n_columns) = match tensor.shape.as_slice() {
            [rows, columns] => (*rows, *columns),
            other if self.interleaved_head_dim.is_none() => (1, other.iter().product()),
            other => (other.iter().product(), 1),
        };
        let row_bytes = tensor.bytes.len() / n_rows;
        let mut values = vec![0.0; n_columns];
        let mut bytes = Vec::with_capacity(n_rows * n_columns * Dtype::BF16.size());
        for row in 0..n_rows {
            let source = match self.interleaved_head_dim {
                Some(head_dim) => interleaved_row(row, head_dim),
                None => row,
            };
            let packed = &tensor.bytes[source * row_bytes..][..row_bytes];
            tensor.ggml_type.dequantise(packed, &mut values);
            if self.added != 0.0 {
                // Exact wherever the sum was, since the difference is a bf16.
                values.iter_mut().for_each(|value| *value -= self.added);
            }
            // Overflow in the rounding counts: the largest f32 values have no finite bf16.
            let rounded = Dtype::BF16.encode(&values);
            if !Dtype::BF16.decode(&rounded).iter().all(|value| value.is_finite()) {
                return None;
            }
            bytes.extend(rounded);
        }
        Some(bytes)
    }
}

/// Returns where llama.cpp puts row `row` of q or k. It rotates neighbours (2 i, 2 i + 1) where
/// Hugging Face rotates the halves (i, i + head_dim / 2), so its files interleave the halves.
fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (name, want) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.12.input_layernorm.weight", "blk.12.attn_norm.weight"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.layers.3.self_attn.q_proj.bias", "blk.3.attn_q.bias"),
            ("model.layers.3.self_attn.q_norm.weight", "blk.3.attn_q_norm.weight"),
            ("model.layers.3.self_attn.o_proj.weight", "blk.3.attn_output.weight"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
        ] {
            assert_eq!(gguf_name(Architecture::Llama, name), want);
        }
        for (name, want) in [
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"),
            ("model.layers.0.pre_feedforward_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("model.layers.0.post_feedforward_layernorm.weight", "blk.0.post_ffw_norm.weight"),
            ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
        ] {
            assert_eq!(gguf_name(Architecture::Gemma3, name), want);
        }
    }

    #[test]
    fn halves_are_interleaved_within_each_head() {
        let order: Vec<_> = (0..12).map(|row| interleaved_row(row, 6)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
