//! Kills a working process at many points and checks what is left. No point is hit by waiting: the
//! child says how far it is, and is killed when it has said so often enough.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::config;
use bytes::Bytes;
use grail_infrastructure::local::chain::LocalChain;
use grail_infrastructure::local::chain::data::Data;
use grail_infrastructure::local::chain::extrinsic::{Call, Transaction};
use grail_infrastructure::local::network::{LocalNetwork, NetworkError};
use grail_infrastructure::local::store::credentials::BucketKeys;
use grail_infrastructure::local::store::{FolderBuckets, FolderStore, StoreLimits};
use grail_infrastructure::substrate::blake2_256;
use grail_infrastructure::wallet::Wallet;
use grail_ports::object_store::{Buckets, ObjectStore};
use grail_ports::signer::Signer;
use grail_protocol::ids::{BlockNumber, Digest, Hotkey};

const WORK: &str = "GRAIL_TEST_CHILD_WORK";
const FOLDER: &str = "GRAIL_TEST_CHILD_FOLDER";

/// A child that does `work` in `folder` until it is killed.
struct Worker {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Worker {
    fn start(work: &str, folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child_process", "--exact", "--nocapture"])
            .env(WORK, work)
            .env(FOLDER, folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Returns the number in the next progress line, or `None` when the child has ended.
    fn progress(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness may print on the same line before us.
            if let Some((_, number)) = line.split_once("progress ") {
                return Some(number.trim().parse().unwrap());
            }
        }
    }

    /// Kills the child, as `kill -9` does, and returns the last progress that it told.
    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let mut last = 0;
        while let Some(number) = self.progress() {
            last = number;
        }
        last
    }
}

/// What a child does; an ordinary test run passes through at once.
#[test]
fn child_process() {
    let (Ok(work), Ok(folder)) = (std::env::var(WORK), std::env::var(FOLDER)) else { return };
    let folder = Path::new(&folder);
    match work.as_str() {
        "chain" => make_blocks(folder),
        "store" => put_objects(folder),
        "network" => make_network(folder),
        other => panic!("no such work: {other}"),
    }
}

fn tell(progress: u64) {
    println!("progress {progress}");
}

// ---- chain

fn miner() -> Wallet {
    Wallet::from_seed(&[3; 32])
}

fn make_blocks(folder: &Path) {
    let chain = LocalChain::open(&folder.join("chain.redb")).unwrap();
    let miner = miner().hotkey();
    loop {
        let number = chain.head().number.0;
        let fields = vec![Data::Raw { bytes: number.to_le_bytes().to_vec() }];
        let call = Call::SetCommitment { netuid: chain.rules().netuid.0, fields };
        let nonce = chain.next_nonce(miner);
        // Whoever reads extrinsics for the chain has verified them: here these bytes stand for one.
        let bytes = format!("call {nonce}").into_bytes();
        let hash = Digest(blake2_256(&bytes));
        chain.submit_transaction(Transaction { bytes, hash, signer: miner, nonce, call }).unwrap();
        tell(chain.advance(1).unwrap().number.0);
    }
}

#[test]
fn a_killed_chain_goes_on_where_it_stood() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chain.redb");
    let mut rules = config().rules;
    // The commitments of an epoch are bounded; here there is one in each block.
    rules.tempo = 1;
    drop(LocalChain::create(&path, rules, &[1; 32], &[(miner().hotkey(), 0)]).unwrap());
    let mut height = 0;
    for told in [1, 2, 3, 5, 8, 13, 1, 1, 4, 7] {
        let mut worker = Worker::start("chain", folder.path());
        for _ in 0..told {
            height = worker.progress().unwrap();
        }
        height = height.max(worker.kill());
        let chain = LocalChain::open(&path).unwrap();
        let head = chain.head();
        // The child may have made one block that it could not tell of any more.
        assert!((height..=height + 1).contains(&head.number.0), "{head:?} after {height}");
        height = head.number.0;
        check_blocks(&chain, height);
        let committed = &chain.commitments()[&miner().hotkey()];
        let committed = u64::from_le_bytes(committed.as_slice().try_into().unwrap());
        // In the head, or pending in the block after it.
        assert!((height - 1..=height).contains(&committed), "{committed} at {height}");
        let nonce = chain.next_nonce(miner().hotkey());
        assert!(nonce >= height, "every block of ours holds one call");
    }
}

/// Checks the chain of hashes, the times, and that no call was lost or included twice.
fn check_blocks(chain: &LocalChain, head: u64) {
    let mut parent = Digest([0; 32]);
    let mut nonces = Vec::new();
    for number in 0..=head {
        let row = chain.block(BlockNumber(number)).unwrap().expect("no block is missing");
        assert_eq!(row.parent, parent, "block {number}");
        assert_eq!(row.timestamp_ms, chain.rules().timestamp_ms(BlockNumber(number)));
        nonces.extend(row.extrinsics.iter().map(|extrinsic| extrinsic.nonce));
        parent = row.hash;
    }
    let count = u64::try_from(nonces.len()).unwrap();
    assert_eq!(nonces, (0..count).collect::<Vec<_>>(), "each call once, in order");
    assert_eq!(chain.block(BlockNumber(head + 1)).unwrap(), None);
}

