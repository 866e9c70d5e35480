//! The traits and plain types between the services and the outside world.
//!
//! A port speaks the project's words and plain rows; no type of an SDK, an engine or a file system
//! crosses it. Every implementation passes the contract suite of grail-testkit.

pub mod beacon;
pub mod chain;
pub mod environment;
pub mod events;
pub mod layer;
pub mod model;
pub mod object_store;
pub mod observer;
pub mod reference;
pub mod signer;
