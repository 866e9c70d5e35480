//! What the store does at each step that a crash can interrupt, and at its limits.

use std::sync::Arc;

use tempfile::TempDir;

use super::credentials::BucketKeys;
use super::*;

const LIMITS: StoreLimits = StoreLimits {
    object_bytes_max: 100,
    bucket_bytes_max: 150,
    bucket_objects_max: 3,
    buckets_max: 2,
};

struct Fixture {
    folder: TempDir,
    now: Arc<AtomicU64>,
    access: AccessKey,
}

impl Fixture {
    /// A store with one bucket, in which object `a` was written at 5 ms.
    fn new() -> (Self, FolderStore) {
        let folder = tempfile::tempdir().unwrap();
        let keys = keys(1);
        let fixture =
            Self { folder, now: Arc::new(AtomicU64::new(5)), access: AccessKey::from(&keys.write) };
        let store =
            FolderStore::create(fixture.folder.path(), LIMITS, clock(&fixture.now)).unwrap();
        store.create_bucket(&keys.grant()).unwrap();
        store.put(&fixture.access, "a", b"old", None).unwrap();
        fixture.now.store(6, Ordering::Relaxed);
        (fixture, store)
    }

    fn reopen(&self) -> FolderStore {
        FolderStore::open(self.folder.path(), LIMITS, clock(&self.now)).unwrap()
    }

    /// Returns the object's bytes and time, checking that index and file agree.
    fn object(&self, store: &FolderStore, key: &str) -> Option<(Vec<u8>, u64)> {
        let bytes = store.get(&self.access, key, 1000).unwrap();
        let info = store.head(&self.access, key).unwrap();
        assert_eq!(bytes.is_some(), info.is_some());
        let (bytes, info) = (bytes?, info?);
        assert_eq!(info.etag, Digest::of(&bytes).to_hex());
        Some((bytes.to_vec(), info.last_modified_ms))
    }
}

fn keys(seed: u8) -> BucketKeys {
    BucketKeys::from_seed(Hotkey([seed; 32]), &[seed; 32])
}

fn clock(now: &Arc<AtomicU64>) -> Clock {
    let now = Arc::clone(now);
    Arc::new(move || now.load(Ordering::Relaxed))
}

fn change(bytes: &[u8]) -> Change {
    let size = u64::try_from(bytes.len()).unwrap();
    let row = ObjectRow { size, sha256: Digest::of(bytes), modified_ms: 6 };
    Change::Put { temporary: "9".into(), row }
}

fn stage(store: &FolderStore, fixture: &Fixture, key: &str, change: &Change) {
    let key = ValidKey::parse(key).unwrap();
    store.index.stage(&fixture.access.account_id, key, change, None, &LIMITS).unwrap();
}

#[test]
fn a_crash_before_the_journal_leaves_nothing() {
    let (fixture, store) = Fixture::new();
    fs::write(store.temporary("9"), b"half").unwrap();
    drop(store);
    let store = fixture.reopen();
    assert_eq!(fixture.object(&store, "a"), Some((b"old".to_vec(), 5)));
    assert!(!store.temporary("9").exists());
}

#[test]
fn a_crash_after_the_journal_is_finished() {
    for key in ["a", "new/folder/b"] {
        let (fixture, store) = Fixture::new();
        fs::write(store.temporary("9"), b"newer").unwrap();
        stage(&store, &fixture, key, &change(b"newer"));
        drop(store);
        let store = fixture.reopen();
        assert_eq!(fixture.object(&store, key), Some((b"newer".to_vec(), 6)));
        assert_eq!(store.index.journal().unwrap(), []);
    }
}

#[test]
fn a_crash_after_the_rename_is_finished() {
    let (fixture, store) = Fixture::new();
    stage(&store, &fixture, "a", &change(b"newer"));
    fs::write(store.path_of(&fixture.access.account_id, ValidKey::parse("a").unwrap()), b"newer")
        .unwrap();
    let between = store.get(&fixture.access, "a", 1000);
    assert!(matches!(between, Err(StoreError::Malformed(_))), "never new bytes with an old time");
    drop(store);
    let store = fixture.reopen();
    assert_eq!(fixture.object(&store, "a"), Some((b"newer".to_vec(), 6)));
}

#[test]
fn a_lost_temporary_file_keeps_the_old_object() {
    let (fixture, store) = Fixture::new();
    stage(&store, &fixture, "a", &change(b"new"));
    drop(store);
    let store = fixture.reopen();
    assert_eq!(fixture.object(&store, "a"), Some((b"old".to_vec(), 5)), "same size, other bytes");
    assert_eq!(store.index.journal().unwrap(), []);
}

