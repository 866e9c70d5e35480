//! The contract of [`ObjectStore`] and [`Buckets`].

use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use grail_ports::object_store::{
    Buckets, FilePut, ObjectStore, PutCondition, PutOutcome, ReadCredentials, StoreError,
};
use grail_protocol::ids::Digest;
use sha2::{Digest as _, Sha256};

const PLENTY: u64 = 1 << 30;

/// Checks a bucket, empty and opened with write rights; leaves it empty.
///
/// # Panics
/// When the store breaks the contract.
pub async fn object_store(store: &dyn ObjectStore) {
    objects(store).await;
    limits(store).await;
    ranges(store).await;
    conditions(store).await;
    keys(store).await;
    listing(store).await;
}

/// Checks a bucket with many objects, `count` of them, more than one page of S3's has (1,000);
/// leaves it as it was.
///
/// # Panics
/// When the store breaks the contract.
pub async fn many_objects(store: &dyn ObjectStore, count: usize) {
    let keys: Vec<String> = (0..count).map(|index| format!("many/{index:05}")).collect();
    futures::stream::iter(&keys)
        .for_each_concurrent(16, |key| put(store, key, key.as_bytes()))
        .await;
    put(store, "many-", b"beside the folder").await;
    put(store, "manz", b"behind the folder").await;
    for (prefix, want) in [
        ("many/", keys.as_slice()),
        ("many/000", &keys[..count.min(100)]),
        ("many/00007", &keys[7..8]),
    ] {
        let listed = store.list(prefix).await.expect("the owner may list");
        let listed: Vec<_> = listed.into_iter().map(|info| info.key).collect();
        assert_eq!(listed, want, "prefix `{prefix}`: every key, once, sorted");
    }
    assert_eq!(store.list("man").await.expect("the owner may list").len(), count + 2);
    for key in ["many-", "manz"] {
        delete(store, key).await;
    }
    futures::stream::iter(&keys).for_each_concurrent(16, |key| delete(store, key)).await;
    assert_eq!(store.list("man").await, Ok(vec![]));
}

/// Checks an object of `size` bytes, at least 10: whole, replaced by another one of its size, and by
/// pieces.
///
/// # Panics
/// When the store breaks the contract.
pub async fn large_object(store: &dyn ObjectStore, size: usize) {
    let key = "large/object";
    for salt in [1, 2] {
        // No part of it is like another, so that parts in a wrong order would be seen.
        let words = (0..size.div_ceil(4)).map(|index| u32::try_from(index).unwrap_or(0) ^ salt);
        let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
        bytes.truncate(size);
        let bytes = Bytes::from(bytes);
        store.put(key, bytes.clone()).await.expect("the owner may write");
        let read = get(store, key).await.expect("it was written");
        assert!(read == bytes, "all {size} bytes survive");
        let info = store.head(key).await.expect("the owner may read").expect("it was written");
        assert_eq!(info.size, size as u64);
        for (start, end) in [(size / 3, 2 * size / 3), (size - 5, size + 5), (0, size)] {
            let range = start as u64..end as u64;
            let read = store.get_range(key, range.clone(), Some(&info.etag)).await;
            let read = read.expect("the owner may read").expect("it was written");
            assert!(read == bytes[start..end.min(size)], "bytes {range:?} survive");
        }
        let refused = store.get(key, size as u64 - 1).await;
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
    }
    delete(store, key).await;
    assert_eq!(store.head(key).await, Ok(None), "a deleted object is gone");
}

