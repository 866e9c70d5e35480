//! Writes the pairs of a LoRA training as an adapter in the layout of Hugging Face's PEFT.
//!
//! The adapter is for other tools. Parties of this network exchange merged checkpoints: a tool that
//! adds the pairs to the frozen model by itself need not round as an export does.

use std::path::Path;

use grail_ports::model::ModelError;
use serde_json::json;

use super::ModelTrainer;
use super::lora::LoraConfig;
use crate::folder::unwritable;
use crate::formats::safetensors::{SafetensorsWriter, TensorSpec};
use crate::formats::{Dtype, FormatError, write_bytes, write_file, write_folder};

const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What PEFT puts before the name of a module.
const PREFIX: &str = "base_model.model.";

impl ModelTrainer {
    /// Writes `adapter_config.json` and `adapter_model.safetensors` (f32) into the new folder `dir`.
    ///
    /// # Errors
    /// [`ModelError::BadRequest`] if this is no LoRA training, [`ModelError::Unwritable`].
    pub fn export_adapter(&self, dir: &Path) -> Result<(), ModelError> {
        let Some(lora) = &self.config.lora else {
            let text = "only a LoRA training has an adapter; set a LoRA rank".to_owned();
            return Err(ModelError::BadRequest(text));
        };
        write_folder(dir, |folder| {
            let text = format!("{:#}\n", adapter_config(lora));
            write_bytes(&folder.join(ADAPTER_CONFIG_FILE), text.as_bytes())?;
            self.write_pairs(&folder.join(ADAPTER_WEIGHTS_FILE))
        })
        .map_err(|error| unwritable(dir, &error))
    }

    fn write_pairs(&self, path: &Path) -> Result<(), FormatError> {
        let tensors = self.layout.tensors().iter();
        let specs = tensors.map(|tensor| TensorSpec {
            name: format!("{PREFIX}{}", tensor.name),
            dtype: Dtype::F32,
            shape: tensor.shape.clone(),
        });
        let specs: Vec<TensorSpec> = specs.collect();
        write_file(path, |sink| {
            let write = || -> std::io::Result<()> {
                let mut writer = SafetensorsWriter::new(sink, specs, &[])?;
                while let Some(spec) = writer.next_tensor() {
                    let name = spec.name.strip_prefix(PREFIX).unwrap_or(&spec.name);
                    let tensor = self.layout.tensor(name).expect("names were made of the layout's");
                    writer.push(&Dtype::F32.encode(&self.masters[tensor.range.clone()]))?;
                }
                writer.finish().map(drop)
            };
            write().map_err(FormatError::io("write", path))
        })
    }
}

fn adapter_config(lora: &LoraConfig) -> serde_json::Value {
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": lora.targets.names().collect::<Vec<_>>(),
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "modules_to_save": null,
        "use_rslora": false,
    })
}
