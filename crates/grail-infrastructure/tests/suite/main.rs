//! The crate from outside: contracts, damage, hostile peers and `kill -9`.

mod common;
mod contract;
mod crash;
mod hostile;
mod network;
mod wallet;