#[test]
fn an_interrupted_delete_is_finished() {
    for is_unlinked in [false, true] {
        let (fixture, store) = Fixture::new();
        store.put(&fixture.access, "b/c", b"x", None).unwrap();
        stage(&store, &fixture, "b/c", &Change::Delete);
        let path = store.path_of(&fixture.access.account_id, ValidKey::parse("b/c").unwrap());
        if is_unlinked {
            fs::remove_file(&path).unwrap();
        }
        drop(store);
        let store = fixture.reopen();
        assert_eq!(fixture.object(&store, "b/c"), None);
        assert!(!path.parent().unwrap().exists(), "empty folders go too");
        store.put(&fixture.access, "b", b"x", None).expect("`b` is free for an object");
    }
}

#[test]
fn nonces_are_used_up_across_restarts() {
    let (fixture, store) = Fixture::new();
    store.put(&fixture.access, "a", b"0", Some(0)).unwrap();
    store.delete(&fixture.access, "a", Some(1)).unwrap();
    drop(store);
    let store = fixture.reopen();
    for used in [0, 1, 3] {
        let refused = store.put(&fixture.access, "a", b"0", Some(used));
        assert!(matches!(refused, Err(WriteError::BadNonce { expected: 2 })), "{used}");
    }
    assert_eq!(fixture.object(&store, "a"), None);
    assert_eq!(fs::read_dir(store.dir.join(TEMPORARY_FOLDER)).unwrap().count(), 0);
    store.put(&fixture.access, "a", b"0", Some(2)).unwrap();
}

#[test]
fn an_object_excludes_a_folder_of_its_name() {
    let (fixture, store) = Fixture::new();
    store.put(&fixture.access, "b/c", b"x", None).unwrap();
    for key in ["a/b", "a/b/c", "b"] {
        let refused = store.put(&fixture.access, key, b"x", None);
        assert!(
            matches!(refused, Err(WriteError::Store(StoreError::Malformed(_)))),
            "{key}: {refused:?}"
        );
    }
    store.put(&fixture.access, "b-", b"x", None).expect("`b-` sorts between `b` and `b/`");
}

#[test]
fn limits_hold_and_what_is_deleted_makes_room() {
    let (fixture, store) = Fixture::new();
    let put = |key: &str, size: usize| store.put(&fixture.access, key, &vec![0; size], None);
    let too_large = put("b", 101);
    assert!(matches!(
        too_large,
        Err(WriteError::Store(StoreError::TooLarge { size: 101, limit: 100, .. }))
    ));
    put("b", 100).unwrap();
    let full = |outcome: Result<(), WriteError>| match outcome {
        Err(WriteError::Store(StoreError::Malformed(message))) => message.contains("is full"),
        _ => false,
    };
    assert!(full(put("c", 48)), "3 + 100 + 48 bytes are too many");
    put("b", 90).expect("replacing counts the old size off");
    put("c", 57).unwrap();
    assert!(full(put("d", 0)), "a fourth object is too many");
    store.delete(&fixture.access, "b", None).unwrap();
    store.delete(&fixture.access, "b", None).expect("twice is no error");
    put("d", 90).unwrap();
    store.create_bucket(&keys(2).grant()).unwrap();
    assert!(store.create_bucket(&keys(3).grant()).is_err(), "a third bucket is too many");
}

#[test]
fn files_changed_behind_the_stores_back_are_told() {
    let (fixture, store) = Fixture::new();
    let path = store.path_of(&fixture.access.account_id, ValidKey::parse("a").unwrap());
    for damage in [Some(b"longer".as_slice()), Some(b""), None] {
        match damage {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let outcome = store.get(&fixture.access, "a", 1000);
        assert!(matches!(&outcome, Err(StoreError::Malformed(text)) if text.contains("outside")));
    }
    store.put(&fixture.access, "a", b"again", None).unwrap();
    assert_eq!(fixture.object(&store, "a"), Some((b"again".to_vec(), 6)));
}

#[test]
fn a_store_is_made_once_and_opened_once() {
    let (fixture, store) = Fixture::new();
    let path = fixture.folder.path();
    let second = FolderStore::open(path, LIMITS, clock(&fixture.now)).err().unwrap();
    assert!(second.to_string().contains("in use"), "{second}");
    drop(store);
    assert!(FolderStore::create(path, LIMITS, clock(&fixture.now)).is_err());
    assert!(fixture.object(&fixture.reopen(), "a").is_some());
}

#[test]
fn a_reader_keeps_the_bytes_that_it_opened() {
    let (fixture, store) = Fixture::new();
    let mut open = store.open_object(&fixture.access, "a").unwrap().unwrap();
    store.put(&fixture.access, "a", b"newer", None).unwrap();
    let mut bytes = Vec::new();
    open.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"old");
    assert_eq!(open.info.size, 3);
}
