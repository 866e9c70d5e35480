//! The same contract against any S3 server, given by the environment.
//!
//! `tests/peers/s3/run` starts one that this project did not write and sets the variables. Without
//! them the test says that it did not run.

use grail_infrastructure::object_store::{Addressing, BucketSecrets, S3Buckets, S3Settings};
use grail_ports::object_store::{Buckets as _, StoreError};
use grail_testkit::contract;

/// Address of the server. The others are those that [`BucketSecrets::from_environment`] reads, and
/// the same with a `2` behind them for a second bucket.
const ENDPOINT: &str = "GRAIL_TEST_S3_ENDPOINT";

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[tokio::test]
async fn a_server_of_others_keeps_the_contract() {
    let Some(endpoint) = variable(ENDPOINT) else {
        eprintln!("NOT RUN: {ENDPOINT} names no S3 server; tests/peers/s3/run starts one");
        return;
    };
    let settings = S3Settings {
        allow_http: endpoint.starts_with("http://"),
        endpoint: Some(endpoint),
        region: variable("GRAIL_TEST_S3_REGION").unwrap_or_else(|| "us-east-1".to_owned()),
        addressing: match variable("GRAIL_TEST_S3_VIRTUAL_HOST") {
            Some(_) => Addressing::VirtualHost,
            None => Addressing::Path,
        },
        part_bytes: 5 << 20,
        single_put_bytes_max: 5 << 20,
        ..S3Settings::default()
    };
    let secrets = BucketSecrets::from_environment(None, variable).unwrap();
    let other =
        BucketSecrets::from_environment(None, |name| variable(&format!("{name}2"))).unwrap();
    let ours = S3Buckets::new(settings.clone(), &secrets).unwrap();
    let theirs = S3Buckets::new(settings.clone(), &other).unwrap();
    contract::object_store(&*ours.own()).await;
    eprintln!("objects, ranges, conditions, keys and listings: good");
    contract::large_object(&*ours.own(), 100 << 20).await;
    eprintln!("an object of 100 MiB in 20 parts: good");
    let folder = tempfile::tempdir().unwrap();
    contract::large_file(&*ours.own(), folder.path(), 100 << 20).await;
    eprintln!("a file of 100 MiB in 20 parts: good");
    contract::many_objects(&*ours.own(), 1_050).await;
    eprintln!("1,050 objects in pages: good");
    if variable("GRAIL_TEST_S3_NO_RIGHTS").is_some() {
        eprintln!("NOT RUN: this server knows no rights");
        return;
    }
    contract::buckets(&ours, &theirs).await;
    contract::files(&ours, folder.path()).await;
    eprintln!("the rights of two owners and their readers, and files of all kinds: good");
    let mut wrong = secrets;
    wrong.write.secret_access_key = "0".repeat(40).into();
    let wrong = S3Buckets::new(settings, &wrong).unwrap();
    let refused = wrong.own().list("").await;
    assert!(matches!(refused, Err(StoreError::Denied(_))), "{refused:?}");
    eprintln!("wrong credentials: denied");
}
