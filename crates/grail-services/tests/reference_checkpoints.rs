//! Checkpoints of the reference, consumed: the published bucket case by case, and what goes wrong on
//! the way.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use grail_ports::layer::{Call, Layer, Layered, PortError};
use grail_ports::object_store::{Buckets, ObjectStore};
use grail_ports::signer::Signer;
use grail_protocol::checkpoint::retention::window_of;
use grail_protocol::checkpoint::{Unsigned, WEIGHTS_FILE};
use grail_protocol::ids::{Hotkey, Window};
use grail_protocol::keys;
use grail_services::checkpoint::CheckpointError;
use grail_services::checkpoint::reference::{Method, ReferenceConsumer};
use grail_services::checkpoint::weights::weights_hash;
use grail_services::context::Heartbeat;
use grail_testkit::vectors::{every_case, is_own, list, load, path, text};
use grail_testkit::{FakeSigner, MemoryStorage};

const TOPIC: &str = "checkpoints";

fn window(start: u64) -> Window {
    Window::from_start(start).unwrap()
}

/// What is done with a bucket: reads are counted, and can be cut off.
#[derive(Default)]
struct Watch {
    reads: Mutex<Vec<String>>,
    /// Part of a key that cannot be read.
    cut: Mutex<Option<&'static str>>,
}

impl Watch {
    fn cut(&self, part: Option<&'static str>) {
        *self.cut.lock().unwrap() = part;
    }

    /// Returns the large objects that were read since the last call.
    fn weights_read(&self) -> Vec<String> {
        let reads = std::mem::take(&mut *self.reads.lock().unwrap());
        reads
            .into_iter()
            .filter(|key| key.contains("safetensors") || key.contains(".zst"))
            .collect()
    }
}

impl Layer for Watch {
    async fn around<T, E, F>(
        &self,
        call: Call<'_>,
        make: impl Fn() -> F + Send + Sync,
    ) -> Result<T, E>
    where
        T: Any + Send,
        E: PortError,
        F: Future<Output = Result<T, E>> + Send,
    {
        if ["get", "get_range"].contains(&call.verb) {
            if self.cut.lock().unwrap().is_some_and(|part| call.argument.contains(part)) {
                return Err(E::unavailable("the test cut it off".to_owned()));
            }
            self.reads.lock().unwrap().push(call.argument.into_owned());
        }
        make().await
    }
}

/// A trainer's bucket and somebody's cache.
struct World {
    storage: MemoryStorage,
    trainer: Hotkey,
    watch: Arc<Watch>,
    bucket: Arc<dyn ObjectStore>,
    folder: tempfile::TempDir,
}

impl World {
    fn of(trainer: Hotkey) -> Self {
        let storage = MemoryStorage::new(Arc::new(|| 0));
        let watch = Arc::new(Watch::default());
        let bucket = Arc::new(Layered::new(storage.buckets(trainer).own(), watch.clone()));
        Self { storage, trainer, watch, bucket, folder: tempfile::tempdir().unwrap() }
    }

    /// The published bucket of the vectors.
    fn published() -> Self {
        let signatures = load(TOPIC, "metadata_signatures.json");
        let world = Self::of(text(&list(&signatures["cases"])[0]["signer"]).parse().unwrap());
        for key in list(&load(TOPIC, "bucket_listing.json")["keys"]).iter().map(text) {
            let bytes = std::fs::read(path(TOPIC, "bucket").join(key)).unwrap();
            world.storage.tamper(world.trainer, key, bytes);
        }
        world
    }

    fn consumer(&self) -> ReferenceConsumer {
        self.consumer_in("cache")
    }

    fn consumer_in(&self, cache: &str) -> ReferenceConsumer {
        ReferenceConsumer {
            cache: self.folder.path().join(cache),
            trainer: self.trainer,
            bucket: self.bucket.clone(),
            unsigned: Unsigned::Refuse,
            heartbeat: Heartbeat::default(),
        }
    }

    fn damage(&self, key: &str) {
        let mut bytes = self.storage.peek(self.trainer, key).unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.storage.tamper(self.trainer, key, bytes);
    }

