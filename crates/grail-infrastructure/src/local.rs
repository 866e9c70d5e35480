//! A whole network in one folder: chain, beacon and store, with nothing to install.
//!
//! The chain speaks the real one's protocol and the beacon drand's, so roles reach them with the
//! adapters of the real ones, whether they live in this process or in another. The store is a folder
//! for this process and HTTP for others.

pub mod beacon;
pub mod chain;
pub mod client;
mod database;
pub mod network;
pub mod rpc;
pub mod server;
pub mod store;
mod wire;
