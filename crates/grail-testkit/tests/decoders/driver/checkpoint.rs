//! The files of a model folder, as a checkpoint's consumer and an import read them.

use std::path::Path;

use grail_model::formats::config::ModelConfig;
use grail_model::formats::gguf::Gguf;
use grail_model::formats::import_gguf;
use grail_model::formats::safetensors::{SafetensorsWriter, TensorSource, TensorSpec};
use grail_model::tokenizer::Tokenizer;

use super::driver::Target;

/// The files of a model folder; the first byte of the input chooses which.
pub const CHECKPOINT: Target =
    Target { name: "checkpoint", drive, heap_per_byte: 400, heap_beside: 4 << 20 };

/// What a first byte chooses.
const KINDS: [fn(&[u8]) -> bool; 5] = [config, safetensors, gguf, tokenizer, gguf_import];

/// A text with letters, digits, a character of two bytes and one of four.
const TEXT: &str = "The sum is 12, naïve 🙂\n";

fn drive(data: &[u8]) -> bool {
    let Some((kind, bytes)) = data.split_first() else { return false };
    KINDS[usize::from(*kind) % KINDS.len()](bytes)
}

fn config(bytes: &[u8]) -> bool {
    let Ok(config) = ModelConfig::from_json(bytes) else { return false };
    assert_eq!(ModelConfig::from_json(config.to_json().as_bytes()), Ok(config.clone()));
    assert!(config.n_parameters() > 0);
    let keys = ModelConfig::unknown_keys(bytes).expect("it was read as an object");
    assert!(keys.len() <= bytes.len());
    true
}

fn safetensors(bytes: &[u8]) -> bool {
    let Ok(source) = TensorSource::from_bytes("fuzzed", bytes.to_vec()) else { return false };
    let tensors: Vec<_> = source
        .names()
        .map(|name| (name, source.tensor(name).expect("a listed tensor is there")))
        .collect();
    for (name, view) in &tensors {
        let values = view.shape.iter().product::<usize>();
        assert_eq!(view.bytes.len(), values * view.dtype.size(), "{name}");
        if let Ok(floats) = source.to_f32(name) {
            assert_eq!(floats.len(), values, "{name}");
            assert!(floats.iter().all(|value| value.is_finite()), "{name}");
        }
    }
    let specs = tensors.iter().map(|(name, view)| TensorSpec {
        name: (*name).to_owned(),
        dtype: view.dtype,
        shape: view.shape.to_vec(),
    });
    let mut written = Vec::new();
    let Ok(mut writer) = SafetensorsWriter::new(&mut written, specs.collect(), &[]) else {
        return true;
    };
    while let Some(next) = writer.next_tensor() {
        let view = source.tensor(&next.name).expect("it was listed");
        writer.push(view.bytes).expect("a vector takes all bytes");
    }
    writer.finish().expect("every tensor was written");
    let again = TensorSource::from_bytes("written", written).expect("our own file is read");
    for (name, view) in &tensors {
        assert_eq!(again.tensor(name).ok().as_ref(), Some(view), "{name}");
    }
    true
}

fn gguf(bytes: &[u8]) -> bool {
    let Ok(file) = Gguf::parse(Path::new("fuzzed"), bytes) else { return false };
    for key in file.keys() {
        let value = file.value(key).expect("a listed key is there");
        let lists = [
            value.as_texts().map(|list| list.len()),
            value.as_numbers().map(|list| list.len()),
            value.as_integers().map(|list| list.len()),
        ];
        assert!(lists.into_iter().flatten().all(|n| n <= bytes.len()), "{key}");
        let _ = (value.as_u64(), value.as_f64(), value.as_bool(), value.as_text());
    }
    for (name, tensor) in file.tensors() {
        let n: usize = tensor.shape.iter().product();
        // Packed values unpack to at most 8 times their size: 4 bits to 32.
        let mut values = vec![0.0; n];
        tensor.ggml_type.dequantise(tensor.bytes, &mut values);
        assert!(n <= 2 * tensor.bytes.len(), "{name}");
    }
    true
}

fn gguf_import(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let (file, out) = (folder.path().join("model.gguf"), folder.path().join("out"));
    std::fs::write(&file, bytes).expect("the temporary folder is writable");
    let imported = import_gguf(&file, &out, &mut |_| {});
    match &imported {
        Ok(report) => assert_eq!(ModelConfig::load(&out).expect("it was checked"), report.config),
        Err(_) => assert!(!out.exists(), "half an import was left behind"),
    }
    imported.is_ok()
}

fn tokenizer(bytes: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_bytes(Path::new("fuzzed"), bytes) else { return false };
    if let Ok(ids) = tokenizer.encode(TEXT, true) {
        let _ = tokenizer.decode(&ids, false);
        for id in ids {
            let _ = tokenizer.token_bytes(id);
        }
    }
    true
}
