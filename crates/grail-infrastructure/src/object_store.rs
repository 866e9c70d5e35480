//! Buckets on an S3 server, such as Cloudflare R2: the object-store port over the real protocol.
//!
//! The crate `object_store` speaks S3; here is what months of operation need around it: one deadline
//! for each operation, attempts by class of failure, a second request for slow reads, parts that go
//! on where they broke off, reads pinned to one version, bounded memory, and errors with advice.

mod attempts;
mod bucket;
mod download;
mod fault;
mod query;
mod secrets;
mod settings;
mod throttle;
mod upload;
mod wire;

use std::sync::Arc;

use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials, StoreError};
use zeroize::Zeroizing;

use self::attempts::Attempts;
pub use self::bucket::S3Store;
use self::bucket::Server;
pub use self::secrets::{BucketSecrets, KeyPair, SecretsError};
pub use self::settings::{Addressing, BadSettings, Patience, S3Settings, check_bucket_name};
use self::throttle::Throttle;
use self::wire::Wire;
use crate::files;

/// Our own bucket on an S3 server, and those of peers on the same one or the same service.
#[derive(Debug)]
pub struct S3Buckets {
    own: S3Store,
    published: ReadCredentials,
    server: Arc<Server>,
}

impl S3Buckets {
    /// Makes a client of the server; nothing is sent yet.
    ///
    /// # Errors
    /// [`BadSettings`], which says what to change.
    pub fn new(settings: S3Settings, secrets: &BucketSecrets) -> Result<Self, BadSettings> {
        settings.check()?;
        let address = settings.address(&secrets.account_id, &secrets.bucket_name)?;
        let [sending, receiving] =
            [(); 2].map(|()| settings.bandwidth_bytes_per_s.map(Throttle::new).map(Arc::new));
        let wire = Wire::new(settings.allow_http, address.is_loopback, sending)?;
        let seed = files::random_seed().map_err(|error| BadSettings::Client(error.to_string()))?;
        let (start, _) = seed.split_first_chunk().expect("a seed has 32 bytes");
        let seed = u64::from_le_bytes(*start);
        let attempts = Attempts::new(settings.patience, seed);
        Self::on(Server { settings, wire, attempts, throttle: receiving }, secrets)
    }

    fn on(server: Server, secrets: &BucketSecrets) -> Result<Self, BadSettings> {
        let server = Arc::new(server);
        let BucketSecrets { account_id, bucket_name, write, .. } = secrets;
        let own = S3Store::open(Arc::clone(&server), account_id, bucket_name, write)?;
        Ok(Self { own, published: secrets.read_credentials(), server })
    }

    /// Makes our own bucket unless it exists: the operator's task on a real service, a convenience
    /// on a server of one's own.
    ///
    /// # Errors
    /// When the key may not make buckets, or the name is somebody else's.
    pub async fn create_own(&self) -> Result<(), StoreError> {
        let Err(refused) = self.own.create().await else { return Ok(()) };
        // Servers do not agree on how they say that the bucket is there and ours; that it can be read
        // with the key of its owner tells.
        self.own.list("").await.map(drop).map_err(|_| refused)
    }
}

impl Buckets for S3Buckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        Arc::new(self.own.clone())
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.published.clone()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        let keys = KeyPair {
            access_key_id: credentials.access_key_id.clone(),
            secret_access_key: Zeroizing::new(credentials.secret_access_key.clone()),
        };
        let server = Arc::clone(&self.server);
        // One client for all: connections to the same host are shared.
        S3Store::open(server, &credentials.account_id, credentials.bucket(), &keys)
            .map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            .map_err(|error| StoreError::Malformed(error.to_string()))
    }
}
