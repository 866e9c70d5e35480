//! Fakes, contract suites and faults for tests; a development dependency only.
//!
//! Every fake is simple and real: an in-memory chain with the chain's rules, a store that keeps
//! bytes, keys that sign. Nothing waits and nothing reads the wall clock: blocks are moved by hand
//! ([`FakeChain::advance`]) and the store and the beacon take their time from the chain. Equal
//! seeds give equal runs.

mod beacon;
mod chain;
pub mod contract;
mod draw;
mod environment;
mod events;
mod faults;
mod model;
mod signer;
mod store;
pub mod vectors;

pub use beacon::FakeBeacon;
pub use chain::{ChainHandle, FakeChain, FakeChainConfig, FakeReveal, RecordedWeights};
pub use environment::FakeEnvironment;
pub use events::RecordingEvents;
pub use faults::{DrawnFault, FaultKind, FaultRates, Faults};
pub use model::{AlteredModel, AlteredProvider, FakeModel, FakeProvider, FakeTrainer};
pub use signer::FakeSigner;
pub use store::{MemoryBuckets, MemoryStorage, MemoryStore};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Tells the time, milliseconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Locks, whatever a test that panicked elsewhere has left behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
