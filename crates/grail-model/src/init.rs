//! Writes models that no training has seen.

use std::path::Path;

use grail_ports::model::ModelError;

use crate::folder::unwritable;
use crate::formats::config::{CONFIG_FILE, ModelConfig};
use crate::formats::safetensors::{SafetensorsWriter, TensorSpec, WEIGHTS_FILE};
use crate::formats::{Dtype, FormatError, write_bytes, write_file};
use crate::noise::Normal;

/// Standard deviation of fresh weights, that of GPT-2 and of Hugging Face's `initializer_range`.
const INIT_STD: f32 = 0.02;

/// Writes `config.json` and random bf16 weights, a function of `config` and `seed`, into the folder
/// `dir`, which is made if it is not there. The tokenizer's files are the caller's.
///
/// Matrices are normal with deviation 0.02; those that write to the residual stream are divided by
/// the square root of the number of branches, so that the stream's variance does not grow with
/// depth (Radford et al. 2019). Norms multiply by 1, biases are 0.
///
/// # Errors
/// [`ModelError::Unwritable`].
pub fn initialise(config: &ModelConfig, seed: u64, dir: &Path) -> Result<(), ModelError> {
    let config = ModelConfig { torch_dtype: Dtype::BF16, ..config.clone() };
    let tensors = config.tensors().into_iter();
    let specs = tensors.map(|(name, shape)| TensorSpec { name, dtype: Dtype::BF16, shape });
    let branches = 2.0 * config.num_hidden_layers as f32;
    let write = || {
        std::fs::create_dir_all(dir).map_err(FormatError::io("create", dir))?;
        write_tensors(&dir.join(WEIGHTS_FILE), specs.collect(), |spec| {
            Ok(fresh_values(spec, seed, branches, 1.0 - config.norm_offset()))
        })?;
        write_bytes(&dir.join(CONFIG_FILE), config.to_json().as_bytes())
    };
    write().map_err(|error| unwritable(dir, &error))
}

fn fresh_values(spec: &TensorSpec, seed: u64, branches: f32, norm_weight: f32) -> Vec<f32> {
    let count = spec.shape.iter().product();
    if spec.name.ends_with("bias") {
        return vec![0.0; count];
    }
    if spec.shape.len() == 1 {
        return vec![norm_weight; count];
    }
    let residual = ["o_proj.weight", "down_proj.weight"];
    let std = if residual.iter().any(|name| spec.name.ends_with(name)) {
        INIT_STD / branches.sqrt()
    } else {
        INIT_STD
    };
    let mut normal = Normal::new("grail-model/init", seed, &spec.name);
    (0..count).map(|_| std * normal.draw()).collect()
}

/// Writes a safetensors file whose values are made one tensor at a time.
pub(crate) fn write_tensors(
    path: &Path,
    specs: Vec<TensorSpec>,
    mut values: impl FnMut(&TensorSpec) -> Result<Vec<f32>, FormatError>,
) -> Result<(), FormatError> {
    write_file(path, |sink| {
        let write_error = || FormatError::io("write", path);
        let mut writer = SafetensorsWriter::new(sink, specs, &[]).map_err(write_error())?;
        while let Some(spec) = writer.next_tensor() {
            let bytes = spec.dtype.encode(&values(spec)?);
            writer.push(&bytes).map_err(write_error())?;
        }
        writer.finish().map(drop).map_err(write_error())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::safetensors::TensorSource;

    #[test]
    fn fresh_norms_multiply_by_one() {
        for name in ["llama", "gemma3"] {
            let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden");
            let config = ModelConfig::load(&golden.join(name)).unwrap();
            let dir = tempfile::tempdir().unwrap();
            initialise(&config, 5, dir.path()).unwrap();
            let made = ModelConfig::load(dir.path()).unwrap();
            assert_eq!(made, ModelConfig { torch_dtype: Dtype::BF16, ..config });
            let weights = TensorSource::open(dir.path()).unwrap();
            weights.check(&made).unwrap();
            let norms: Vec<String> = made.tensors().into_iter().map(|(name, _)| name).collect();
            for norm in norms.iter().filter(|name| name.ends_with("norm.weight")) {
                let factor = |value: &f32| value + made.norm_offset();
                let values = weights.to_f32(norm).unwrap();
                assert!(values.iter().all(|value| factor(value) == 1.0), "{name} {norm}");
            }
        }
    }
}