/// Checks puts of files, which are made in `folder`; the bucket of `ours` is empty before and after.
///
/// # Panics
/// When the store breaks the contract.
pub async fn files(ours: &dyn Buckets, folder: &Path) {
    let (store, path, key) = (ours.own(), folder.join("contract.file"), "files/one");
    for size in [300_000, 0, 1, 70_000] {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(size).collect();
        fs::write(&path, &bytes).expect("the folder can be written");
        let want = FilePut { size: size as u64, sha256: Digest::of(&bytes) };
        assert_eq!(store.put_file(key, &path).await, Ok(want));
        assert_eq!(get(&*store, key).await.as_deref(), Some(&bytes[..]), "a put replaces");
        assert_eq!(fs::read(&path).expect("it stays where it is"), bytes);
    }
    let before = get(&*store, key).await;
    for (what, path) in [("missing", folder.join("gone")), ("a folder", folder.to_owned())] {
        let refused = store.put_file(key, &path).await;
        let Err(error @ StoreError::File(_)) = refused else { panic!("{what}: {refused:?}") };
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    assert_eq!(get(&*store, key).await, before, "a put that fails changes nothing");
    for key in ["", "../a", "a//b"] {
        let refused = store.put_file(key, &path).await;
        assert!(matches!(refused, Err(StoreError::Malformed(_))), "`{key}`: {refused:?}");
    }
    let reader = ours.open(&ours.read_credentials()).expect("good credentials open a bucket");
    let refused = reader.put_file(key, &path).await;
    assert!(matches!(refused, Err(StoreError::Denied(_))), "a reader may not write: {refused:?}");
    changing_file(&*store, key, &path).await;
    delete(&*store, key).await;
}

/// Uploads a file that another thread writes to all the time: what is put is what was told.
async fn changing_file(store: &dyn ObjectStore, key: &str, path: &Path) {
    const VERSIONS_MAX: u8 = 200;
    let is_over = Arc::new(AtomicBool::new(false));
    let (until, file) = (Arc::clone(&is_over), path.to_owned());
    let writer = std::thread::spawn(move || {
        for version in (0..VERSIONS_MAX).cycle().take_while(|_| !until.load(Ordering::Relaxed)) {
            fs::write(&file, vec![version; 1 << 20]).expect("the folder can be written");
        }
    });
    for _ in 0..8 {
        let before = get(store, key).await;
        let outcome = store.put_file(key, path).await;
        let after = get(store, key).await.expect("it was there before");
        match outcome {
            Ok(put) => {
                let found = FilePut { size: after.len() as u64, sha256: Digest::of(&after) };
                assert_eq!(found, put, "the object is what was told");
            }
            Err(StoreError::File(_)) => assert!(before == Some(after), "nothing half visible"),
            Err(other) => panic!("a file that changes: {other:?}"),
        }
    }
    is_over.store(true, Ordering::Relaxed);
    writer.join().expect("the folder can be written");
}

/// Checks two files of `size` bytes, one replacing the other, with pieces of them in memory only; the
/// files are made in `folder`.
///
/// # Panics
/// When the store breaks the contract.
pub async fn large_file(store: &dyn ObjectStore, folder: &Path, size: u64) {
    const PIECE_BYTES: u64 = 4 << 20;
    let (key, path) = ("large/file", folder.join("contract.large"));
    for salt in [1, 2] {
        let sha256 = write_large(&path, size, salt);
        let put = store.put_file(key, &path).await;
        assert_eq!(put, Ok(FilePut { size, sha256 }));
        let info = store.head(key).await.expect("the owner may read").expect("it was written");
        assert_eq!(info.size, size);
        let mut hasher = Sha256::new();
        for start in (0..size).step_by(4 << 20) {
            let range = start..size.min(start + PIECE_BYTES);
            let piece = store.get_range(key, range, Some(&info.etag)).await;
            hasher.update(piece.expect("the owner may read").expect("it was written"));
        }
        assert_eq!(Digest(hasher.finalize().into()), sha256, "all {size} bytes survive");
    }
    delete(store, key).await;
    fs::remove_file(path).expect("the folder can be written");
}

/// Writes a file of which no part is like another, so that parts in a wrong order would be seen;
/// returns its SHA-256.
fn write_large(path: &Path, size: u64, salt: u64) -> Digest {
    let mut file = BufWriter::new(fs::File::create(path).expect("the folder can be written"));
    let mut hasher = Sha256::new();
    for start in (0..size).step_by(1 << 16) {
        let words = (start / 8..start / 8 + (1 << 13)).map(|index| index ^ (salt << 40));
        let mut block: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        block.truncate(usize::try_from(size - start).unwrap_or(usize::MAX));
        hasher.update(&block);
        file.write_all(&block).expect("the folder can be written");
    }
    file.flush().expect("the folder can be written");
    Digest(hasher.finalize().into())
}

async fn put(store: &dyn ObjectStore, key: &str, bytes: &[u8]) {
    store.put(key, Bytes::copy_from_slice(bytes)).await.expect("the owner may write");
}

async fn get(store: &dyn ObjectStore, key: &str) -> Option<Bytes> {
    store.get(key, PLENTY).await.expect("the owner may read")
}

async fn delete(store: &dyn ObjectStore, key: &str) {
    store.delete(key).await.expect("the owner may delete");
}

async fn objects(store: &dyn ObjectStore) {
    let key = "grail/windows/5Fabc-window-30.grail";
    assert_eq!(get(store, key).await, None, "an absent object is None");
    assert_eq!(store.head(key).await, Ok(None), "an absent object is None");

    put(store, key, b"one").await;
    assert_eq!(get(store, key).await.as_deref(), Some(&b"one"[..]));
    let first = store.head(key).await.expect("the owner may read").expect("it was written");
    assert_eq!((first.key.as_str(), first.size), (key, 3));
    assert!(first.last_modified_ms > 0, "a write has a time");

    put(store, key, b"two").await;
    assert_eq!(get(store, key).await.as_deref(), Some(&b"two"[..]), "a write replaces");
    let second = store.head(key).await.expect("the owner may read").expect("it was written");
    assert_ne!(first.etag, second.etag, "other bytes, other etag");
    assert!(second.last_modified_ms >= first.last_modified_ms, "time does not go back");

    put(store, "empty", b"").await;
    assert_eq!(get(store, "empty").await.as_deref(), Some(&b""[..]), "empty is not absent");

    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(300_000).collect();
    put(store, key, &bytes).await;
    assert_eq!(get(store, key).await.as_deref(), Some(&bytes[..]), "all bytes survive");

    for key in [key, "empty", key, "never/there"] {
        delete(store, key).await;
        assert_eq!(get(store, key).await, None, "a deleted object is gone");
    }
}

async fn limits(store: &dyn ObjectStore) {
    put(store, "ten", b"0123456789").await;
    assert!(matches!(store.get("ten", 10).await, Ok(Some(_))), "the limit is inclusive");
    for limit in [0, 9] {
        match store.get("ten", limit).await {
            Err(StoreError::TooLarge { size, limit: told, .. }) => {
                assert!(size > limit && told == limit, "the error tells the size and the limit");
            }
            other => panic!("10 bytes at a limit of {limit}: {other:?}"),
        }
    }
    delete(store, "ten").await;
}

async fn ranges(store: &dyn ObjectStore) {
    let read = |start: u64, end: u64| store.get_range("ten", start..end, None);
    assert_eq!(read(0, 5).await, Ok(None), "an absent object is None");
    put(store, "ten", b"0123456789").await;
    for (start, end, want) in [
        (0, 10, "0123456789"),
        (0, 1, "0"),
        (3, 6, "345"),
        (9, 10, "9"),
        (8, 100, "89"),
        (0, u64::MAX, "0123456789"),
        (4, 4, ""),
        (10, 20, ""),
        (50, 60, ""),
    ] {
        let found = read(start, end).await.expect("the owner may read").expect("it was written");
        assert_eq!(found, want.as_bytes(), "bytes {start}..{end}");
    }
    put(store, "none", b"").await;
    let found = store.get_range("none", 0..5, None).await;
    assert_eq!(found, Ok(Some(Bytes::new())), "an empty object has empty ranges");

    let etag = async || store.head("ten").await.expect("readable").expect("written").etag;
    let first = etag().await;
    let pinned = store.get_range("ten", 2..4, Some(&first)).await;
    assert_eq!(pinned, Ok(Some(Bytes::from_static(b"23"))));
    put(store, "ten", b"abcdefghij").await;
    for range in [2..4, 4..4, 50..60] {
        let stale = store.get_range("ten", range.clone(), Some(&first)).await;
        assert!(matches!(stale, Err(StoreError::Changed(_))), "{range:?}, replaced: {stale:?}");
    }
    let found = store.get_range("ten", 2..4, Some(&etag().await)).await;
    assert_eq!(found, Ok(Some(Bytes::from_static(b"cd"))));
    for key in ["ten", "none"] {
        delete(store, key).await;
    }
    let gone = store.get_range("ten", 2..4, Some(&first)).await;
    assert_eq!(gone, Ok(None), "absent is not replaced");
}

async fn conditions(store: &dyn ObjectStore) {
    let (key, absent) = ("lock/holder", PutCondition::Absent);
    let put_if = async |bytes: &'static [u8], condition: &PutCondition| {
        store.put_if(key, Bytes::from_static(bytes), condition).await.expect("the owner may write")
    };
    let etag = async || {
        let info = store.head(key).await.expect("the owner may read");
        PutCondition::Etag(info.expect("it was written").etag)
    };
    let never = PutCondition::Etag("0123456789abcdef0123456789abcdef".to_owned());
    assert_eq!(put_if(b"x", &never).await, PutOutcome::ConditionFailed, "nothing to replace");
    assert_eq!(get(store, key).await, None, "a failed condition changes nothing");
    assert_eq!(put_if(b"one", &absent).await, PutOutcome::Written);
    assert_eq!(put_if(b"two", &absent).await, PutOutcome::ConditionFailed, "it exists");
    assert_eq!(put_if(b"two", &never).await, PutOutcome::ConditionFailed, "another etag");
    assert_eq!(get(store, key).await.as_deref(), Some(&b"one"[..]));
    let first = etag().await;
    assert_eq!(put_if(b"two", &first).await, PutOutcome::Written, "the right etag");
    assert_eq!(put_if(b"three", &first).await, PutOutcome::ConditionFailed, "an old etag");
    assert_eq!(get(store, key).await.as_deref(), Some(&b"two"[..]));
    put(store, key, b"four").await;
    assert_eq!(get(store, key).await.as_deref(), Some(&b"four"[..]), "a plain put asks nothing");
    delete(store, key).await;
    assert_eq!(put_if(b"again", &absent).await, PutOutcome::Written, "it is free again");
    delete(store, key).await;
}

