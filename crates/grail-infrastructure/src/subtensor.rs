//! Subtensor, the chain of Bittensor, spoken to over JSON-RPC.

pub mod rpc;
