//! The contract of [`ObjectStore`] and [`Buckets`].

use bytes::Bytes;
use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials, StoreError};

const PLENTY: u64 = 1 << 30;

/// Checks a bucket, empty and opened with write rights; leaves it empty.
///
/// # Panics
/// When the store breaks the contract.
pub async fn object_store(store: &dyn ObjectStore) {
    objects(store).await;
    limits(store).await;
    keys(store).await;
    listing(store).await;
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
            store.delete(key).await,
        ] {
            assert!(matches!(result, Err(StoreError::Malformed(_))), "`{shown}`: {result:?}");
        }
    }
    for key in ["a.tmp", "READY-30", "a..b", "A_b~c", &"k".repeat(200), "1/2/3/4/5/6/7/8"] {
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
        ("d", vec![]),
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
    let ReadCredentials { account_id, access_key_id, secret_access_key } = &credentials;
    for (name, part, longest) in
        [("account", account_id, 32), ("key", access_key_id, 32), ("secret", secret_access_key, 64)]
    {
        assert!((1..=longest).contains(&part.len()), "{name}: 1 to {longest} characters");
        assert!(part.chars().all(|c| c.is_ascii_graphic()), "{name}: printable, no space");
    }
    assert!(!format!("{credentials:?}").contains(secret_access_key.as_str()), "secrets stay out");
    assert_ne!(theirs.read_credentials().account_id, *account_id, "a bucket for each hotkey");

    put(&*ours.own(), "a/b", b"ours").await;
    assert_eq!(get(&*theirs.own(), "a/b").await, None, "buckets do not mix");

    let reader = theirs.open(&credentials).expect("good credentials open a bucket");
    assert_eq!(reader.get("a/b", PLENTY).await, Ok(Some(Bytes::from_static(b"ours"))));
    assert_eq!(reader.list("").await.expect("a reader may list").len(), 1);
    assert!(matches!(reader.head("a/b").await, Ok(Some(_))), "a reader may ask for the head");
    let written = reader.put("a/b", Bytes::from_static(b"theirs")).await;
    assert!(matches!(written, Err(StoreError::Denied(_))), "a reader may not write: {written:?}");
    let created = reader.put("new", Bytes::from_static(b"theirs")).await;
    assert!(matches!(created, Err(StoreError::Denied(_))), "a reader may not create: {created:?}");
    let deleted = reader.delete("a/b").await;
    assert!(matches!(deleted, Err(StoreError::Denied(_))), "a reader may not delete: {deleted:?}");
    assert_eq!(get(&*ours.own(), "a/b").await.as_deref(), Some(&b"ours"[..]));

    let flip = |text: &str| text.replacen(|c: char| c != '0', "0", 1);
    for wrong in [
        ReadCredentials { secret_access_key: flip(secret_access_key), ..credentials.clone() },
        ReadCredentials { access_key_id: flip(access_key_id), ..credentials.clone() },
        ReadCredentials { account_id: theirs.read_credentials().account_id, ..credentials.clone() },
        ReadCredentials { account_id: "0".repeat(32), ..credentials.clone() },
        ReadCredentials { account_id: "../escape".to_owned(), ..credentials.clone() },
        ReadCredentials { account_id: String::new(), ..credentials.clone() },
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
