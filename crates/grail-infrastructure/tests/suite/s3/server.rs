//! A real S3 server, not written here, in this process: `s3s-fs` with key pairs and their rights.

use std::collections::{BTreeMap, BTreeSet};

use grail_infrastructure::object_store::{BucketSecrets, KeyPair, S3Settings};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{SecretKey, SimpleAuth};
use s3s::host::SingleDomain;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// What key pairs of tests may do, by the id of the key.
struct Rights(BTreeMap<String, Right>);

struct Right {
    buckets: BTreeSet<String>,
    may_write: bool,
}

#[async_trait::async_trait]
impl S3Access for Rights {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let right = cx.credentials().and_then(|shown| self.0.get(&shown.access_key));
        let reads = ["GetObject", "HeadObject", "ListObjectsV2"].contains(&cx.s3_op().name());
        match right {
            Some(right)
                if cx
                    .s3_path()
                    .get_bucket_name()
                    .is_some_and(|name| right.buckets.contains(name))
                    && (right.may_write || reads) =>
            {
                Ok(())
            }
            _ => Err(s3_error!(AccessDenied, "this key has no such right")),
        }
    }
}

/// The server, stopped when dropped.
pub struct S3Server {
    pub port: u16,
    folder: TempDir,
    serving: JoinHandle<()>,
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl S3Server {
    /// Serves the buckets of `owners`, which exist already, by paths.
    pub async fn start(owners: &[BucketSecrets]) -> Self {
        Self::serve(owners, false).await
    }

    /// Serves the buckets of `owners` by names before `localhost`, or by paths.
    pub async fn start_with_virtual_hosts(owners: &[BucketSecrets]) -> Self {
        Self::serve(owners, true).await
    }

    async fn serve(owners: &[BucketSecrets], has_virtual_hosts: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut auth, mut rights) = (SimpleAuth::new(), BTreeMap::new());
        for owner in owners {
            std::fs::create_dir(folder.path().join(&owner.bucket_name)).unwrap();
            for (keys, may_write) in [(&owner.read, false), (&owner.write, true)] {
                let secret = SecretKey::from(keys.secret_access_key.as_str());
                auth.register(keys.access_key_id.clone(), secret);
                // A key may be that of several buckets.
                let right = Right { buckets: BTreeSet::new(), may_write };
                let right = rights.entry(keys.access_key_id.clone()).or_insert(right);
                right.buckets.insert(owner.bucket_name.clone());
            }
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(folder.path()).unwrap());
        builder.set_auth(auth);
        builder.set_access(Rights(rights));
        if has_virtual_hosts {
            builder.set_host(SingleDomain::new(&format!("localhost:{port}")).unwrap());
        }
        let service = builder.build();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        Self { port, folder, serving }
    }

    /// Returns the files of unfinished uploads and of writes under way.
    pub fn leftovers(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("upload") || name.starts_with(".tmp")).collect()
    }
}

/// Returns settings for a server on a port of this machine, with small parts.
pub fn settings(port: u16) -> S3Settings {
    S3Settings {
        endpoint: Some(format!("http://localhost:{port}")),
        allow_http: true,
        region: "us-east-1".to_owned(),
        part_bytes: 5 << 20,
        single_put_bytes_max: 5 << 20,
        ..S3Settings::default()
    }
}

/// Returns the keys of a bucket that is called `name`, made of hexadecimal digits like R2's.
pub fn secrets(name: &str) -> BucketSecrets {
    let keys = |role: u8| {
        let hash = |what: u8| {
            let text = [name.as_bytes(), &[role, what]].concat();
            grail_protocol::ids::Digest::of(&text).to_hex()
        };
        KeyPair {
            access_key_id: hash(1)[..32].to_owned(),
            secret_access_key: Zeroizing::new(hash(2)),
        }
    };
    BucketSecrets {
        account_id: name.to_owned(),
        bucket_name: name.to_owned(),
        write: keys(1),
        read: keys(2),
    }
}