// ---- store

const KEYS: [&str; 4] = ["a", "b/one", "b/two", "c/d/e"];

fn keys() -> BucketKeys {
    BucketKeys::from_seed(Hotkey([9; 32]), &[9; 32])
}

/// Opens the store of `folder` with a clock that shows `now`.
fn open_store(folder: &Path, now: &Arc<AtomicU64>) -> Arc<dyn ObjectStore> {
    let now = Arc::clone(now);
    let clock = Arc::new(move || now.load(Ordering::Relaxed));
    let store = FolderStore::open(folder, StoreLimits::default(), clock).unwrap();
    FolderBuckets::new(Arc::new(store), keys()).own()
}

/// Returns the bytes of the `step`-th write: its number, then a pattern of its own length.
fn content(step: u64) -> Vec<u8> {
    let length = usize::try_from(step * 7919 % 50_000).unwrap();
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.resize(8 + length, u8::try_from(step % 251).unwrap());
    bytes
}

fn key_of(step: u64) -> &'static str {
    KEYS[usize::try_from(step % 4).unwrap()]
}

fn is_delete(step: u64) -> bool {
    step % 7 == 6
}

fn put_objects(folder: &Path) {
    let now = Arc::new(AtomicU64::new(0));
    let bucket = open_store(folder, &now);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let first = match bucket.get("step", 8).await.unwrap() {
            Some(bytes) => u64::from_le_bytes(bytes.as_ref().try_into().unwrap()) + 1,
            None => 0,
        };
        for step in first.. {
            now.store(step, Ordering::Relaxed);
            if is_delete(step) {
                bucket.delete(key_of(step)).await.unwrap();
            } else {
                bucket.put(key_of(step), content(step).into()).await.unwrap();
            }
            let step_bytes = Bytes::copy_from_slice(&step.to_le_bytes());
            bucket.put("step", step_bytes).await.unwrap();
            tell(step);
        }
    });
}

#[tokio::test]
async fn a_killed_store_holds_whole_objects_with_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(0));
    let clock = Arc::new(|| 0);
    let store = FolderStore::create(folder.path(), StoreLimits::default(), clock).unwrap();
    store.create_bucket(&keys().grant()).unwrap();
    drop(store);
    for told in [1, 2, 3, 4, 6, 9, 1, 2, 5, 8] {
        let mut worker = Worker::start("store", folder.path());
        let mut last = 0;
        for _ in 0..told {
            last = worker.progress().unwrap();
        }
        last = last.max(worker.kill());
        let bucket = open_store(folder.path(), &now);
        for key in KEYS {
            check_object(&*bucket, key, last).await;
        }
        let listed = bucket.list("").await.unwrap();
        let files = count_files(&folder.path().join(&keys().write.account_id));
        assert_eq!(listed.len(), files, "no file without an entry, no entry without a file");
        assert_eq!(count_files(&folder.path().join(".tmp")), 0, "no half file stays");
    }
}

/// Checks that the object at `key` is that of the newest finished step, or of the one after.
async fn check_object(bucket: &dyn ObjectStore, key: &str, last: u64) {
    let newest = |limit: u64| (0..=limit).rev().find(|step| key_of(*step) == key);
    let bytes = bucket.get(key, 1 << 20).await.unwrap();
    let info = bucket.head(key).await.unwrap();
    let Some(bytes) = bytes else {
        assert_eq!(info, None);
        let gone = [newest(last), newest(last + 1)];
        assert!(gone.into_iter().any(|step| step.is_none_or(is_delete)), "{key} after {last}");
        return;
    };
    let info = info.unwrap();
    let step = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes.as_ref(), content(step), "{key} is whole");
    assert_eq!(info.last_modified_ms, step, "{key} has the time of its bytes");
    assert_eq!(info.etag, Digest::of(&bytes).to_hex(), "{key} has the etag of its bytes");
    assert!([newest(last), newest(last + 1)].contains(&Some(step)), "{key}: {step} after {last}");
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { count_files(&path) } else { 1 })
        .sum()
}

// ---- network

fn make_network(folder: &Path) {
    tell(0);
    drop(LocalNetwork::create(&folder.join("net"), &config()).unwrap());
    tell(1);
}

#[test]
fn a_network_is_made_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("net");
    for told in [1, 1, 2] {
        let mut worker = Worker::start("network", folder.path());
        for _ in 0..told {
            worker.progress().unwrap();
        }
        worker.kill();
        match LocalNetwork::open(&dir) {
            Ok(network) => {
                assert_eq!(network.file().neurons.len(), 4);
                drop(network);
                fs::remove_dir_all(&dir).unwrap();
            }
            Err(NetworkError::File(_)) => assert!(!dir.exists(), "nothing is half made"),
            Err(other) => panic!("{other}"),
        }
    }
    let network = LocalNetwork::create(&dir, &config()).unwrap();
    assert_eq!(network.chain().head().number.0, 0);
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no draft stays: {left:?}");
}