async fn keys(store: &dyn ObjectStore) {
    // What a folder, an address or another store could read differently is no key.
    let long = "k".repeat(1025);
    for key in [
        "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a/..", ".hidden",
        "a/.b", "a b", "a%2Fb", "a?b=c#d", "a\\b", "ä", "a\0b", "a\nb", &long,
    ] {
        let shown = key.escape_debug();
        for result in [
            store.put(key, Bytes::from_static(b"x")).await,
            store.get(key, PLENTY).await.map(drop),
            store.head(key).await.map(drop),
            store.get_range(key, 0..1, None).await.map(drop),
            store.put_if(key, Bytes::new(), &PutCondition::Absent).await.map(drop),
            store.delete(key).await,
        ] {
            assert!(matches!(result, Err(StoreError::Malformed(_))), "`{shown}`: {result:?}");
        }
    }
    for key in ["a.tmp", "READY-30", "a..b", "A_b~c", &"k".repeat(100), "1/2/3/4/5/6/7/8"] {
        put(store, key, key.as_bytes()).await;
        assert_eq!(get(store, key).await.as_deref(), Some(key.as_bytes()), "`{key}`");
        let listed = store.list(key).await.expect("the owner may list");
        assert_eq!(listed.len(), 1, "`{key}` is listed");
        assert_eq!(listed[0].key, key, "a key is listed as it was written");
        delete(store, key).await;
    }
}

