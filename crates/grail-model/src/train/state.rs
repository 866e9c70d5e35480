//! Writes what a trainer has learned: checkpoints for everyone, its own state for a restart.

use std::collections::BTreeMap;
use std::path::Path;

use grail_kernels::Buffer;
use grail_ports::model::ModelError;
use grail_protocol::checkpoint::checkpoint_digest;
use grail_protocol::ids::Digest;
use serde_json::{Value, json};

use super::ModelTrainer;
use super::parameters::{Masters, Precision, Tensor};
use crate::arch::{Values, WeightSource};
use crate::folder::{unloadable, unwritable};
use crate::formats::config::read_bounded;
use crate::formats::safetensors::{SafetensorsWriter, TensorSource, TensorSpec, WEIGHTS_FILE};
use crate::formats::{Dtype, FormatError, write_bytes, write_file, write_folder};

/// Masters and moments.
const STATE_WEIGHTS_FILE: &str = "trainer.safetensors";
/// What is not a tensor.
const STATE_FILE: &str = "trainer.json";
const STATE_BYTES_MAX: u64 = 1 << 16;
const STATE_VERSION: u64 = 1;

/// Prefixes of the tensors of a state, in the order of [`ModelTrainer`]'s buffers.
const BUFFERS: [&str; 3] = ["master.", "exp_avg.", "exp_avg_sq."];

/// Writes a checkpoint into the new folder `dir`.
pub(super) fn export(trainer: &ModelTrainer, dir: &Path) -> Result<Digest, ModelError> {
    let dtype = match trainer.config.precision {
        Precision::Bf16 => Dtype::BF16,
        Precision::F32 => Dtype::F32,
    };
    let digests = write_folder(dir, |folder| {
        let mut digests = BTreeMap::new();
        trainer.companions.write(folder, dtype, &mut digests)?;
        let weights = write_weights(trainer, dtype, &folder.join(WEIGHTS_FILE))?;
        digests.insert(WEIGHTS_FILE.to_owned(), weights);
        Ok(digests)
    })
    .map_err(|error| unwritable(dir, &error))?;
    let digest = checkpoint_digest(&digests);
    tracing::info!(dir = %dir.display(), %digest, step = trainer.step, "exported a checkpoint");
    Ok(digest)
}

fn write_weights(trainer: &ModelTrainer, dtype: Dtype, path: &Path) -> Result<Digest, FormatError> {
    let ModelTrainer { layout, masters, config, .. } = trainer;
    let source = Masters { layout, values: masters, precision: config.precision };
    let specs = layout.tensors().iter().map(|tensor| spec(&tensor.name, tensor, dtype)).collect();
    write_file(path, |sink| {
        let write = || -> std::io::Result<[u8; 32]> {
            let mut writer = SafetensorsWriter::new(sink, specs, &[])?;
            while let Some(tensor) = writer.next_tensor() {
                let values = source.values(&tensor.name).map_err(std::io::Error::other)?;
                writer.push(&to_bytes(&values))?;
            }
            writer.finish()
        };
        write().map(Digest).map_err(FormatError::io("write", path))
    })
}

fn spec(name: &str, tensor: &Tensor, dtype: Dtype) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: tensor.shape.clone() }
}

fn to_bytes(values: &Values) -> Vec<u8> {
    match values {
        Values::Bf16(bits) => bits.iter().flat_map(|bits| bits.to_le_bytes()).collect(),
        Values::F32(values) => Dtype::F32.encode(values),
    }
}

