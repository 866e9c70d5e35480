//! Models as the services get them: shared by digest, with a tokenizer, refused when damaged.

use std::path::Path;
use std::sync::Arc;

use grail_model::formats::config::ModelConfig;
use grail_model::formats::safetensors::TensorSource;
use grail_model::{Provider, ProviderConfig, Runtime, folder_digest, initialise};
use grail_ports::environment::{ChatMessage, ChatRole};
use grail_ports::model::{ModelError, ModelProvider, StopFlag};
use serde_json::json;

use crate::models::{golden, request};

/// Writes a word-level tokenizer with one word for each of the 96 ids of the golden models.
fn write_tokenizer(dir: &Path) {
    let mut vocab = serde_json::Map::new();
    for (id, word) in ["<pad>", "<s>", "</s>", "<unk>"].into_iter().enumerate() {
        vocab.insert(word.into(), json!(id));
    }
    for id in 4..96 {
        vocab.insert(format!("w{id}"), json!(id));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    });
    let template = "{% for m in messages %}{{ '<s> ' + m.content + ' ' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ 'w9' }}{% endif %}";
    let config = json!({"eos_token": "</s>", "chat_template": template});
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

/// A whole model folder with random bf16 weights.
pub fn folder(seed: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::load(&golden("llama")).unwrap();
    initialise(&config, seed, dir.path()).unwrap();
    write_tokenizer(dir.path());
    dir
}

pub fn provider() -> Provider {
    Provider::new(ProviderConfig { threads: 1, ..ProviderConfig::default() }).unwrap()
}

#[test]
fn a_model_says_what_it_is() {
    let dir = folder(1);
    let model = provider().load(dir.path()).unwrap();
    let info = model.info();
    assert_eq!(info.architecture, "LlamaForCausalLM");
    assert_eq!((info.hidden_size, info.vocab_size), (32, 96));
    assert_eq!((info.max_position_embeddings, info.parameters), (128, 16_288));
    assert_eq!(info.eos_token_ids, [2]);
    assert_eq!(info.numerics, "exact-1");
    assert_eq!(info.checkpoint_digest, folder_digest(dir.path()).unwrap());
    let tokenizer = std::fs::read(dir.path().join("tokenizer.json")).unwrap();
    assert_eq!(info.tokenizer_digest, grail_protocol::ids::Digest::of(&tokenizer));
}

#[test]
fn text_goes_in_and_out() {
    let dir = folder(1);
    let model = provider().load(dir.path()).unwrap();
    let messages = [ChatMessage { role: ChatRole::User, content: "w5 w6".into() }];
    let prompt = model.render(&messages).unwrap();
    assert_eq!(prompt, [1, 5, 6, 9]);
    assert_eq!(model.encode("w7 w8").unwrap(), [7, 8]);
    assert_eq!(model.decode(&[7, 8, 2]).unwrap(), "w7 w8");
    let mut completions = Vec::new();
    model
        .generate(&[request(prompt, 0, 3, 5)], &StopFlag::default(), &mut |_, group| {
            completions = group;
        })
        .unwrap();
    assert_eq!(completions.len(), 3);
}

#[test]
fn equal_checkpoints_share_their_weights_and_others_do_not() {
    let (first, copy, other) = (folder(1), folder(1), folder(2));
    let provider = provider();
    let model = provider.load_model(first.path()).unwrap();
    assert!(Arc::ptr_eq(&model, &provider.load_model(copy.path()).unwrap()));
    assert!(!Arc::ptr_eq(&model, &provider.load_model(other.path()).unwrap()));
    // A dropped model is not kept alive by the provider.
    let weak = Arc::downgrade(&model);
    drop(model);
    assert!(weak.upgrade().is_none());
    provider.load_model(first.path()).unwrap();
}

#[test]
fn roles_may_use_a_model_at_the_same_time() {
    let dir = folder(3);
    let provider =
        Provider::new(ProviderConfig { threads: 2, ..ProviderConfig::default() }).unwrap();
    let model = provider.load(dir.path()).unwrap();
    let generate = |group: u32| {
        let mut groups = Vec::new();
        let requests = [request(vec![5, 6, 7], group, 8, 30)];
        model.generate(&requests, &StopFlag::default(), &mut |_, done| groups.push(done)).unwrap();
        groups
    };
    let alone: Vec<_> = (0..4).map(generate).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..4).map(|group| scope.spawn(move || generate(group))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(alone, together);
}

