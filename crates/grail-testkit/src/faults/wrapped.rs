//! Failures as a layer around any port.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use grail_ports::layer::{Call, Layer, PortError};
use grail_ports::object_store::{Buckets, ObjectStore, ReadCredentials, StoreError};
use grail_ports::observer::Service;

use super::{FaultKind, Faults};

const REASON: &str = "a fault drawn by the test";

/// Failures of one port; the name tells it from others.
pub(super) struct Named {
    pub(super) faults: Faults,
    pub(super) name: String,
}

impl Layer for Named {
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
        let port = match call.service {
            Service::Chain | Service::ChainNode => "chain",
            Service::Store => "store",
            Service::Beacon => "beacon",
        };
        let drawn = format!("{port}.{} {} {}", call.verb, self.name, call.argument);
        let Some(fate) = self.faults.fate(&drawn).await else { return make().await };
        match fate.kind {
            FaultKind::Unavailable => Err(E::unavailable(REASON.to_owned())),
            FaultKind::LostAnswer => {
                drop(make().await);
                Err(E::unavailable(REASON.to_owned()))
            }
            FaultKind::Slow | FaultKind::Corrupt => {
                let mut answer = make().await?;
                // Bytes reach the caller damaged; of the rest, an adapter sees that it is.
                let Some(object) = (&mut answer as &mut dyn Any).downcast_mut::<Option<Bytes>>()
                else {
                    return Err(E::unreadable(&call, REASON.to_owned()));
                };
                if let Some(bytes) = object {
                    let mut damaged = bytes.to_vec();
                    fate.damage(&mut damaged);
                    *bytes = damaged.into();
                }
                Ok(answer)
            }
        }
    }
}

pub(super) struct FaultyBuckets {
    pub(super) faults: Faults,
    pub(super) inner: Arc<dyn Buckets>,
}

impl Buckets for FaultyBuckets {
    fn own(&self) -> Arc<dyn ObjectStore> {
        let name = format!("own {}", self.inner.read_credentials().account_id);
        self.faults.store(&name, self.inner.own())
    }

    fn read_credentials(&self) -> ReadCredentials {
        self.inner.read_credentials()
    }

    fn open(&self, credentials: &ReadCredentials) -> Result<Arc<dyn ObjectStore>, StoreError> {
        // Readers are told apart too, so that one's retries do not change another's luck.
        let reader = self.inner.read_credentials().account_id;
        let name = format!("{} for {reader}", credentials.account_id);
        Ok(self.faults.store(&name, self.inner.open(credentials)?))
    }
}
