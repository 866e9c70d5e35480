//! Public randomness of drand and of the embedded beacon, which speaks drand's language.

pub mod chained;
pub mod verify;
