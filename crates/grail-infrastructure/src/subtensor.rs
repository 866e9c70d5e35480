//! Subtensor, the chain of Bittensor, spoken to over JSON-RPC.
//!
//! [`Subtensor`] is the chain port for one hotkey on one subnet. Everything about the runtime is
//! read from its metadata by name, everything that belongs together is read at one block, and
//! whatever a node does, every call ends in bounded time. Facts: `spec/bittensor.md`.

mod adapter;
mod commitments;
mod error;
mod heads;
mod kept;
mod metagraph;
pub mod network;
pub mod node;
pub(crate) mod pool;
mod reader;
pub mod rpc;
mod runtime;
pub mod schedule;
mod status;
mod submit;
mod subnet;
mod view;
pub mod weights;

pub use adapter::{SealBeacon, Subtensor, SubtensorConfig};
pub use commitments::RAW_BYTES_MAX;
pub use reader::Connection;
pub use submit::SubmitConfig;
pub use subnet::{Subnet, storage_index};