    async fn remove(&self, key: &str) {
        self.storage.buckets(self.trainer).own().delete(key).await.unwrap();
    }
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn hash_in(dir: &Path) -> String {
    weights_hash(&[dir.join(WEIGHTS_FILE)]).unwrap().to_string()
}

#[tokio::test]
async fn every_checkpoint_of_the_vectors_is_made_or_refused() {
    let world = World::published();
    let mut cases = Vec::new();
    every_case(TOPIC, "consumer.json", |case| {
        if case["op"] == "get_checkpoint cold cache" {
            cases.push(case.clone());
        }
    });
    for case in &cases {
        let start = case["window"].as_u64().unwrap();
        let cold = world.consumer_in(&format!("cold-{start}"));
        let Ok(at) = Window::from_start(start) else {
            assert_eq!(case["ok"], false, "{case}");
            continue;
        };
        let obtained = cold.checkpoint(at).await;
        assert_eq!(obtained.is_ok(), case["ok"] == true, "{case}: {obtained:?}");
        let Ok(obtained) = obtained else { continue };
        assert_eq!(obtained.method, Method::Full);
        assert_eq!(hash_in(&obtained.dir), text(&case["weights_hash"]), "{case}");
        let listed: Vec<&str> = list(&case["files"]).iter().map(text).collect();
        assert_eq!(files_in(&obtained.dir), listed, "{case}");
        let local = std::fs::read_to_string(obtained.dir.join("metadata.json")).unwrap();
        let local = grail_protocol::v5::python::json::parse(&local).unwrap();
        let names: Vec<&str> =
            local.as_object().unwrap().iter().map(|(name, _)| name.as_str().unwrap()).collect();
        let wanted: Vec<&str> = list(&case["metadata_keys"]).iter().map(text).collect();
        assert_eq!(names, wanted, "{case}");
        let again = cold.checkpoint(at).await.unwrap();
        assert_eq!(again.method, Method::None, "the cache is used: {case}");
    }
    println!("vectors: {TOPIC}/consumer.json: {} checkpoints are made or refused", cases.len());
    assert!(!is_own() || !cases.is_empty());
}

/// Windows of the vectors with a delta whose base is ready, and what they are called in the bucket.
fn deltas(world: &World) -> Vec<Window> {
    let keys = world.storage.keys(world.trainer);
    let starts = |part: &str| -> Vec<i64> {
        keys.iter().filter(|key| key.contains(part)).filter_map(|key| window_of(key)).collect()
    };
    let (delta, full, ready) = (starts("/DELTA/DELTA"), starts("/FULL/FULL"), starts("/READY-"));
    let usable = delta.into_iter().filter(|start| ready.contains(start) && !full.contains(start));
    usable.map(|start| window(u64::try_from(start).unwrap())).collect()
}

#[tokio::test]
async fn a_delta_on_the_cache_is_fast_and_a_late_joiner_catches_up() {
    let world = World::published();
    let chain = deltas(&world);
    let (first, tip) = (chain[0], *chain.last().unwrap());
    let early = world.consumer();
    early.checkpoint(first).await.unwrap();
    world.watch.weights_read();
    for delta in &chain[1..] {
        let obtained = early.checkpoint(*delta).await.unwrap();
        assert_eq!(obtained.method, Method::Fast, "{delta}");
        assert_eq!(world.watch.weights_read().len(), 1, "one delta is all that is read");
    }
    let late = world.consumer_in("late").checkpoint(tip).await.unwrap();
    assert_eq!(late.method, Method::Full);
    assert_eq!(world.watch.weights_read().len(), 1 + chain.len());
    let same = |name: &str| {
        let of = |cache: &str| {
            let dir = world.folder.path().join(cache).join(format!("checkpoint-{tip}"));
            std::fs::read(dir.join(name)).unwrap()
        };
        of("cache") == of("late")
    };
    assert!(same(WEIGHTS_FILE) && same("config.json") && same("metadata.json"));
}

#[tokio::test]
async fn a_damaged_delta_harms_nothing() {
    let world = World::published();
    let chain = deltas(&world);
    let consumer = world.consumer();
    let base = consumer.checkpoint(chain[0]).await.unwrap();
    let before = hash_in(&base.dir);
    let key = keys::delta_file(chain[1], "delta_sparse.bin.zst");
    let whole = world.storage.peek(world.trainer, &key).unwrap();
    world.damage(&key);
    let error = consumer.checkpoint(chain[1]).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Damaged { .. }), "{error}");
    assert_eq!(hash_in(&base.dir), before);
    assert_eq!(consumer.checkpoint(chain[0]).await.unwrap().method, Method::None);
    let dir = world.folder.path().join("cache");
    assert!(!dir.join(format!("checkpoint-{}", chain[1])).exists(), "nothing half-made is seen");
    world.storage.tamper(world.trainer, &key, whole);
    assert_eq!(consumer.checkpoint(chain[1]).await.unwrap().method, Method::Fast);
}