async fn listing(store: &dyn ObjectStore) {
    for key in ["b/2", "b/10", "b/1/x", "a", "b-", "c/1"] {
        put(store, key, key.as_bytes()).await;
    }
    for (prefix, want) in [
        ("", vec!["a", "b-", "b/1/x", "b/10", "b/2", "c/1"]),
        ("b", vec!["b-", "b/1/x", "b/10", "b/2"]),
        ("b/", vec!["b/1/x", "b/10", "b/2"]),
        ("b/1", vec!["b/1/x", "b/10"]),
        ("b/1/", vec!["b/1/x"]),
        ("b/1/x", vec!["b/1/x"]),
        ("b/1/xy", vec![]),
        ("b-", vec!["b-"]),
        ("b-/", vec![]),
        ("d", vec![]),
        ("d/", vec![]),
    ] {
        let listed = store.list(prefix).await.expect("the owner may list");
        let keys: Vec<_> = listed.iter().map(|info| info.key.as_str()).collect();
        assert_eq!(keys, want, "prefix `{prefix}`, sorted by key");
        for info in &listed {
            let head = store.head(&info.key).await.expect("the owner may read");
            assert_eq!(head.as_ref(), Some(info), "list and head agree");
        }
    }
    for info in store.list("").await.expect("the owner may list") {
        delete(store, &info.key).await;
    }
    assert_eq!(store.list("").await, Ok(vec![]));
}

