//! Tells how calls of a port end and how long they take.
//!
//! [`Metered`] wraps a port, as [`crate::retry::Retrying`] does; outside of it, retries and their waits
//! count.

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use grail_ports::chain::Block;
use grail_ports::layer::{Call, Layer, Layered, PortError};
use grail_ports::observer::{Classified, Observation, Observer, Outcome};
use tokio::time::Instant;

use crate::clock::Clock;

/// A port whose calls are told.
pub type Metered<P> = Layered<P, Meter>;

/// Where they are told, and the time that heads are compared with; cheap to clone.
#[derive(Clone)]
pub struct Meter {
    observer: Arc<dyn Observer>,
    clock: Clock,
}

impl Meter {
    /// Tells `observer`.
    pub fn new(observer: Arc<dyn Observer>, clock: Clock) -> Self {
        Self { observer, clock }
    }
}

impl Layer for Meter {
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
        let start = Instant::now();
        let answer = make().await;
        let (service, call) = (call.service, call.verb);
        let outcome = answer.as_ref().err().map_or(Outcome::Ok, Classified::outcome);
        self.observer.observe(Observation::Call { service, call, outcome, took: start.elapsed() });
        // Only heads are answered with a block that is sure to be there.
        let head = answer.as_ref().ok().and_then(|answer| (answer as &dyn Any).downcast_ref());
        if let Some(Block { number, timestamp_ms, .. }) = head {
            let lag = Duration::from_millis((self.clock)().saturating_sub(*timestamp_ms));
            self.observer.observe(Observation::Head { block: *number, lag });
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use grail_ports::chain::Chain;
    use grail_ports::object_store::Buckets;
    use grail_ports::observer::Service;
    use grail_ports::signer::Signer as _;
    use grail_protocol::ids::BlockNumber;
    use grail_testkit::{FakeChain, FakeChainConfig, FakeSigner, MemoryStorage};

    use super::*;

    #[derive(Default)]
    struct Seen(Mutex<Vec<Observation>>);

    impl Observer for Seen {
        fn observe(&self, observation: Observation) {
            self.0.lock().unwrap().push(observation);
        }
    }

    impl Seen {
        fn take(&self) -> Vec<Observation> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    fn call(service: Service, call: &'static str, outcome: Outcome) -> Observation {
        Observation::Call { service, call, outcome, took: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_told_with_their_class_and_heads_with_their_lag() {
        let chain = FakeChain::new(FakeChainConfig::default());
        let head = chain.advance(5);
        let seen = Arc::new(Seen::default());
        let clock: Clock = Arc::new(move || head.timestamp_ms + 2_500);
        let meter = Meter::new(seen.clone(), clock);
        let handle: Arc<dyn Chain> = chain.handle(FakeSigner::new(1).hotkey());
        let metered = Metered::new(handle, meter.clone());
        assert_eq!(metered.head().await, Ok(head));
        metered.set_commitment(b"x").await.unwrap_err();
        chain.prune_below(BlockNumber(4));
        metered.block(BlockNumber(3)).await.unwrap_err();
        chain.set_down(true);
        metered.metagraph().await.unwrap_err();
        let lag = Duration::from_millis(2_500);
        assert_eq!(
            seen.take(),
            [
                call(Service::Chain, "head", Outcome::Ok),
                Observation::Head { block: BlockNumber(5), lag },
                call(Service::Chain, "set_commitment", Outcome::Refused),
                call(Service::Chain, "block", Outcome::Pruned),
                call(Service::Chain, "metagraph", Outcome::Unavailable),
            ]
        );

        let buckets: Arc<dyn Buckets> =
            MemoryStorage::new(chain.clock()).buckets(FakeSigner::new(1).hotkey());
        let metered = Metered::new(buckets, meter);
        let own = metered.own();
        own.put("key", Bytes::from_static(b"1234")).await.unwrap();
        own.get("key", 2).await.unwrap_err();
        let want =
            [call(Service::Store, "put", Outcome::Ok), call(Service::Store, "get", Outcome::Bad)];
        assert_eq!(seen.take(), want);
    }
}