#[tokio::test]
async fn a_missing_middle_link_is_named_and_a_whole_checkpoint_goes_around_it() {
    let world = World::published();
    let chain = deltas(&world);
    let tip = *chain.last().unwrap();
    assert!(chain.len() > 2, "{chain:?}");
    world.remove(&keys::delta_file(chain[1], "metadata.json")).await;
    let error = world.consumer().checkpoint(tip).await.unwrap_err();
    assert!(
        matches!(&error, CheckpointError::Missing { checkpoint, .. } if *checkpoint == chain[1]),
        "{error}"
    );
    // Whoever has the link in the cache goes on.
    let whole = World::published();
    let cached = whole.consumer();
    cached.checkpoint(chain[1]).await.unwrap();
    whole.remove(&keys::delta_file(chain[0], "metadata.json")).await;
    whole.remove(&keys::delta_file(chain[0], "delta_sparse.bin.zst")).await;
    assert_eq!(cached.checkpoint(chain[2]).await.unwrap().method, Method::Fast);
}

#[tokio::test]
async fn an_interrupted_download_goes_on_where_it_was() {
    let world = World::published();
    let whole = keys::latest_checkpoint(
        world.storage.keys(world.trainer).iter().map(String::as_str).filter(|key| {
            let full = keys::checkpoint_file(
                window(u64::try_from(window_of(key).unwrap()).unwrap()),
                "FULL",
            );
            world.storage.peek(world.trainer, &full).is_some()
        }),
        window(30 << 40),
    );
    let at = whole.unwrap().checkpoint;
    world.watch.cut(Some("tokenizer_config.json"));
    let consumer = world.consumer();
    assert!(matches!(consumer.checkpoint(at).await, Err(CheckpointError::Store(_))));
    let visible = world.folder.path().join(format!("cache/checkpoint-{at}"));
    assert!(!visible.exists(), "never half visible");
    let before: BTreeMap<String, ()> = std::mem::take(&mut *world.watch.reads.lock().unwrap())
        .into_iter()
        .map(|key| (key, ()))
        .collect();
    world.watch.cut(None);
    // Another life of the program: only the folder is left.
    assert_eq!(world.consumer().checkpoint(at).await.unwrap().method, Method::Full);
    let again = std::mem::take(&mut *world.watch.reads.lock().unwrap());
    let repeated: Vec<&String> = again
        .iter()
        .filter(|key| {
            before.contains_key(*key) && !key.ends_with("metadata.json") && !key.ends_with(".sig")
        })
        .collect();
    assert!(repeated.is_empty(), "{repeated:?}");
}

#[tokio::test]
async fn without_a_signature_only_the_tolerant_go_on() {
    let world = World::published();
    let at = deltas(&world)[0];
    world.remove(&keys::delta_file(at, "manifest.sig")).await;
    let strict = world.consumer();
    let error = strict.checkpoint(at).await.unwrap_err();
    assert!(error.to_string().contains("manifest.sig"), "{error}");
    let tolerant = ReferenceConsumer { unsigned: Unsigned::Tolerate, ..strict };
    assert!(tolerant.checkpoint(at).await.is_ok());
    // A wrong signature is never tolerated.
    let other = String::from(FakeSigner::new(5).sign(b"anything"));
    world.storage.tamper(world.trainer, &keys::delta_file(at, "manifest.sig"), other);
    std::fs::remove_dir_all(&tolerant.cache).unwrap();
    assert!(tolerant.checkpoint(at).await.is_err());
}