/// Checks the rights of two hotkeys, `ours` and `theirs`, in one storage; both buckets are empty
/// at first.
///
/// # Panics
/// When the buckets break the contract.
pub async fn buckets(ours: &dyn Buckets, theirs: &dyn Buckets) {
    let credentials = ours.read_credentials();
    let ReadCredentials { account_id, access_key_id, secret_access_key, .. } = &credentials;
    for (name, part, longest) in
        [("account", account_id, 32), ("key", access_key_id, 32), ("secret", secret_access_key, 64)]
    {
        assert!((1..=longest).contains(&part.len()), "{name}: 1 to {longest} characters");
        assert!(part.chars().all(|c| c.is_ascii_graphic()), "{name}: printable, no space");
    }
    assert!(!format!("{credentials:?}").contains(secret_access_key.as_str()), "secrets stay out");
    assert_ne!(theirs.read_credentials().bucket(), credentials.bucket(), "a bucket each");

    put(&*ours.own(), "a/b", b"ours").await;
    assert_eq!(get(&*theirs.own(), "a/b").await, None, "buckets do not mix");

    let reader = theirs.open(&credentials).expect("good credentials open a bucket");
    assert_eq!(reader.get("a/b", PLENTY).await, Ok(Some(Bytes::from_static(b"ours"))));
    assert_eq!(reader.get_range("a/b", 1..3, None).await, Ok(Some(Bytes::from_static(b"ur"))));
    assert_eq!(reader.list("").await.expect("a reader may list").len(), 1);
    assert!(matches!(reader.head("a/b").await, Ok(Some(_))), "a reader may ask for the head");
    let written = reader.put("a/b", Bytes::from_static(b"theirs")).await;
    assert!(matches!(written, Err(StoreError::Denied(_))), "a reader may not write: {written:?}");
    let created = reader.put("new", Bytes::from_static(b"theirs")).await;
    assert!(matches!(created, Err(StoreError::Denied(_))), "a reader may not create: {created:?}");
    let created = reader.put_if("new", Bytes::new(), &PutCondition::Absent).await;
    assert!(matches!(created, Err(StoreError::Denied(_))), "on no condition either: {created:?}");
    let deleted = reader.delete("a/b").await;
    assert!(matches!(deleted, Err(StoreError::Denied(_))), "a reader may not delete: {deleted:?}");
    assert_eq!(get(&*ours.own(), "a/b").await.as_deref(), Some(&b"ours"[..]));

    let of = |bucket: &str| ReadCredentials {
        account_id: bucket.to_owned(),
        bucket_name: None,
        ..credentials.clone()
    };
    let flip = |text: &str| text.replacen(|c: char| c != '0', "0", 1);
    for wrong in [
        ReadCredentials { secret_access_key: flip(secret_access_key), ..credentials.clone() },
        ReadCredentials { access_key_id: flip(access_key_id), ..credentials.clone() },
        of(theirs.read_credentials().bucket()),
        of(&"0".repeat(32)),
        of("../escape"),
        of(""),
        ReadCredentials { bucket_name: Some("../escape".to_owned()), ..credentials.clone() },
    ] {
        if let Ok(store) = theirs.open(&wrong) {
            for refused in
                [store.get("a/b", PLENTY).await.map(drop), store.list("").await.map(drop)]
            {
                assert!(refused.is_err(), "credentials {wrong:?} must not read");
            }
        }
    }
    delete(&*ours.own(), "a/b").await;
}
