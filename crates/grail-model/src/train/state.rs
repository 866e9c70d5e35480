//! Writes what a trainer has learned: checkpoints for everyone, its own state for a restart.

use std::collections::BTreeMap;
use std::path::Path;

use grail_kernels::Buffer;
use grail_ports::model::ModelError;
use grail_protocol::checkpoint::checkpoint_digest;
use grail_protocol::ids::Digest;
use serde_json::{Value, json};

use super::ModelTrainer;
use super::lora::{Lora, LoraConfig};
use super::parameters::{Precision, Tensor, Weights};
use super::workspace::Transposed;
use crate::arch::{Decoder, Values, WeightSource};
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

/// Prefix of the frozen tensors of a LoRA training.
const BASE: &str = "base.";

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
    let source = trainer.weights();
    let tensors = trainer.decoder.config.tensors().into_iter();
    let specs = tensors.map(|(name, shape)| TensorSpec { name, dtype, shape }).collect();
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
    let ModelTrainer { layout, masters, exp_avg, exp_avg_sq, lora, .. } = trainer;
    let buffers = [masters, exp_avg, exp_avg_sq];
    let named = |prefix: &str, tensor: &Tensor| format!("{prefix}{}", tensor.name);
    let specs = BUFFERS.iter().flat_map(|prefix| {
        let tensors = layout.tensors().iter();
        tensors.map(|tensor| spec(&named(prefix, tensor), tensor, Dtype::F32))
    });
    // A pair says nothing without what it stands beside: an export holds their sum.
    let base = lora.as_ref().map(|lora| &lora.base);
    let frozen = trainer.decoder.config.tensors().into_iter().filter_map(|(name, shape)| {
        let dtype = match base?.get(&name)? {
            Values::Bf16(_) => Dtype::BF16,
            Values::F32(_) => Dtype::F32,
        };
        Some(TensorSpec { name: format!("{BASE}{name}"), dtype, shape })
    });
    let specs: Vec<TensorSpec> = specs.chain(frozen).collect();
    write_folder(dir, |folder| {
        let path = folder.join(STATE_WEIGHTS_FILE);
        write_file(&path, |sink| {
            let write = || -> std::io::Result<[u8; 32]> {
                let mut writer = SafetensorsWriter::new(sink, specs, &[])?;
                while let Some(spec) = writer.next_tensor() {
                    let frozen = spec.name.strip_prefix(BASE).and_then(|name| base?.get(name));
                    if let Some(values) = frozen {
                        writer.push(&to_bytes(values))?;
                        continue;
                    }
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
        let lora = trainer.config.lora.as_ref().map(lora_facts);
        let facts = json!({ "version": STATE_VERSION, "step": trainer.step, "lora": lora });
        write_bytes(&folder.join(STATE_FILE), format!("{facts:#}\n").as_bytes())
    })
    .map_err(|error| unwritable(dir, &error))
}

/// What of the settings a state depends on.
fn lora_facts(config: &LoraConfig) -> Value {
    let LoraConfig { rank, alpha, targets, .. } = config;
    json!({ "rank": rank, "alpha": alpha, "targets": targets.to_string() })
}

/// Reads what [`save`] wrote. On an error the trainer is as it was.
pub(super) fn load(trainer: &mut ModelTrainer, dir: &Path) -> Result<(), ModelError> {
    let lora = trainer.config.lora.as_ref().map_or(Value::Null, lora_facts);
    let step = read_step(&dir.join(STATE_FILE), &lora).map_err(|error| unloadable(&error))?;
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
    if let Some(config) = trainer.config.lora {
        let base = read_base(trainer, &source)?;
        load_base(trainer, Lora::new(config, base), &masters)?;
    }
    trainer.masters = masters;
    trainer.exp_avg = exp_avg;
    trainer.exp_avg_sq = exp_avg_sq;
    trainer.step = step;
    trainer.clear_gradients();
    trainer.reload_weights()
}

/// Reads the frozen model of a LoRA training.
fn read_base(
    trainer: &ModelTrainer,
    source: &TensorSource,
) -> Result<BTreeMap<String, Values>, ModelError> {
    let tensors = trainer.decoder.config.tensors().into_iter();
    let read = |(name, shape): (String, Vec<usize>)| {
        let stored = format!("{BASE}{name}");
        let found = source.tensor(&stored).map_err(|error| unloadable(&error))?.shape;
        if found != shape {
            return Err(ModelError::Unloadable(format!(
                "tensor {stored:?} of the state has shape {found:?}, but the model has {shape:?}"
            )));
        }
        Ok((name, source.values(&stored)?))
    };
    tensors.map(read).collect()
}

/// Takes another frozen model, with everything that follows from it.
fn load_base(trainer: &mut ModelTrainer, lora: Lora, masters: &[f32]) -> Result<(), ModelError> {
    let ModelTrainer { kernels, layout, config, decoder, .. } = &*trainer;
    let (source, precision) = (Some(&lora), config.precision);
    let weights = Weights { kernels, layout, masters, lora: source, precision };
    let decoder = Decoder::load(&decoder.config, &weights, kernels)?;
    trainer.transposed = Transposed::new(&decoder, kernels);
    trainer.decoder = decoder;
    trainer.lora = Some(lora);
    Ok(())
}

fn read_step(path: &Path, lora: &Value) -> Result<u64, FormatError> {
    let broken = |reason: &str| FormatError::broken(path, STATE_FILE, reason);
    let bytes = read_bounded(path, STATE_BYTES_MAX, STATE_FILE)?;
    let facts: Value =
        serde_json::from_slice(&bytes).map_err(|error| broken(&format!("not JSON: {error}")))?;
    if facts["version"] != STATE_VERSION {
        let found = &facts["version"];
        return Err(broken(&format!("its version is {found}, expected {STATE_VERSION}")));
    }
    // A state from before there was LoRA has no such entry, which reads as null: none.
    if facts["lora"] != *lora {
        let found = &facts["lora"];
        return Err(broken(&format!("its LoRA settings are {found}, this trainer's are {lora}")));
    }
    facts["step"].as_u64().ok_or_else(|| broken("it has no step count"))
}
