//! Adapters to the outside world, and the embedded chain, beacon and store.
//!
//! An adapter translates between a port of `grail-ports` and something outside the process; it has
//! no opinion about mining or validation. [`local`] holds a whole network that needs nothing
//! installed: in-process adapters and HTTP clients give the same answers.

pub mod beacon;
pub mod clock;
pub mod drand;
mod files;
pub mod local;
pub mod lock;
pub mod metered;
pub mod object_store;
pub mod retry;
mod source;
pub mod substrate;
pub mod subtensor;
pub mod tls;
pub mod wallet;
