//! Broken connections, refusals and delays: nothing lost, nothing half visible, bounded time.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use grail_infrastructure::object_store::{Patience, S3Buckets, S3Settings};
use grail_ports::object_store::{
    Buckets as _, FilePut, ObjectStore, PutCondition, PutOutcome, StoreError,
};
use grail_protocol::ids::Digest;
use std::sync::Arc;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::OURS;
use super::proxy::{Fate, Proxy};
use super::server::{S3Server, secrets, settings};

struct World {
    proxy: Proxy,
    /// Through the proxy.
    store: Arc<dyn ObjectStore>,
    /// Around it.
    direct: Arc<dyn ObjectStore>,
    server: S3Server,
}

/// Short pauses, and no second requests, so that they can be counted.
fn quick() -> Patience {
    Patience {
        delay: Duration::from_millis(1),
        delay_max: Duration::from_millis(5),
        silence: Duration::from_millis(300),
        hedge_after: Duration::from_secs(600),
        ..Patience::default()
    }
}

async fn world(
    patience: Patience,
    plan: impl Fn(&str, &str, usize) -> Fate + Send + Sync + 'static,
) -> World {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let proxy = Proxy::start(server.port, plan).await;
    let open = |port| {
        let settings = S3Settings { patience, ..settings(port) };
        S3Buckets::new(settings, &secrets(OURS)).unwrap().own()
    };
    let (store, direct) = (open(proxy.port), open(server.port));
    World { proxy, store, direct, server }
}

/// Bytes of which no two parts are alike.
fn bytes(size: usize) -> Bytes {
    let words = (0..size.div_ceil(4)).map(|index| u32::try_from(index).unwrap());
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.truncate(size);
    bytes.into()
}