#[test]
fn damaged_and_foreign_folders_are_refused_with_the_file() {
    let refuse = |damage: &dyn Fn(&Path), said: &str| {
        let dir = folder(1);
        damage(dir.path());
        let Err(error) = provider().load(dir.path()) else { panic!("{said}: it was loaded") };
        assert!(matches!(error, ModelError::Unloadable(_)), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
    };
    let write = |name: &'static str, bytes: &'static [u8]| {
        move |dir: &Path| std::fs::write(dir.join(name), bytes).unwrap()
    };
    let remove =
        |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    refuse(&remove("config.json"), "config.json");
    refuse(&remove("model.safetensors"), "import the model");
    refuse(&remove("tokenizer.json"), "tokenizer.json");
    refuse(&write("config.json", b"{}"), "config.json");
    refuse(&write("model.safetensors", b""), "model.safetensors");
    refuse(&write("model.safetensors", &[0xff; 64]), "model.safetensors");
    refuse(&write("tokenizer.json", b"[]"), "tokenizer.json");
    refuse(
        &|dir| {
            // Another model's weights.
            std::fs::copy(golden("qwen3").join("model.safetensors"), dir.join("model.safetensors"))
                .unwrap();
        },
        "shape",
    );
    refuse(
        &|dir| {
            // The last value of the file becomes a NaN.
            let path = dir.join("model.safetensors");
            let mut bytes = std::fs::read(&path).unwrap();
            let len = bytes.len();
            bytes[len - 2..].copy_from_slice(&[0xc0, 0x7f]);
            std::fs::write(&path, bytes).unwrap();
        },
        "not finite",
    );
    refuse(
        &|dir| {
            let path = dir.join("tokenizer_config.json");
            std::fs::write(path, "{}").unwrap();
            let path = dir.join("config.json");
            let config = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, config.replace("\"eos_token_id\": 2", "\"eos_token_id\": null"))
                .unwrap();
        },
        "eos_token_id",
    );
    let nowhere = provider().load(Path::new("no-such-folder")).map(drop);
    assert!(matches!(nowhere, Err(ModelError::Unloadable(_))), "{nowhere:?}");
}

#[test]
fn an_impossible_configuration_is_refused() {
    let config = ProviderConfig { threads: 0, ..ProviderConfig::default() };
    assert!(matches!(Provider::new(config), Err(ModelError::BadRequest(_))));
    let dir = folder(1);
    let mut config = ProviderConfig { threads: 1, ..ProviderConfig::default() };
    config.engine.layer_rows_max = 0;
    config.trainer.micro_batch_tokens = 0;
    let provider = Provider::new(config).unwrap();
    assert!(matches!(provider.load(dir.path()).map(drop), Err(ModelError::BadRequest(_))));
    assert!(matches!(provider.trainer(dir.path()).map(drop), Err(ModelError::BadRequest(_))));
}

#[test]
fn a_trainer_exports_a_folder_that_stands_alone() {
    let dir = folder(5);
    // What a base model says elsewhere must survive in the four files of a checkpoint.
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#)
        .unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages[0].content }} w11")
        .unwrap();
    let provider = provider();
    let base = provider.load(dir.path()).unwrap();
    let trainer = provider.trainer(dir.path()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let checkpoint = out.path().join("checkpoint");
    let digest = trainer.export(&checkpoint).unwrap();
    let mut names: Vec<String> = std::fs::read_dir(&checkpoint)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, grail_protocol::checkpoint::CHECKPOINT_FILES);
    let exported = provider.load(&checkpoint).unwrap();
    assert_eq!(exported.info().checkpoint_digest, digest);
    assert_eq!(exported.info().eos_token_ids, [2, 7]);
    let messages = [ChatMessage { role: ChatRole::User, content: "w5".into() }];
    assert_eq!(exported.render(&messages).unwrap(), [5, 11]);
    assert_eq!(exported.render(&messages).unwrap(), base.render(&messages).unwrap());
    // Unchanged weights make an unchanged file.
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert_eq!(weights(&checkpoint), weights(dir.path()));
    // An export of an export is the same checkpoint.
    let again = out.path().join("again");
    assert_eq!(provider.trainer(&checkpoint).unwrap().export(&again).unwrap(), digest);
}

#[test]
fn fresh_weights_are_a_function_of_the_seed() {
    let (first, same, other) = (folder(1), folder(1), folder(2));
    let digest = |dir: &tempfile::TempDir| folder_digest(dir.path()).unwrap();
    assert_eq!(digest(&first), digest(&same));
    assert_ne!(digest(&first), digest(&other));
    let weights = TensorSource::open(first.path()).unwrap();
    let deviation = |name: &str| {
        let values = weights.to_f32(name).unwrap();
        let square: f32 = values.iter().map(|x| x * x).sum();
        (square / values.len() as f32).sqrt()
    };
    assert!((deviation("model.embed_tokens.weight") - 0.02).abs() < 0.001);
    assert!((deviation("model.layers.0.mlp.up_proj.weight") - 0.02).abs() < 0.002);
    // Two layers have four branches: half of 0.02.
    assert!((deviation("model.layers.0.mlp.down_proj.weight") - 0.01).abs() < 0.001);
    assert_eq!(deviation("model.norm.weight"), 1.0);
}

#[test]
fn the_bf16_runtime_names_itself_and_does_not_train() {
    let dir = folder(1);
    let config = ProviderConfig { threads: 1, runtime: Runtime::Bf16, ..ProviderConfig::default() };
    let provider = Provider::new(config).unwrap();
    let model = provider.load(dir.path()).unwrap();
    assert_eq!(model.info().numerics, "bf16-1");
    let refused = provider.trainer(dir.path()).err().unwrap();
    assert!(refused.to_string().contains("set engine.runtime to exact"), "{refused}");
}
