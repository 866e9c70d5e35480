//! A whole network in one folder: chain, beacon and store, with nothing to install.
//!
//! Roles in this process use the in-process adapters, other processes the HTTP clients; both
//! implement the same ports.

pub mod beacon;
pub mod chain;
pub mod client;
mod database;
pub mod network;
pub mod rpc;
pub mod server;
pub mod store;
mod wire;