#[tokio::test]
async fn a_killed_upload_of_100_mb_goes_on_with_the_part_under_way() {
    let world = world(quick(), |method, target, before| match (method, before) {
        ("PUT", 0) if target.contains("partNumber=9&") => Fate::ResetUpload(2 << 20),
        ("PUT", 0) if target.contains("partNumber=3&") => Fate::LoseAnswer,
        _ => Fate::Pass,
    })
    .await;
    let content = bytes(100_000_000);
    world.store.put("large", content.clone()).await.unwrap();
    let parts = content.len().div_ceil(5 << 20);
    assert_eq!(world.proxy.count("PUT", "partNumber="), parts + 2, "two parts went twice");
    assert!(world.direct.get("large", 1 << 30).await.unwrap().unwrap() == content);
    assert_eq!(world.server.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_killed_upload_of_a_file_of_100_mb_goes_on_with_the_part_under_way() {
    let world = world(quick(), |method, target, before| match (method, before) {
        ("PUT", 0) if target.contains("partNumber=9&") => Fate::ResetUpload(2 << 20),
        ("PUT", 0 | 1) if target.contains("partNumber=3&") => Fate::LoseAnswer,
        ("POST", 0) if target.contains("uploadId=") => Fate::LoseAnswer,
        _ => Fate::Pass,
    })
    .await;
    let content = bytes(100_000_000);
    let file = file(&content);
    let put = world.store.put_file("large", file.path()).await.unwrap();
    let sha256 = Digest::of(&content);
    assert_eq!(put, FilePut { size: 100_000_000, sha256 });
    let parts = content.len().div_ceil(5 << 20);
    assert_eq!(world.proxy.count("PUT", "partNumber="), parts + 3, "two parts went again");
    assert_eq!(world.proxy.count("POST", "uploadId="), 2, "the object was found to be there");
    let found = world.direct.get("large", 1 << 30).await.unwrap().unwrap();
    assert_eq!(Digest::of(&found), sha256);
    assert_eq!(world.server.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_file_that_changes_under_the_upload_is_not_put_together() {
    type Change = fn(&std::fs::File);
    let changes: [(&str, Change); 3] = [
        ("now ends after", |file| file.set_len(21 << 20).unwrap()),
        ("now has", |file| file.set_len(60 << 20).unwrap()),
        ("was written to", |mut file| file.write_all(b"other bytes").unwrap()),
    ];
    for (how, change) in changes {
        let source = file(&bytes(50 << 20));
        // Earlier than any change of this test can be, however coarse the file system's clock is.
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        source.as_file().set_modified(long_ago).unwrap();
        let writer = source.reopen().unwrap();
        let world = world(quick(), move |method, target, _| {
            if method == "PUT" && target.contains("partNumber=1&") {
                change(&writer);
            }
            Fate::Pass
        })
        .await;
        world.direct.put("large", Bytes::from_static(b"old")).await.unwrap();
        let failed = world.store.put_file("large", source.path()).await;
        let Err(StoreError::File(text)) = failed else { panic!("{how}: {failed:?}") };
        assert!(text.contains("changed while it was uploaded") && text.contains(how), "{text}");
        assert_eq!(world.direct.get("large", 99).await.unwrap().unwrap(), "old");
        assert_eq!(world.proxy.count("POST", "uploadId="), 0, "nothing was put together");
        assert_eq!(world.proxy.count("DELETE", "uploadId="), 1, "it was aborted");
        assert_eq!(world.server.leftovers(), [""; 0]);
    }
}

fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let world = world(quick(), |method, _, before| match (method, before) {
        ("GET", 0) => Fate::CutAnswer(1 << 20),
        ("GET", 1) => Fate::Silence(5),
        ("GET", 2) => Fate::CutAnswer(0),
        _ => Fate::Pass,
    })
    .await;
    let content = bytes(12 << 20);
    world.direct.put("large", content.clone()).await.unwrap();
    assert!(world.store.get("large", 1 << 30).await.unwrap().unwrap() == content);
    let pinned = world.direct.head("large").await.unwrap().unwrap().etag;
    let read = world.store.get_range("large", 1_000_000..9_000_000, Some(&pinned)).await;
    assert!(read.unwrap().unwrap() == content[1_000_000..9_000_000]);
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing_and_keeps_what_was_there() {
    let world = world(quick(), |method, target, _| match method {
        "PUT" if target.contains("partNumber=2&") => Fate::ResetUpload(1000),
        "PUT" if target.contains("small") => Fate::ResetUpload(1),
        _ => Fate::Pass,
    })
    .await;
    for (key, content) in [("large", bytes(12 << 20)), ("small", Bytes::from_static(b"new"))] {
        world.direct.put(key, Bytes::from_static(b"old")).await.unwrap();
        let failed = world.store.put(key, content).await;
        assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
        assert_eq!(world.direct.get(key, 99).await.unwrap().unwrap(), "old");
    }
    assert_eq!(world.proxy.count("DELETE", "uploadId="), 1, "it was aborted");
    assert_eq!(world.server.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_upload_is_aborted() {
    let world = world(quick(), |method, target, _| match method {
        "PUT" if target.contains("partNumber=2&") => Fate::Slow(Duration::from_secs(600)),
        _ => Fate::Pass,
    })
    .await;
    let store = Arc::clone(&world.store);
    let upload = tokio::spawn(async move { store.put("large", bytes(12 << 20)).await });
    until(|| world.proxy.count("PUT", "partNumber=2&") == 1).await;
    upload.abort();
    assert!(upload.await.unwrap_err().is_cancelled());
    until(|| world.proxy.count("DELETE", "uploadId=") == 1).await;
    assert_eq!(world.direct.list("").await, Ok(vec![]));
}

/// Waits for what another task is about to do.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_recognised() {
    let world = world(quick(), |method, target, before| match (method, before) {
        ("POST", 0) if target.contains("uploadId=") => Fate::LoseAnswer,
        _ => Fate::Pass,
    })
    .await;
    let content = bytes(12 << 20);
    world.store.put("large", content.clone()).await.unwrap();
    assert_eq!(world.proxy.count("POST", "uploadId="), 2);
    assert!(world.direct.get("large", 1 << 30).await.unwrap().unwrap() == content);
}

#[tokio::test]
async fn a_conditional_put_whose_answer_was_lost_is_recognised() {
    let world = world(quick(), |method, _, before| match (method, before) {
        ("PUT", 0) => Fate::LoseAnswer,
        _ => Fate::Pass,
    })
    .await;
    let put = |key, text: &'static str| {
        world.store.put_if(key, Bytes::from_static(text.as_bytes()), &PutCondition::Absent)
    };
    assert_eq!(put("lock", "me").await, Ok(PutOutcome::Written));
    assert_eq!(world.proxy.count("PUT", "lock"), 2);
    assert_eq!(put("lock", "you").await, Ok(PutOutcome::ConditionFailed));
    world.direct.put("taken", "by you".into()).await.unwrap();
    assert_eq!(put("taken", "by me").await, Ok(PutOutcome::ConditionFailed));
    assert_eq!(world.direct.get("taken", 99).await.unwrap().unwrap(), "by you");
}

#[tokio::test]
async fn refusals_that_pass_are_waited_for_and_others_are_told_at_once() {
    for (status, code, passes) in [
        (500, "InternalError", true),
        (503, "SlowDown", true),
        (503, "ServiceUnavailable", true),
        (429, "TooManyRequests", true),
        (502, "", true),
        (400, "RequestTimeout", true),
        (403, "AccessDenied", false),
        (403, "RequestTimeTooSkewed", false),
        (400, "InvalidArgument", false),
        (301, "PermanentRedirect", false),
    ] {
        let world = world(quick(), move |_, _, before| match before {
            0 | 1 => Fate::Refuse(status, code, "retry-after: 0\r\n"),
            _ => Fate::Pass,
        })
        .await;
        let put = world.store.put("a", Bytes::from_static(b"1")).await;
        assert_eq!(put.is_ok(), passes, "{status} {code}: {put:?}");
        assert_eq!(world.proxy.count("PUT", "/a"), if passes { 3 } else { 1 }, "{status} {code}");
        let kept = world.direct.get("a", 9).await.unwrap();
        assert_eq!(kept.is_some(), passes, "{status} {code}");
        match (code, put) {
            ("RequestTimeTooSkewed", put) => {
                let Err(error @ StoreError::ClockSkewed(_)) = put else { panic!("{put:?}") };
                assert!(error.to_string().contains("synchronise this machine's clock"));
            }
            ("AccessDenied", put) => assert!(matches!(put, Err(StoreError::Denied(_)))),
            (_, Err(error)) => assert!(matches!(error, StoreError::Malformed(_)), "{error}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_wrong_clock_is_told_where_answers_have_no_body() {
    let world =
        world(quick(), |_, _, _| Fate::Refuse(403, "", "date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"))
            .await;
    let refused = world.store.head("a").await;
    assert!(matches!(refused, Err(StoreError::ClockSkewed(_))), "{refused:?}");
}

#[tokio::test]
async fn a_200_that_is_an_error_is_one() {
    let world = world(quick(), |method, target, before| match (method, before) {
        ("POST", 0) if target.contains("uploadId=") => Fate::Refuse(200, "InternalError", ""),
        _ => Fate::Pass,
    })
    .await;
    let content = bytes(6 << 20);
    world.store.put("large", content.clone()).await.unwrap();
    assert_eq!(world.proxy.count("POST", "uploadId="), 2);
    assert!(world.direct.get("large", 1 << 30).await.unwrap().unwrap() == content);
}

#[tokio::test]
async fn a_cut_or_garbled_listing_is_asked_for_again() {
    let world = world(quick(), |method, target, before| match (method, before) {
        ("GET", 0) if target.contains("list-type") => Fate::CutAnswer(90),
        ("GET", 1) if target.contains("list-type") => Fate::Refuse(200, "", ""),
        _ => Fate::Pass,
    })
    .await;
    for key in ["a/1", "a/2"] {
        world.direct.put(key, Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(world.store.list("a/").await.unwrap().len(), 2);
    assert_eq!(world.proxy.count("GET", "list-type"), 3);
}

#[tokio::test]
async fn a_slow_read_is_overtaken_by_a_second_one() {
    let patience = Patience { hedge_after: Duration::from_millis(50), ..quick() };
    let world = world(patience, |method, _, before| match (method, before) {
        ("GET" | "HEAD", 0) => Fate::Slow(Duration::from_secs(600)),
        _ => Fate::Pass,
    })
    .await;
    world.direct.put("a", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(world.store.get("a", 9).await.unwrap().unwrap(), "x");
    assert!(world.store.head("a").await.unwrap().is_some());
    assert_eq!((world.proxy.count("GET", "/a"), world.proxy.count("HEAD", "/a")), (2, 2));
}

#[tokio::test]
async fn one_deadline_bounds_an_operation_that_never_ends() {
    let patience = Patience {
        operation: Duration::from_millis(700),
        answer: Duration::from_millis(200),
        bytes_per_s_min: 1 << 30,
        attempts: 1_000,
        ..quick()
    };
    let world = world(patience, |_, _, _| Fate::Slow(Duration::from_secs(600))).await;
    let (small, large) = (file(b"x"), file(&bytes(6 << 20)));
    let started = tokio::time::Instant::now();
    for outcome in [
        world.store.get("a", 9).await.map(drop),
        world.store.head("a").await.map(drop),
        world.store.list("").await.map(drop),
        world.store.put("a", Bytes::from_static(b"x")).await,
        world.store.put_file("a", small.path()).await.map(drop),
        world.store.put_file("a", large.path()).await.map(drop),
        world.store.delete("a").await,
    ] {
        assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
    }
    // What seven operations may take, several times: a busy machine passes, an endless wait does not.
    assert!(started.elapsed() < Duration::from_secs(35), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_object_replaced_while_it_is_read_is_never_mixed() {
    let replaced = CancellationToken::new();
    let gate = replaced.clone();
    let world = world(quick(), move |method, _, before| match (method, before) {
        ("GET", 0) => Fate::CutAnswer(1 << 20),
        ("GET", 1) => Fate::HoldUntil(gate.clone()),
        _ => Fate::Pass,
    })
    .await;
    let (old, new) = (bytes(8 << 20), Bytes::from(vec![7; 8 << 20]));
    world.direct.put("large", old).await.unwrap();
    let reading = world.store.get("large", 1 << 30);
    let replacing = async {
        until(|| world.proxy.count("GET", "large") >= 2).await;
        world.direct.put("large", new.clone()).await.unwrap();
        replaced.cancel();
    };
    let (read, ()) = tokio::join!(reading, replacing);
    assert!(read.unwrap().unwrap() == new, "the new version, whole, after a part of the old one");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let port = server.port;
    drop(server);
    tokio::task::yield_now().await;
    let settings = S3Settings { patience: quick(), ..settings(port) };
    let store = S3Buckets::new(settings, &secrets(OURS)).unwrap().own();
    let outcome = store.head("a").await;
    assert!(matches!(outcome, Err(StoreError::Unavailable(_))), "{outcome:?}");
}
