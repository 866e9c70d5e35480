//! Weight files: what is written is read, whatever is broken is an error.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use std::path::Path;

use grail_model::formats::config::ModelConfig;
use grail_model::formats::safetensors::{
    SafetensorsWriter, TensorSource, TensorSpec, TensorView, write_safetensors,
};
use grail_model::formats::{Dtype, FormatError};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use support::{Mutation, vectors};

fn view<'a>(dtype: Dtype, shape: &'a [usize], bytes: &'a [u8]) -> TensorView<'a> {
    TensorView { dtype, shape, bytes }
}

fn encode(tensors: &[(&str, TensorView<'_>)]) -> Vec<u8> {
    let specs = tensors.iter().map(|(name, view)| TensorSpec {
        name: (*name).to_owned(),
        dtype: view.dtype,
        shape: view.shape.to_vec(),
    });
    let mut bytes = Vec::new();
    let mut writer = SafetensorsWriter::new(&mut bytes, specs.collect(), &[]).unwrap();
    while let Some(next) = writer.next_tensor() {
        let (_, view) = tensors.iter().find(|(name, _)| *name == next.name).unwrap();
        writer.push(view.bytes).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

fn open(bytes: &[u8]) -> Result<TensorSource, FormatError> {
    TensorSource::from_bytes("weights.safetensors", bytes.to_vec())
}

/// A file with the given header text and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[test]
fn golden_weights_are_read() {
    for name in ["llama", "qwen2", "qwen3"] {
        let folder = vectors(&format!("golden/{name}"));
        let config = ModelConfig::load(&folder).unwrap();
        let weights = TensorSource::open(&folder).unwrap();
        weights.check(&config).unwrap();
        let embedding = weights.tensor("model.embed_tokens.weight").unwrap();
        assert_eq!((embedding.dtype, embedding.shape), (Dtype::F32, &[96, 32][..]));
        assert_eq!(weights.to_f32("model.norm.weight").unwrap().len(), 32);
        let names: Vec<_> = weights.names().collect();
        assert!(names.is_sorted() && names.len() == config.tensors().len());
    }
}

#[test]
fn bytes_are_those_of_the_reference_writer() {
    // What safetensors 0.8 for Python writes, one dtype, metadata {"format": "pt"}.
    let source = vectors("golden/llama/model.safetensors");
    let reference = std::fs::read(&source).unwrap();
    let weights = TensorSource::open_file(&source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copy.safetensors");
    let names: Vec<_> = weights.names().collect();
    let tensors = names.iter().rev().map(|name| (*name, weights.tensor(name).unwrap()));
    let digest = write_safetensors(&path, tensors, &[]).unwrap();
    let written = std::fs::read(&path).unwrap();
    assert_eq!(written, reference);
    assert_eq!(digest[..], Sha256::digest(&written)[..]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn metadata_follows_the_format() {
    let mut bytes = Vec::new();
    let writer = SafetensorsWriter::new(&mut bytes, Vec::new(), &[("window", "7")]).unwrap();
    writer.finish().unwrap();
    let header = std::str::from_utf8(&bytes[8..]).unwrap();
    assert_eq!(header.trim_end(), r#"{"__metadata__":{"format":"pt","window":"7"}}"#);
    assert_eq!(bytes.len() % 8, 0);
}

#[test]
fn a_writer_refuses_what_its_header_does_not_say() {
    let spec = |name: &str| TensorSpec { name: name.into(), dtype: Dtype::F16, shape: vec![2] };
    let twice = SafetensorsWriter::new(Vec::new(), vec![spec("a"), spec("a")], &[]);
    assert!(twice.unwrap_err().to_string().contains("listed twice"));
    let mut writer = SafetensorsWriter::new(Vec::new(), vec![spec("a")], &[]).unwrap();
    assert!(writer.push(&[0; 3]).unwrap_err().to_string().contains("takes 4 bytes"));
    let mut writer = SafetensorsWriter::new(Vec::new(), vec![spec("a")], &[]).unwrap();
    writer.push(&[0; 4]).unwrap();
    assert!(writer.push(&[0; 4]).is_err());
    let writer = SafetensorsWriter::new(Vec::new(), vec![spec("a")], &[]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("not written"));
}

#[test]
fn values_widen_exactly() {
    let bytes = encode(&[
        ("b", view(Dtype::BF16, &[2], &[0x80, 0x3f, 0x20, 0xc1])),
        ("h", view(Dtype::F16, &[1, 2], &[0x00, 0x3c, 0x01, 0x00])),
        ("s", view(Dtype::F32, &[], &1.25f32.to_le_bytes())),
    ]);
    let weights = open(&bytes).unwrap();
    assert_eq!(weights.to_f32("b").unwrap(), [1.0, -10.0]);
    assert_eq!(weights.to_f32("h").unwrap(), [1.0, 2f32.powi(-24)]);
    assert_eq!(weights.to_f32("s").unwrap(), [1.25]);
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    for value in [f32::NAN, f32::INFINITY] {
        let bytes = [1f32.to_le_bytes(), value.to_le_bytes()].concat();
        let weights = open(&encode(&[("w", view(Dtype::F32, &[2], &bytes))])).unwrap();
        let error = weights.to_f32("w").unwrap_err().to_string();
        assert!(error.contains("value 1 of tensor \"w\""), "{error}");
    }
}

#[test]
fn shards_are_joined_and_must_match_their_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let four = 4f32.to_le_bytes();
    let one = 1f32.to_le_bytes();
    let write = |file: &str, name: &str, bytes: &[u8]| {
        let tensors = [(name, view(Dtype::F32, &[1], bytes))];
        write_safetensors(&path(file), tensors, &[]).unwrap();
    };
    write("a.safetensors", "x", &one);
    write("b.safetensors", "y", &four);
    let index = |map: &str| {
        let text = format!("{{\"metadata\": {{}}, \"weight_map\": {map}}}");
        std::fs::write(path("model.safetensors.index.json"), text).unwrap();
        TensorSource::open(folder.path())
    };
    let weights = index(r#"{"x": "a.safetensors", "y": "b.safetensors"}"#).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(weights.to_f32("y").unwrap(), [4.0]);

    for (map, want) in [
        (r#"{"x": "a.safetensors", "y": "a.safetensors"}"#, "is not in a.safetensors"),
        (r#"{"x": "a.safetensors", "z": "b.safetensors"}"#, "is not in b.safetensors"),
        (r#"{"x": "a.safetensors", "y": "missing.safetensors"}"#, "cannot open"),
        (r#"{"x": "../a.safetensors"}"#, "the file of tensor"),
        (r#"{"x": "/etc/passwd"}"#, "the file of tensor"),
        (r#"{"x": 1}"#, "the file of tensor"),
        ("{}", "lists 0 files"),
        ("[]", "no weight_map"),
    ] {
        let error = index(map).unwrap_err().to_string();
        assert!(error.contains(want), "{map}: {error}");
    }
    // A shard with a tensor that another has too, or that nobody lists.
    write("b.safetensors", "x", &four);
    let error = index(r#"{"x": "a.safetensors", "y": "b.safetensors"}"#).unwrap_err().to_string();
    assert!(error.contains("another shard"), "{error}");
    let two = [("y", view(Dtype::F32, &[1], &four)), ("z", view(Dtype::F32, &[1], &one))];
    write_safetensors(&path("b.safetensors"), two, &[]).unwrap();
    let error = index(r#"{"x": "a.safetensors", "y": "b.safetensors"}"#).unwrap_err().to_string();
    assert!(error.contains("does not list"), "{error}");
}

#[test]
fn weights_of_another_model_are_refused() {
    let llama = ModelConfig::load(&vectors("golden/llama")).unwrap();
    let qwen3 = TensorSource::open(&vectors("golden/qwen3")).unwrap();
    let weights = TensorSource::open(&vectors("golden/llama")).unwrap();
    let wider = ModelConfig { vocab_size: 97, ..llama.clone() };
    let deeper = ModelConfig { num_hidden_layers: 3, ..llama.clone() };
    for (source, config, want) in [
        (&weights, &wider, "has shape [96, 32], but config.json asks for [97, 32]"),
        (&weights, &deeper, "no tensor \"model.layers.2"),
        (&qwen3, &llama, "q_norm"),
    ] {
        let error = source.check(config).unwrap_err().to_string();
        let shapes_differ = error.contains("has shape");
        assert!(error.contains(want) || (want == "q_norm" && shapes_differ), "{error}");
    }
    // A head of its own is an error only where the configuration does not tie it.
    let untied = ModelConfig { tie_word_embeddings: false, ..llama };
    assert!(weights.check(&untied).unwrap_err().to_string().contains("lm_head.weight"));
}

#[test]
fn broken_files_say_what_is_wrong() {
    let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert!(open(&file(good, &[0; 8])).is_ok());
    for (bytes, want) in [
        (Vec::new(), "0 bytes"),
        (vec![1, 2, 3], "3 bytes"),
        (b"GGUF\x03\0\0\0\0\0\0\0".to_vec(), "header"),
        (file(good, &[0; 7]), "not fully covered"),
        (file(good, &[0; 9]), "not fully covered"),
        (file(&good.replace("[2]", "[3]"), &[0; 8]), "invalid"),
        (file(&good.replace("F32", "F99"), &[0; 8]), "unknown variant"),
        (file(&good.replace("[0,8]", "[8,0]"), &[0; 8]), "offset"),
        (file(&good.replace("[2]", "[4294967296,4294967296,4]"), &[0; 8]), "overflow"),
        (file("{", &[]), "json"),
        (file("[]", &[]), "json"),
        (u64::MAX.to_le_bytes().to_vec(), "claims more"),
        ((1u64 << 25).to_le_bytes().to_vec(), "claims more"),
    ] {
        let error = open(&bytes).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(want), "expected {want:?} in: {error}");
        assert!(error.contains("weights.safetensors") && error.contains("again"), "{error}");
    }
    let integers = good.replace("F32", "I32");
    let error = open(&file(&integers, &[0; 8])).unwrap_err();
    assert!(matches!(&error, FormatError::Unsupported { .. }), "{error}");
}

#[test]
fn missing_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = TensorSource::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("check that"), "{error}");
    let error = TensorSource::open(Path::new("/proc/self")).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    std::fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    let error = TensorSource::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

proptest! {
    #![proptest_config(support::cases(2000))]

    #[test]
    fn damage_is_an_error_or_harmless(mutations in prop::collection::vec(any::<Mutation>(), 1..4)) {
        let mut bytes = encode(&[
            ("model.a", view(Dtype::F32, &[2, 2], &[1; 16])),
            ("model.b", view(Dtype::BF16, &[3], &[2; 6])),
            ("model.c", view(Dtype::F16, &[1], &[3; 2])),
        ]);
        for mutation in &mutations {
            mutation.apply(&mut bytes, 232);
        }
        if let Ok(weights) = open(&bytes) {
            for name in weights.names() {
                let tensor = weights.tensor(name).unwrap();
                let n: usize = tensor.shape.iter().product();
                prop_assert_eq!(tensor.bytes.len(), n * tensor.dtype.size());
                let _ = weights.to_f32(name);
            }
        }
    }

    #[test]
    fn any_tensors_come_back(
        tensors in prop::collection::btree_map(".{0,12}", (prop::collection::vec(0usize..4, 0..3), 0usize..3), 0..6),
        seed: u8,
    ) {
        let built: Vec<_> = tensors
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, (shape, dtype))| {
                let dtype = Dtype::ALL[*dtype];
                let n = shape.iter().product::<usize>() * dtype.size();
                (name.as_str(), dtype, shape, vec![seed; n])
            })
            .collect();
        let views: Vec<_> =
            built.iter().map(|(name, dtype, shape, bytes)| (*name, view(*dtype, shape, bytes))).collect();
        let weights = open(&encode(&views)).unwrap();
        prop_assert_eq!(weights.names().count(), views.len());
        for (name, view) in &views {
            prop_assert_eq!(&weights.tensor(name).unwrap(), view);
        }
    }
}
