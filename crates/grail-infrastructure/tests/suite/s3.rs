//! The S3 adapter against a real server in this process, and against one that fails.

mod faults;
mod peer;
mod proxy;
mod server;

use grail_infrastructure::object_store::{Addressing, S3Buckets, S3Settings};
use grail_ports::object_store::{Buckets as _, StoreError};
use grail_testkit::contract;

use self::server::{S3Server, secrets, settings};

/// The names of two buckets, like R2's account ids.
pub const OURS: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
pub const THEIRS: &str = "1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b";

#[tokio::test]
async fn an_s3_server_keeps_the_contract() {
    let owners = [secrets(OURS), secrets(THEIRS)];
    for addressing in [Addressing::Path, Addressing::VirtualHost] {
        // A new one each time: it keeps empty folders, which then stand where an object should.
        let server = S3Server::start_with_virtual_hosts(&owners).await;
        let settings = S3Settings { addressing, ..settings(server.port) };
        let ours = S3Buckets::new(settings.clone(), &secrets(OURS)).unwrap();
        let theirs = S3Buckets::new(settings, &secrets(THEIRS)).unwrap();
        contract::object_store(&*ours.own()).await;
        contract::buckets(&ours, &theirs).await;
        let folder = tempfile::tempdir().unwrap();
        contract::files(&ours, folder.path()).await;
        assert_eq!(server.leftovers(), [""; 0]);
    }
}

#[tokio::test]
async fn a_listing_has_as_many_pages_as_it_needs() {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let ours = S3Buckets::new(settings(server.port), &secrets(OURS)).unwrap();
    contract::many_objects(&*ours.own(), 1_050).await;
}

#[tokio::test]
async fn objects_of_several_parts_survive() {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let ours = S3Buckets::new(settings(server.port), &secrets(OURS)).unwrap();
    contract::large_object(&*ours.own(), (12 << 20) + 5).await;
    // Exactly whole parts.
    contract::large_object(&*ours.own(), 10 << 20).await;
    let folder = tempfile::tempdir().unwrap();
    contract::large_file(&*ours.own(), folder.path(), (22 << 20) + 5).await;
    contract::large_file(&*ours.own(), folder.path(), 40 << 20).await;
    assert_eq!(server.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_bandwidth_changes_no_byte() {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let bandwidth_bytes_per_s = Some(1 << 30);
    let settings = S3Settings { bandwidth_bytes_per_s, ..settings(server.port) };
    let ours = S3Buckets::new(settings, &secrets(OURS)).unwrap();
    contract::large_object(&*ours.own(), 6 << 20).await;
    let folder = tempfile::tempdir().unwrap();
    contract::large_file(&*ours.own(), folder.path(), 22 << 20).await;
    contract::object_store(&*ours.own()).await;
}

#[tokio::test]
async fn a_bucket_of_any_name_is_read_through_its_commitment() {
    use grail_protocol::credentials::CredentialCommitment;

    let mut named = secrets(OURS);
    named.bucket_name = "a-bucket.with-a-name-of-its-own-and-more-than-32-characters".to_owned();
    let server = S3Server::start(&[named.clone(), secrets(THEIRS)]).await;
    let ours = S3Buckets::new(settings(server.port), &named).unwrap();
    let theirs = S3Buckets::new(settings(server.port), &secrets(THEIRS)).unwrap();
    ours.own().put("a", "b".into()).await.unwrap();
    let published = ours.read_credentials();
    let on_chain = CredentialCommitment {
        account_id: published.account_id,
        bucket_name: published.bucket_name,
        access_key_id: published.access_key_id,
        secret_access_key: published.secret_access_key,
    };
    let read = CredentialCommitment::decode(&on_chain.encode().unwrap()).unwrap();
    let credentials = grail_ports::object_store::ReadCredentials {
        account_id: read.account_id,
        bucket_name: read.bucket_name,
        access_key_id: read.access_key_id,
        secret_access_key: read.secret_access_key,
    };
    let reader = theirs.open(&credentials).unwrap();
    assert_eq!(reader.get("a", 9).await.unwrap().unwrap(), "b");
}

#[tokio::test]
async fn wrong_keys_and_absent_buckets_are_denied_without_a_secret_in_the_text() {
    let server = S3Server::start(&[secrets(OURS)]).await;
    let mut wrong_secret = secrets(OURS);
    wrong_secret.write.secret_access_key = "hush-hush".to_owned().into();
    let mut unknown = secrets(OURS);
    unknown.write.access_key_id = "nobody".to_owned();
    for secrets in [wrong_secret, unknown, secrets(THEIRS)] {
        let buckets = S3Buckets::new(settings(server.port), &secrets).unwrap();
        let own = buckets.own();
        for refused in [
            own.get("a", 9).await.map(drop),
            own.head("a").await.map(drop),
            own.list("").await.map(drop),
            own.put("a", "b".into()).await,
            own.put("a", vec![0; 6 << 20].into()).await,
            own.delete("a").await,
        ] {
            assert!(matches!(refused, Err(StoreError::Denied(_))), "{refused:?}");
            let text = format!("{refused:?} {} {buckets:?}", refused.as_ref().unwrap_err());
            assert!(!text.contains(secrets.write.secret_access_key.as_str()), "{text}");
            assert!(!text.contains(secrets.read.secret_access_key.as_str()), "{text}");
        }
    }
}
