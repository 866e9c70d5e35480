//! The honest file of the vectors, with what its judge needs.

use std::sync::Arc;

use grail_environments::reference::rows::Rows;
use grail_environments::reference::thinking::ThinkingMode;
use grail_parquet::Limits;
use grail_ports::model::{Model as _, StopFlag};
use grail_ports::reference::PromptForm;
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::v5::file::{Expected, WindowFile, rows_to_check};
use grail_protocol::v5::python::json;
use grail_services::context::Heartbeat;
use grail_services::v5::assignment::Assignment;
use grail_services::v5::examine::{Bench, Examined, examine};
use grail_services::v5::opened::{Opened, open};
use grail_testkit::FakeSigner;
use grail_testkit::vectors::{is_own, list, load, path, text};
use serde_json::Value;

/// The run of the reference.
pub struct Run {
    pub manifest: Value,
    pub bench: Bench,
    pub signer: FakeSigner,
    pub file: WindowFile,
}

impl Run {
    pub fn load() -> Self {
        let manifest = load("e2e", "manifest.json");
        let hotkey = text(&manifest["miner_hotkey"]).to_owned();
        let model = super::model::load();
        let mode = ThinkingMode::from_name(text(&manifest["thinking_mode"])).unwrap();
        let params = manifest["env_params"].to_string();
        let env_id = text(&manifest["env_id"]);
        let environment =
            grail_environments::reference::environment(env_id, &params, mode, &Rows::none());
        let config = std::fs::read_to_string(path("e2e", "model/config.json")).unwrap();
        let checkpoint = manifest["checkpoint_window"].as_u64().unwrap();
        let assignment = Assignment {
            checkpoint: Window::from_start(checkpoint).unwrap(),
            model,
            environment: environment.unwrap(),
            form: match mode {
                ThinkingMode::Instructed => PromptForm::ChatMl,
                ThinkingMode::Native => PromptForm::Thinking,
            },
            generation: json::parse(&manifest["generation_params"].to_string()).unwrap(),
            config: json::parse(&config).unwrap(),
            model_name: String::new(),
            dir: path("e2e", "model"),
        };
        let bench = Bench {
            owner: hotkey.parse::<Hotkey>().unwrap(),
            window_hash: text(&manifest["window_hash"]).to_owned(),
            randomness: text(&manifest["validator_window_rand"]).to_owned(),
            assignment: Arc::new(assignment),
        };
        let bytes = std::fs::read(path("e2e", text(&manifest["parquet"]))).unwrap();
        let file = grail_parquet::read(bytes::Bytes::from(bytes), &Limits::default()).unwrap();
        Self { signer: development_key(&hotkey), manifest, bench, file }
    }

    /// Writes the file, then judges its bytes as a validator does.
    pub fn judge(&self, file: &WindowFile) -> Examined {
        let mut bytes = Vec::new();
        grail_parquet::write(file, &mut bytes).unwrap();
        self.judge_bytes(bytes)
    }

    /// Returns the groups that a validator checks.
    pub fn checked_groups(&self, file: &WindowFile) -> Vec<String> {
        let chosen = rows_to_check(&self.bench.owner.to_ss58(), &self.bench.randomness, &file.rows);
        let mut groups: Vec<String> =
            chosen.into_iter().map(|at| file.rows[at].rollout_group.to_text()).collect();
        groups.dedup();
        groups
    }

    fn judge_bytes(&self, bytes: Vec<u8>) -> Examined {
        let hotkey = self.bench.owner.to_ss58();
        let expected = Expected {
            hotkey: &hotkey,
            window_start: self.manifest["window"].as_i64().unwrap(),
            block_hash: &self.bench.window_hash,
        };
        match open(&bytes.into(), &expected, &self.bench.randomness).unwrap() {
            Opened::Rows(chosen) => {
                let distinct = chosen.digests.len() as u64;
                let (stop, heartbeat) = (StopFlag::default(), Heartbeat::default());
                examine(&self.bench, &chosen.rows, chosen.total, distinct, &stop, &heartbeat)
                    .unwrap()
            }
            other => panic!("the file has no rows: {other:?}"),
        }
    }
}

/// Returns the key of a hotkey of the vectors.
fn development_key(hotkey: &str) -> FakeSigner {
    let keys = load("sr25519", "signatures.json");
    let known = list(&keys["keys"]).iter().filter_map(|key| key["secret"].as_str());
    let names = ["//Alice", "//Bob", "//Charlie", "//Dave", "//Eve", "//Ferdie"];
    known
        .chain(names)
        .filter_map(FakeSigner::development)
        .find(|signer| {
            use grail_ports::signer::Signer as _;
            signer.hotkey().to_ss58() == hotkey
        })
        .unwrap_or_else(|| panic!("{hotkey} is no development key"))
}

#[test]
fn the_prompts_are_the_references() {
    let run = Run::load();
    let groups = run.manifest["groups"].as_object().unwrap();
    for (group, expected) in groups {
        let seed = expected["env_seed"].as_u64().unwrap() as u32;
        let index: i128 = group.parse().unwrap();
        let owner = run.bench.owner.to_ss58();
        let own =
            grail_protocol::v5::seeds::environment_seed(&owner, &run.bench.window_hash, index);
        assert_eq!(own, seed);
        let prompt = run.bench.assignment.prompt(seed).unwrap();
        assert_eq!(prompt, grail_testkit::vectors::tokens(&expected["prompt_ids"]));
        let shown = super::model::load().decode(&prompt).unwrap();
        assert!(!shown.is_empty());
    }
    println!("vectors: e2e/manifest.json: {} groups", groups.len());
    assert!(groups.len() >= if is_own() { 2 } else { 1 });
}