/// Writes masters, moments and step count into the new folder `dir`.
pub(super) fn save(trainer: &ModelTrainer, dir: &Path) -> Result<(), ModelError> {
    if trainer.accumulated {
        return Err(ModelError::BadRequest(
            "gradients are accumulated and a saved state has none; take the step first".into(),
        ));
    }
    let ModelTrainer { layout, masters, exp_avg, exp_avg_sq, .. } = trainer;
    let buffers = [masters, exp_avg, exp_avg_sq];
    let named = |prefix: &str, tensor: &Tensor| format!("{prefix}{}", tensor.name);
    let specs = BUFFERS.iter().flat_map(|prefix| {
        let tensors = layout.tensors().iter();
        tensors.map(|tensor| spec(&named(prefix, tensor), tensor, Dtype::F32))
    });
    let specs: Vec<TensorSpec> = specs.collect();
    write_folder(dir, |folder| {
        let path = folder.join(STATE_WEIGHTS_FILE);
        write_file(&path, |sink| {
            let write = || -> std::io::Result<[u8; 32]> {
                let mut writer = SafetensorsWriter::new(sink, specs, &[])?;
                while let Some(spec) = writer.next_tensor() {
                    // No prefix is the beginning of another, so exactly one fits.
                    let found = BUFFERS.iter().zip(buffers).find_map(|(prefix, buffer)| {
                        let tensor = layout.tensor(spec.name.strip_prefix(prefix)?)?;
                        Some(&buffer[tensor.range.clone()])
                    });
                    let values = found.expect("every name was made of a prefix and a tensor");
                    writer.push(&Dtype::F32.encode(values))?;
                }
                writer.finish()
            };
            write().map_err(FormatError::io("write", &path))
        })?;
        let facts = json!({ "version": STATE_VERSION, "step": trainer.step });
        write_bytes(&folder.join(STATE_FILE), format!("{facts:#}\n").as_bytes())
    })
    .map_err(|error| unwritable(dir, &error))
}

/// Reads what [`save`] wrote. On an error the trainer is as it was.
pub(super) fn load(trainer: &mut ModelTrainer, dir: &Path) -> Result<(), ModelError> {
    let step = read_step(&dir.join(STATE_FILE)).map_err(|error| unloadable(&error))?;
    let path = dir.join(STATE_WEIGHTS_FILE);
    let source = TensorSource::open_file(&path).map_err(|error| unloadable(&error))?;
    let read = |prefix: &str| -> Result<Buffer<f32>, FormatError> {
        let mut buffer = Buffer::zeroed(trainer.layout.len());
        for tensor in trainer.layout.tensors() {
            let name = format!("{prefix}{}", tensor.name);
            let found = source.tensor(&name)?.shape;
            if found != tensor.shape {
                let expected = &tensor.shape;
                let reason = format!(
                    "tensor {name:?} has shape {found:?}, but the model has {expected:?}; \
                     the state is another model's"
                );
                return Err(FormatError::broken(&path, STATE_WEIGHTS_FILE, reason));
            }
            buffer[tensor.range.clone()].copy_from_slice(&source.to_f32(&name)?);
        }
        Ok(buffer)
    };
    let [masters, exp_avg, exp_avg_sq] = BUFFERS.map(read);
    let loaded = masters.and_then(|masters| Ok((masters, exp_avg?, exp_avg_sq?)));
    let (masters, exp_avg, exp_avg_sq) = loaded.map_err(|error| unloadable(&error))?;
    trainer.masters = masters;
    trainer.exp_avg = exp_avg;
    trainer.exp_avg_sq = exp_avg_sq;
    trainer.step = step;
    trainer.clear_gradients();
    trainer.reload_weights()
}

fn read_step(path: &Path) -> Result<u64, FormatError> {
    let broken = |reason: &str| FormatError::broken(path, STATE_FILE, reason);
    let bytes = read_bounded(path, STATE_BYTES_MAX, STATE_FILE)?;
    let facts: Value =
        serde_json::from_slice(&bytes).map_err(|error| broken(&format!("not JSON: {error}")))?;
    if facts["version"] != STATE_VERSION {
        let found = &facts["version"];
        return Err(broken(&format!("its version is {found}, expected {STATE_VERSION}")));
    }
    facts["step"].as_u64().ok_or_else(|| broken("it has no step count"))
}
