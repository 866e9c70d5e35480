//! The crate from outside: contracts, damage, hostile peers and `kill -9`.

#[cfg(test)]
mod common;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod drand;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod network;
#[cfg(test)]
mod node;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod substrate;
#[cfg(test)]
mod subtensor;
#[cfg(test)]
mod wallet;
